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

int main(void)
{
    RUN(test_messages);
    RUN(test_what_does_not_fit);
    return 0;
}
