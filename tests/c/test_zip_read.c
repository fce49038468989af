/* Archives by torch and zipfile (tests/c/data/make_zips.py), damaged ones, and ones made to
 * mislead. Run from the top of the tree. */
#include "test.h"

#include "core/str.h"
#include "formats/crc.h"
#include "formats/zip_read.h"
#include "formats/zip_write.h"

#define LLVMFuzzerTestOneInput exercise
#include "../fuzz/fuzz_zip_read.c"
#undef LLVMFuzzerTestOneInput

#define CORPUS "tests/fuzz/corpus/zip_read/"

static enum s3d_code open_all(struct s3d_zip *zip, const void *data, size_t length,
                              struct s3d_error *error)
{
    uint64_t need;
    return s3d_zip_open(zip, length, data, length, &need, error);
}

static const struct s3d_zip_entry *find(const struct s3d_zip *zip, const char *name)
{
    return s3d_zip_find(zip, name, strlen(name));
}

/* --- what torch and zipfile write --- */

/* Header, payload's CRC and descriptor of each entry; `torch`: with predictions that come
 * true. */
static void check_records(const struct s3d_zip *zip, const uint8_t *data, uint64_t torch)
{
    for (uint32_t i = 0; i < zip->count; i++) {
        const struct s3d_zip_entry *entry = &zip->entries[i];
        const uint8_t *header = data + entry->header_offset;
        size_t room = (size_t)(entry->end_offset - entry->header_offset), need, used;
        struct s3d_zip_local local, predicted;
        CHECK_CODE(s3d_zip_local(entry, header, room, &local, &need, NULL), S3D_OK);
        const uint8_t *payload = data + local.data_offset;
        if (entry->method == S3D_ZIP_STORED && entry->crc) {
            CHECK(s3d_crc32(0, payload, (size_t)entry->size_bytes) == entry->crc);
        }
        room -= local.header_bytes + (size_t)entry->compressed_bytes;
        CHECK_CODE(s3d_zip_check_descriptor(entry, payload + entry->compressed_bytes, room,
                                            &used, NULL),
                   S3D_OK);
        CHECK(used == local.descriptor_bytes && used == room);
        if (torch) {
            CHECK(s3d_zip_predict(entry, torch, &predicted));
            CHECK(predicted.data_offset == local.data_offset);
            CHECK(predicted.header_bytes == local.header_bytes);
            CHECK(predicted.descriptor_bytes == local.descriptor_bytes);
            CHECK_CODE(
                s3d_zip_check_predicted(entry, &predicted, header, local.header_bytes, NULL),
                S3D_OK);
        }
    }
}

static void test_torch_save(void)
{
    struct test_file file = test_read_file(CORPUS "torch_save.zip");
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
    CHECK(zip.count == 8 && zip.duplicates == 0 && zip.prefix_bytes == 0);
    CHECK_TEXT(zip.entries[0].name, "archive/data.pkl");
    CHECK(find(&zip, "archive/data/0")->size_bytes == 400);
    CHECK(find(&zip, "archive/data/1")->size_bytes == 3);
    CHECK(find(&zip, "archive/version")->method == S3D_ZIP_STORED);
    CHECK(!find(&zip, "archive/data/2") && !find(&zip, "data/0") &&
          !find(&zip, "archive/data/"));
    check_records(&zip, file.data, 64);
    struct s3d_zip_local local;
    CHECK(!s3d_zip_predict(find(&zip, "archive/data/1"), 48, &local));
    CHECK(!s3d_zip_predict(find(&zip, "archive/data/1"), 0, &local));
    s3d_zip_close(&zip);
    free(file.data);
}

static void test_other_torch_archives(void)
{
    static const struct {
        const char *path;
        uint64_t alignment;
    } cases[] = {{CORPUS "torch_plain.zip", 64}, {CORPUS "torch_4096.zip", 4096}};
    for (int i = 0; i < 2; i++) {
        struct test_file file = test_read_file(cases[i].path);
        struct s3d_zip zip;
        CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
        check_records(&zip, file.data, cases[i].alignment);
        s3d_zip_close(&zip);
        free(file.data);
    }
}

