// ListObjectsV2, ListMultipartUploads, ListParts.
#include <string.h>

#include "call.h"

static const char xml_head[] = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
#define S3_NAMESPACE " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""

struct listing {
    struct s3s_span bucket, prefix, delimiter, start_after, token;
    uint64_t max_keys;
    bool url_encoded, has_token;
    struct s3s_text
        marker; // list what comes after it; behind a common prefix: what does not begin with it either
    bool marker_is_prefix;
    struct s3s_text entries;
    uint64_t count;
    bool truncated;
    struct s3s_text last; // the last key or common prefix listed
    bool last_is_prefix;
};

static struct s3s_span param_or_empty(const struct s3s_call *call, const char *name)
{
    const struct s3s_span *value = s3s_request_param(&call->request, name);
    return value ? *value : (struct s3s_span){"", 0};
}

static void add_name(struct s3s_text *text, struct s3s_span name, bool url_encoded)
{
    if (url_encoded)
        s3s_text_percent(text, name, true);
    else
        s3s_text_xml(text, name);
}

static void add_element(struct s3s_text *text, const char *element, struct s3s_span value,
                        bool url_encoded)
{
    s3s_text_printf(text, "<%s>", element);
    add_name(text, value, url_encoded);
    s3s_text_printf(text, "</%s>", element);
}

// A token is k or p (a key, a common prefix) and the name's bytes, percent-encoded.
static bool read_token(struct listing *listing)
{
    struct s3s_span token = listing->token;
    if (token.length < 2 || (token.data[0] != 'k' && token.data[0] != 'p'))
        return false;
    listing->marker_is_prefix = token.data[0] == 'p';
    token = (struct s3s_span){token.data + 1, token.length - 1};
    char *name = s3s_mem_zalloc(token.length);
    size_t length = 0;
    bool good = s3s_percent_decode(token, false, name, &length);
    s3s_text_add(&listing->marker, name, length);
    s3s_mem_free(name);
    return good;
}

static enum s3s_code read_listing(const struct s3s_call *call, struct listing *listing)
{
    const struct s3s_span *max_keys = s3s_request_param(&call->request, "max-keys");
    listing->bucket = call->bucket;
    listing->prefix = param_or_empty(call, "prefix");
    listing->delimiter = param_or_empty(call, "delimiter");
    listing->start_after = param_or_empty(call, "start-after");
    listing->token = param_or_empty(call, "continuation-token");
    listing->has_token = s3s_request_param(&call->request, "continuation-token") != NULL;
    listing->url_encoded = s3s_span_is(param_or_empty(call, "encoding-type"), "url");
    listing->max_keys = 1000;
    if (max_keys && !s3s_span_number(*max_keys, &listing->max_keys))
        return S3S_INVALID_ARGUMENT;
    if (listing->max_keys > 1000)
        listing->max_keys = 1000;
    if (listing->has_token)
        return read_token(listing) ? S3S_OK : S3S_INVALID_ARGUMENT;
    s3s_text_add_span(&listing->marker, listing->start_after);
    return S3S_OK;
}

static bool begins_with(struct s3s_span key, struct s3s_span prefix)
{
    return key.length >= prefix.length &&
           (!prefix.length || !memcmp(key.data, prefix.data, prefix.length));
}

static void list_object(struct listing *listing, const struct s3s_object *object)
{
    struct s3s_text *out = &listing->entries;
    s3s_text_puts(out, "<Contents>");
    add_element(out, "Key", s3s_object_key(object), listing->url_encoded);
    s3s_text_puts(out, "<LastModified>");
    s3s_text_time_iso(out, object->modified_s);
    s3s_text_printf(out, "</LastModified><ETag>&quot;%s&quot;</ETag><Size>%lu</Size>",
                    object->etag, (unsigned long)object->size_bytes);
    s3s_text_puts(out, "<StorageClass>STANDARD</StorageClass></Contents>");
}

static void list_prefix(struct listing *listing, struct s3s_span prefix)
{
    s3s_text_puts(&listing->entries, "<CommonPrefixes>");
    add_element(&listing->entries, "Prefix", prefix, listing->url_encoded);
    s3s_text_puts(&listing->entries, "</CommonPrefixes>");
}

