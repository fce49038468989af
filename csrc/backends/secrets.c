#include "backends/secrets.h"

#include <string.h>
#include <strings.h>

enum { RUN_MIN = 8 };

static const char stars[] = "***";

void s3d_secrets_add(struct s3d_str *secrets, const char *text)
{
    if (text && strlen(text) >= RUN_MIN) {
        s3d_str_add_bytes(secrets, text, strlen(text) + 1);
    }
}

void s3d_secrets_fini(struct s3d_str *secrets)
{
    if (secrets->data) {
        explicit_bzero(secrets->data, secrets->length);
    }
    s3d_str_fini(secrets);
}

/* How much of the text spells this byte: 1, 3 percent-encoded, or 0 when it spells another. */
static size_t spelled_length(const char *text, char byte)
{
    if (*text == byte) {
        return 1;
    }
    return s3d_percent_byte(text) == (unsigned char)byte ? 3 : 0;
}

/* Where in a secret, from `from` on, the text's first byte stands, as it is or encoded; NULL: nowhere. */
static const char *next_start(const char *from, const char *text)
{
    int encoded = s3d_percent_byte(text);
    if (encoded < 0) {
        return strchr(from, *text); /* the usual case, and many times faster */
    }
    while (*from && !spelled_length(text, *from)) {
        from++;
    }
    return *from ? from : NULL;
}

/* How much of the text's beginning spells RUN_MIN bytes or more in a row of this secret; 0: none. */
static size_t run_length(const char *text, const char *secret)
{
    size_t longest = 0;
    for (const char *from = secret; (from = next_start(from, text)) != NULL; from++) {
        const char *to = from;
        size_t used = 0, step;
        while (*to && (step = spelled_length(text + used, *to))) {
            used += step;
            to++;
        }
        if (to - from >= RUN_MIN && used > longest) {
            longest = used;
        }
    }
    return longest;
}

static size_t secret_length(const char *text, const struct s3d_str *secrets)
{
    size_t longest = 0;
    const char *end = secrets->data + secrets->length;
    for (const char *secret = secrets->data; secret && secret < end;
         secret += strlen(secret) + 1) {
        size_t length = run_length(text, secret);
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* Of what announces a secret at the text's beginning, "X-Amz-Signature=" but for its front; 0: nothing
 * does. */
static size_t label_length(const char *text)
{
    static const char *const labels[] = {
        "signature=", "security-token=", "security-token:", "customer-key=", "customer-key:"};
    for (size_t i = 0; i < sizeof labels / sizeof *labels; i++) {
        size_t length = strlen(labels[i]);
        if (strncasecmp(text, labels[i], length) == 0) {
            return length + strspn(text + length, " \t");
        }
    }
    return 0;
}

/* The characters C0, DEL and C1: one byte, or two in UTF-8. */
static size_t control_length(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] == 0xC2 && c[1] >= 0x80 && c[1] <= 0x9F) {
        return 2;
    }
    return c[0] < ' ' || c[0] == 0x7F ? 1 : 0;
}

/* A text that is written anew into room of fixed size; what does not fit is cut off. */
struct writer {
    char text[sizeof((struct s3d_error *)0)->message]; /* the longest */
    size_t size, length;
};

static void put(struct writer *out, const char *text, size_t length)
{
    size_t room = out->size - 1 - out->length;
    length = length < room ? length : room;
    memcpy(out->text + out->length, text, length);
    out->length += length;
}

/* Writes what stands for the beginning of `text`, and returns how much of it that is. */
static size_t rewrite(struct writer *out, const char *text, const struct s3d_str *secrets)
{
    size_t label = label_length(text);
    if (label) {
        size_t value = strcspn(text + label, "&<>\"' ,;\r\n\t");
        put(out, text, label);
        put(out, stars, value ? strlen(stars) : 0);
        return label + value;
    }
    size_t secret = secret_length(text, secrets);
    if (secret) {
        put(out, stars, strlen(stars));
        return secret;
    }
    size_t control = control_length(text);
    put(out, control ? " " : text, 1);
    return control ? control : 1;
}

static void hide_in(char *text, size_t size, const struct s3d_str *secrets)
{
    struct writer out = {.size = size};
    for (const char *from = text; *from;) {
        from += rewrite(&out, from, secrets);
    }
    memcpy(text, out.text, out.length);
    text[out.length] = '\0';
}

void s3d_secrets_hide(const struct s3d_str *secrets, struct s3d_error *error)
{
    hide_in(error->message, sizeof error->message, secrets);
    hide_in(error->server_code, sizeof error->server_code, secrets);
    hide_in(error->request_id, sizeof error->request_id, secrets);
}