/* 12 GiB of which only the end and the headers exist. */
static void test_torch_zip64(void)
{
    struct test_file file = test_read_file("tests/c/data/torch_zip64.skeleton");
    uint64_t whole, need;
    memcpy(&whole, file.data, sizeof whole);
    const uint8_t *kept = file.data + sizeof whole;
    size_t length = file.length - sizeof whole;
    struct s3d_zip zip;
    /* The directory and its end records; the bytes before them lie elsewhere. */
    CHECK_CODE(s3d_zip_open(&zip, whole, kept + length - 98, 98, &need, NULL), S3D_AGAIN);
    CHECK(need > 3 * (uint64_t)UINT32_MAX && need < whole - 98);
    size_t tail = (size_t)(whole - need);
    CHECK_CODE(s3d_zip_open(&zip, whole, kept + length - tail, tail, &need, NULL), S3D_OK);
    CHECK(zip.count == 8);
    CHECK(find(&zip, "archive/a")->size_bytes == UINT32_MAX - UINT64_C(1));
    CHECK(find(&zip, "archive/b")->size_bytes == UINT32_MAX);
    CHECK(find(&zip, "archive/c")->size_bytes == UINT32_MAX + UINT64_C(1));
    CHECK(find(&zip, "archive/e")->header_offset > 3 * (uint64_t)UINT32_MAX);
    uint64_t at = 0; /* in what was kept */
    for (uint32_t i = 0; i < zip.count; i++) {
        const struct s3d_zip_entry *entry = &zip.entries[i];
        struct s3d_zip_local local, predicted;
        size_t need_bytes, used;
        CHECK_CODE(
            s3d_zip_local(entry, kept + at, length - (size_t)at, &local, &need_bytes, NULL),
            S3D_OK);
        CHECK(s3d_zip_predict(entry, 64, &predicted));
        CHECK(predicted.data_offset == local.data_offset);
        at += local.header_bytes + (i < 3 ? 0 : entry->size_bytes);
        CHECK_CODE(s3d_zip_check_descriptor(entry, kept + at, S3D_ZIP_TRAILER_MAX, &used, NULL),
                   S3D_OK);
        CHECK(used == local.descriptor_bytes && used == predicted.descriptor_bytes);
        at += used;
    }
    s3d_zip_close(&zip);
    free(file.data);
}

static void test_zipfile_archives(void)
{
    static const struct {
        const char *path;
        uint16_t method;
        uint64_t prefix;
    } cases[] = {
        {CORPUS "zipfile_stored.zip", S3D_ZIP_STORED, 0},
        {CORPUS "zipfile_deflated.zip", S3D_ZIP_DEFLATED, 0},
        {CORPUS "zipfile_unseekable.zip", S3D_ZIP_STORED, 0},
        {CORPUS "zipfile_comment.zip", S3D_ZIP_STORED, 0}, /* holds an end record's signature */
        {CORPUS "zipfile_prefix.zip", S3D_ZIP_STORED, 10},
        {CORPUS "zipfile_zip64.zip", S3D_ZIP_STORED, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_file file = test_read_file(cases[i].path);
        struct s3d_zip zip;
        CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
        CHECK(zip.count == 3 && zip.prefix_bytes == cases[i].prefix);
        CHECK(find(&zip, "one.txt")->size_bytes == 300);
        CHECK(find(&zip, "one.txt")->method == cases[i].method);
        CHECK(find(&zip, "two/\xc3\xa9.txt")->size_bytes == 0);
        CHECK(find(&zip, "three")->size_bytes == 50);
        check_records(&zip, file.data, 0);
        s3d_zip_close(&zip);
        free(file.data);
    }
    struct test_file file = test_read_file(CORPUS "zipfile_empty.zip");
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
    CHECK(zip.count == 0 && !find(&zip, "a"));
    s3d_zip_close(&zip);
    s3d_zip_close(NULL);
    free(file.data);
}

/* --- more, please --- */

static void test_every_tail(void)
{
    static const char *const paths[] = {CORPUS "torch_save.zip", CORPUS "zipfile_comment.zip"};
    for (int i = 0; i < 2; i++) {
        struct test_file file = test_read_file(paths[i]);
        unsigned again = 0;
        for (size_t n = 0; n <= file.length; n++) {
            struct s3d_zip zip;
            uint64_t need;
            enum s3d_code code =
                s3d_zip_open(&zip, file.length, file.data + file.length - n, n, &need, NULL);
            CHECK(code == S3D_OK || (code == S3D_AGAIN && need < file.length - n));
            again += code == S3D_AGAIN;
            s3d_zip_close(&zip);
            CHECK_CODE(zip_open_stepwise(&zip, file.data, file.length, n), S3D_OK);
            CHECK(zip.count == (i ? 3 : 8));
            s3d_zip_close(&zip);
        }
        CHECK(again > 100);
        free(file.data);
    }
}

static void test_local_header_in_steps(void)
{
    struct test_file file = test_read_file(CORPUS "torch_save.zip");
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
    const struct s3d_zip_entry *entry = find(&zip, "archive/data/0");
    const uint8_t *header = file.data + entry->header_offset;
    struct s3d_zip_local local;
    size_t need;
    CHECK_CODE(s3d_zip_local(entry, header, 29, &local, &need, NULL), S3D_AGAIN);
    CHECK(need == 30);
    CHECK_CODE(s3d_zip_local(entry, header, 30, &local, &need, NULL), S3D_AGAIN);
    CHECK(need > 44);
    CHECK_CODE(s3d_zip_local(entry, header, need - 1, &local, &need, NULL), S3D_AGAIN);
    CHECK_CODE(s3d_zip_local(entry, header, need, &local, &need, NULL), S3D_OK);
    CHECK(local.header_bytes == need && local.data_offset % 64 == 0);
    s3d_zip_close(&zip);
    free(file.data);
}

/* --- damage --- */

static void test_every_truncation(void)
{
    struct test_file file = test_read_file(CORPUS "torch_save.zip");
    for (size_t length = 0; length < file.length; length++) {
        struct s3d_zip zip;
        struct s3d_error error;
        CHECK_CODE(open_all(&zip, file.data, length, &error), S3D_INVALID);
        CHECK(!s3d_code_retryable(error.code) && strstr(error.message, "zip"));
        CHECK_CODE(open_all(&zip, file.data + file.length - length, length, NULL), S3D_INVALID);
    }
    free(file.data);
}

static void test_every_byte_flipped(void)
{
    static const char *const paths[] = {
        CORPUS "torch_save.zip", CORPUS "zipfile_deflated.zip", CORPUS "zipfile_zip64.zip",
        CORPUS "zipfile_comment.zip", CORPUS "zipfile_unseekable.zip"};
    static const uint8_t masks[] = {0x01, 0x08, 0x80, 0xff};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct test_file file = test_read_file(paths[i]);
        for (size_t at = 0; at < file.length; at++) {
            for (size_t m = 0; m < sizeof masks; m++) {
                file.data[at] ^= masks[m];
                exercise(file.data, file.length);
                file.data[at] ^= masks[m];
            }
            uint8_t kept = file.data[at];
            file.data[at] = 0;
            exercise(file.data, file.length);
            file.data[at] = kept;
        }
        free(file.data);
    }
}