// The key itself, or as much of it as ends with the first delimiter behind the prefix.
static struct s3s_span roll_up(const struct listing *listing, struct s3s_span key,
                               bool *is_prefix)
{
    size_t from = listing->prefix.length;
    struct s3s_span tail = {key.data + from, key.length - from};
    size_t at = listing->delimiter.length ? s3s_span_find(tail, listing->delimiter) : SIZE_MAX;
    *is_prefix = at != SIZE_MAX;
    return *is_prefix ? (struct s3s_span){key.data, from + at + listing->delimiter.length}
                      : key;
}

static void list_locked(struct listing *listing, const struct s3s_bucket *bucket)
{
    struct s3s_span marker = s3s_text_span(&listing->marker);
    struct s3s_span from =
        s3s_span_compare(marker, listing->prefix) > 0 ? marker : listing->prefix;
    for (size_t i = s3s_bucket_lower_bound(bucket, from); i < bucket->count; i++) {
        struct s3s_span key = s3s_object_key(bucket->objects[i]);
        bool is_prefix;
        if (!begins_with(key, listing->prefix))
            break;
        if (marker.length && (!s3s_span_compare(key, marker) ||
                              (listing->marker_is_prefix && begins_with(key, marker))))
            continue;
        struct s3s_span name = roll_up(listing, key, &is_prefix);
        if (is_prefix && listing->last_is_prefix &&
            !s3s_span_compare(name, s3s_text_span(&listing->last)))
            continue;
        if (listing->count == listing->max_keys) {
            listing->truncated = listing->max_keys > 0;
            break;
        }
        if (is_prefix)
            list_prefix(listing, name);
        else
            list_object(listing, bucket->objects[i]);
        listing->count++;
        listing->last_is_prefix = is_prefix;
        s3s_text_clear(&listing->last);
        s3s_text_add_span(&listing->last, name);
    }
}

static void write_listing(const struct listing *listing, struct s3s_text *out)
{
    bool url = listing->url_encoded;
    s3s_text_puts(out, xml_head);
    s3s_text_puts(out, "<ListBucketResult" S3_NAMESPACE ">");
    add_element(out, "Name", listing->bucket, false);
    add_element(out, "Prefix", listing->prefix, url);
    if (listing->delimiter.length)
        add_element(out, "Delimiter", listing->delimiter, url);
    if (listing->start_after.length)
        add_element(out, "StartAfter", listing->start_after, url);
    if (listing->has_token)
        add_element(out, "ContinuationToken", listing->token, false);
    if (url)
        s3s_text_puts(out, "<EncodingType>url</EncodingType>");
    s3s_text_printf(
        out, "<KeyCount>%lu</KeyCount><MaxKeys>%lu</MaxKeys><IsTruncated>%s</IsTruncated>",
        (unsigned long)listing->count, (unsigned long)listing->max_keys,
        listing->truncated ? "true" : "false");
    if (listing->truncated) {
        s3s_text_printf(out, "<NextContinuationToken>%c", listing->last_is_prefix ? 'p' : 'k');
        s3s_text_percent(out, s3s_text_span(&listing->last), false);
        s3s_text_puts(out, "</NextContinuationToken>");
    }
    s3s_text_add_span(out, s3s_text_span(&listing->entries));
    s3s_text_puts(out, "</ListBucketResult>");
}

enum s3s_code s3s_list_objects(struct s3s_call *call)
{
    struct s3s_store *store = &call->server->store;
    struct listing listing = {0};
    enum s3s_code code = read_listing(call, &listing);
    if (!code) {
        pthread_mutex_lock(&store->mutex);
        const struct s3s_bucket *bucket = s3s_store_bucket_locked(store, call->bucket);
        if (bucket)
            list_locked(&listing, bucket);
        pthread_mutex_unlock(&store->mutex);
        write_listing(&listing, &call->answer.body);
        s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    }
    s3s_text_fini(&listing.marker);
    s3s_text_fini(&listing.entries);
    s3s_text_fini(&listing.last);
    return code;
}

