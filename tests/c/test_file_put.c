/* Local files: whole writes, uploads, and O_DIRECT. */
#include "file_test.h"

/* --- PUT ---------------------------------------------------------------------------------- */

static void test_put(void)
{
    static struct s3d_request request;
    struct s3d_object object;
    char a[] = "abc", b[] = "defgh";
    struct s3d_span spans[] = {{a, 3}, {NULL, 0}, {b, 5}};
    request = (struct s3d_request){
        .verb = S3D_VERB_PUT, .key = "put", .length_bytes = 8, .spans = spans, .span_count = 3};
    CHECK_CODE(run(&request), S3D_OK);
    CHECK(file_is("put", "abcdefgh", 8));
    CHECK(request.result.object.size_bytes == 8);
    CHECK_CODE(stat_path("put", &object, NULL), S3D_OK);
    CHECK_TEXT(request.result.object.etag, object.etag);
    CHECK_CODE(put_bytes("put", "", 0, NULL), S3D_OK);
    CHECK(file_is("put", "", 0));
    CHECK(count_temps() == 0);
}

static void test_put_mode(void)
{
    mode_t old = umask(027);
    CHECK_CODE(put_bytes("mode", "1", 1, NULL), S3D_OK);
    CHECK(mode_of("mode") == 0640);
    umask(077);
    CHECK(chmod("mode", 04755) == 0);
    CHECK_CODE(put_bytes("mode", "2", 1, NULL), S3D_OK);
    CHECK(mode_of("mode") == 0755);
    umask(old);
    CHECK(umask(old) == old);
}

static mode_t seen_mode;

static void look_at_temp(void)
{
    DIR *folder = opendir(".");
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (s3d_file_is_temp(entry->d_name)) {
            seen_mode = mode_of(entry->d_name);
        }
    }
    closedir(folder);
}

/* Whatever the umask, and whatever mode the target has or gets. */
static void test_temp_mode(void)
{
    static const mode_t masks[] = {0, 022, 0777};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        mode_t old = umask(masks[i]);
        const char *call = "";
        for (unsigned long n = 1; strcmp(call, "pwritev") != 0; n++) {
            seen_mode = 07777;
            s3d_file_call_at(n, look_at_temp);
            CHECK_CODE(put_bytes("private", "x", 1, NULL), S3D_OK);
            CHECK(s3d_file_fault_fired());
            call = s3d_file_fault_call();
        }
        CHECK(seen_mode == 0600);
        s3d_file_fail_at(0, 0);
        CHECK(mode_of("private") == (0666 & ~masks[i]));
        CHECK(unlink("private") == 0);
        umask(old);
    }
}

/* Someone has guessed the name of the temporary file. */
static void test_planted_temp(void)
{
    static const char name[] = ".planted.aaaaaaaa.s3dlio-tmp";
    CHECK(mkdir("planted-folder", 0700) == 0);
    for (int kind = 0; kind < 5; kind++) {
        make_file("bystander", "theirs", 6);
        CHECK((kind == 0   ? symlink("bystander", name)
               : kind == 1 ? symlink("not-yet", name)
               : kind == 2 ? mkfifo(name, 0600)
               : kind == 3 ? link("bystander", name)
                           : rename("planted-folder", name)) == 0);
        s3d_file_repeat_random(1);
        CHECK_CODE(put_bytes("planted", "mine", 4, NULL), S3D_OK);
        CHECK(file_is("planted", "mine", 4) && file_is("bystander", "theirs", 6));
        CHECK(exists(name) && !exists("not-yet") && count_temps() == 1);
        s3d_file_repeat_random(1000);
        CHECK_CODE(put_bytes("planted", "again", 5, NULL), S3D_EXISTS);
        s3d_file_repeat_random(0);
        CHECK(file_is("planted", "mine", 4) && file_is("bystander", "theirs", 6));
        CHECK(remove(name) == 0);
    }
}

