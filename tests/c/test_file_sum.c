/* Local files: the checksum that is stored with one, and replacing one version only. */
#include "file_test.h"

#include "backends/sums.h"

#include <sys/xattr.h>

static const char attribute[] = "user.s3dlio.checksum";
static const struct s3d_put_options crc32 = {.checksum = S3D_CHECKSUM_CRC32};

static void check_attribute(const char *path, const char *expected)
{
    char text[64] = "";
    struct s3d_object object;
    CHECK(getxattr(path, attribute, text, sizeof text - 1) == (ssize_t)strlen(expected));
    CHECK_TEXT(text, expected);
    CHECK_CODE(stat_path(path, &object, NULL), S3D_OK);
    CHECK(object.sum_kind && strcmp(object.sum, strchr(expected, ':') + 1) == 0);
}

static enum s3d_code upload(const char *path, const struct s3d_put_options *options, char *data)
{
    struct s3d_part parts[PART_COUNT];
    memcpy(parts, three, sizeof parts);
    enum s3d_code code = upload_create(path, options);
    for (size_t i = PART_COUNT; !code && i; i--) {
        code = upload_part_with(path, options, &parts[i - 1], data, &parts[i - 1].checksum);
    }
    if (!code) {
        code = upload_complete(path, parts, PART_COUNT, options);
    }
    return code;
}

static void test_stored(void)
{
    char *data = pattern(PARTS_BYTES, 3), whole[64], value[S3D_SUM_TEXT];
    CHECK_CODE(put_bytes("put", "123456789", 9, &crc32), S3D_OK);
    check_attribute("put", "crc32:y/Q5Jg=="); /* 0xCBF43926, the check value of the CRC */
    for (size_t i = 0; i < S3D_SUM_KINDS; i++) {
        const struct s3d_sum_kind *kind = s3d_sum_kinds[i];
        struct s3d_put_options options = {0};
        while (s3d_sum_kind(options.checksum) != kind) {
            options.checksum++;
        }
        kind->write(kind->update(0, data, PARTS_BYTES), value);
        snprintf(whole, sizeof whole, "%s:%s", kind->name, value);
        CHECK_CODE(upload("up", &options, data), S3D_OK);
        CHECK(file_is("up", data, PARTS_BYTES));
        check_attribute("up", whole);
    }
    free(data);
}

static void test_not_stored(void)
{
    static const struct s3d_put_options none = {.checksum = S3D_CHECKSUM_NONE};
    const struct s3d_put_options *const cases[] = {NULL, &none, &create_only};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_object object;
        unlink("plain");
        CHECK_CODE(put_bytes("plain", "abc", 3, cases[i]), S3D_OK);
        CHECK(getxattr("plain", attribute, NULL, 0) == -1 && errno == ENODATA);
        CHECK_CODE(stat_path("plain", &object, NULL), S3D_OK);
        CHECK(!object.sum_kind);
    }
}

/* A file system without attributes says so before the bytes of an upload come. */
static void test_no_attributes(void)
{
    for (int i = 0; i < 2; i++) {
        for (unsigned long n = 1;; n++) {
            CHECK(n < 100);
            s3d_file_fail_at(n, EOPNOTSUPP);
            enum s3d_code code =
                i ? upload_create("nowhere", &crc32) : put_bytes("nowhere", "abc", 3, &crc32);
            bool found = strcmp(s3d_file_fault_call(), "fsetxattr") == 0;
            s3d_file_fail_at(0, 0);
            if (!code) { /* a mode that cannot be set is no fault */
                CHECK_CODE(i ? upload_abort("nowhere") : delete_path("nowhere"), S3D_OK);
            }
            if (found) {
                CHECK_CODE(code, S3D_UNSUPPORTED);
                break;
            }
        }
        CHECK(!exists("nowhere") && count_temps() == 0);
    }
}