enum s3s_code s3s_list_uploads(struct s3s_call *call)
{
    struct s3s_store *store = &call->server->store;
    struct s3s_text *out = &call->answer.body;
    struct s3s_span prefix = param_or_empty(call, "prefix");
    bool url = s3s_span_is(param_or_empty(call, "encoding-type"), "url");
    s3s_text_puts(out, xml_head);
    s3s_text_puts(out, "<ListMultipartUploadsResult" S3_NAMESPACE ">");
    add_element(out, "Bucket", call->bucket, false);
    add_element(out, "Prefix", prefix, url);
    s3s_text_puts(out, "<IsTruncated>false</IsTruncated>");
    pthread_mutex_lock(&store->mutex);
    for (const struct s3s_upload *upload = store->locked.uploads; upload;
         upload = upload->next) {
        struct s3s_span key = {upload->key, upload->key_length};
        if (!s3s_span_is(call->bucket, upload->bucket->name) || !begins_with(key, prefix))
            continue;
        s3s_text_puts(out, "<Upload>");
        add_element(out, "Key", key, url);
        s3s_text_printf(out, "<UploadId>%s</UploadId><Initiated>", upload->id);
        s3s_text_time_iso(out, upload->started_s);
        s3s_text_puts(out, "</Initiated></Upload>");
    }
    pthread_mutex_unlock(&store->mutex);
    s3s_text_puts(out, "</ListMultipartUploadsResult>");
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    return S3S_OK;
}

static void add_part(struct s3s_text *out, size_t number, const struct s3s_part *part)
{
    s3s_text_printf(out, "<Part><PartNumber>%zu</PartNumber><LastModified>", number);
    s3s_text_time_iso(out, part->modified_s);
    s3s_text_printf(out, "</LastModified><ETag>&quot;%s&quot;</ETag><Size>%lu</Size></Part>",
                    part->etag, (unsigned long)part->piece.size_bytes);
}

static void list_parts_locked(const struct s3s_upload *upload, uint64_t after, uint64_t most,
                              struct s3s_text *out)
{
    size_t count = 0, last = 0;
    bool truncated = false;
    for (size_t i = after; i < upload->part_capacity && !truncated; i++) {
        if (!upload->parts[i].present)
            continue;
        truncated = count == most;
        if (truncated)
            break;
        add_part(out, i + 1, &upload->parts[i]);
        last = i + 1;
        count++;
    }
    s3s_text_printf(out, "<MaxParts>%lu</MaxParts><IsTruncated>%s</IsTruncated>",
                    (unsigned long)most, truncated ? "true" : "false");
    if (truncated)
        s3s_text_printf(out, "<NextPartNumberMarker>%zu</NextPartNumberMarker>", last);
}

enum s3s_code s3s_list_parts(struct s3s_call *call)
{
    struct s3s_store *store = &call->server->store;
    struct s3s_text *out = &call->answer.body;
    const struct s3s_span *marker = s3s_request_param(&call->request, "part-number-marker");
    const struct s3s_span *max_parts = s3s_request_param(&call->request, "max-parts");
    uint64_t after = 0, most = 1000;
    if ((marker && !s3s_span_number(*marker, &after)) ||
        (max_parts && !s3s_span_number(*max_parts, &most)))
        return S3S_INVALID_ARGUMENT;
    s3s_text_puts(out, xml_head);
    s3s_text_puts(out, "<ListPartsResult" S3_NAMESPACE ">");
    add_element(out, "Bucket", call->bucket, false);
    add_element(out, "Key", call->key, false);
    add_element(out, "UploadId", call->upload_id, false);
    pthread_mutex_lock(&store->mutex);
    const struct s3s_upload *upload = s3s_upload_find_locked(store, s3s_call_upload(call));
    if (upload)
        list_parts_locked(upload, after, most < 1000 ? most : 1000, out);
    pthread_mutex_unlock(&store->mutex);
    s3s_text_puts(out, "</ListPartsResult>");
    s3s_text_puts(&call->answer.headers, "Content-Type: application/xml\r\n");
    return upload ? S3S_OK : S3S_NO_SUCH_UPLOAD;
}