/* One bit wrong in what names, places or describes the records of a torch archive is seen by
 * one of the checks; the payload's is the CRC's business. */
static void test_flips_are_seen(void)
{
    struct test_file file = test_read_file(CORPUS "torch_save.zip");
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, file.data, file.length, NULL), S3D_OK);
    const struct s3d_zip_entry *entry = find(&zip, "archive/data/0");
    struct s3d_zip_local local;
    size_t need, used;
    uint8_t *header = file.data + entry->header_offset;
    static const size_t bytes[] = {0, 1, 2, 3, 6, 8, 14, 18, 22, 26, 27, 28, 29, 30, 43};
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        uint8_t mask = bytes[i] == 6 ? 8 : 1;
        header[bytes[i]] ^= mask;
        enum s3d_code code = s3d_zip_local(entry, header, 128, &local, &need, NULL);
        struct s3d_zip_local predicted;
        CHECK(s3d_zip_predict(entry, 64, &predicted));
        CHECK(code == S3D_INVALID || bytes[i] == 28);
        CHECK_CODE(s3d_zip_check_predicted(entry, &predicted, header, 128, NULL), S3D_INVALID);
        header[bytes[i]] ^= mask;
    }
    CHECK_CODE(s3d_zip_local(entry, header, 128, &local, &need, NULL), S3D_OK);
    uint8_t *trailer = file.data + local.data_offset + entry->size_bytes;
    for (size_t i = 0; i < 16; i++) {
        trailer[i] ^= 4;
        CHECK_CODE(s3d_zip_check_descriptor(entry, trailer, 16, &used, NULL), S3D_INVALID);
        trailer[i] ^= 4;
        CHECK_CODE(s3d_zip_check_descriptor(entry, trailer, i, &used, NULL), S3D_INVALID);
    }
    CHECK_CODE(s3d_zip_check_descriptor(entry, trailer, 16, &used, NULL), S3D_OK);
    CHECK(used == 16);
    s3d_zip_close(&zip);
    free(file.data);
}

