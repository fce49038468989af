/* Runs every file of tests/fuzz/corpus/NAME through the fuzz target of that format. A new
 * target is included under a name of its own and gets a line in main. From the top of the
 * tree. */
#include "test.h"

#define LLVMFuzzerTestOneInput fuzz_credentials
#include "../fuzz/fuzz_credentials.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_s3_answer
#include "../fuzz/fuzz_s3_answer.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_safetensors
#include "../fuzz/fuzz_safetensors.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_uri
#include "../fuzz/fuzz_uri.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_xml
#include "../fuzz/fuzz_xml.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_zip_read
#include "../fuzz/fuzz_zip_read.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_npy
#include "../fuzz/fuzz_npy.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_inflate
#include "../fuzz/fuzz_inflate.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_plain_pickle
#include "../fuzz/fuzz_plain_pickle.c"
#undef LLVMFuzzerTestOneInput

#include <dirent.h>

typedef int (*target_fn)(const uint8_t *data, size_t size);

static void replay_file(const char *path, target_fn target)
{
    struct test_file file = test_read_file(path);
    target(file.data, file.length);
    free(file.data);
}

static void replay(const char *name, target_fn target)
{
    char path[512];
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", name);
    DIR *folder = opendir(path);
    if (!folder) {
        fprintf(stderr, "cannot read %s: run the tests from the top of the tree\n", path);
        exit(1);
    }
    unsigned count = 0;
    for (const struct dirent *file = readdir(folder); file; file = readdir(folder)) {
        if (file->d_name[0] == '.') {
            continue;
        }
        int length = snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%s", name, file->d_name);
        CHECK(length > 0 && (size_t)length < sizeof path);
        printf("%s\n", path); /* the one it crashed on is the last one printed */
        fflush(stdout);
        replay_file(path, target);
        count++;
    }
    closedir(folder);
    CHECK(count > 0);
    printf("ok %s: %u files\n", name, count);
}

int main(void)
{
    replay("credentials", fuzz_credentials);
    replay("s3_answer", fuzz_s3_answer);
    replay("safetensors", fuzz_safetensors);
    replay("uri", fuzz_uri);
    replay("xml", fuzz_xml);
    replay("zip_read", fuzz_zip_read);
    replay("npy", fuzz_npy);
    replay("inflate", fuzz_inflate);
    replay("plain_pickle", fuzz_plain_pickle);
    return 0;
}
