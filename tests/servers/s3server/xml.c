#include "xml.h"

#include <string.h>

enum tag_kind { TAG_OPEN, TAG_CLOSE, TAG_EMPTY, TAG_END, TAG_BAD };

struct tag {
    enum tag_kind kind;
    struct s3s_span name, text; // the text before the tag, undecoded
};

static struct s3s_span trim_blank(struct s3s_span text)
{
    while (text.length && strchr(" \t\r\n", text.data[text.length - 1]))
        text.length--;
    while (text.length && strchr(" \t\r\n", text.data[0]))
        text = (struct s3s_span){text.data + 1, text.length - 1};
    return text;
}

static bool skip_until(struct s3s_span *rest, const char *end)
{
    size_t at = s3s_span_find(*rest, s3s_span_of(end));
    if (at == SIZE_MAX)
        return false;
    at += strlen(end);
    *rest = (struct s3s_span){rest->data + at, rest->length - at};
    return true;
}

static struct s3s_span local_name(struct s3s_span inside)
{
    size_t length = 0;
    while (length < inside.length && !strchr(" \t\r\n/", inside.data[length]))
        length++;
    struct s3s_span rest = {inside.data, length}, before;
    return s3s_span_cut(&rest, ':', &before) ? rest : before;
}

static struct tag next_tag(struct s3s_span *rest)
{
    struct tag tag = {TAG_BAD, {"", 0}, {"", 0}};
    for (;;) {
        if (!s3s_span_cut(rest, '<', &tag.text)) {
            tag.kind = trim_blank(tag.text).length ? TAG_BAD : TAG_END;
            return tag;
        }
        bool comment = s3s_span_starts(*rest, "!--");
        if (!comment && !s3s_span_starts(*rest, "?"))
            break;
        if (!skip_until(rest, comment ? "-->" : "?>"))
            return tag;
    }
    struct s3s_span inside;
    if (!s3s_span_cut(rest, '>', &inside) || !inside.length || inside.data[0] == '!')
        return tag;
    tag.kind = TAG_OPEN;
    if (inside.data[0] == '/') {
        tag.kind = TAG_CLOSE;
        inside = (struct s3s_span){inside.data + 1, inside.length - 1};
    } else if (inside.data[inside.length - 1] == '/') {
        tag.kind = TAG_EMPTY;
    }
    tag.name = local_name(inside);
    if (!tag.name.length)
        tag.kind = TAG_BAD;
    return tag;
}

// An ETag's text without blanks and without its quotes, however they are written.
static void store_etag(struct s3s_span text, char etag[S3S_ETAG_CAPACITY])
{
    static const char *const quotes[] = {"\"", "&quot;", "&#34;", "&#x22;"};
    struct s3s_text out = {0};
    while (text.length) {
        size_t skipped = strchr(" \t\r\n", text.data[0]) ? 1 : 0;
        for (size_t i = 0; !skipped && i < 4; i++)
            skipped = s3s_span_starts(text, quotes[i]) ? strlen(quotes[i]) : 0;
        if (!skipped)
            s3s_text_add(&out, text.data, 1);
        skipped = skipped ? skipped : 1;
        text = (struct s3s_span){text.data + skipped, text.length - skipped};
    }
    s3s_span_store(s3s_text_span(&out), etag, S3S_ETAG_CAPACITY);
    s3s_text_fini(&out);
}

struct reader {
    struct s3s_span path[3]; // open elements: CompleteMultipartUpload, Part, one of its fields
    size_t depth;
    struct s3s_wanted_part *parts; // room for S3S_PART_NUMBER_MAX
    size_t count;
    bool has_number, has_etag;
};

static bool open_element(struct reader *reader, struct s3s_span name)
{
    static const char *const expected[] = {"CompleteMultipartUpload", "Part"};
    if (reader->depth == 3 ||
        (reader->depth < 2 && !s3s_span_is(name, expected[reader->depth])))
        return false;
    reader->path[reader->depth++] = name;
    if (reader->depth == 2) {
        if (reader->count == S3S_PART_NUMBER_MAX)
            return false;
        reader->has_number = reader->has_etag = false;
    }
    return true;
}

static bool close_element(struct reader *reader, const struct tag *tag)
{
    if (!reader->depth || s3s_span_compare(tag->name, reader->path[reader->depth - 1]) != 0)
        return false;
    reader->depth--;
    if (reader->depth == 1)
        return reader->has_number && reader->has_etag && ++reader->count;
    if (reader->depth != 2)
        return true;
    struct s3s_wanted_part *part = &reader->parts[reader->count];
    if (s3s_span_is(tag->name, "ETag")) {
        store_etag(tag->text, part->etag);
        reader->has_etag = true;
    } else if (s3s_span_is(tag->name, "PartNumber")) {
        reader->has_number = s3s_span_number(trim_blank(tag->text), &part->number);
        return reader->has_number;
    }
    return true; // checksums
}

enum s3s_code s3s_xml_read_parts(struct s3s_span xml, struct s3s_wanted_part **parts,
                                 size_t *count)
{
    struct reader reader = {.parts =
                                s3s_mem_zalloc(S3S_PART_NUMBER_MAX * sizeof *reader.parts)};
    bool good = true, ended = false;
    while (good && !ended) {
        struct tag tag = next_tag(&xml);
        if (tag.kind == TAG_OPEN || tag.kind == TAG_EMPTY)
            good = open_element(&reader, tag.name);
        if (good && (tag.kind == TAG_CLOSE || tag.kind == TAG_EMPTY))
            good = close_element(&reader, &tag);
        if (tag.kind == TAG_BAD)
            good = false;
        ended = tag.kind == TAG_END;
    }
    *parts = reader.parts;
    *count = reader.count;
    return good && !reader.depth && reader.count ? S3S_OK : S3S_MALFORMED_XML;
}
