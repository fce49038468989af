#include "test.h"

#include "formats/safetensors.h"

#define F32(name, shape, begin, end)                                                           \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end \
    "]}"
#define ONE F32("a", "1", 0, 4)

/* Parses a copy of exactly these bytes, so that the sanitizer sees every step beyond them. */
static enum s3d_code parse_bytes(struct s3d_safetensors *file, const char *json, size_t length,
                                 uint64_t data_bytes, struct s3d_error *error)
{
    char *copy = malloc(length ? length : 1);
    CHECK(copy);
    memcpy(copy, json, length);
    enum s3d_code code = s3d_safetensors_parse(file, copy, length, data_bytes, error);
    free(copy);
    return code;
}

static enum s3d_code parse(struct s3d_safetensors *file, const char *json, uint64_t data_bytes,
                           struct s3d_error *error)
{
    return parse_bytes(file, json, strlen(json), data_bytes, error);
}

static void check_good(const char *json, uint64_t data_bytes, size_t count)
{
    struct s3d_safetensors file;
    struct s3d_error error = {0};
    enum s3d_code code = parse(&file, json, data_bytes, &error);
    if (code) {
        fprintf(stderr, "%s: %s\n", json, error.message);
    }
    CHECK_CODE(code, S3D_OK);
    CHECK(file.count == count);
    s3d_safetensors_close(&file);
}

static void check_bad(const char *json, uint64_t data_bytes, const char *why)
{
    struct s3d_safetensors file;
    struct s3d_error error = {0};
    CHECK_CODE(parse(&file, json, data_bytes, &error), S3D_INVALID);
    if (!strstr(error.message, why)) {
        fprintf(stderr, "%s\n  says: %s\n  not: %s\n", json, error.message, why);
    }
    CHECK(strstr(error.message, why));
    CHECK(!file.tensors && !file.metadata && !file.texts && !file.dims);
    s3d_safetensors_close(&file);
}

static void test_length(void)
{
    struct s3d_error error;
    uint64_t bytes = 0;
    CHECK_CODE(s3d_safetensors_header_bytes("\2\0\0\0\0\0\0\0", 10, &bytes, &error), S3D_OK);
    CHECK(bytes == 2);
    CHECK_CODE(s3d_safetensors_header_bytes("\2\0\0\0\0\0\0\0", 9, &bytes, &error),
               S3D_INVALID);
    CHECK(strstr(error.message, "not a whole"));
    CHECK_CODE(s3d_safetensors_header_bytes("\2\0\0", 3, &bytes, &error), S3D_INVALID);
    CHECK(strstr(error.message, "too few"));
    CHECK_CODE(s3d_safetensors_header_bytes("\0\341\365\5\0\0\0\0", 1 << 30, &bytes, &error),
               S3D_OK);
    CHECK(bytes == S3D_SAFETENSORS_HEADER_MAX);
    CHECK_CODE(s3d_safetensors_header_bytes("\1\341\365\5\0\0\0\0", 1 << 30, &bytes, &error),
               S3D_INVALID);
    CHECK(strstr(error.message, "100000001"));
    CHECK_CODE(s3d_safetensors_header_bytes("\377\377\377\377\377\377\377\377", UINT64_MAX,
                                            &bytes, NULL),
               S3D_INVALID);
}

