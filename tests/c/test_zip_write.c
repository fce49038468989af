/* Against archives written by torch 2.13.0 (tests/c/data/make_zips.py); run from the top of the
 * tree. */
#include "test.h"

#include "formats/crc.h"
#include "formats/zip_write.h"

#define DATA "tests/c/data/"

/* An archive being written as a stream. */
struct maker {
    struct s3d_zip_writer writer;
    struct s3d_str out;
    bool compute_crc;
    bool leave_payloads_out;
};

static void begin(struct maker *maker, uint64_t alignment)
{
    *maker = (struct maker){.out = S3D_STR((size_t)1 << 40), .compute_crc = true};
    CHECK_CODE(s3d_zip_writer_init(&maker->writer, "archive", alignment, NULL), S3D_OK);
}

static void end(struct maker *maker)
{
    s3d_zip_writer_fini(&maker->writer);
    s3d_str_fini(&maker->out);
}

static void add(struct maker *maker, const char *name, const void *data, uint64_t length)
{
    struct s3d_zip_record record, again;
    size_t before = maker->out.length;
    uint64_t offset = s3d_zip_offset(&maker->writer);
    CHECK_CODE(s3d_zip_add(&maker->writer, name, length, &maker->out, &record, NULL), S3D_OK);
    CHECK(record.index + 1 == s3d_zip_count(&maker->writer));
    CHECK(record.header_offset == offset && record.size_bytes == length);
    CHECK(record.data_offset == offset + (maker->out.length - before));
    CHECK(record.end_offset == record.data_offset + length + record.descriptor_bytes);
    s3d_zip_record_at(&maker->writer, record.index, &again);
    CHECK(memcmp(&record, &again, sizeof record) == 0);
    CHECK_TEXT(s3d_zip_name(&maker->writer, record.index), name);
    CHECK(s3d_zip_has(&maker->writer, name));
    uint32_t crc = 0;
    if (data) {
        s3d_str_add_bytes(&maker->out, data, (size_t)length);
        s3d_zip_see_payload(&maker->writer, record.index, data, (size_t)length);
        crc = maker->compute_crc ? s3d_crc32(0, data, (size_t)length) : 0;
    } else if (!maker->leave_payloads_out) {
        for (uint64_t i = 0; i < length; i++) {
            s3d_str_add_bytes(&maker->out, "", 1);
        }
    }
    before = maker->out.length;
    CHECK_CODE(s3d_zip_set_crc(&maker->writer, record.index, crc, &maker->out, NULL), S3D_OK);
    CHECK(maker->out.length == before + record.descriptor_bytes);
}

/* What torch adds by itself at the end of file. */
static void finish(struct maker *maker)
{
    char id[S3D_ZIP_ID_DIGITS + 1];
    add(maker, "version", "3\n", 2);
    add(maker, "byteorder", "little", 6);
    CHECK_CODE(s3d_zip_serialization_id(&maker->writer, id, NULL), S3D_OK);
    CHECK(strlen(id) == S3D_ZIP_ID_DIGITS);
    add(maker, S3D_ZIP_ID_NAME, id, S3D_ZIP_ID_DIGITS);
    uint64_t bytes = s3d_zip_finish_bytes(&maker->writer);
    size_t before = maker->out.length;
    CHECK_CODE(s3d_zip_finish(&maker->writer, &maker->out, NULL), S3D_OK);
    CHECK(maker->out.length == before + bytes);
}

static void check_same(const struct s3d_str *out, const char *path, size_t skip)
{
    struct test_file file = test_read_file(path);
    for (size_t i = 0; i < out->length && i + skip < file.length; i++) {
        if ((unsigned char)out->data[i] != file.data[i + skip]) {
            fprintf(stderr, "%s differs first at byte %zu\n", path, i);
            exit(1);
        }
    }
    CHECK(out->length == file.length - skip);
    free(file.data);
}

static const unsigned char *pattern(void)
{
    static unsigned char bytes[1000];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7 + 3);
    }
    return bytes;
}