static void test_descriptors_of_every_kind(void)
{
    const struct s3d_zip_entry entry = {.name = "n",
                                        .name_length = 1,
                                        .flags = 8,
                                        .crc = 0x01020304,
                                        .compressed_bytes = 5,
                                        .size_bytes = 9,
                                        .method = S3D_ZIP_DEFLATED};
    static const uint8_t parts[] = {'P', 'K', 7, 8, 4, 3, 2, 1, 5, 0, 0, 0, 9, 0, 0, 0};
    static const uint8_t wide[] = {'P', 'K', 7, 8, 4, 3, 2, 1, 5, 0, 0, 0,
                                   0,   0,   0, 0, 9, 0, 0, 0, 0, 0, 0, 0};
    size_t used;
    CHECK_CODE(s3d_zip_check_descriptor(&entry, parts, 16, &used, NULL), S3D_OK);
    CHECK(used == 16);
    CHECK_CODE(s3d_zip_check_descriptor(&entry, parts + 4, 12, &used, NULL), S3D_OK);
    CHECK(used == 12);
    CHECK_CODE(s3d_zip_check_descriptor(&entry, wide, 24, &used, NULL), S3D_OK);
    CHECK(used == 24);
    CHECK_CODE(s3d_zip_check_descriptor(&entry, wide + 4, 20, &used, NULL), S3D_OK);
    CHECK(used == 20);
    CHECK_CODE(s3d_zip_check_descriptor(&entry, wide, 23, &used, NULL), S3D_INVALID);
    CHECK_CODE(s3d_zip_check_descriptor(&entry, NULL, 0, &used, NULL), S3D_INVALID);
}

/* --- made by hand --- */

struct member {
    const char *name;
    size_t name_length; /* 0: strlen */
    uint16_t flags, method, disk;
    uint32_t compressed, size, offset;
    const uint8_t *extra;
    size_t extra_length;
};

struct forgery {
    struct s3d_str bytes;
    uint64_t directory; /* where it begins */
    uint32_t count;
};

static void put(struct s3d_str *to, uint64_t value, unsigned bytes)
{
    for (; bytes; bytes--, value >>= 8) {
        uint8_t byte = (uint8_t)value;
        s3d_str_add_bytes(to, &byte, 1);
    }
}

/* `room` bytes where local headers and payloads would be. */
static struct forgery forge(size_t room)
{
    struct forgery forgery = {.bytes = S3D_STR(1 << 28), .directory = room};
    for (size_t i = 0; i < room; i++) {
        put(&forgery.bytes, 0, 1);
    }
    return forgery;
}

static void add_member(struct forgery *forgery, struct member member)
{
    size_t length = member.name_length ? member.name_length : strlen(member.name);
    struct s3d_str *to = &forgery->bytes;
    s3d_str_add_bytes(to, "PK\1\2\0\0\0\0", 8);
    put(to, member.flags, 2);
    put(to, member.method, 2);
    put(to, 0, 8); /* time, date, crc */
    put(to, member.compressed, 4);
    put(to, member.size, 4);
    put(to, length, 2);
    put(to, member.extra_length, 2);
    put(to, 0, 2); /* comment */
    put(to, member.disk, 2);
    put(to, 0, 6); /* attributes */
    put(to, member.offset, 4);
    s3d_str_add_bytes(to, member.name, length);
    s3d_str_add_bytes(to, member.extra, member.extra_length);
    forgery->count++;
}

static void add_end(struct forgery *forgery, uint64_t count, uint64_t size, uint64_t offset)
{
    s3d_str_add_bytes(&forgery->bytes, "PK\5\6\0\0\0\0", 8);
    put(&forgery->bytes, count, 2);
    put(&forgery->bytes, count, 2);
    put(&forgery->bytes, size, 4);
    put(&forgery->bytes, offset, 4);
    put(&forgery->bytes, 0, 2);
}

static void add_end64(struct forgery *forgery, uint64_t count, uint64_t size, uint64_t offset,
                      uint64_t own_offset)
{
    s3d_str_add_bytes(&forgery->bytes, "PK\6\6", 4);
    put(&forgery->bytes, 44, 8);
    put(&forgery->bytes, 0, 12);
    put(&forgery->bytes, count, 8);
    put(&forgery->bytes, count, 8);
    put(&forgery->bytes, size, 8);
    put(&forgery->bytes, offset, 8);
    s3d_str_add_bytes(&forgery->bytes, "PK\6\7\0\0\0\0", 8);
    put(&forgery->bytes, own_offset, 8);
    put(&forgery->bytes, 1, 4);
    s3d_str_add_bytes(&forgery->bytes, "PK\5\6\0\0\0\0", 8);
    put(&forgery->bytes, UINT64_MAX, 8); /* all four fields: see the zip64 end */
    put(&forgery->bytes, UINT64_MAX, 4);
    put(&forgery->bytes, 0, 2);
}

