// One request and its answer. A call belongs to its connection's thread and is used again for the next request.
#ifndef S3S_CALL_H
#define S3S_CALL_H

#include "http.h"
#include "server.h"
#include "wire.h"

struct s3s_answer {
    int status;
    struct s3s_text headers;   // lines beyond those every answer has
    struct s3s_text body;      // XML or JSON; or else
    struct s3s_object *object; // held: the body is its bytes [first, first + length)
    uint64_t first, length;
    bool headers_only; // HEAD, 204, 304
};

struct s3s_call {
    struct s3s_server *server; // for the connection's life
    struct s3s_wire *wire;
    char *scratch;            // owned, made when it is first needed: bodies that nobody keeps
    struct s3s_span leftover; // bytes that came with the head and are not its own

    struct s3s_request request;
    uint64_t request_id;
    enum s3s_op op;
    struct s3s_span bucket, key, upload_id; // into the request
    uint64_t part_number;
    struct s3s_fault fault; // kind NONE: no rule matched
    bool fault_fired;
    struct s3s_piece piece;  // owned until published: a received object or part
    struct s3s_text xml;     // a received XML body
    struct s3s_text details; // elements an error answer gets besides the usual ones
    bool hash_md5, hash_sha256;
    unsigned char md5[16], sha256[32];
    bool close; // the connection ends with this answer
    struct s3s_answer answer;
};

void s3s_call_begin(struct s3s_call *call);
void s3s_call_fini(struct s3s_call *call);

// True when the call's fault is of this kind; the rule's hit is then counted, once.
bool s3s_call_hit(struct s3s_call *call, enum s3s_fault_kind kind);
void s3s_call_fail(struct s3s_call *call, enum s3s_code code);
void s3s_call_error_xml(struct s3s_call *call, const char *code, const char *message);
void s3s_call_add_etag(struct s3s_call *call, struct s3s_text *text,
                       const char *etag); // without quotes

// s3.c: find out what is asked, whether it may be, and do it.
enum s3s_code s3s_route(struct s3s_call *call);
enum s3s_code s3s_admit(struct s3s_call *call, enum s3s_code route_code);
enum s3s_code s3s_perform(struct s3s_call *call);
struct s3s_upload_name s3s_call_upload(const struct s3s_call *call);

// body.c: receive the request's body to where it belongs.
enum s3s_code s3s_body_prepare(struct s3s_call *call); // find the room
bool s3s_body_receive(struct s3s_call *call, bool keep);
enum s3s_code s3s_body_check(const struct s3s_call *call); // digests
bool s3s_body_is_data(const struct s3s_call *call);        // an object or a part, not XML

// answer.c: false ends the connection.
bool s3s_answer_send(struct s3s_call *call);

// The operations: s3_object.c, s3_list.c, s3_multipart.c.
enum s3s_code s3s_get_object(struct s3s_call *call);
enum s3s_code s3s_put_object(struct s3s_call *call);
enum s3s_code s3s_delete_object(struct s3s_call *call);
enum s3s_code s3s_list_objects(struct s3s_call *call);
enum s3s_code s3s_list_uploads(struct s3s_call *call);
enum s3s_code s3s_list_parts(struct s3s_call *call);
enum s3s_code s3s_create_upload(struct s3s_call *call);
enum s3s_code s3s_upload_part(struct s3s_call *call);
enum s3s_code s3s_complete_upload(struct s3s_call *call);
enum s3s_code s3s_abort_upload(struct s3s_call *call);

// "bytes=a-b" into first and last; false when it is not a single well-formed range. `last` may lie past the end.
struct s3s_range {
    bool is_suffix; // the last `last` bytes
    uint64_t first, last;
};
bool s3s_range_parse(struct s3s_span value, struct s3s_range *range);

// The stored headers of a PUT or of a created upload. Owned by the caller.
void s3s_stored_headers(const struct s3s_call *call, struct s3s_text *headers);

// If-Match and If-None-Match of a write.
struct s3s_condition s3s_call_condition(const struct s3s_call *call);

// sigv4.c
enum s3s_code s3s_sigv4_check(struct s3s_call *call);
// control.c
bool s3s_control_is(const struct s3s_call *call);
void s3s_control_perform(struct s3s_call *call);

#endif
