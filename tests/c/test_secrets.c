/* What of a server's text may be told. */
#include "test.h"

#include "backends/secrets.h"

static const char key[] = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
static const char token[] =
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQW==";

static void check_message(const char *said, const char *told)
{
    struct s3d_str secrets = S3D_STR(S3D_SECRETS_MAX);
    struct s3d_error error;
    s3d_secrets_add(&secrets, key);
    s3d_secrets_add(&secrets, token);
    s3d_secrets_add(&secrets, NULL);
    s3d_secrets_add(&secrets, "denied!"); /* seven bytes */
    CHECK_CODE(s3d_str_check(&secrets, NULL), S3D_OK);
    s3d_fail(&error, S3D_DENIED, "%s", said);
    s3d_secrets_hide(&secrets, &error);
    CHECK_TEXT(error.message, told);
    s3d_secrets_fini(&secrets);
}

static void test_messages(void)
{
    static const char *const cases[][2] = {
        {"", ""},
        {"access denied!", "access denied!"},
        {key, "***"},
        {"the key wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY, and more", "the key ***, and more"},
        {"wJalrXUtnFEMI%2FK7MDENG%2bbPxRfiCYEXAMPLEKEY", "***"},
        {"cut: AQoDYXdzEPT//", "cut: ***"},
        {"inside: /K7MDENG+bPxR.", "inside: ***."},
        {"seven: wJalrXU, tc764bN", "seven: wJalrXU, tc764bN"},
        {"%", "%"},
        {"both wJalrXUtAQoDYXdz one", "both ****** one"},
        {"http://x/k?X-Amz-Signature=0123abcd&X-Amz-Date=1",
         "http://x/k?X-Amz-Signature=***&X-Amz-Date=1"},
        {"x-amz-security-token: another, yes", "x-amz-security-token: ***, yes"},
        {"signature=", "signature="},
        {"a\nb\x1b[2J\tc\x7f", "a b [2J c "},
        {"\xC2\x9B"
         "2J and \xC3\xA9\xC2\xA0",
         " 2J and \xC3\xA9\xC2\xA0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_message(cases[i][0], cases[i][1]);
    }
}

/* Three stars for one character: a full text is cut, in each of the three fields. */
static void test_what_does_not_fit(void)
{
    struct s3d_str secrets = S3D_STR(S3D_SECRETS_MAX);
    struct s3d_error error = {.code = S3D_DENIED};
    for (size_t i = 0; i + 12 < sizeof error.message; i += 12) {
        memcpy(error.message + i, "Signature=1 ", 12);
    }
    memset(error.server_code, 'c', sizeof error.server_code - 1);
    memcpy(error.request_id, key, sizeof key);
    s3d_secrets_add(&secrets, key);
    s3d_secrets_hide(&secrets, &error);
    CHECK(strlen(error.message) == sizeof error.message - 1);
    CHECK(strncmp(error.message, "Signature=*** Signature=*** ", 28) == 0);
    CHECK(strlen(error.server_code) == sizeof error.server_code - 1);
    CHECK_TEXT(error.request_id, "***");
    s3d_secrets_fini(&secrets);
    CHECK(secrets.data == NULL && secrets.length == 0);
    s3d_secrets_fini(&secrets);
}

static unsigned random_below(unsigned limit)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % limit;
}

/* Whether 8 bytes in a row of it are spelled somewhere, by a way of its own to look. */
static bool is_spelled(const char *text, const char *secret)
{
    char plain[sizeof((struct s3d_error *)0)->message];
    for (int decoded = 0; decoded < 2; decoded++) {
        size_t length = 0;
        for (const char *c = text; *c; c++) {
            int byte = decoded ? s3d_percent_byte(c) : -1;
            plain[length++] = byte > 0 ? (char)byte : *c;
            c += byte > 0 ? 2 : 0;
        }
        plain[length] = '\0';
        for (size_t i = 0; i + 8 <= strlen(secret); i++) {
            char run[9] = "";
            memcpy(run, secret + i, 8);
            if (strstr(plain, run)) {
                return true;
            }
        }
    }
    return false;
}

/* Texts of pieces of both secrets, partly encoded, and what lies between them. */
static void test_random_texts(void)
{
    static const char *const between[] = {
        "", " ", "%", "%2", "Signature=", "a word ", "\n", "*", "%41"};
    struct s3d_str secrets = S3D_STR(S3D_SECRETS_MAX);
    unsigned hidden = 0;
    s3d_secrets_add(&secrets, key);
    s3d_secrets_add(&secrets, token);
    for (int n = 0; n < 20000; n++) {
        struct s3d_error error = {.code = S3D_DENIED};
        struct s3d_str text = S3D_STR(4096);
        while (text.length < 400) {
            const char *secret = random_below(2) ? key : token;
            size_t from = random_below((unsigned)strlen(secret));
            char piece[32] = "";
            s3d_copy_text(piece, 1 + random_below(sizeof piece), secret + from,
                          strlen(secret + from));
            if (random_below(2)) {
                s3d_str_add_encoded(&text, piece, random_below(2));
            } else {
                s3d_str_add(&text, piece);
            }
            s3d_str_add(&text, between[random_below(sizeof between / sizeof *between)]);
        }
        s3d_copy_text(error.message, sizeof error.message, text.data, text.length);
        hidden += is_spelled(error.message, key) || is_spelled(error.message, token);
        s3d_secrets_hide(&secrets, &error);
        CHECK(!is_spelled(error.message, key) && !is_spelled(error.message, token));
        s3d_str_fini(&text);
    }
    CHECK(hidden > 10000);
    s3d_secrets_fini(&secrets);
}

int main(void)
{
    RUN(test_messages);
    RUN(test_what_does_not_fit);
    RUN(test_random_texts);
    return 0;
}
