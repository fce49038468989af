/*
 * A JSON scanner for small documents of known shape: no tree, no recursion but the caller's.
 *
 * The caller sets up the struct (s3d_json_init), asks for what it expects, and is told where the
 * text is otherwise. Texts are decoded into `texts`, which needs as many bytes as the document:
 * a text and its NUL never take more than its JSON. Numbers are whole and not negative.
 * Source: RFC 8259.
 */
#ifndef S3D_FORMATS_JSON_H
#define S3D_FORMATS_JSON_H

#include "core/error.h"

struct s3d_json {
    const unsigned char *start, *at, *end;
    const char *name; /* of the document, for errors: "the safetensors header" */
    struct s3d_error *error;
    char *texts;
    size_t texts_used;
};

/* UTF-8, terminated as well; it may hold NULs. */
struct s3d_json_text {
    const char *data;
    size_t length;
};

typedef enum s3d_code s3d_json_member(struct s3d_json *json, const struct s3d_json_text *key,
                                      void *context);

/* Borrows all of it; texts may be NULL where only s3d_json_broken is wanted. */
void s3d_json_init(struct s3d_json *json, const char *document, size_t length, char *texts,
                   const char *name, struct s3d_error *error);
/* INVALID: "NAME is broken at byte N: what". Never shows the document. */
enum s3d_code s3d_json_broken(const struct s3d_json *json, const char *what);

/* Whether `c` comes next behind white space; then it is taken. */
bool s3d_json_accept(struct s3d_json *json, char c);
S3D_MUST_USE enum s3d_code s3d_json_expect(struct s3d_json *json, char c,
                                           const char *otherwise);
/* Behind white space there is nothing more, or `otherwise` is what is wrong. */
S3D_MUST_USE enum s3d_code s3d_json_end(struct s3d_json *json, const char *otherwise);
S3D_MUST_USE enum s3d_code s3d_json_number(struct s3d_json *json, uint64_t *number);
S3D_MUST_USE enum s3d_code s3d_json_text(struct s3d_json *json, struct s3d_json_text *text);
/* An object: `member` takes the value of each key. */
S3D_MUST_USE enum s3d_code s3d_json_object(struct s3d_json *json, s3d_json_member *member,
                                           void *context);
/* Takes a value of any kind, checked, nested at most 32 deep. */
S3D_MUST_USE enum s3d_code s3d_json_skip(struct s3d_json *json);
/* Takes "null" if it comes next. */
bool s3d_json_null(struct s3d_json *json);
bool s3d_json_text_is(const struct s3d_json_text *text, const char *other);

#endif