static void test_what_it_says(void)
{
    struct s3d_safetensors file;
    CHECK_CODE(
        parse(&file,
              "{\"__metadata__\":{\"k\":\"v\\n\",\"\":\"\"}," F32(
                  "later", "2 , 1", 8, 16) "," F32("first", "2", 0,
                                                   8) ",\n\"none\":{\"data_offsets\":[16,16],"
                                                      "\"shape\":[3,0],\"dtype\":\"BF16\"},"
                                                      "\"half\":{\"dtype\":\"F4\",\"shape\":[2,"
                                                      "3],\"data_offsets\":[16,19]}}   ",
              19, NULL),
        S3D_OK);
    CHECK(file.count == 4 && file.metadata_count == 2);
    CHECK_TEXT(file.metadata[0].key.data, "k");
    CHECK_TEXT(file.metadata[0].value.data, "v\n");
    CHECK_TEXT(file.tensors[0].name.data, "first");
    CHECK_TEXT(file.tensors[1].name.data, "later");
    CHECK_TEXT(file.tensors[2].name.data, "none");
    CHECK(file.tensors[1].rank == 2 && file.tensors[1].shape[0] == 2);
    CHECK(file.tensors[1].begin == 8 && file.tensors[1].end == 16);
    CHECK(file.tensors[2].dtype == S3D_SAFETENSORS_BF16 && file.tensors[2].shape[1] == 0);
    CHECK_TEXT(s3d_safetensors_dtype_name(file.tensors[3].dtype), "F4");
    CHECK(s3d_safetensors_dtype_bits(file.tensors[3].dtype) == 4);
    s3d_safetensors_close(&file);
    s3d_safetensors_close(&file); /* twice is fine */
}

static void test_good(void)
{
    check_good("{}", 0, 0);
    check_good(" \t\r\n{ } \n", 0, 0);
    check_good("{\"__metadata__\":{}}", 0, 0);
    check_good("{" ONE "}", 4, 1);
    check_good("{" F32("a", "", 0, 4) "}", 4, 1);
    check_good("{" ONE "," F32("b", "0", 4, 4) "," F32("c", "0", 0, 0) "}", 4, 3);
    check_good("{" F32("a", "0,18446744073709551615,18446744073709551615", 0, 0) "}", 0, 1);
    check_good("{\"a\":{\"dtype\":\"\\u0046\\u0033\\u0032\",\"sh\\u0061pe\":[1],"
               "\"data_offsets\":[0,4]}}",
               4, 1);
}

static void test_texts(void)
{
    struct s3d_safetensors file;
    CHECK_CODE(
        parse(&file,
              "{" F32("\\ud83d\\ude00\\u00e9\\u20AC\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000x\xC3\xA9"
                      "\xE2\x82\xAC\xF0\x9F\x98\x80\x7F",
                      "1", 0, 4) "}",
              4, NULL),
        S3D_OK);
    static const char name[] = "\xF0\x9F\x98\x80\xC3\xA9\xE2\x82\xAC\"\\/\b\f\n\r\t\0x\xC3\xA9"
                               "\xE2\x82\xAC\xF0\x9F\x98\x80\x7F";
    CHECK(file.tensors[0].name.length == sizeof name - 1);
    CHECK(memcmp(file.tensors[0].name.data, name, sizeof name) == 0);
    s3d_safetensors_close(&file);
    static const char *const bad[] = {
        "\xFF",         "\xC0\x80",         "\xC3",     "\xE0\x80\x80",     "\xED\xA0\x80",
        "\xE2\x82",     "\xF0\x80\x80\x80", "\x80",     "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xE2\x82\xC3", "\xF0\x9F\x98",     "\xC3\xC3",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char json[128];
        snprintf(json, sizeof json, "{\"%s\":1}", bad[i]);
        check_bad(json, 0, "UTF-8");
        snprintf(json, sizeof json, "{\"%s", bad[i]); /* the end of the header cuts it */
        check_bad(json, 0, "UTF-8");
    }
    check_bad("{\"\x01\":1}", 0, "control");
    check_bad("{\"\\ud83d\":1}", 0, "surrogate");
    check_bad("{\"\\ud83d\\n\":1}", 0, "surrogate");
    check_bad("{\"\\ud83d\\u0041\":1}", 0, "surrogate");
    check_bad("{\"\\ude00\":1}", 0, "surrogate");
    check_bad("{\"\\u12g4\":1}", 0, "hexadecimal");
    check_bad("{\"\\u12", 0, "hexadecimal");
    check_bad("{\"\\x\":1}", 0, "escape");
    check_bad("{\"\\", 0, "escape");
    check_bad("{\"a", 0, "without an end");
}

