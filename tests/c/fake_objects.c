#include "fake_state.h"

#include "test.h"

/* ---- objects: all under the store's mutex ---- */

static struct fake_object *find_object_locked(struct fake_store *fake, const char *key)
{
    struct fake_object *object = fake->objects;
    while (object && strcmp(object->key, key) != 0) {
        object = object->next;
    }
    return object;
}

static void next_etag_locked(struct fake_store *fake, char *etag)
{
    snprintf(etag, S3D_ETAG_MAX, "\"v%u\"", ++fake->serial);
}

/* Takes over bytes. */
static struct fake_object *store_object_locked(struct fake_store *fake, const char *key,
                                               struct fake_bytes bytes, const char *write_id)
{
    struct fake_object *object = find_object_locked(fake, key);
    if (!object) {
        object = fake_memory(sizeof *object);
        CHECK(s3d_copy_text(object->key, sizeof object->key, key, strlen(key)));
        object->next = fake->objects;
        fake->objects = object;
    }
    free(object->bytes.data);
    object->bytes = bytes;
    snprintf(object->write_id, sizeof object->write_id, "%s", write_id);
    next_etag_locked(fake, object->etag);
    return object;
}

static struct fake_bytes gather(const struct s3d_request *request)
{
    struct fake_bytes bytes = {.size = (size_t)request->length_bytes};
    CHECK(s3d_spans_bytes(request->spans, request->span_count) == request->length_bytes);
    bytes.data = fake_memory(bytes.size);
    size_t at = 0;
    for (size_t i = 0; i < request->span_count; i++) {
        if (request->spans[i].length_bytes) {
            memcpy(bytes.data + at, request->spans[i].data, request->spans[i].length_bytes);
        }
        at += request->spans[i].length_bytes;
    }
    return bytes;
}

static void scatter(const struct s3d_request *request, const char *from, size_t size)
{
    for (size_t i = 0; size && i < request->span_count; i++) {
        size_t piece = request->spans[i].length_bytes;
        piece = piece < size ? piece : size;
        memcpy(request->spans[i].data, from, piece);
        from += piece;
        size -= piece;
    }
    CHECK(size == 0);
}

static void describe(struct s3d_request *request, const struct fake_object *object)
{
    request->result.object.size_bytes = object->bytes.size;
    request->result.object.modified_s = 1;
    memcpy(request->result.object.etag, object->etag, S3D_ETAG_MAX);
    memcpy(request->result.object.write_id, object->write_id, S3D_WRITE_ID_MAX);
}

static enum s3d_code stat_locked(struct fake_store *fake, struct s3d_request *request)
{
    struct fake_object *object = find_object_locked(fake, request->key);
    if (!object) {
        return s3d_fail(&request->last, S3D_NOT_FOUND, "no such object");
    }
    describe(request, object);
    request->result.object.sum_kind = request->verb == S3D_VERB_STAT ? fake->sum_kind : NULL;
    memcpy(request->result.object.sum, fake->sum, sizeof fake->sum);
    return S3D_OK;
}

static enum s3d_code get_locked(struct fake_store *fake, struct s3d_request *request,
                                uint64_t missing)
{
    enum s3d_code code = stat_locked(fake, request);
    if (code) {
        return code;
    }
    struct fake_object *object = find_object_locked(fake, request->key);
    size_t size = object->bytes.size;
    if (request->if_match && !fake->ignore_if_match &&
        strcmp(request->if_match, object->etag) != 0) {
        return s3d_fail(&request->last, S3D_CHANGED, "If-Match does not hold");
    }
    uint64_t first = request->offset_bytes, length = request->length_bytes;
    if (request->suffix) {
        length = length < size ? length : size;
        first = size - length;
        if (!size && fake->empty_is_range) {
            return s3d_fail(&request->last, S3D_RANGE, "nothing to send");
        }
    } else if (request->at_most && first == 0 && length >= size) {
        length = size;
        if (!size && fake->empty_is_range) {
            return s3d_fail(&request->last, S3D_RANGE, "nothing to send");
        }
    } else if (first > size || length > size - first) {
        return s3d_fail(&request->last, S3D_RANGE, "the object ends at %zu", size);
    }
    enum s3d_code code_begins =
        request->begins && length ? request->begins(request, &request->last) : S3D_OK;
    if (code_begins) {
        return code_begins;
    }
    length -= missing < length ? missing : length;
    scatter(request, object->bytes.data + first, (size_t)length);
    request->result.first_byte = first;
    request->result.received_bytes = length;
    return S3D_OK;
}

