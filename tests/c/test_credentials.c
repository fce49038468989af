/* Where keys come from, in which order, and what profile files may look like. Each test writes
 * its files into one temporary home. */
#include "backends/source.h"
#include "core/str.h"
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static char home[64];

static const char *in_home(const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", home, name);
    return path;
}

static void write_bytes(const char *name, const char *text, size_t length)
{
    FILE *file = fopen(in_home(name), "wb");
    CHECK(file && fwrite(text, 1, length, file) == length);
    CHECK(fclose(file) == 0);
}

static void write_file(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

static void remove_files(void)
{
    static const char *const names[] = {".aws/credentials", ".aws/config", "other", "fifo"};
    for (size_t i = 0; i < COUNT(names); i++) {
        unlink(in_home(names[i]));
    }
}

/* The files of a test: NULL for none. */
static void set_files(const char *credentials, const char *config)
{
    remove_files();
    if (credentials) {
        write_file(".aws/credentials", credentials);
    }
    if (config) {
        write_file(".aws/config", config);
    }
}

/* Borrowed texts: the settings are never freed. */
static char *text(const char *literal)
{
    static char copies[32][128];
    static size_t used;
    char *copy = copies[used++ % COUNT(copies)];
    CHECK(s3d_copy_text(copy, sizeof copies[0], literal, strlen(literal)));
    return copy;
}

/* The keys that are there without asking anybody. *credentials is empty unless OK. */
static enum s3d_code load(struct s3d_credentials *credentials, const struct s3d_config *config,
                          struct s3d_error *error)
{
    static char off[] = "true";
    struct s3d_source *source;
    struct s3d_config settings = *config;
    settings.metadata_disabled = off;
    *credentials = (struct s3d_credentials){.anonymous = false};
    enum s3d_code code = s3d_source_plan(&source, &settings, error);
    if (!code) {
        CHECK(source->kind == S3D_SOURCE_KEYS);
        *credentials = source->keys;
        source->keys = (struct s3d_credentials){.anonymous = false};
    }
    s3d_source_free(source);
    return code;
}

static void check_keys(const struct s3d_config *config, const char *key, const char *secret,
                       const char *token)
{
    struct s3d_credentials credentials;
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code = load(&credentials, config, &error);
    if (code) {
        fprintf(stderr, "%s\n", error.message);
    }
    CHECK_CODE(code, S3D_OK);
    CHECK(!credentials.anonymous);
    CHECK_TEXT(credentials.access_key, key);
    CHECK_TEXT(credentials.secret_key, secret);
    CHECK_TEXT(credentials.session_token ? credentials.session_token : "(none)",
               token ? token : "(none)");
    s3d_credentials_fini(&credentials);
    CHECK(!credentials.access_key && !credentials.secret_key && !credentials.session_token);
}

/* Fails with `expected`, and says `words`. */
static void check_failure(const struct s3d_config *config, enum s3d_code expected,
                          const char *words)
{
    struct s3d_credentials credentials;
    struct s3d_error error = {.code = S3D_OK};
    CHECK_CODE(load(&credentials, config, &error), expected);
    CHECK(error.code == expected);
    if (!strstr(error.message, words)) {
        fprintf(stderr, "\"%s\" lacks \"%s\"\n", error.message, words);
    }
    CHECK(strstr(error.message, words) != NULL);
    CHECK(!credentials.anonymous && !credentials.access_key && !credentials.secret_key &&
          !credentials.session_token);
    CHECK_CODE(load(&credentials, config, NULL), expected);
}

static void check_setting(const struct s3d_config *config, const char *name, const char *value)
{
    struct s3d_error error;
    char *found;
    CHECK_CODE(s3d_profile_setting(config, name, &found, &error), S3D_OK);
    CHECK_TEXT(found ? found : "(none)", value ? value : "(none)");
    s3d_free(found);
}

/* --- the order of sources --- */

static void test_anonymous(void)
{
    set_files("[default]\naws_access_key_id = K\naws_secret_access_key = S\n", NULL);
    struct s3d_config config = {
        .anonymous = text("1"), .access_key = text("half"), .profile = text("no such")};
    struct s3d_credentials credentials;
    CHECK_CODE(load(&credentials, &config, NULL), S3D_OK);
    CHECK(credentials.anonymous && !credentials.access_key);
    s3d_credentials_fini(&credentials);
    s3d_credentials_fini(NULL);

    config = (struct s3d_config){.anonymous = text("0")};
    check_keys(&config, "K", "S", NULL);
    static const char *const bad[] = {"", "yes", "true", "2", "01", " 1"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        config.anonymous = text(bad[i]);
        check_failure(&config, S3D_INVALID, "S3DLIO_ANONYMOUS");
    }
}

static void test_explicit_keys(void)
{
    set_files("broken file, which must not matter", NULL);
    struct s3d_config config = {
        .access_key = text("AK"), .secret_key = text("SK"), .profile = text("no such")};
    check_keys(&config, "AK", "SK", NULL);
    config.session_token = text("T");
    check_keys(&config, "AK", "SK", "T");
    config.session_token = text("");
    check_keys(&config, "AK", "SK", NULL);
}

static void test_explicit_halves(void)
{
    set_files("[default]\naws_access_key_id = K\naws_secret_access_key = S\n", NULL);
    struct s3d_config config = {.access_key = text("AK")};
    check_failure(&config, S3D_INVALID, "AWS_SECRET_ACCESS_KEY is not");
    config.secret_key = text("");
    check_failure(&config, S3D_INVALID, "AWS_SECRET_ACCESS_KEY is not");
    config = (struct s3d_config){.secret_key = text("SK"), .session_token = text("T")};
    check_failure(&config, S3D_INVALID, "AWS_ACCESS_KEY_ID is not");
    config = (struct s3d_config){.session_token = text("T")};
    check_keys(&config, "K", "S", NULL); /* the token does not belong to the file's keys */
}

static const char two_profiles[] = "[default]\n"
                                   "aws_access_key_id = DK\n"
                                   "aws_secret_access_key = DS\n"
                                   "[other]\n"
                                   "aws_access_key_id = OK\n"
                                   "aws_secret_access_key = OS\n"
                                   "aws_session_token = OT\n";

static void test_profiles(void)
{
    set_files(two_profiles, NULL);
    struct s3d_config config = {.profile = NULL};
    check_keys(&config, "DK", "DS", NULL);
    config.profile = text("");
    check_keys(&config, "DK", "DS", NULL);
    config.profile = text("default");
    check_keys(&config, "DK", "DS", NULL);
    config.profile = text("other");
    check_keys(&config, "OK", "OS", "OT");
    config.profile = text("Other");
    check_failure(&config, S3D_INVALID, "no profile \"Other\"");
    check_failure(&config, S3D_INVALID, in_home(".aws/credentials"));
    check_failure(&config, S3D_INVALID, in_home(".aws/config"));
    char *value;
    CHECK_CODE(s3d_profile_setting(&config, "region", &value, NULL), S3D_INVALID);
    CHECK(value == NULL);
}

static void test_config_file(void)
{
    set_files(NULL, "[default]\naws_access_key_id = DK\naws_secret_access_key = DS\n"
                    "[profile other]\naws_access_key_id = OK\naws_secret_access_key = OS\n"
                    "[ profile\t \"two words\" ]\naws_access_key_id = TK\n"
                    "aws_secret_access_key = TS\n"
                    "[bare]\naws_access_key_id = BK\naws_secret_access_key = BS\n"
                    "[profile]\nregion = nowhere\n[profilex]\nregion = nowhere\n");
    struct s3d_config config = {.profile = NULL};
    check_keys(&config, "DK", "DS", NULL);
    config.profile = text("other");
    check_keys(&config, "OK", "OS", NULL);
    config.profile = text("two words");
    check_keys(&config, "TK", "TS", NULL);
    static const char *const absent[] = {"bare", "profile", "x", "profile other",
                                         "\"two words\""};
    for (size_t i = 0; i < COUNT(absent); i++) {
        config.profile = text(absent[i]);
        check_failure(&config, S3D_INVALID, "no profile");
    }
}

/* A pair is never put together from two files. */
static void test_credentials_file_wins(void)
{
    struct s3d_config config = {.profile = text("p")};
    set_files("[p]\naws_access_key_id = CK\naws_secret_access_key = CS\nregion = c-1\n",
              "[profile p]\naws_access_key_id = FK\naws_secret_access_key = FS\n"
              "aws_session_token = FT\nregion = f-1\nendpoint_url = http://f\n");
    check_keys(&config, "CK", "CS", NULL);
    check_setting(&config, "region", "c-1");
    check_setting(&config, "endpoint_url", "http://f");
    check_setting(&config, "nothing", NULL);

    set_files(
        "[p]\nregion =\n",
        "[profile p]\naws_access_key_id = FK\naws_secret_access_key = FS\nregion = f-1\n");
    check_keys(&config, "FK", "FS", NULL);
    check_setting(&config, "region", "f-1");

    set_files("[p]\naws_access_key_id = CK\n",
              "[profile p]\naws_access_key_id = FK\naws_secret_access_key = FS\n");
    check_failure(&config, S3D_INVALID, "lacks aws_secret_access_key");
    set_files("[p]\naws_secret_access_key = CS\naws_access_key_id =\n", NULL);
    check_failure(&config, S3D_INVALID, "lacks aws_access_key_id");
}

static void test_none(void)
{
    struct s3d_config config = {.profile = NULL};
    set_files(NULL, NULL);
    check_failure(&config, S3D_NO_CREDENTIALS, "AWS_ACCESS_KEY_ID");
    check_failure(&config, S3D_NO_CREDENTIALS, "S3DLIO_ANONYMOUS=1");
    check_failure(&config, S3D_NO_CREDENTIALS, in_home(".aws/credentials"));
    check_failure(&config, S3D_NO_CREDENTIALS, in_home(".aws/config"));
    check_setting(&config, "region", NULL);
    set_files("", "");
    check_failure(&config, S3D_NO_CREDENTIALS, "has none");
    set_files("[other]\naws_access_key_id = K\naws_secret_access_key = S\n", NULL);
    check_failure(&config, S3D_NO_CREDENTIALS, "profile \"default\"");
    set_files(NULL, "[default]\nregion = r\n");
    check_failure(&config, S3D_NO_CREDENTIALS, "profile \"default\"");
    check_setting(&config, "region", "r");
}

/* --- what a file may look like --- */

static void test_spellings(void)
{
    struct s3d_config config = {.profile = NULL};
    set_files("\xEF\xBB\xBF# comment\r\n\r\n   ; another\r\n"
              "[other]\r\naws_access_key_id = no\r\n"
              "[ default ]   # the usual one\r\n"
              "aws_access_key_id=K # mine\r\n"
              "AWS_Secret_Access_Key   =\tab/c+d=#e;f==\t; old\r\n"
              "aws_session_token = = t]o[ken\r\n"
              "#aws_session_token = no\r\n"
              "aws_access_key = no\r\n"
              "aws_access_key_idx = no",
              NULL);
    check_keys(&config, "K", "ab/c+d=#e;f==", "= t]o[ken");
    /* The last of two wins, also over two sections of one name. */
    set_files("[default]\naws_access_key_id = no\naws_access_key_id = K\n[x]\n"
              "aws_access_key_id = no\n[default]\naws_secret_access_key = S",
              NULL);
    check_keys(&config, "K", "S", NULL);
    /* A wholly indented section is a section. */
    set_files("[default]\n  aws_access_key_id = K\n  aws_secret_access_key = S\n"
              "    aws_session_token = no\n",
              NULL);
    check_keys(&config, "K", "S", NULL);
}

static void test_sub_sections(void)
{
    struct s3d_config config = {.profile = NULL};
    set_files(NULL,
              "[default]\ns3 =\n    endpoint_url = http://no\n    addressing_style = path\n"
              "\n    # still inside\n    region = no\n    neither key nor value\n"
              "endpoint_url = http://yes\n[services x]\ns3 =\n  endpoint_url = http://no\n"
              "[sso-session y]\nregion = no\n");
    check_setting(&config, "endpoint_url", "http://yes");
    check_setting(&config, "region", NULL);
}

static void test_broken_files(void)
{
    static const struct {
        const char *text, *words;
    } broken[] = {
        {"key = value\n[default]\n", "line 1: a setting before any section"},
        {"\n\n[default\n", "line 3: a section without its ']'"},
        {"[default]\nsecret without equals\n", "line 2: neither"},
        {"[default]\n= value\n", "line 2: neither"},
    };
    struct s3d_config config = {.profile = NULL};
    for (size_t i = 0; i < COUNT(broken); i++) {
        set_files(broken[i].text, NULL);
        check_failure(&config, S3D_INVALID, broken[i].words);
        check_failure(&config, S3D_INVALID, in_home(".aws/credentials"));
        set_files(NULL, broken[i].text);
        check_failure(&config, S3D_INVALID, broken[i].words);
        check_failure(&config, S3D_INVALID, in_home(".aws/config"));
        char *value;
        CHECK_CODE(s3d_profile_setting(&config, "region", &value, NULL), S3D_INVALID);
        CHECK(!value);
    }
    /* The message never shows the line. */
    set_files("[default]\nwJalrXUtnFEMI\n", NULL);
    struct s3d_credentials credentials;
    struct s3d_error error;
    CHECK_CODE(load(&credentials, &config, &error), S3D_INVALID);
    CHECK(!strstr(error.message, "wJalrXUtnFEMI"));

    static const char nul[] = "[default]\naws_access_key_id = K\0K\n";
    set_files(NULL, NULL);
    write_bytes(".aws/credentials", nul, sizeof nul - 1);
    check_failure(&config, S3D_INVALID, "NUL byte");
}

static void test_file_size(void)
{
    enum { CEILING = 1024 * 1024 };
    static const char keys[] = "[default]\naws_access_key_id = K\naws_secret_access_key = S\n";
    struct s3d_config config = {.profile = NULL};
    char *large = malloc(CEILING + 1);
    memset(large, '\n', CEILING + 1);
    memcpy(large + CEILING - strlen(keys), keys, strlen(keys));
    set_files(NULL, NULL);
    write_bytes(".aws/credentials", large, CEILING);
    check_keys(&config, "K", "S", NULL);
    write_bytes(".aws/credentials", large, CEILING + 1);
    check_failure(&config, S3D_INVALID, "longer than 1048576 bytes");
    free(large);
}

/* Any cut of a good file is a good file, a broken one or one without keys. */
static void test_truncated_everywhere(void)
{
    struct s3d_config config = {.profile = text("other")};
    set_files(NULL, NULL);
    for (size_t length = 0; length < strlen(two_profiles); length++) {
        write_bytes(".aws/credentials", two_profiles, length);
        struct s3d_credentials credentials;
        enum s3d_code code = load(&credentials, &config, NULL);
        CHECK(code == S3D_OK || code == S3D_INVALID || code == S3D_NO_CREDENTIALS);
        s3d_credentials_fini(&credentials);
    }
}

/* --- which file --- */

static void test_named_files(void)
{
    set_files("broken, but not read", "broken, but not read");
    write_file("other", two_profiles);
    struct s3d_config config = {.credentials_file = text(in_home("other")),
                                .config_file = text("/dev/null")};
    check_keys(&config, "DK", "DS", NULL);
    config.credentials_file = text("~/other");
    check_keys(&config, "DK", "DS", NULL);
    config.credentials_file = text("/dev/null");
    check_failure(&config, S3D_NO_CREDENTIALS, "/dev/null");
    config.credentials_file = text(in_home("missing"));
    check_failure(&config, S3D_NO_CREDENTIALS, in_home("missing"));
    config.credentials_file = text(in_home("other/beneath"));
    check_failure(&config, S3D_NO_CREDENTIALS, in_home("other/beneath"));
    config.credentials_file = text("/dev/zero");
    check_failure(&config, S3D_INVALID, "/dev/zero is longer");
}

static void test_unreadable_files(void)
{
    set_files(NULL, NULL);
    struct s3d_config config = {.credentials_file = text(in_home(".aws"))};
    check_failure(&config, S3D_INVALID, in_home(".aws"));
    CHECK(mkfifo(in_home("fifo"), 0600) == 0); /* must not wait for a writer */
    config.credentials_file = text(in_home("fifo"));
    check_failure(&config, S3D_INVALID, "is not a file");

    CHECK(symlink("fifo2", in_home("fifo2")) == 0); /* a loop: open fails for everyone */
    config.credentials_file = text(in_home("fifo2"));
    check_failure(&config, S3D_SYSTEM, in_home("fifo2"));
    CHECK(unlink(in_home("fifo2")) == 0);
    config = (struct s3d_config){.config_file = text("/proc/self/mem")};
    check_failure(&config, S3D_SYSTEM, "cannot read /proc/self/mem"); /* read fails: EIO */
}

/* Root may read everything, so as nobody when this is root. */
static void in_child_without_rights(void)
{
    struct s3d_config config = {.profile = NULL};
    CHECK(getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
    check_failure(&config, S3D_DENIED, in_home(".aws/credentials"));
}

static void test_forbidden_file(void)
{
    set_files(two_profiles, NULL);
    CHECK(chmod(in_home(".aws/credentials"), 0) == 0);
    CHECK(chmod(home, 0755) == 0);
    fflush(NULL); /* or the child would print it again */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        test_in_child();
        in_child_without_rights();
        fflush(NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_without_home(void)
{
    set_files(two_profiles, NULL);
    CHECK(unsetenv("HOME") == 0);
    struct s3d_config config = {.profile = NULL};
    check_failure(&config, S3D_NO_CREDENTIALS, "without HOME");
    config.profile = text("other");
    check_failure(&config, S3D_INVALID, "without HOME");
    config = (struct s3d_config){.credentials_file = text(in_home(".aws/credentials"))};
    check_keys(&config, "DK", "DS", NULL);
    CHECK(setenv("HOME", home, 1) == 0);
}

/* --- failing memory --- */

static struct s3d_config torture_config;

static enum s3d_code attempt_load(void)
{
    struct s3d_credentials credentials;
    struct s3d_error error = {.code = S3D_OK};
    enum s3d_code code = load(&credentials, &torture_config, &error);
    CHECK(error.code == code);
    CHECK(!code ||
          (!credentials.access_key && !credentials.secret_key && !credentials.session_token));
    s3d_credentials_fini(&credentials);
    return code;
}

static enum s3d_code attempt_setting(void)
{
    char *value;
    enum s3d_code code = s3d_profile_setting(&torture_config, "region", &value, NULL);
    CHECK(!code == !!value);
    s3d_free(value);
    return code;
}

static void test_out_of_memory(void)
{
    torture_config = (struct s3d_config){
        .access_key = text("AK"), .secret_key = text("SK"), .session_token = text("T")};
    CHECK(test_torture(attempt_load, 0) == 1 + 3); /* the plan, and its keys */
    set_files(two_profiles, "[profile other]\nregion = r\n");
    torture_config = (struct s3d_config){.profile = text("other")};
    CHECK(test_torture(attempt_load, 0) >= 8); /* the plan, 2 paths, 2 files, 3 keys */
    CHECK(test_torture(attempt_setting, 0) >= 5);
}

/* Every open file of this process, to see that failures close theirs. */
static size_t open_files(void)
{
    size_t count = 0;
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}

int main(void)
{
    snprintf(home, sizeof home, "/tmp/s3d-test-XXXXXX");
    CHECK(mkdtemp(home) && setenv("HOME", home, 1) == 0);
    CHECK(mkdir(in_home(".aws"), 0755) == 0);
    size_t files_before = open_files();
    RUN(test_anonymous);
    RUN(test_explicit_keys);
    RUN(test_explicit_halves);
    RUN(test_profiles);
    RUN(test_config_file);
    RUN(test_credentials_file_wins);
    RUN(test_none);
    RUN(test_spellings);
    RUN(test_sub_sections);
    RUN(test_broken_files);
    RUN(test_file_size);
    RUN(test_truncated_everywhere);
    RUN(test_named_files);
    RUN(test_unreadable_files);
    RUN(test_forbidden_file);
    RUN(test_without_home);
    RUN(test_out_of_memory);
    CHECK(open_files() == files_before);
    remove_files();
    CHECK(rmdir(in_home(".aws")) == 0 && rmdir(home) == 0);
    return 0;
}