static void test_grammar(void)
{
    static const char *const bad[] = {
        "",
        " ",
        "[]",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{" ONE,
        "{" ONE ",",
        "{" ONE ",}",
        "{,}",
        "{" ONE "}x",
        "{" ONE "}{}",
        "{\"a\":null}",
        "{\"a\":[]}",
        "{\"a\":1}",
        "{\"a\":\"b\"}",
        "\xEF\xBB\xBF{}",
        "{\"__metadata__\":{}",
        "{a:1}",
        "{\"__metadata__\":null}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":{}}}",
        "{\"__metadata__\":{\"a\":null}}",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_bad(bad[i], 4, "broken at byte");
    }
    struct s3d_safetensors file;
    CHECK_CODE(parse_bytes(&file, "{}\0", 3, 0, NULL), S3D_INVALID);
}

#define SHAPE(shape) "{\"a\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[0,4]}}"
#define OFFSETS(offsets)                                                                       \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":" offsets "}}"

static void test_numbers(void)
{
    static const char *const bad[] = {
        "[01]",  "[-0]",    "[-1]",   "[1.0]", "[1e0]",
        "[+1]",  "[,1]",    "[1,]",   "[1 1]", "1",
        "[[1]]", "[\"1\"]", "[null]", "[1",    "[18446744073709551616]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char json[128];
        snprintf(json, sizeof json,
                 "{\"a\":{\"dtype\":\"F32\",\"shape\":%s,"
                 "\"data_offsets\":[0,4]}}",
                 bad[i]);
        check_bad(json, 4, "broken at byte");
    }
    check_bad(OFFSETS("[0]"), 4, "two numbers");
    check_bad(OFFSETS("[]"), 4, "two numbers");
    check_bad(OFFSETS("[0,4,4]"), 4, "two numbers");
    check_bad(OFFSETS("{}"), 4, "array");
}

