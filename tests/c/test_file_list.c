/* Local files: listings, complete or an error. */
#include "file_test.h"

/* --- LIST --------------------------------------------------------------------------------- */

enum { SEEN_MAX = 40000 };
static char *seen[SEEN_MAX];
static size_t seen_count, page_start;
static unsigned resets;

static void sink_reset(void *context)
{
    CHECK(context == seen);
    resets++;
    while (seen_count > page_start) {
        free(seen[--seen_count]);
    }
}

static enum s3d_code sink_add(void *context, const char *key, const struct s3d_object *object,
                              struct s3d_error *error)
{
    (void)error;
    CHECK(context == seen && seen_count < SEEN_MAX);
    CHECK(object->etag[0] == '"');
    seen[seen_count++] = strdup(key);
    return S3D_OK;
}

static const struct s3d_list_sink sink = {seen, sink_reset, sink_add};

static void forget_seen(void)
{
    page_start = 0;
    while (seen_count) {
        free(seen[--seen_count]);
    }
}

/* All pages; returns how many there were. Checks the order. */
static unsigned list_all(const char *prefix)
{
    static struct s3d_request request;
    char token[sizeof request.result.next_token] = "";
    unsigned pages = 0;
    forget_seen();
    do {
        request = (struct s3d_request){.verb = S3D_VERB_LIST,
                                       .key = prefix,
                                       .list = &sink,
                                       .list_token = pages ? token : NULL};
        page_start = seen_count;
        resets = 0;
        CHECK_CODE(run(&request), S3D_OK);
        CHECK(resets == 1);
        memcpy(token, request.result.next_token, sizeof token);
        CHECK(!token[0] || strcmp(token, seen[seen_count - 1]) == 0);
        pages++;
    } while (token[0]);
    for (size_t i = 1; i < seen_count; i++) {
        CHECK(strcmp(seen[i - 1], seen[i]) < 0);
    }
    return pages;
}

static void check_listing(const char *prefix, const char *const *expected)
{
    (void)list_all(prefix);
    size_t count = 0;
    for (; expected[count]; count++) {
        CHECK(count < seen_count);
        CHECK_TEXT(seen[count], expected[count]);
    }
    CHECK(seen_count == count);
    forget_seen();
}

static void test_list(void)
{
    CHECK(mkdir("list", 0700) == 0 && mkdir("list/a", 0700) == 0 &&
          mkdir("list/a/b", 0700) == 0);
    CHECK(mkdir("list/empty", 0700) == 0 && mkdir("list/ab", 0700) == 0);
    static const char *const files[] = {"list/a.txt",  "list/a/x",  "list/a/b/deep",
                                        "list/a0",     "list/ab/y", "list/\xC3\xA9",
                                        "list/.hidden"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        make_file(files[i], "x", 1);
    }
    make_file("list/.a.abcdefgh.s3dlio-tmp", "x", 1);
    CHECK(symlink("a.txt", "list/link") == 0 && symlink("a", "list/folder-link") == 0);
    CHECK(symlink("nothing", "list/dangling") == 0 && mkfifo("list/fifo", 0600) == 0);
    static const char *const all[] = {"list/.hidden", "list/a.txt",    "list/a/b/deep",
                                      "list/a/x",     "list/a0",       "list/ab/y",
                                      "list/link",    "list/\xC3\xA9", NULL};
    check_listing("list", all);
    check_listing("list/", all);
    check_listing("lis", all);
    static const char *const below_a[] = {"list/a/b/deep", "list/a/x", NULL};
    check_listing("list/a", below_a); /* a folder is meant, although files begin so too */
    check_listing("list/a/", below_a);
    static const char *const ab[] = {"list/ab/y", NULL};
    check_listing("list/ab", ab);
    static const char *const a_dot[] = {"list/a.txt", NULL};
    check_listing("list/a.", a_dot);
    check_listing("list/a.txt", a_dot);
    static const char *const linked[] = {"list/folder-link/b/deep", "list/folder-link/x", NULL};
    check_listing("list/folder-link", linked); /* asked for by name */
    static const char *const none[] = {NULL};
    check_listing("list/zzz", none);
    check_listing("list/a.txt/", none);
    check_listing("no/such/folder/", none);
    CHECK(chdir("list") == 0);
    static const char *const relative[] = {".hidden", "a.txt", "a/b/deep", "a/x", "a0",
                                           "ab/y",    "link",  "\xC3\xA9", NULL};
    check_listing("", relative);
    CHECK(chdir(root) == 0);
}