/* Opens, expects `code` (with `words` in the message), closes. */
static void expect(struct forgery *forgery, enum s3d_code code, const char *words)
{
    struct s3d_zip zip;
    struct s3d_error error = {0};
    CHECK_CODE(s3d_str_check(&forgery->bytes, NULL), S3D_OK);
    CHECK_CODE(open_all(&zip, forgery->bytes.data, forgery->bytes.length, &error), code);
    if (!strstr(error.message, words)) {
        fprintf(stderr, "\"%s\" does not hold \"%s\"\n", error.message, words);
        exit(1);
    }
    s3d_zip_close(&zip);
    exercise((const uint8_t *)forgery->bytes.data, forgery->bytes.length);
    s3d_str_fini(&forgery->bytes);
}

static void seal(struct forgery *forgery, enum s3d_code code, const char *words)
{
    add_end(forgery, forgery->count, forgery->bytes.length - forgery->directory,
            forgery->directory);
    expect(forgery, code, words);
}

static void expect_member(struct member member, enum s3d_code code, const char *words)
{
    struct forgery forgery = forge(100);
    add_member(&forgery, member);
    seal(&forgery, code, words);
}

static void test_hostile_members(void)
{
    static const uint8_t past[] = {1, 0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    static const uint8_t twice[] = {1, 0, 0, 0, 1, 0, 0, 0};
    static const uint8_t dust[] = {9, 9, 1, 0, 0, 0, 0, 0};
    static const uint8_t huge[] = {1,   0,   24,  0,   255, 255, 255, 255, 255, 255,
                                   255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                   255, 255, 255, 255, 255, 255, 255, 255};
    static const uint8_t wraps[] = {1,   0,   24,  0,   255, 255, 255, 255, 255, 255,
                                    255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                    10,  0,   0,   0,   0,   0,   0,   0};
    const uint32_t ones = UINT32_MAX;
    expect_member((struct member){.name = "a", .compressed = 69, .size = 69}, S3D_OK, "");
    expect_member((struct member){.name = "a", .compressed = 70, .size = 70}, S3D_INVALID,
                  "directory");
    expect_member((struct member){.name = "a", .offset = 70}, S3D_INVALID, "directory");
    expect_member((struct member){.name = "a", .offset = 69}, S3D_OK, "");
    expect_member((struct member){.name = "a", .offset = 4000000000u}, S3D_INVALID,
                  "directory");
    expect_member((struct member){.name = "a", .compressed = 5, .size = 6}, S3D_INVALID,
                  "sizes differ");
    expect_member((struct member){.name = "a", .compressed = 5, .size = 4000000, .method = 8},
                  S3D_OK, "");
    expect_member((struct member){.name = "a", .flags = 1}, S3D_INVALID, "encrypted");
    expect_member((struct member){.name = "a", .flags = 0x40}, S3D_INVALID, "encrypted");
    expect_member((struct member){.name = "a", .flags = 0x2000}, S3D_INVALID, "encrypted");
    expect_member((struct member){.name = "a", .flags = 0x20}, S3D_INVALID, "encrypted");
    expect_member((struct member){.name = "a", .disk = 1}, S3D_INVALID, "another disk");
    expect_member((struct member){.name = "a", .disk = 0xffff}, S3D_INVALID, "another disk");
    expect_member((struct member){.name = "a\0b", .name_length = 3}, S3D_INVALID, "NUL");
    expect_member((struct member){.name = ""}, S3D_INVALID, "empty");
    expect_member((struct member){.name = "a", .compressed = ones, .size = ones}, S3D_INVALID,
                  "too short");
    expect_member((struct member){.name = "a", .offset = ones}, S3D_INVALID, "too short");
    expect_member((struct member){.name = "a", .extra = past, .extra_length = 12}, S3D_INVALID,
                  "reaches");
    expect_member((struct member){.name = "a", .extra = twice, .extra_length = 8}, S3D_INVALID,
                  "two zip64");
    expect_member((struct member){.name = "a", .extra = dust, .extra_length = 8}, S3D_OK, "");
    struct member wide = {
        .name = "a", .compressed = ones, .size = ones, .offset = ones, .extra_length = 28};
    wide.extra = huge;
    expect_member(wide, S3D_INVALID, "directory");
    wide.extra = wraps;
    expect_member(wide, S3D_INVALID, "directory");
}

static void test_overlaps(void)
{
    struct forgery forgery = forge(200);
    add_member(&forgery, (struct member){.name = "a", .compressed = 20, .size = 20});
    add_member(&forgery, (struct member){.name = "b", .offset = 50});
    seal(&forgery, S3D_INVALID, "overlaps");
    forgery = forge(200);
    add_member(&forgery, (struct member){.name = "b", .offset = 51});
    add_member(&forgery, (struct member){.name = "a", .compressed = 20, .size = 20});
    seal(&forgery, S3D_OK, "");
    forgery = forge(200);
    add_member(&forgery,
               (struct member){.name = "a"}); /* a bomb: the same bytes under many names */
    add_member(&forgery, (struct member){.name = "b"});
    seal(&forgery, S3D_INVALID, "overlaps");
}

/* The offsets of entries in any order: by_offset sorts them. */
static void test_unsorted_directory(void)
{
    enum { COUNT = 1000 };
    struct forgery forgery = forge(COUNT * 40);
    char names[COUNT][8];
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t place = i * 389 % COUNT;
        snprintf(names[i], sizeof names[i], "n%u", i);
        add_member(&forgery, (struct member){names[i], .offset = place * 40});
    }
    add_end(&forgery, COUNT, forgery.bytes.length - forgery.directory, forgery.directory);
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, forgery.bytes.data, forgery.bytes.length, NULL), S3D_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(zip.entries[zip.by_offset[i]].header_offset == i * 40);
        CHECK(zip.entries[zip.by_offset[i]].end_offset == (i + 1) * 40);
        CHECK(find(&zip, names[i]) == &zip.entries[i]);
    }
    s3d_zip_close(&zip);
    s3d_str_fini(&forgery.bytes);
}