static void test_members(void)
{
    check_bad("{\"a\":{}}", 0, "missing");
    check_bad("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0,
              "\"a\": dtype, shape or data_offsets");
    check_bad("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0, "twice");
    check_bad("{\"a\":{\"x\":1}}", 0, "nothing else");
    check_bad("{\"a\":{\"dtype\":\"I128\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "I128");
    check_bad("{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
              "dtype");
    check_bad("{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "text");
    check_bad("{" ONE "," F32("b", "1", 4, 8) "," F32("\\u0061", "1", 8, 12) "}", 12,
              "\"a\" twice");
    check_bad("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "\"k\" twice");
}

static void test_layout(void)
{
    check_bad("{" ONE "}", 3, "cut or damaged");
    check_bad("{" ONE "}", 5, "cut or damaged");
    check_bad("{}", 1, "cut or damaged");
    check_bad("{" F32("a", "1", 1, 5) "}", 5, "hole");
    check_bad("{" F32("a", "1", 4, 0) "}", 4, "hole");
    check_bad("{" ONE "," F32("b", "1", 5, 9) "}", 9, "\"b\"");
    check_bad("{" ONE "," F32("b", "1", 0, 4) "}", 4, "overlap");
    check_bad("{" ONE "," F32("b", "1", 3, 7) "}", 7, "overlap");
    check_bad("{" ONE "," F32("b", "0", 2, 2) "}", 4, "overlap");
    check_bad(SHAPE("[2]"), 4, "another size");
    check_bad(SHAPE("[0]"), 4, "another size");
    check_bad(SHAPE("[18446744073709551615]"), 4, "no size");
    check_bad(SHAPE("[4294967296,4294967296]"), 4, "no size");
    check_bad(SHAPE("[4294967296,4294967296,0]"), 4, "no size");
    check_bad("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "no size");
    check_bad("{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1,
              "no size");
    check_bad("{" F32("a", "4611686018427387904", 0, 4) "}", 4, "no size");
}

/* Every cut of a good header, and every byte of it changed, ends well. */
static void test_damage(void)
{
    static const char good[] =
        "{\"__metadata__\":{\"k\":\"v\\u00e9\"}," ONE ",\"b\xC3\xA9\":{\"dtype\":\"BF16\","
        "\"shape\":[2,1],\"data_offsets\":[4,8]}}  ";
    struct s3d_safetensors file;
    struct s3d_error error;
    char damaged[sizeof good];
    for (size_t i = 0; i < sizeof good - 3; i++) {
        CHECK_CODE(parse_bytes(&file, good, i, 8, &error), S3D_INVALID);
        for (int c = 0; c < 256; c++) {
            memcpy(damaged, good, sizeof good);
            damaged[i] = (char)c;
            enum s3d_code code = parse_bytes(&file, damaged, sizeof good - 1, 8, &error);
            CHECK(code == S3D_OK || code == S3D_INVALID);
            s3d_safetensors_close(&file);
        }
    }
}

/* Half a megabyte of brackets: nothing recurses. */
static void test_deep(void)
{
    enum { DEPTH = 500000 };
    static const char *const starts[] = {"{\"a\":", "{\"a\":{\"shape\":[",
                                         "{\"__metadata__\":"};
    char *json = malloc(DEPTH + 64);
    CHECK(json);
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        strcpy(json, starts[i]);
        memset(json + strlen(starts[i]), i == 1 ? '[' : '{', DEPTH);
        json[strlen(starts[i]) + DEPTH] = '\0';
        check_bad(json, 0, "broken at byte");
    }
    free(json);
}

static void test_many(void)
{
    enum { COUNT = 20000, ROOM = 100 };
    char *json = malloc((size_t)COUNT * ROOM);
    CHECK(json);
    size_t length = 0;
    for (unsigned i = COUNT; i > 0; i--) {
        length += (size_t)snprintf(json + length, ROOM,
                                   "%c\"t%u\":{\"dtype\":\"U8\",\"shape\":[1,1,1],"
                                   "\"data_offsets\":[%u,%u]}",
                                   i == COUNT ? '{' : ',', i, i - 1, i);
    }
    json[length++] = '}';
    struct s3d_safetensors file;
    CHECK_CODE(parse_bytes(&file, json, length, COUNT, NULL), S3D_OK);
    CHECK(file.count == COUNT && file.tensors[COUNT - 1].begin == COUNT - 1);
    CHECK_TEXT(file.tensors[0].name.data, "t1");
    CHECK(file.tensors[777].rank == 3 && file.tensors[777].shape[2] == 1);
    s3d_safetensors_close(&file);
    free(json);
}

static enum s3d_code attempt(void)
{
    struct s3d_safetensors file;
    struct s3d_error error = {0};
    enum s3d_code code = s3d_safetensors_parse(
        &file, "{\"__metadata__\":{\"a\":\"b\",\"c\":\"d\"}," ONE "," F32("b", "1", 4, 8) "}",
        strlen("{\"__metadata__\":{\"a\":\"b\",\"c\":\"d\"}," ONE "," F32("b", "1", 4, 8) "}"),
        8, &error);
    CHECK(code == error.code);
    s3d_safetensors_close(&file);
    return code;
}

static void test_memory_failures(void)
{
    CHECK(test_torture(attempt, 0) == 6);
}

int main(void)
{
    RUN(test_length);
    RUN(test_what_it_says);
    RUN(test_good);
    RUN(test_texts);
    RUN(test_grammar);
    RUN(test_numbers);
    RUN(test_members);
    RUN(test_layout);
    RUN(test_damage);
    RUN(test_deep);
    RUN(test_many);
    RUN(test_memory_failures);
    return 0;
}