static const char *write_id_of(const struct s3d_request *request)
{
    return request->options && request->options->write_id ? request->options->write_id : "";
}

static enum s3d_code put_locked(struct fake_store *fake, struct s3d_request *request)
{
    if (request->options && request->options->if_none_match &&
        find_object_locked(fake, request->key)) {
        return s3d_fail(&request->last, S3D_EXISTS, "the object exists");
    }
    struct fake_object *object =
        store_object_locked(fake, request->key, gather(request), write_id_of(request));
    memcpy(request->result.object.etag, object->etag, S3D_ETAG_MAX);
    return S3D_OK;
}

/* ---- uploads ---- */

static struct fake_upload **find_upload_locked(struct fake_store *fake, const char *id)
{
    struct fake_upload **link = &fake->uploads;
    while (*link && strcmp((*link)->id, id) != 0) {
        link = &(*link)->next;
    }
    return link;
}

static void remove_upload_locked(struct fake_upload **link)
{
    struct fake_upload *upload = *link;
    *link = upload->next;
    for (size_t i = 0; i < PARTS_MAX; i++) {
        free(upload->parts[i].bytes.data);
    }
    free(upload);
}

static enum s3d_code create_locked(struct fake_store *fake, struct s3d_request *request)
{
    struct fake_upload *upload = fake_memory(sizeof *upload);
    snprintf(upload->id, sizeof upload->id, "upload-%u", ++fake->serial);
    CHECK(s3d_copy_text(upload->key, sizeof upload->key, request->key, strlen(request->key)));
    upload->if_none_match = request->options && request->options->if_none_match;
    snprintf(upload->write_id, sizeof upload->write_id, "%s", write_id_of(request));
    upload->next = fake->uploads;
    fake->uploads = upload;
    snprintf(request->result.upload_id, sizeof request->result.upload_id, "%s", upload->id);
    return S3D_OK;
}

static enum s3d_code part_locked(struct fake_store *fake, struct s3d_request *request)
{
    struct fake_upload *upload = *find_upload_locked(fake, request->upload_id);
    if (!upload) {
        return s3d_fail(&request->last, S3D_NOT_FOUND, "no such upload");
    }
    CHECK(strcmp(upload->key, request->key) == 0);
    CHECK(request->part_number >= 1 && request->part_number <= PARTS_MAX);
    struct fake_upload_part *part = &upload->parts[request->part_number - 1];
    free(part->bytes.data);
    part->bytes = gather(request);
    part->offset = request->offset_bytes;
    next_etag_locked(fake, part->etag);
    memcpy(request->result.object.etag, part->etag, S3D_ETAG_MAX);
    return S3D_OK;
}

/* The parts in ascending order, each as it was sent; all but the last large enough. */
static enum s3d_code check_parts(struct fake_store *fake, struct s3d_request *request,
                                 const struct fake_upload *upload, size_t *total)
{
    if (!request->part_count) {
        return s3d_fail(&request->last, S3D_REJECTED, "no parts");
    }
    *total = 0;
    for (size_t i = 0; i < request->part_count; i++) {
        const struct s3d_part *named = &request->parts[i];
        CHECK(named->number >= 1 && named->number <= PARTS_MAX);
        CHECK(i == 0 || named->number > request->parts[i - 1].number);
        const struct fake_upload_part *part = &upload->parts[named->number - 1];
        if (!part->etag[0] || strcmp(part->etag, named->etag) != 0) {
            return s3d_fail(&request->last, S3D_REJECTED, "InvalidPart %u", named->number);
        }
        if (i + 1 < request->part_count &&
            part->bytes.size < fake->base.limits.part_min_bytes) {
            return s3d_fail(&request->last, S3D_REJECTED, "EntityTooSmall %u", named->number);
        }
        CHECK(named->size_bytes == part->bytes.size);
        CHECK(named->offset_bytes == *total && part->offset == *total);
        *total += part->bytes.size;
    }
    return S3D_OK;
}

