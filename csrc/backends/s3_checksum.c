#include "backends/s3.h"
#include "backends/sums.h"

#include <string.h>
#include <strings.h>

/* What S3 calls them. */
static const struct kind {
    const char *header, *algorithm, *element;
} kinds[] = {
    [S3D_CHECKSUM_CRC32] = {"x-amz-checksum-crc32", "CRC32", "ChecksumCRC32"},
    [S3D_CHECKSUM_CRC32C] = {"x-amz-checksum-crc32c", "CRC32C", "ChecksumCRC32C"},
    [S3D_CHECKSUM_CRC64NVME] = {"x-amz-checksum-crc64nvme", "CRC64NVME", "ChecksumCRC64NVME"},
};

/* DEFAULT becomes what it stands for. */
static enum s3d_checksum checksum_of(const struct s3d_request *request)
{
    enum s3d_checksum checksum =
        request->options ? request->options->checksum : S3D_CHECKSUM_NONE;
    return checksum == S3D_CHECKSUM_DEFAULT ? s3d_s3_store_of(request)->checksum : checksum;
}

const struct s3d_sum_kind *s3d_s3_checksum_kind(const struct s3d_request *request)
{
    return s3d_sum_kind(checksum_of(request));
}

void s3d_s3_checksum(struct s3d_request *request, struct s3d_s3_checksum *checksum)
{
    enum s3d_checksum which = checksum_of(request);
    const struct s3d_sum_kind *sum = s3d_sum_kind(which);
    *checksum = (struct s3d_s3_checksum){0};
    if (!sum) {
        return;
    }
    const struct kind *kind = &kinds[which];
    switch (request->verb) {
    case S3D_VERB_UPLOAD_CREATE:
        checksum->algorithm = kind->algorithm;
        checksum->of_object = true;
        break;
    case S3D_VERB_UPLOAD_COMPLETE:
        checksum->header = kind->header;
        checksum->of_object = true;
        sum->write(s3d_sum_parts(sum, request), checksum->value);
        break;
    case S3D_VERB_PUT:
    case S3D_VERB_UPLOAD_PART:
        checksum->header = kind->header;
        request->result.checksum = s3d_sum_spans(sum, request, request->length_bytes);
        sum->write(request->result.checksum, checksum->value);
        break;
    case S3D_VERB_STAT:
    case S3D_VERB_GET:
    case S3D_VERB_DELETE:
    case S3D_VERB_LIST:
    case S3D_VERB_UPLOAD_ABORT: break;
    }
}

void s3d_s3_checksum_xml(const struct s3d_request *request, const struct s3d_part *part,
                         struct s3d_str *text)
{
    enum s3d_checksum which = checksum_of(request);
    const struct s3d_sum_kind *sum = s3d_sum_kind(which);
    if (sum) {
        char value[S3D_SUM_TEXT];
        sum->write(part->checksum, value);
        s3d_str_add_format(text, "<%s>%s</%s>", kinds[which].element, value,
                           kinds[which].element);
    }
}

/* Whether an answer is about the object as a whole: what comes with any other range may be the sum of
 * a part. */
static bool is_of_object(const struct s3d_request *request,
                         const struct s3d_http_answer *answer)
{
    return request->verb == S3D_VERB_STAT || answer->status == 200 ||
           (answer->status == 206 && answer->range_first == 0 &&
            answer->range_last + 1 == answer->range_total);
}

bool s3d_s3_checksum_wanted(const struct s3d_request *request)
{
    return (request->verb == S3D_VERB_GET && request->store->check_kinds) ||
           (request->verb == S3D_VERB_STAT &&
            (request->wants_sum || request->store->check_kinds));
}

void s3d_s3_checksum_take(const struct s3d_request *request,
                          const struct s3d_http_answer *answer, struct s3d_object *object)
{
    object->sum_kind = NULL;
    if (!s3d_s3_checksum_wanted(request) || !is_of_object(request, answer) ||
        strcasecmp(answer->checksum_type, "COMPOSITE") == 0) {
        return;
    }
    for (size_t i = 0; i < S3D_SUM_KINDS && !object->sum_kind; i++) {
        const char *value = answer->checksums[i];
        /* "VALUE-PARTS" is composite, too, where nobody tells the type. */
        if (value[0] && !strchr(value, '-')) {
            object->sum_kind = s3d_sum_kinds[i];
            memcpy(object->sum, value, sizeof object->sum);
        }
    }
}

enum s3d_code s3d_s3_checksum_setting(const char *name, const char *value, bool custom_endpoint,
                                      bool *supported, struct s3d_error *error)
{
    *supported = !custom_endpoint;
    if (value && strcasecmp(value, "when_supported") == 0) {
        *supported = true;
    } else if (value && strcasecmp(value, "when_required") == 0) {
        *supported = false;
    } else if (value) {
        return s3d_fail(error, S3D_INVALID,
                        "%s is \"%.32s\", but must be when_supported or when_required", name,
                        value);
    }
    return S3D_OK;
}
