/* What the scan makes of a pickle; what it refuses is tried against torch in
 * tests/torch/test_plain.py, and by tests/fuzz/fuzz_plain_pickle.c. */
#include "test.h"

#include "formats/plain_pickle.h"

#define STORAGE                                                                                \
    "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                         \
    "0X\3\0\0\0cpuK\6tQ"
#define HOOKS  "ccollections\nOrderedDict\n)R"
#define TENSOR "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE "K\1K\2\x85K\3\x85\x89" HOOKS "tR"
#define VALUES                                                                                 \
    "}(X\1\0\0\0aq\1]("                                                                        \
    "K\1J\xfe\xff\xff\xff\x8a\1\x80NeX\1\0\0\0bG\x3f\xf8\0\0\0\0\0\0K\7" TENSOR "u"

/* Without the literal's own NUL. */
#define SCAN(plain, text, error) scan((plain), "\x80\2" text ".", sizeof(text) + 2, (error))

static enum s3d_code scan(struct s3d_plain *plain, const char *pickle, size_t length,
                          struct s3d_error *error)
{
    return s3d_plain_scan(plain, pickle, length, false, error);
}

static const struct s3d_plain_step *operand(const struct s3d_plain *plain,
                                            const struct s3d_plain_step *step, uint32_t i)
{
    CHECK(i < step->count);
    return &plain->steps[plain->operands[step->first + i]];
}

static const struct s3d_plain_step *last_of_kind(const struct s3d_plain *plain,
                                                 enum s3d_plain_kind kind)
{
    for (size_t i = plain->step_count; i--;) {
        if (plain->steps[i].kind == kind) {
            return &plain->steps[i];
        }
    }
    CHECK(!"there is none");
    return NULL;
}

static void test_values(void)
{
    struct s3d_plain plain;
    struct s3d_error error;
    CHECK_CODE(SCAN(&plain, VALUES, &error), S3D_OK);
    CHECK(plain.steps[plain.result].kind == S3D_PLAIN_DICT);
    const struct s3d_plain_step *items = last_of_kind(&plain, S3D_PLAIN_SET_ITEMS);
    CHECK(items->alive && items->count == 6 && items->target == plain.result);
    CHECK(operand(&plain, items, 0)->kind == S3D_PLAIN_TEXT);
    CHECK(plain.pickle[operand(&plain, items, 0)->first] == 'a');
    CHECK(operand(&plain, items, 3)->real == 1.5);
    CHECK(operand(&plain, items, 5)->kind == S3D_PLAIN_TENSOR);
    const struct s3d_plain_step *list = last_of_kind(&plain, S3D_PLAIN_APPEND);
    CHECK(operand(&plain, list, 0)->integer == 1 && operand(&plain, list, 1)->integer == -2);
    CHECK(operand(&plain, list, 2)->integer == -128);
    CHECK(operand(&plain, list, 3)->kind == S3D_PLAIN_NONE);
    s3d_plain_fini(&plain);
}

static void test_tensor(void)
{
    struct s3d_plain plain;
    struct s3d_error error;
    CHECK_CODE(SCAN(&plain, TENSOR, &error), S3D_OK);
    CHECK(plain.tensor_count == 1 && plain.storage_count == 1);
    CHECK(plain.storages[0].key == 0 && plain.storages[0].bytes == 24);
    CHECK(plain.storages[0].users == 1 && plain.storages[0].element_bytes == 4);
    const struct s3d_plain_tensor *tensor = &plain.tensors[0];
    CHECK(tensor->dtype == S3D_PLAIN_float32 && tensor->offset == 1);
    CHECK(tensor->dimensions == 1 && tensor->bytes == 20 && !tensor->requires_grad);
    CHECK(plain.extents[tensor->shape] == 2 && plain.extents[tensor->shape + 1] == 3);
    /* Of what it was made from, nothing is to be built. */
    CHECK(!last_of_kind(&plain, S3D_PLAIN_ORDERED_DICT)->alive);
    CHECK(!last_of_kind(&plain, S3D_PLAIN_TUPLE)->alive);
    CHECK(last_of_kind(&plain, S3D_PLAIN_TENSOR)->alive);
    s3d_plain_fini(&plain);
}