/* --- torch's own bytes --- */

static void test_like_torch(void)
{
    struct maker maker;
    begin(&maker, S3D_ZIP_ALIGNMENT);
    add(&maker, "data.pkl", "hello", 5);
    add(&maker, "empty", "", 0);
    add(&maker, "\xc3\xa9\xe4\xb8\xad/x", pattern(), 100);
    add(&maker, "d/", "", 0);
    add(&maker, "data/0", pattern(), 1000);
    add(&maker, "fake", "PK\7\10abcdefgh", 12);
    finish(&maker);
    check_same(&maker.out, DATA "torch_plain.zip", 0);
    end(&maker);
}

static void test_like_torch_aligned_skipped_without_crc(void)
{
    struct maker maker;
    begin(&maker, 4096);
    maker.compute_crc = false;
    add(&maker, "a", pattern(), 5);
    add(&maker, "skipped", NULL, 100);
    add(&maker, "b", pattern(), 70);
    finish(&maker);
    check_same(&maker.out, DATA "torch_4096.zip", 0);
    end(&maker);
}

/* Sizes and offsets around 4 GiB; the skeleton holds all but the payloads, behind the whole
 * size. */
static void test_like_torch_zip64(void)
{
    struct maker maker;
    begin(&maker, S3D_ZIP_ALIGNMENT);
    maker.leave_payloads_out = true;
    add(&maker, "a", NULL, UINT32_MAX - UINT64_C(1));
    add(&maker, "b", NULL, UINT32_MAX);
    add(&maker, "c", NULL, UINT32_MAX + UINT64_C(1));
    add(&maker, "d", "", 0);
    add(&maker, "e", pattern(), 9);
    finish(&maker);
    check_same(&maker.out, DATA "torch_zip64.skeleton", 8);
    struct test_file file = test_read_file(DATA "torch_zip64.skeleton");
    uint64_t whole;
    memcpy(&whole, file.data, sizeof whole);
    CHECK(maker.out.length + 3 * (uint64_t)UINT32_MAX == whole);
    free(file.data);
    end(&maker);
}

/* make_zips.py prints these three. */
static void test_like_torch_70000_records(void)
{
    struct maker maker;
    char name[32];
    begin(&maker, S3D_ZIP_ALIGNMENT);
    for (unsigned i = 0; i < 70000; i++) {
        int length = snprintf(name, sizeof name, "data/%u", i) - 5;
        add(&maker, name, name + 5, (uint64_t)length);
    }
    finish(&maker);
    CHECK(maker.out.length == 13429564);
    CHECK(s3d_crc32(0, maker.out.data, maker.out.length) == 0x1886c3b1);
    end(&maker);
}

/* --- layout first, CRCs in any order --- */