static void test_duplicates(void)
{
    struct forgery forgery = forge(200);
    add_member(&forgery, (struct member){.name = "a", .offset = 0});
    add_member(&forgery, (struct member){.name = "b", .offset = 40});
    add_member(&forgery, (struct member){.name = "a", .offset = 80});
    add_end(&forgery, 3, forgery.bytes.length - forgery.directory, forgery.directory);
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, forgery.bytes.data, forgery.bytes.length, NULL), S3D_OK);
    CHECK(zip.duplicates == 1 && find(&zip, "a") == &zip.entries[2]);
    s3d_zip_close(&zip);
    s3d_str_fini(&forgery.bytes);
}

static void test_hostile_ends(void)
{
    struct member a = {.name = "a"};
    struct forgery forgery = forge(100);
    add_member(&forgery, a); /* 47 bytes at 100 */
    struct s3d_str start = forgery.bytes;
    static const struct {
        uint64_t count, size, offset;
        enum s3d_code code;
        const char *words;
    } cases[] = {
        {1, 47, 100, S3D_OK, ""},
        {1, 47, 99, S3D_INVALID,
         "directory"}, /* one byte of prefix: the entry begins too late */
        {1, 47, 101, S3D_INVALID, "fit"},
        {1, 46, 101, S3D_INVALID, "damaged"},
        {1, 48, 99, S3D_INVALID, "damaged"},
        {1, 148, 0, S3D_INVALID, "fit"},
        {1, 0xffffffff, 0, S3D_INVALID, "fit"},
        {1, 47, 0xffffffff, S3D_INVALID, "fit"},
        {0, 47, 100, S3D_INVALID, "belong to no entry"},
        {2, 47, 100, S3D_INVALID, "2 entries do not fit"},
        {2, 92, 55, S3D_INVALID, "damaged"},
        {65535, 47, 100, S3D_INVALID, "65535 entries do not fit"},
        {0, 0, 147, S3D_OK, ""}, /* an empty archive behind other bytes */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct forgery one = {.bytes = S3D_STR(1 << 20)};
        s3d_str_add_bytes(&one.bytes, start.data, start.length);
        if (cases[i].offset == 99 && cases[i].size == 47) {
            /* the last possible place without the prefix, one too far with it */
            one.bytes.data[100 + 42] = 69;
        }
        add_end(&one, cases[i].count, cases[i].size, cases[i].offset);
        expect(&one, cases[i].code, cases[i].words);
    }
    s3d_str_fini(&start);
}

static void test_several_disks(void)
{
    for (size_t at = 4; at <= 8; at += 2) {
        struct forgery forgery = forge(0);
        add_end(&forgery, 0, 0, 0);
        forgery.bytes.data[at] = 1; /* this disk, the directory's disk, entries here */
        expect(&forgery, S3D_INVALID, "disk");
    }
}

