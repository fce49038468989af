/*
 * The XML of S3 answers, by libxml2 with entities, network and DTDs off and sizes bounded. The
 * only user of libxml2.
 */
#ifndef S3D_BACKENDS_XML_H
#define S3D_BACKENDS_XML_H

#include "core/request.h"
#include "core/str.h"

/* <Error><Code>..</Code><Message>..</Message>...: false when the text is no such document. Strings
 * are cut to size. */
struct s3d_xml_error {
    char code[64];
    char message[256];
    char request_id[128];
    char region[64];
};
bool s3d_xml_error(const char *text, size_t length, struct s3d_xml_error *out);

/* The same of STS: <ErrorResponse><Error>... */
bool s3d_xml_sts_error(const char *text, size_t length, struct s3d_xml_error *out);

/* <ACTIONResponse> of STS: its Credentials, as copies that the caller wipes and frees, also after a
 * failure; NULL and 0 for what is absent. */
S3D_MUST_USE enum s3d_code s3d_xml_sts_credentials(const char *text, size_t length,
                                                   const char *action, char **access_key,
                                                   char **secret_key, char **session_token,
                                                   int64_t *expires_s, struct s3d_error *error);

/* <InitiateMultipartUploadResult>: the UploadId. PROTOCOL when absent, empty or too long. */
S3D_MUST_USE enum s3d_code s3d_xml_upload_id(const char *text, size_t length, char *id,
                                             size_t id_size, struct s3d_error *error);

/* <CompleteMultipartUploadResult>: the ETag ("" when absent). PROTOCOL for any other root. */
S3D_MUST_USE enum s3d_code s3d_xml_complete(const char *text, size_t length, char *etag,
                                            size_t etag_size, struct s3d_error *error);

/*
 * <ListBucketResult> of ListObjectsV2 with encoding-type=url: each key decoded and given to
 * sink (key, size, ETag, LastModified); the NextContinuationToken, or "" when not truncated.
 * Begins with sink->reset() (when not NULL), and may do so once more: a server that names the
 * encoding behind the first keys makes it start over. After a failure the sink may hold some
 * keys. Keys of a server that does not say <EncodingType>url are taken as they stand.
 */
S3D_MUST_USE enum s3d_code s3d_xml_list(const char *text, size_t length,
                                        const struct s3d_list_sink *sink, char *next_token,
                                        size_t token_size, struct s3d_error *error);

#endif