static void test_layout_before_payloads(void)
{
    static const char *const names[] = {"data.pkl", "data/0", "empty", "data/1"};
    static const size_t sizes[] = {5, 1000, 0, 77};
    struct maker stream;
    begin(&stream, S3D_ZIP_ALIGNMENT);
    for (int i = 0; i < 4; i++) {
        add(&stream, names[i], pattern(), sizes[i]);
    }
    finish(&stream);

    struct maker planned;
    struct s3d_zip_record records[7];
    struct s3d_str headers[7];
    char id[S3D_ZIP_ID_DIGITS + 1];
    begin(&planned, S3D_ZIP_ALIGNMENT);
    const char *all[] = {names[0],  names[1],    names[2],       names[3],
                         "version", "byteorder", S3D_ZIP_ID_NAME};
    const void *data[] = {pattern(), pattern(), pattern(), pattern(), "3\n", "little", id};
    const size_t lengths[] = {5, 1000, 0, 77, 2, 6, S3D_ZIP_ID_DIGITS};
    for (int i = 0; i < 7; i++) {
        headers[i] = S3D_STR(65536);
        CHECK_CODE(
            s3d_zip_add(&planned.writer, all[i], lengths[i], &headers[i], &records[i], NULL),
            S3D_OK);
    }
    uint64_t whole = s3d_zip_offset(&planned.writer) + s3d_zip_finish_bytes(&planned.writer);
    CHECK(whole == stream.out.length);

    struct s3d_error error;
    CHECK_CODE(s3d_zip_serialization_id(&planned.writer, id, &error), S3D_INVALID);
    CHECK(strstr(error.message, "data.pkl"));
    CHECK_CODE(s3d_zip_finish(&planned.writer, &planned.out, &error), S3D_INVALID);
    CHECK(planned.out.length == 0);

    unsigned char *object = malloc((size_t)whole);
    CHECK(object);
    for (int i = 6; i >= 0; i--) {
        int at = (i + 6) % 7; /* 5, 4, ... 0, then the id */
        if (at == 6) {
            CHECK_CODE(s3d_zip_serialization_id(&planned.writer, id, NULL), S3D_OK);
        }
        uint8_t descriptor[S3D_ZIP_DESCRIPTOR_MAX];
        uint32_t crc = s3d_crc32(0, data[at], lengths[at]);
        size_t bytes = s3d_zip_descriptor(&records[at], crc, descriptor);
        CHECK_CODE(s3d_zip_set_crc(&planned.writer, (uint32_t)at, crc, NULL, NULL), S3D_OK);
        memcpy(object + records[at].header_offset, headers[at].data, headers[at].length);
        memcpy(object + records[at].data_offset, data[at], lengths[at]);
        memcpy(object + records[at].data_offset + lengths[at], descriptor, bytes);
        s3d_str_fini(&headers[at]);
    }
    uint64_t directory = s3d_zip_offset(&planned.writer);
    CHECK_CODE(s3d_zip_finish(&planned.writer, &planned.out, NULL), S3D_OK);
    memcpy(object + directory, planned.out.data, planned.out.length);
    CHECK(memcmp(object, stream.out.data, (size_t)whole) == 0);
    free(object);
    end(&planned);
    end(&stream);
}

/* --- refusals --- */

static enum s3d_code try_add(struct maker *maker, const char *name, uint64_t size,
                             struct s3d_error *error)
{
    struct s3d_zip_record record;
    size_t length = maker->out.length;
    uint64_t offset = s3d_zip_offset(&maker->writer);
    uint32_t count = s3d_zip_count(&maker->writer);
    enum s3d_code code = s3d_zip_add(&maker->writer, name, size, &maker->out, &record, error);
    if (code) {
        CHECK(maker->out.length == length && s3d_zip_offset(&maker->writer) == offset);
        CHECK(s3d_zip_count(&maker->writer) == count);
    }
    return code;
}

static void test_refusals(void)
{
    struct maker maker;
    struct s3d_error error;
    begin(&maker, S3D_ZIP_ALIGNMENT);
    add(&maker, "a", "x", 1);
    CHECK_CODE(try_add(&maker, "a", 1, &error), S3D_EXISTS);
    CHECK(strstr(error.message, "\"a\""));
    CHECK_CODE(try_add(&maker, "d/", 1, &error), S3D_INVALID);
    CHECK_CODE(try_add(&maker, "", 1, &error), S3D_INVALID);
    CHECK_CODE(try_add(&maker, "b", UINT64_MAX, &error), S3D_INVALID);
    CHECK_CODE(try_add(&maker, "b", UINT64_MAX - 200, &error), S3D_INVALID);
    CHECK(!s3d_zip_has(&maker.writer, "b"));

    char *name = malloc(65536);
    CHECK(name);
    memset(name, 'n', 65535);
    name[65535] = '\0';
    CHECK_CODE(try_add(&maker, name, 1, &error), S3D_INVALID);
    name[65535 - 7] = '\0'; /* with "archive/" one too many */
    CHECK_CODE(try_add(&maker, name, 1, &error), S3D_INVALID);
    name[65535 - 8] = '\0';
    CHECK_CODE(try_add(&maker, name, 0, &error), S3D_OK);
    free(name);

    CHECK_CODE(s3d_zip_set_crc(&maker.writer, 2, 0, NULL, &error), S3D_INVALID);
    finish(&maker);
    CHECK_CODE(try_add(&maker, "late", 1, &error), S3D_CLOSED);
    CHECK_CODE(s3d_zip_set_crc(&maker.writer, 0, 0, NULL, &error), S3D_CLOSED);
    CHECK_CODE(s3d_zip_finish(&maker.writer, &maker.out, &error), S3D_CLOSED);
    end(&maker);
}