static void test_devices(void)
{
    static const char pickle[] =
        "\x80\2ctorch._utils\n_rebuild_tensor_v2\n(" /* its storage is the GPU's */
        "(X\7\0\0\0storagectorch\nByteStorage\nX\1\0\0\0"
        "5X\4\0\0\0cudaK\1tQK\0K\1\x85K\1\x85\x89" HOOKS "tR.";
    struct s3d_plain plain;
    struct s3d_error error;
    CHECK_CODE(s3d_plain_scan(&plain, pickle, sizeof pickle - 1, false, &error),
               S3D_UNSUPPORTED);
    CHECK(strstr(error.message, "another place") && !plain.steps);
    CHECK_CODE(s3d_plain_scan(&plain, pickle, sizeof pickle - 1, true, &error), S3D_OK);
    CHECK(plain.storages[0].key == 5);
    s3d_plain_fini(&plain);
}

static void test_refusals(void)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"\x80\2K.", "end with its stop"},   {"\x80\2K", "it ends here"},
        {"\x80\3N.", "protocol 2"},          {"", "protocol 2"},
        {"\x80\2Nh\7.", "never put"},        {"\x80\2cos\nsystem\n.", "global"},
        {"\x80\2N", "end with its stop"},    {"\x80\2NN.", "one value"},
        {"\x80\2N.N", "end with its stop"},  {"\x80\2" HOOKS "(.", "one value"},
        {"\x80\2ctorch\nSize\n.", "result"}, {"\x80\2}}Ns.", "rare kind"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3d_plain plain;
        struct s3d_error error = {0};
        /* A text ends at its first NUL; none has one but the cut ones, for which it is as good. */
        CHECK_CODE(scan(&plain, cases[i].text, strlen(cases[i].text), &error), S3D_UNSUPPORTED);
        if (!strstr(error.message, cases[i].why)) {
            fprintf(stderr, "case %zu says: %s\n", i, error.message);
        }
        CHECK(strstr(error.message, cases[i].why));
        s3d_plain_fini(&plain);
    }
}

/* A length beyond the limit is refused before a byte of it is looked at. */
static void test_a_very_long_pickle(void)
{
    struct s3d_plain plain;
    struct s3d_error error;
    CHECK_CODE(scan(&plain, "", S3D_PLAIN_PICKLE_MAX + 1, &error), S3D_UNSUPPORTED);
    CHECK(strstr(error.message, "very long"));
    s3d_plain_fini(&plain);
}

static enum s3d_code scan_much(void)
{
    static char pickle[4 + 60 * sizeof TENSOR];
    size_t length = 0;
    memcpy(pickle, "\x80\2(", 3);
    length += 3;
    for (int i = 0; i < 50; i++) {
        memcpy(pickle + length, TENSOR "(", sizeof TENSOR);
        length += sizeof TENSOR;
    }
    for (int i = 0; i < 50; i++) {
        pickle[length++] = 't';
    }
    memcpy(pickle + length, "q\4t.", 4); /* needs its memo, too */
    struct s3d_plain plain;
    struct s3d_error error = {0};
    enum s3d_code code = scan(&plain, pickle, length + 4, &error);
    CHECK(code == S3D_OK || error.code == code);
    CHECK(code != S3D_OK || plain.tensor_count == 50);
    s3d_plain_fini(&plain);
    return code;
}

static void test_without_memory(void)
{
    CHECK(test_torture(scan_much, 0) > 10);
}

int main(void)
{
    RUN(test_values);
    RUN(test_tensor);
    RUN(test_devices);
    RUN(test_refusals);
    RUN(test_a_very_long_pickle);
    RUN(test_without_memory);
    return 0;
}
