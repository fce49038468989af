// Every S3 error the server can answer with, and every operation it knows: one table each.
#ifndef S3S_CODES_H
#define S3S_CODES_H

#define S3S_CODES(X)                                                                           \
    X(OK, 200, "OK", "")                                                                       \
    X(ACCESS_DENIED, 403, "AccessDenied", "Access Denied")                                     \
    X(AUTH_MALFORMED, 400, "AuthorizationHeaderMalformed",                                     \
      "The authorization header is malformed")                                                 \
    X(BAD_DIGEST, 400, "BadDigest",                                                            \
      "The Content-MD5 you specified did not match what we received")                          \
    X(BAD_REQUEST, 400, "BadRequest", "The request is malformed")                              \
    X(BUCKET_EXISTS, 409, "BucketAlreadyOwnedByYou",                                           \
      "You already own the bucket of this name")                                               \
    X(BUCKET_NOT_EMPTY, 409, "BucketNotEmpty", "The bucket you tried to delete is not empty")  \
    X(ENTITY_TOO_LARGE, 400, "EntityTooLarge",                                                 \
      "Your proposed upload exceeds the maximum allowed object size")                          \
    X(ENTITY_TOO_SMALL, 400, "EntityTooSmall",                                                 \
      "Your proposed upload is smaller than the minimum allowed object size")                  \
    X(EXPIRED_TOKEN, 400, "ExpiredToken", "The provided token has expired.")                   \
    X(HEAD_TOO_LARGE, 400, "RequestHeaderSectionTooLarge",                                     \
      "Your request header exceeds the maximum allowed size")                                  \
    X(INTERNAL, 500, "InternalError", "We encountered an internal error. Please try again.")   \
    X(INVALID_ARGUMENT, 400, "InvalidArgument", "Invalid Argument")                            \
    X(INVALID_BUCKET, 400, "InvalidBucketName", "The specified bucket is not valid")           \
    X(INVALID_DIGEST, 400, "InvalidDigest", "The Content-MD5 you specified is not valid")      \
    X(INVALID_KEY_ID, 403, "InvalidAccessKeyId",                                               \
      "The AWS Access Key Id you provided does not exist in our records")                      \
    X(INVALID_PART, 400, "InvalidPart",                                                        \
      "One or more of the specified parts could not be found")                                 \
    X(INVALID_PART_ORDER, 400, "InvalidPartOrder",                                             \
      "The list of parts was not in ascending order")                                          \
    X(INVALID_RANGE, 416, "InvalidRange", "The requested range is not satisfiable")            \
    X(INVALID_TOKEN, 400, "InvalidToken",                                                      \
      "The provided token is malformed or otherwise invalid")                                  \
    X(KEY_TOO_LONG, 400, "KeyTooLongError", "Your key is too long")                            \
    X(LENGTH_REQUIRED, 411, "MissingContentLength",                                            \
      "You must provide the Content-Length HTTP header")                                       \
    X(MALFORMED_XML, 400, "MalformedXML", "The XML you provided was not well-formed")          \
    X(METHOD_NOT_ALLOWED, 405, "MethodNotAllowed",                                             \
      "The specified method is not allowed against this resource")                             \
    X(MISSING_HEADER, 400, "MissingSecurityHeader",                                            \
      "Missing required header for this request: x-amz-content-sha256")                        \
    X(NOT_IMPLEMENTED, 501, "NotImplemented",                                                  \
      "The request needs something that is not implemented")                                   \
    X(NOT_MODIFIED, 304, "NotModified", "")                                                    \
    X(NO_SUCH_BUCKET, 404, "NoSuchBucket", "The specified bucket does not exist")              \
    X(NO_SUCH_KEY, 404, "NoSuchKey", "The specified key does not exist.")                      \
    X(NO_SUCH_UPLOAD, 404, "NoSuchUpload", "The specified multipart upload does not exist")    \
    X(PAYLOAD_MISMATCH, 400, "XAmzContentSHA256Mismatch",                                      \
      "The provided 'x-amz-content-sha256' header does not match what was computed.")          \
    X(PRECONDITION, 412, "PreconditionFailed",                                                 \
      "At least one of the preconditions you specified did not hold")                          \
    X(SIGNATURE, 403, "SignatureDoesNotMatch",                                                 \
      "The request signature we calculated does not match yours")                              \
    X(SKEWED, 403, "RequestTimeTooSkewed",                                                     \
      "The difference between the request time and the server's is too large")                 \
    X(STORAGE_FULL, 507, "InsufficientStorage", "The server's --memory-limit is reached")

enum s3s_code {
#define S3S_CODE_ENUM(id, status, name, message) S3S_##id,
    S3S_CODES(S3S_CODE_ENUM)
#undef S3S_CODE_ENUM
};

// The operations, in the order of the counters.
#define S3S_OPS(X)                                                                             \
    X(GET_OBJECT, "GetObject")                                                                 \
    X(HEAD_OBJECT, "HeadObject")                                                               \
    X(PUT_OBJECT, "PutObject")                                                                 \
    X(DELETE_OBJECT, "DeleteObject")                                                           \
    X(CREATE_UPLOAD, "CreateMultipartUpload")                                                  \
    X(UPLOAD_PART, "UploadPart")                                                               \
    X(COMPLETE_UPLOAD, "CompleteMultipartUpload")                                              \
    X(ABORT_UPLOAD, "AbortMultipartUpload")                                                    \
    X(LIST_PARTS, "ListParts")                                                                 \
    X(LIST_UPLOADS, "ListMultipartUploads")                                                    \
    X(LIST_OBJECTS, "ListObjectsV2")                                                           \
    X(CREATE_BUCKET, "CreateBucket")                                                           \
    X(DELETE_BUCKET, "DeleteBucket")                                                           \
    X(HEAD_BUCKET, "HeadBucket")                                                               \
    X(UNKNOWN, "Unknown")

enum s3s_op {
#define S3S_OP_ENUM(id, name) S3S_OP_##id,
    S3S_OPS(S3S_OP_ENUM)
#undef S3S_OP_ENUM
        S3S_OP_COUNT
};

int s3s_code_status(enum s3s_code code);
const char *s3s_code_name(enum s3s_code code);
const char *s3s_code_message(enum s3s_code code);
const char *s3s_op_name(enum s3s_op op);

#endif