bool fake_upload_etag(const struct s3d_part *parts, size_t count, char etag[S3D_ETAG_MAX])
{
    (void)parts;
    snprintf(etag, S3D_ETAG_MAX, "\"parts-%zu\"", count);
    return true;
}

static enum s3d_code complete_locked(struct fake_store *fake, struct s3d_request *request)
{
    struct fake_upload **link = find_upload_locked(fake, request->upload_id);
    if (!*link) {
        return s3d_fail(&request->last, S3D_NOT_FOUND, "no such upload");
    }
    if ((*link)->if_none_match && find_object_locked(fake, request->key)) {
        return s3d_fail(&request->last, S3D_EXISTS, "the object exists");
    }
    struct fake_bytes bytes = {0};
    enum s3d_code code = check_parts(fake, request, *link, &bytes.size);
    if (code) {
        return code;
    }
    bytes.data = fake_memory(bytes.size);
    size_t at = 0;
    for (size_t i = 0; i < request->part_count; i++) {
        const struct fake_bytes *part = &(*link)->parts[request->parts[i].number - 1].bytes;
        memcpy(bytes.data + at, part->data, part->size);
        at += part->size;
    }
    struct fake_object *object =
        store_object_locked(fake, request->key, bytes, (*link)->write_id);
    fake_upload_etag(request->parts, request->part_count, object->etag);
    memcpy(request->result.object.etag, object->etag, S3D_ETAG_MAX);
    remove_upload_locked(link);
    return S3D_OK;
}

static enum s3d_code abort_locked(struct fake_store *fake, struct s3d_request *request)
{
    struct fake_upload **link = find_upload_locked(fake, request->upload_id);
    if (*link) {
        remove_upload_locked(link);
    }
    return S3D_OK;
}

enum s3d_code fake_perform_locked(struct fake_store *fake, struct s3d_request *request,
                                  const struct fake_rule *rule)
{
    switch (request->verb) {
    case S3D_VERB_STAT: return stat_locked(fake, request);
    case S3D_VERB_GET: return get_locked(fake, request, rule->missing);
    case S3D_VERB_PUT: return put_locked(fake, request);
    case S3D_VERB_DELETE:
    case S3D_VERB_LIST: return S3D_OK;
    case S3D_VERB_UPLOAD_CREATE: return create_locked(fake, request);
    case S3D_VERB_UPLOAD_PART: return part_locked(fake, request);
    case S3D_VERB_UPLOAD_COMPLETE: return complete_locked(fake, request);
    case S3D_VERB_UPLOAD_ABORT: return abort_locked(fake, request);
    }
    return s3d_fail(&request->last, S3D_INTERNAL, "unknown verb");
}

void fake_put_object(struct fake_store *fake, const char *key, const void *data, size_t size)
{
    struct fake_bytes bytes = {.data = fake_memory(size), .size = size};
    if (size) {
        memcpy(bytes.data, data, size);
    }
    pthread_mutex_lock(&fake->mutex);
    store_object_locked(fake, key, bytes, "");
    pthread_mutex_unlock(&fake->mutex);
}

const char *fake_object(struct fake_store *fake, const char *key, size_t *size)
{
    pthread_mutex_lock(&fake->mutex);
    struct fake_object *object = find_object_locked(fake, key);
    const char *data = object ? object->bytes.data : NULL;
    *size = object ? object->bytes.size : 0;
    pthread_mutex_unlock(&fake->mutex);
    return data;
}

unsigned fake_open_uploads(struct fake_store *fake)
{
    unsigned count = 0;
    pthread_mutex_lock(&fake->mutex);
    for (struct fake_upload *upload = fake->uploads; upload; upload = upload->next) {
        count++;
    }
    pthread_mutex_unlock(&fake->mutex);
    return count;
}

void fake_drop_uploads(struct fake_store *fake)
{
    pthread_mutex_lock(&fake->mutex);
    while (fake->uploads) {
        remove_upload_locked(&fake->uploads);
    }
    pthread_mutex_unlock(&fake->mutex);
}

void fake_objects_free(struct fake_store *fake)
{
    while (fake->uploads) {
        remove_upload_locked(&fake->uploads);
    }
    while (fake->objects) {
        struct fake_object *object = fake->objects;
        fake->objects = object->next;
        free(object->bytes.data);
        free(object);
    }
}