static void test_hostile_zip64_ends(void)
{
    static const struct {
        uint64_t count, size, offset, own;
        enum s3d_code code;
        const char *words;
    } cases[] = {
        {1, 47, 100, 147, S3D_OK, ""},
        {1, 47, 100, 146, S3D_INVALID, "locator points"},
        {1, 47, 90, 147, S3D_INVALID, "locator points"},
        {1, 47, 90, 137, S3D_INVALID, "directory"}, /* a consistent prefix */
        {1, UINT64_MAX, 100, 147, S3D_INVALID, "fit"},
        {1, UINT64_MAX - 99, 100, 147, S3D_INVALID, "fit"}, /* wraps to 0 */
        {1, 47, UINT64_MAX - 46, 147, S3D_INVALID, "fit"},
        {UINT64_MAX, 47, 100, 147, S3D_INVALID, "entries do not fit"},
        {UINT64_C(1) << 32, 47, 100, 147, S3D_INVALID, "entries do not fit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct forgery forgery = forge(100);
        add_member(&forgery, (struct member){.name = "a", .offset = 69});
        add_end64(&forgery, cases[i].count, cases[i].size, cases[i].offset, cases[i].own);
        expect(&forgery, cases[i].code, cases[i].words);
    }
}

/* Every byte of a sound zip64 ending; the fields that no reader heeds are left out. */
static void test_zip64_end_contradictions(void)
{
    for (size_t at = 0; at < 98; at++) {
        bool unheeded = at >= 12 && at < 16; /* versions */
        struct forgery forgery = forge(100);
        add_member(&forgery, (struct member){.name = "a", .offset = 69});
        add_end64(&forgery, 1, 47, 100, 147);
        uint8_t *end = (uint8_t *)forgery.bytes.data + forgery.bytes.length - 98;
        memcpy(end + 76 + 8, "\1\0\1\0\57\0\0\0d\0\0\0\0\0", 14);
        end[at] ^= 0x10;
        bool locator_unseen = at >= 56 && at < 60; /* then there is no zip64 end: a gap */
        expect(&forgery, unheeded ? S3D_OK : S3D_INVALID, locator_unseen ? "damaged" : "");
    }
}

static void test_a_gap_before_the_zip64_end(void)
{
    struct forgery forgery = forge(100);
    add_member(&forgery, (struct member){.name = "a"});
    put(&forgery.bytes, 0, 4);
    add_end64(&forgery, 1, 47, 100, 151);
    expect(&forgery, S3D_INVALID, "locator points");
}

static void test_comments(void)
{
    /* The longest; and with an end record inside that does not end with the object. */
    struct forgery forgery = forge(40);
    add_member(&forgery, (struct member){.name = "a"});
    add_end(&forgery, 1, 47, 40);
    memset(forgery.bytes.data + forgery.bytes.length - 2, 0xff, 2);
    for (size_t i = 0; i < 65535 - 22; i++) {
        put(&forgery.bytes, 'c', 1);
    }
    add_end(&forgery, 0, 0, 0);
    forgery.bytes.data[forgery.bytes.length - 2] = 1;
    struct s3d_zip zip;
    uint64_t need, length = forgery.bytes.length;
    CHECK_CODE(open_all(&zip, forgery.bytes.data, (size_t)length, NULL), S3D_OK);
    CHECK(zip.count == 1);
    s3d_zip_close(&zip);
    CHECK_CODE(
        s3d_zip_open(&zip, length, forgery.bytes.data + length - 1000, 1000, &need, NULL),
        S3D_AGAIN);
    CHECK(need == length - 65535 - 22);
    /* One that does end with it is the one that counts, as in zipfile. */
    forgery.bytes.data[length - 2] = 0;
    CHECK_CODE(open_all(&zip, forgery.bytes.data, (size_t)length, NULL), S3D_OK);
    CHECK(zip.count == 0 && zip.prefix_bytes == length - 22);
    s3d_zip_close(&zip);
    s3d_str_fini(&forgery.bytes);
}

/* A terabyte that claims a directory of nearly as much. */
static void test_huge_directory(void)
{
    struct forgery forgery = forge(0);
    uint64_t object = UINT64_C(1) << 40;
    add_end64(&forgery, 1000, object - 98, 0, object - 98);
    struct s3d_zip zip;
    struct s3d_error error;
    uint64_t need;
    CHECK_CODE(s3d_zip_open(&zip, object, forgery.bytes.data, 98, &need, &error), S3D_INVALID);
    CHECK(strstr(error.message, "allowed"));
    CHECK_CODE(s3d_zip_open(&zip, 50, forgery.bytes.data, 98, &need, &error), S3D_INVALID);
    s3d_str_fini(&forgery.bytes);
}

/* The hash of names is not secret: names with one hash are easily made. They must not cost a
 * quadratic time. */
static uint64_t unmix(uint64_t word)
{
    const uint64_t inverse = UINT64_C(0x5f7a0ea7e59b19bd); /* of the factor, modulo 2^64 */
    word *= inverse;
    word ^= word >> 47;
    return word * inverse;
}

static uint64_t mix(uint64_t word)
{
    const uint64_t factor = UINT64_C(0xc6a4a7935bd1e995);
    word *= factor;
    return (word ^ word >> 47) * factor;
}

static void test_colliding_names(void)
{
    const uint64_t factor = UINT64_C(0xc6a4a7935bd1e995);
    uint64_t seed = UINT64_C(0xc70f6907) ^ (16 * factor), goal = 12345;
    CHECK(unmix(mix(goal)) == goal);
    for (uint32_t count = 500; count <= 3000; count += 2500) {
        struct forgery forgery = forge(count * 50);
        uint64_t pair[2] = {UINT64_C(0x4141414141414141)};
        uint32_t made = 0;
        for (; made < count; pair[0] += 0x10101) {
            pair[1] = unmix(goal ^ ((seed ^ mix(pair[0])) * factor));
            if (!memchr(pair, 0, sizeof pair)) {
                add_member(&forgery, (struct member){.name = (const char *)pair,
                                                     .name_length = 16,
                                                     .offset = made++ * 50});
            }
        }
        seal(&forgery, count == 500 ? S3D_OK : S3D_INVALID, count == 500 ? "" : "collide");
    }
}

/* --- many --- */

static void test_70000_records(void)
{
    struct s3d_zip_writer writer;
    struct s3d_str out = S3D_STR(1 << 28);
    struct s3d_zip_record record;
    char name[32];
    CHECK_CODE(s3d_zip_writer_init(&writer, "archive", 64, NULL), S3D_OK);
    for (uint32_t i = 0; i < 70000; i++) {
        snprintf(name, sizeof name, "data/%u", i);
        CHECK_CODE(s3d_zip_add(&writer, name, 4, &out, &record, NULL), S3D_OK);
        s3d_str_add_bytes(&out, &i, 4);
        CHECK_CODE(s3d_zip_set_crc(&writer, i, s3d_crc32(0, &i, 4), &out, NULL), S3D_OK);
    }
    CHECK_CODE(s3d_zip_finish(&writer, &out, NULL), S3D_OK);
    struct s3d_zip zip;
    CHECK_CODE(open_all(&zip, out.data, out.length, NULL), S3D_OK);
    CHECK(zip.count == 70000 && zip.duplicates == 0);
    check_records(&zip, (const uint8_t *)out.data, 64);
    for (uint32_t i = 0; i < 70000; i++) {
        snprintf(name, sizeof name, "archive/data/%u", i);
        CHECK(find(&zip, name) == &zip.entries[i]);
    }
    s3d_zip_close(&zip);
    s3d_zip_writer_fini(&writer);
    s3d_str_fini(&out);
}

static struct test_file tortured;

static enum s3d_code open_tortured(void)
{
    struct s3d_zip zip;
    enum s3d_code code = open_all(&zip, tortured.data, tortured.length, NULL);
    CHECK(code == S3D_OK || !zip.entries);
    s3d_zip_close(&zip);
    return code;
}

static void test_memory_runs_out(void)
{
    tortured = test_read_file(CORPUS "torch_save.zip");
    CHECK(test_torture(open_tortured, 0) == 4);
    free(tortured.data);
}

int main(void)
{
    RUN(test_torch_save);
    RUN(test_other_torch_archives);
    RUN(test_torch_zip64);
    RUN(test_zipfile_archives);
    RUN(test_every_tail);
    RUN(test_local_header_in_steps);
    RUN(test_every_truncation);
    RUN(test_every_byte_flipped);
    RUN(test_flips_are_seen);
    RUN(test_descriptors_of_every_kind);
    RUN(test_hostile_members);
    RUN(test_overlaps);
    RUN(test_unsorted_directory);
    RUN(test_duplicates);
    RUN(test_hostile_ends);
    RUN(test_several_disks);
    RUN(test_hostile_zip64_ends);
    RUN(test_zip64_end_contradictions);
    RUN(test_a_gap_before_the_zip64_end);
    RUN(test_comments);
    RUN(test_huge_directory);
    RUN(test_colliding_names);
    RUN(test_70000_records);
    RUN(test_memory_runs_out);
    return 0;
}