static void test_every_call_failing(void)
{
    char *data = pattern(PARTS_BYTES, 4), value[S3D_SUM_TEXT], whole[64];
    const struct s3d_sum_kind *kind = s3d_sum_kind(crc32.checksum);
    unsigned refused_none = 0;
    kind->write(kind->update(0, data, PARTS_BYTES), value);
    snprintf(whole, sizeof whole, "crc32:%s", value);
    for (unsigned long n = 1;; n++) {
        unsigned open_before = count_open_files();
        s3d_file_fail_at(n, EIO);
        enum s3d_code code = upload("hard", &crc32, data);
        bool fired = s3d_file_fault_fired();
        s3d_file_fail_at(0, 0);
        CHECK(count_open_files() == open_before);
        if (!code) { /* also without what is only advice to the kernel */
            CHECK(file_is("hard", data, PARTS_BYTES));
            check_attribute("hard", whole);
            refused_none += fired;
        }
        CHECK(!code || code == S3D_SYSTEM);
        if (code && upload_id[0]) {
            CHECK_CODE(upload_abort("hard"), S3D_OK);
        }
        CHECK(count_temps() == 0);
        unlink("hard");
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            CHECK(n > 20 && n - refused_none > 15);
            break;
        }
    }
    free(data);
}

static void test_looking_up(void)
{
    struct s3d_object object;
    struct s3d_error error;
    CHECK_CODE(put_bytes("asked", "abc", 3, &crc32), S3D_OK);
    static const struct {
        int failure;
        enum s3d_code expected;
    } cases[] = {{EOPNOTSUPP, S3D_OK}, {EACCES, S3D_OK}, {EIO, S3D_SYSTEM}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s3d_file_fail_at(2, cases[i].failure);
        CHECK_CODE(stat_path("asked", &object, &error), cases[i].expected);
        CHECK_TEXT(s3d_file_fault_call(), "getxattr");
        CHECK(cases[i].expected || !object.sum_kind);
        s3d_file_fail_at(0, 0);
    }
}

/* --- if_match ------------------------------------------------------------------------------ */

static void replace_race(void)
{
    make_file("race-new", "theirs, and longer", 18);
    CHECK(rename("race-new", "race") == 0);
}

static void remove_race(void)
{
    CHECK(unlink("race") == 0 || errno == ENOENT);
}

/* Someone else replaces or deletes it at each possible moment, but for the rename itself. */
static void test_if_match_races(void)
{
    void (*const hooks[])(void) = {replace_race, remove_race};
    for (size_t i = 0; i < 2; i++) {
        for (unsigned long n = 1;; n++) {
            struct s3d_object object;
            make_file("race", "old", 3);
            CHECK_CODE(stat_path("race", &object, NULL), S3D_OK);
            struct s3d_put_options options = {.if_match = object.etag};
            s3d_file_call_at(n, hooks[i]);
            enum s3d_code code = put_bytes("race", "ours", 4, &options);
            CHECK(s3d_file_fault_fired());
            bool is_end = strcmp(s3d_file_fault_call(), "rename") == 0;
            s3d_file_fail_at(0, 0);
            CHECK(count_temps() == 0);
            if (is_end) {
                CHECK_CODE(code, S3D_OK); /* the moment that files have no remedy for */
                CHECK(n > 5);
                break;
            }
            CHECK_CODE(code, S3D_CHANGED);
            CHECK(i ? !exists("race") : file_is("race", "theirs, and longer", 18));
            unlink("race");
        }
    }
}

static void test_if_match(void)
{
    struct s3d_object object;
    char *data = pattern(PARTS_BYTES, 5);
    make_file("file", "old", 3);
    CHECK(symlink("file", "link") == 0);
    CHECK_CODE(stat_path("link", &object, NULL), S3D_OK);
    struct s3d_put_options options = {.if_match = object.etag};
    CHECK_CODE(put_bytes("missing", "new", 3, &options), S3D_CHANGED);
    CHECK_CODE(upload_create("missing", &options), S3D_CHANGED);
    CHECK_CODE(put_bytes("link", "newer", 5, &options), S3D_OK); /* written through */
    CHECK(file_is("file", "newer", 5));
    CHECK_CODE(put_bytes("file", "newest", 6, &options), S3D_CHANGED);
    CHECK_CODE(upload_create("file", &options), S3D_CHANGED);
    CHECK_CODE(stat_path("file", &object, NULL), S3D_OK);
    CHECK_CODE(upload("file", &options, data), S3D_OK);
    CHECK(file_is("file", data, PARTS_BYTES));
    CHECK(count_temps() == 0);
    free(data);
}

int main(void)
{
    begin();
    RUN(test_stored);
    RUN(test_not_stored);
    RUN(test_no_attributes);
    RUN(test_every_call_failing);
    RUN(test_looking_up);
    RUN(test_if_match);
    RUN(test_if_match_races);
    end();
    return 0;
}