static void test_put_targets(void)
{
    struct stat about;
    char resolved[PATH_MAX + 32];
    CHECK(mkdir("deep", 0700) == 0);
    make_file("deep/real", "old", 3);
    CHECK(symlink("deep/real", "through") == 0);
    CHECK_CODE(put_bytes("through", "new!", 4, NULL), S3D_OK);
    CHECK(lstat("through", &about) == 0 && S_ISLNK(about.st_mode));
    CHECK(file_is("deep/real", "new!", 4));
    CHECK(count_entries("deep", true) == 0);
    CHECK(symlink("nowhere", "dangling") == 0);
    CHECK_CODE(put_bytes("dangling", "x", 1, NULL), S3D_NOT_FOUND);
    CHECK(!exists("nowhere"));
    CHECK(symlink("loop", "loop") == 0);
    CHECK_CODE(put_bytes("loop", "x", 1, NULL), S3D_SYSTEM);
    CHECK(symlink("deep", "to-folder") == 0);
    CHECK_CODE(put_bytes("to-folder", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("deep", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("deep/", "x", 1, NULL), S3D_SYSTEM);
    CHECK_CODE(put_bytes("new/", "x", 1, NULL), S3D_INVALID);
    CHECK_CODE(put_bytes("", "x", 1, NULL), S3D_INVALID);
    make_file("hard", "old", 3);
    CHECK(link("hard", "other-name") == 0);
    CHECK_CODE(put_bytes("hard", "new!", 4, NULL), S3D_OK);
    CHECK(file_is("hard", "new!", 4) && file_is("other-name", "old", 3));
    CHECK(mkfifo("put-fifo", 0600) == 0);
    CHECK_CODE(put_bytes("put-fifo", "x", 1, NULL), S3D_UNSUPPORTED);
    CHECK_CODE(put_bytes("/dev/null", "x", 1, NULL), S3D_UNSUPPORTED);
    CHECK(stat("/dev/null", &about) == 0 && S_ISCHR(about.st_mode));
    CHECK(symlink("/dev/null", "to-null") == 0);
    CHECK_CODE(put_bytes("to-null", "x", 1, NULL), S3D_UNSUPPORTED);
    snprintf(resolved, sizeof resolved, "%s/deep/absolute", root);
    CHECK_CODE(put_bytes(resolved, "abs", 3, NULL), S3D_OK);
    CHECK(file_is("deep/absolute", "abs", 3));
    CHECK(count_temps() == 0);
}

static void test_put_missing_folder(void)
{
    static struct s3d_request request;
    make_file("plain", "x", 1);
    request = (struct s3d_request){.verb = S3D_VERB_PUT, .key = "no-such-folder/file"};
    CHECK_CODE(run(&request), S3D_NOT_FOUND);
    CHECK(strstr(request.last.message, "folder \"no-such-folder/\"") != NULL);
    request.key = "plain/file";
    CHECK_CODE(run(&request), S3D_NOT_FOUND);
}

static void test_put_long_names(void)
{
    char name[NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[NAME_MAX] = '\0';
    CHECK_CODE(put_bytes(name, "long", 4, NULL), S3D_OK);
    CHECK(file_is(name, "long", 4));
    for (size_t i = 0; i + 1 < NAME_MAX; i += 2) { /* 127 times U+00E9 */
        memcpy(name + i, "\xC3\xA9", 3);
    }
    name[0] = 'x'; /* now the cut would fall between two bytes of one character */
    name[1] = 'y';
    memmove(name + 1, name + 2, strlen(name + 2) + 1);
    CHECK_CODE(put_bytes(name, "utf8", 4, NULL), S3D_OK);
    CHECK(file_is(name, "utf8", 4));
    memset(name, 'n', sizeof name);
    name[NAME_MAX + 1] = '\0';
    CHECK_CODE(put_bytes(name, "x", 1, NULL), S3D_SYSTEM);
    CHECK(count_temps() == 0);
}

static void appear(void)
{
    make_file("race", "theirs", 6);
}

static void test_put_create_only(void)
{
    make_file("taken", "old", 3);
    CHECK_CODE(put_bytes("taken", "new", 3, &create_only), S3D_EXISTS);
    CHECK(file_is("taken", "old", 3));
    CHECK(symlink("gone", "taken-link") == 0);
    CHECK_CODE(put_bytes("taken-link", "new", 3, &create_only), S3D_EXISTS);
    CHECK_CODE(put_bytes("fresh", "new", 3, &create_only), S3D_OK);
    CHECK(file_is("fresh", "new", 3));
    /* Someone else creates it at each possible moment; once ours, `appear` would overwrite it
     * in place, so stop at the rename. */
    for (unsigned long n = 2;; n++) {
        unlink("race");
        s3d_file_call_at(n, appear);
        CHECK_CODE(put_bytes("race", "ours", 4, &create_only), S3D_EXISTS);
        CHECK(s3d_file_fault_fired());
        CHECK(file_is("race", "theirs", 6));
        CHECK(count_temps() == 0);
        if (strcmp(s3d_file_fault_call(), "renameat2") == 0) {
            break;
        }
    }
    s3d_file_fail_at(0, 0);
}

/* A file system without RENAME_NOREPLACE: find the renameat2 call and make it fail with EINVAL.
 */
static void test_put_create_only_by_link(void)
{
    for (int taken = 0; taken <= 1; taken++) {
        for (unsigned long n = 1;; n++) {
            unlink("race");
            s3d_file_call_at(n, appear);
            (void)put_bytes("race", "ours", 4, &create_only);
            bool found = strcmp(s3d_file_fault_call(), "renameat2") == 0;
            unlink("race");
            if (!found) {
                continue;
            }
            s3d_file_fail_at(n, EINVAL);
            CHECK_CODE(put_bytes("race", "ours", 4, &create_only), S3D_OK);
            CHECK_TEXT(s3d_file_fault_call(), "renameat2");
            CHECK(file_is("race", "ours", 4) && count_temps() == 0);
            break;
        }
    }
    s3d_file_fail_at(0, 0);
}

static void test_put_short_writes(void)
{
    enum { BYTES = 300000 };
    char *data = pattern(BYTES, 2);
    s3d_file_limit_io(7001);
    CHECK_CODE(put_bytes("short", data, BYTES, NULL), S3D_OK);
    s3d_file_limit_io(0);
    CHECK(file_is("short", data, BYTES));
    free(data);
}

/* Longer than one call's chunk, so that write-back is started on the way. */
static void test_put_large(void)
{
    enum { BYTES = 40 * MIB + 13 };
    static struct s3d_request request;
    char *data = pattern(BYTES, 3), *got = malloc(BYTES);
    CHECK(got != NULL);
    CHECK_CODE(put_bytes("large", data, BYTES, NULL), S3D_OK);
    CHECK_CODE(get_range(&request, "large", 0, got, BYTES), S3D_OK);
    CHECK(memcmp(got, data, BYTES) == 0);
    CHECK(unlink("large") == 0);
    free(got);
    free(data);
}

/* --- uploads ------------------------------------------------------------------------------ */

static void test_upload(void)
{
    struct s3d_object object;
    char *data = pattern(PARTS_BYTES, 4);
    make_file("up", "old", 3);
    CHECK(chmod("up", 0600) == 0);
    CHECK_CODE(upload_create("up", NULL), S3D_OK);
    CHECK(upload_id[0] == '/' && s3d_file_is_temp(upload_id) && count_temps() == 1);
    CHECK(mode_of(upload_id) == 0600);
    for (int i = PART_COUNT - 1; i >= 0; i--) {
        CHECK_CODE(upload_part("up", &three[i], data), S3D_OK);
        CHECK(file_is("up", "old", 3));
    }
    CHECK_CODE(upload_complete("up", three, PART_COUNT, NULL), S3D_OK);
    CHECK(file_is("up", data, PARTS_BYTES) && count_temps() == 0);
    CHECK(mode_of("up") == 0600);
    CHECK_CODE(stat_path("up", &object, NULL), S3D_OK);
    CHECK(completed.size_bytes == PARTS_BYTES);
    CHECK_TEXT(completed.etag, object.etag);
    CHECK_CODE(upload_abort("up"), S3D_OK); /* late, hence without effect */
    CHECK_CODE(upload_part("up", &three[0], data), S3D_NOT_FOUND);
    CHECK_CODE(upload_complete("up", three, PART_COUNT, NULL), S3D_NOT_FOUND);
    CHECK(file_is("up", data, PARTS_BYTES));
    CHECK_CODE(upload_create("up-empty", NULL), S3D_OK);
    CHECK_CODE(upload_complete("up-empty", NULL, 0, NULL), S3D_OK);
    CHECK(file_is("up-empty", "", 0));
    free(data);
}

/* NFS reports lost bytes when the file is closed: a part must not swallow that. */
static void test_upload_part_close(void)
{
    char *data = pattern(PARTS_BYTES, 14);
    CHECK_CODE(upload_create("nfs", NULL), S3D_OK);
    for (unsigned long n = 1;; n++) {
        s3d_file_fail_at(n, EIO);
        enum s3d_code code = upload_part("nfs", &three[0], data);
        CHECK(s3d_file_fault_fired());
        if (strcmp(s3d_file_fault_call(), "close") == 0) {
            CHECK_CODE(code, S3D_SYSTEM);
            break;
        }
    }
    s3d_file_fail_at(0, 0);
    CHECK_CODE(upload_abort("nfs"), S3D_OK);
    free(data);
}

static void test_upload_abort(void)
{
    char *data = pattern(PARTS_BYTES, 5);
    make_file("precious", "keep", 4);
    CHECK_CODE(upload_create("ab", NULL), S3D_OK);
    CHECK_CODE(upload_part("ab", &three[0], data), S3D_OK);
    CHECK_CODE(upload_abort("ab"), S3D_OK);
    CHECK_CODE(upload_abort("ab"), S3D_OK);
    CHECK(count_temps() == 0 && !exists("ab"));
    snprintf(upload_id, sizeof upload_id, "precious");
    CHECK_CODE(upload_abort("precious"), S3D_INVALID);
    CHECK_CODE(upload_part("precious", &three[0], data), S3D_INVALID);
    CHECK_CODE(upload_complete("ab", three, PART_COUNT, NULL), S3D_INVALID);
    CHECK(file_is("precious", "keep", 4));
    free(data);
}

static void test_upload_wrong_parts(void)
{
    char *data = pattern(PARTS_BYTES, 6);
    struct s3d_part gap[PART_COUNT];
    memcpy(gap, three, sizeof gap);
    CHECK_CODE(upload_create("wrong", NULL), S3D_OK);
    for (int i = 0; i < PART_COUNT; i++) {
        CHECK_CODE(upload_part("wrong", &three[i], data), S3D_OK);
    }
    gap[1].size_bytes--;
    CHECK_CODE(upload_complete("wrong", gap, PART_COUNT, NULL), S3D_INVALID);
    CHECK_CODE(upload_complete("wrong", three + 1, 2, NULL), S3D_INVALID);
    CHECK_CODE(upload_complete("wrong", three, 2, NULL), S3D_CHANGED);
    CHECK(truncate(upload_id, 10) == 0);
    CHECK_CODE(upload_complete("wrong", three, PART_COUNT, NULL), S3D_CHANGED);
    CHECK(!exists("wrong"));
    CHECK_CODE(upload_abort("wrong"), S3D_OK);
    CHECK(count_temps() == 0);
    free(data);
}

static void test_upload_targets(void)
{
    char path[PATH_MAX];
    make_file("there", "old", 3);
    CHECK_CODE(upload_create("there", &create_only), S3D_EXISTS);
    CHECK_CODE(upload_create("/dev/null", NULL), S3D_UNSUPPORTED);
    CHECK_CODE(upload_create(".", NULL), S3D_SYSTEM);
    CHECK_CODE(upload_create("no-folder/x", NULL), S3D_NOT_FOUND);
    CHECK(upload_id[0] == '\0');
    CHECK_CODE(upload_create("later", &create_only), S3D_OK);
    make_file("later", "theirs", 6);
    CHECK_CODE(upload_complete("later", NULL, 0, &create_only), S3D_EXISTS);
    CHECK(file_is("later", "theirs", 6));
    CHECK_CODE(upload_abort("later"), S3D_OK);
    size_t folder = strlen(root);
    memset(path, '/',
           sizeof path); /* as long as can be, without room for the temporary file's name */
    memcpy(path, root, folder);
    memcpy(path + sizeof path - 2, "p", 2);
    CHECK_CODE(upload_create(path, NULL), S3D_INVALID);
    CHECK(count_temps() == 0);
    CHECK(symlink("there", "up-link") == 0);
    CHECK_CODE(upload_create("up-link", NULL), S3D_OK);
    CHECK_CODE(upload_complete("up-link", NULL, 0, NULL), S3D_OK);
    CHECK(file_is("there", "", 0));
}

/* What takes the temporary file's place is not written to, and nothing appears. */
static void test_upload_swapped(void)
{
    char *data = pattern(PARTS_BYTES, 8);
    for (int kind = 0; kind < 4; kind++) {
        make_file("bystander", "theirs", 6);
        CHECK_CODE(upload_create("swapped", NULL), S3D_OK);
        CHECK_CODE(upload_part("swapped", &three[0], data), S3D_OK);
        CHECK(unlink(upload_id) == 0);
        CHECK((kind == 0   ? symlink("bystander", upload_id)
               : kind == 1 ? link("bystander", upload_id)
               : kind == 2 ? mkfifo(upload_id, 0600)
                           : mkdir(upload_id, 0700)) == 0);
        CHECK(upload_part("swapped", &three[1], data) != S3D_OK);
        CHECK(upload_complete("swapped", three, 2, NULL) != S3D_OK);
        CHECK(file_is("bystander", "theirs", 6) && !exists("swapped"));
        CHECK(upload_abort("swapped") == (kind == 3 ? S3D_SYSTEM : S3D_OK));
        CHECK(kind != 3 || rmdir(upload_id) == 0);
        CHECK(count_temps() == 0);
    }
    free(data);
}

/* The working directory changes under a relative path: the upload must not appear elsewhere. */
static void test_upload_chdir(void)
{
    char *data = pattern(PARTS_BYTES, 7);
    CHECK(mkdir("elsewhere", 0700) == 0);
    CHECK_CODE(upload_create("roaming", NULL), S3D_OK);
    CHECK(chdir("elsewhere") == 0);
    CHECK_CODE(upload_part("roaming", &three[0], data), S3D_OK);
    CHECK_CODE(upload_complete("roaming", three, 1, NULL), S3D_INVALID);
    CHECK(!exists("roaming"));
    CHECK_CODE(upload_abort("roaming"), S3D_OK);
    CHECK(chdir(root) == 0);
    CHECK(count_temps() == 0 && !exists("roaming"));
    free(data);
}

/* --- O_DIRECT ----------------------------------------------------------------------------- */

/* Lengths and addresses on and off the grid, with the file system's own idea of O_DIRECT. */
static void test_direct(void)
{
    enum { BYTES = 3 * MIB + 4096 + 77 };
    static struct s3d_request request;
    struct s3d_file_store *file_store = (struct s3d_file_store *)store;
    char *data = pattern(BYTES, 8), *got = pattern(BYTES + 1, 9);
    static const size_t lengths[] = {0, 1, 4096, 4097, MIB, BYTES};
    file_store->direct = true;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t shift = 0; shift <= 1; shift++) {
            size_t length = lengths[i];
            struct s3d_span span = {data, length};
            request = (struct s3d_request){.verb = S3D_VERB_PUT,
                                           .key = "direct",
                                           .length_bytes = length,
                                           .spans = &span,
                                           .span_count = 1};
            CHECK_CODE(run(&request), S3D_OK);
            CHECK(file_is("direct", data, length));
            memset(got, 0, BYTES + 1);
            CHECK_CODE(get_range(&request, "direct", 0, got + shift, length), S3D_OK);
            CHECK(memcmp(got + shift, data, length) == 0);
        }
    }
    CHECK_CODE(get_range(&request, "direct", 4096, got, BYTES - 4096), S3D_OK);
    CHECK(memcmp(got, data + 4096, BYTES - 4096) == 0);
    CHECK_CODE(get_range(&request, "direct", 5, got, 8192), S3D_OK);
    CHECK(memcmp(got, data + 5, 8192) == 0);
    CHECK_CODE(upload_create("direct-up", NULL), S3D_OK);
    for (int i = 0; i < PART_COUNT; i++) {
        CHECK_CODE(upload_part("direct-up", &three[i], data), S3D_OK);
    }
    CHECK_CODE(upload_complete("direct-up", three, PART_COUNT, NULL), S3D_OK);
    CHECK(file_is("direct-up", data, PARTS_BYTES));
    file_store->direct = false;
    free(got);
    free(data);
}

/* Whatever call a file system refuses by EINVAL for want of O_DIRECT, the bytes arrive. */
static void test_direct_refused(void)
{
    enum { BYTES = 8192 + 77 };
    static struct s3d_request request;
    struct s3d_file_store *file_store = (struct s3d_file_store *)store;
    char *data = pattern(BYTES, 10), *got = pattern(BYTES, 11);
    unsigned refused_flag = 0, refused_read = 0;
    make_file("refuse", data, BYTES);
    file_store->direct = true;
    for (unsigned long n = 1;; n++) {
        memset(got, 0, BYTES);
        s3d_file_fail_at(n, EINVAL);
        enum s3d_code code = get_range(&request, "refuse", 0, got, BYTES);
        if (!s3d_file_fault_fired()) {
            CHECK_CODE(code, S3D_OK);
            break;
        }
        if (code == S3D_OK) {
            CHECK(memcmp(got, data, BYTES) == 0);
            refused_flag += strcmp(s3d_file_fault_call(), "fcntl") == 0;
            refused_read += strcmp(s3d_file_fault_call(), "preadv") == 0;
        }
    }
    CHECK(refused_flag == 1);
    /* Where the file system here takes the flag, the read was a direct one that was refused. */
    int fd = open("refuse", O_RDONLY | O_DIRECT);
    CHECK(refused_read == (fd >= 0));
    close(fd);
    s3d_file_fail_at(0, 0);
    file_store->direct = false;
    free(got);
    free(data);
}

int main(void)
{
    begin();
    RUN(test_put);
    RUN(test_put_mode);
    RUN(test_temp_mode);
    RUN(test_planted_temp);
    RUN(test_put_targets);
    RUN(test_put_missing_folder);
    RUN(test_put_long_names);
    RUN(test_put_create_only);
    RUN(test_put_create_only_by_link);
    RUN(test_put_short_writes);
    RUN(test_put_large);
    RUN(test_upload);
    RUN(test_upload_part_close);
    RUN(test_upload_abort);
    RUN(test_upload_wrong_parts);
    RUN(test_upload_targets);
    RUN(test_upload_swapped);
    RUN(test_upload_chdir);
    RUN(test_direct);
    RUN(test_direct_refused);
    end();
    return 0;
}
