#include "codes.h"

struct code_row {
    int status;
    const char *name;
    const char *message;
};

static const struct code_row code_rows[] = {
#define ROW(id, status, name, message) {status, name, message},
    S3S_CODES(ROW)
#undef ROW
};

static const char *const op_names[] = {
#define ROW(id, name) name,
    S3S_OPS(ROW)
#undef ROW
};

int s3s_code_status(enum s3s_code code)
{
    return code_rows[code].status;
}
const char *s3s_code_name(enum s3s_code code)
{
    return code_rows[code].name;
}
const char *s3s_code_message(enum s3s_code code)
{
    return code_rows[code].message;
}
const char *s3s_op_name(enum s3s_op op)
{
    return op_names[op];
}