static void test_list_pages(void)
{
    char path[64];
    CHECK(mkdir("pages", 0700) == 0);
    for (int folder = 0; folder < 5; folder++) {
        snprintf(path, sizeof path, "pages/%d", folder);
        CHECK(mkdir(path, 0700) == 0);
        for (int i = 0; i < 500; i++) {
            snprintf(path, sizeof path, "pages/%d/%04d", folder, i);
            make_file(path, "", 0);
        }
    }
    CHECK(list_all("pages") == 3 && seen_count == 2500);
    CHECK_TEXT(seen[999], "pages/1/0499");
    CHECK_TEXT(seen[1000], "pages/2/0000");
    /* Exactly one page: nothing follows, so there is no token. */
    CHECK(list_all("pages/0") == 1 && seen_count == 500);
    CHECK(list_all("pages/") == 3);
    forget_seen();
}

/* 33,000 names in one folder: pages grow so that there are few. */
static void test_list_large_folder(void)
{
    char path[64];
    CHECK(mkdir("wide", 0700) == 0);
    make_file("wide/00000", "", 0);
    for (int i = 1; i < 33000; i++) {
        snprintf(path, sizeof path, "wide/%05d", i);
        if (link("wide/00000", path) != 0) { /* cheaper than a file; ext4 allows 65,000 */
            make_file(path, "", 0);
        }
    }
    CHECK(list_all("wide/") <= 17 && seen_count == 33000);
    forget_seen();
}

static enum s3d_code sink_refuse(void *context, const char *key,
                                 const struct s3d_object *object, struct s3d_error *error)
{
    (void)context;
    (void)key;
    (void)object;
    return s3d_fail(error, S3D_NO_MEMORY, "the sink is full");
}

static void ignore_reset(void *context)
{
    (void)context;
}

static void test_list_errors(void)
{
    static struct s3d_request request;
    static const struct s3d_list_sink refusing = {NULL, ignore_reset, sink_refuse};
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "list", .list = &refusing};
    CHECK_CODE(run(&request), S3D_NO_MEMORY);
    request.list = &sink;
    atomic_store(&request.cancelled, true);
    CHECK_CODE(run(&request), S3D_CANCELLED);
    forget_seen();
    /* Deeper than the bound is an error, not an overflow. */
    for (int i = 0; i < 300; i++) {
        CHECK(mkdir("z", 0700) == 0 && chdir("z") == 0);
    }
    CHECK(chdir(root) == 0);
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "z/", .list = &sink};
    CHECK_CODE(run(&request), S3D_UNSUPPORTED);
}

static enum s3d_code list_once(void)
{
    static struct s3d_request request;
    forget_seen();
    request = (struct s3d_request){.verb = S3D_VERB_LIST, .key = "list", .list = &sink};
    return run(&request);
}

/* A listing is complete or an error. */
static void test_every_list_call_failing(void)
{
    CHECK_CODE(list_once(), S3D_OK);
    size_t whole = seen_count;
    for (unsigned long n = 1;; n++) {
        unsigned open_before = count_open_files();
        s3d_file_fail_at(n, EIO);
        enum s3d_code code = list_once();
        bool fired = s3d_file_fault_fired();
        s3d_file_fail_at(0, 0);
        CHECK(count_open_files() == open_before);
        if (!fired) {
            CHECK_CODE(code, S3D_OK);
            CHECK(seen_count == whole && n > 20);
            break;
        }
        CHECK_CODE(code, S3D_SYSTEM);
    }
    forget_seen();
}

static void test_list_out_of_memory(void)
{
    CHECK(test_torture(list_once, 0) >= 5);
    forget_seen();
}

int main(void)
{
    begin();
    RUN(test_list);
    RUN(test_list_pages);
    RUN(test_list_large_folder);
    RUN(test_list_errors);
    RUN(test_every_list_call_failing);
    RUN(test_list_out_of_memory);
    end();
    return 0;
}