static void test_refused_archives(void)
{
    struct s3d_zip_writer writer;
    struct s3d_error error;
    CHECK_CODE(s3d_zip_writer_init(&writer, "", 64, &error), S3D_INVALID);
    s3d_zip_writer_fini(&writer);
    CHECK_CODE(s3d_zip_writer_init(&writer, "/a", 64, &error), S3D_INVALID);
    s3d_zip_writer_fini(&writer);
    CHECK_CODE(s3d_zip_writer_init(&writer, "a", 0, &error), S3D_INVALID);
    s3d_zip_writer_fini(&writer);
    s3d_zip_writer_fini(NULL);

    /* Padding that an extra field cannot hold: torch writes a broken archive here. */
    struct maker maker;
    begin(&maker, UINT64_C(1) << 17);
    CHECK_CODE(try_add(&maker, "a", 1, &error), S3D_INVALID);
    CHECK(strstr(error.message, "alignment 131072"));
    end(&maker);
}

/* A header that does not fit the caller's string: nothing was added, and it can be again. */
static void test_full_output(void)
{
    struct maker maker;
    struct s3d_zip_record record;
    struct s3d_str small = S3D_STR(40);
    begin(&maker, S3D_ZIP_ALIGNMENT);
    CHECK_CODE(s3d_zip_add(&maker.writer, "a", 1, &small, &record, NULL), S3D_INVALID);
    CHECK(s3d_zip_count(&maker.writer) == 0 && !s3d_zip_has(&maker.writer, "a"));
    s3d_str_fini(&small);
    add(&maker, "a", "x", 1);
    CHECK_CODE(s3d_zip_finish(&maker.writer, &small, NULL), S3D_INVALID);
    s3d_str_fini(&small);
    CHECK_CODE(s3d_zip_finish(&maker.writer, &maker.out, NULL), S3D_OK);
    end(&maker);
}

static enum s3d_code write_some(void)
{
    struct s3d_zip_writer writer;
    struct s3d_str out = S3D_STR(1 << 20);
    struct s3d_zip_record record;
    char name[16], id[S3D_ZIP_ID_DIGITS + 1];
    enum s3d_code code = s3d_zip_writer_init(&writer, "archive", 64, NULL);
    for (unsigned i = 0; i < 40 && !code; i++) {
        snprintf(name, sizeof name, "%u", i);
        code = s3d_zip_add(&writer, name, 3, &out, &record, NULL);
        if (!code) {
            s3d_str_add(&out, "abc");
            code = s3d_zip_set_crc(&writer, i, 7, &out, NULL);
        }
    }
    code = code ? code : s3d_zip_serialization_id(&writer, id, NULL);
    code = code ? code : s3d_zip_finish(&writer, &out, NULL);
    s3d_zip_writer_fini(&writer);
    s3d_str_fini(&out);
    return code;
}

static void test_memory_runs_out(void)
{
    CHECK(test_torture(write_some, 0) > 10);
}

int main(void)
{
    RUN(test_like_torch);
    RUN(test_like_torch_aligned_skipped_without_crc);
    RUN(test_like_torch_zip64);
    RUN(test_like_torch_70000_records);
    RUN(test_layout_before_payloads);
    RUN(test_refusals);
    RUN(test_refused_archives);
    RUN(test_full_output);
    RUN(test_memory_runs_out);
    return 0;
}
