#include "core/put_options.h"

#include "core/mem.h"

#include <string.h>

/* The copy's strings are owned, whatever the const of the struct says. */
static void free_text(const char *text)
{
    s3d_free((void *)(uintptr_t)text);
}

/* True when `to` holds a copy, or there is nothing to copy. */
static bool copy_text(const char **to, const char *from)
{
    *to = s3d_copy_string(from);
    return *to || !from;
}

static bool copy_metadata(struct s3d_put_options *to, const struct s3d_put_options *from)
{
    size_t texts = from->metadata_count * 2;
    const char **metadata = s3d_alloc_zeroed(texts, sizeof *metadata);
    if (!metadata) {
        return false;
    }
    to->metadata = metadata;
    to->metadata_count = from->metadata_count;
    for (size_t i = 0; i < texts; i++) {
        if (!copy_text(&metadata[i], from->metadata[i])) {
            return false;
        }
    }
    return true;
}

enum s3d_code s3d_put_options_copy(struct s3d_put_options *to,
                                   const struct s3d_put_options *from, struct s3d_error *error)
{
    memset(to, 0, sizeof *to);
    if (!from) {
        return S3D_OK;
    }
    to->if_none_match = from->if_none_match;
    to->checksum = from->checksum;
    bool copied = copy_text(&to->content_type, from->content_type) &&
                  copy_text(&to->content_encoding, from->content_encoding) &&
                  copy_text(&to->storage_class, from->storage_class) &&
                  copy_text(&to->if_match, from->if_match) &&
                  (!from->metadata_count || copy_metadata(to, from));
    return copied ? S3D_OK : s3d_fail_memory(error, sizeof *to);
}

void s3d_put_options_fini(struct s3d_put_options *options)
{
    free_text(options->content_type);
    free_text(options->content_encoding);
    free_text(options->storage_class);
    free_text(options->if_match);
    for (size_t i = 0; i < options->metadata_count * 2; i++) {
        free_text(options->metadata[i]);
    }
    s3d_free((void *)(uintptr_t)options->metadata);
    memset(options, 0, sizeof *options);
}
