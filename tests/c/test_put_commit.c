/* The last request of a put: its answer lost, refused, or in the way of another writer's. */
#include "put_test.h"

#include <pthread.h>
#include <unistd.h>

static struct s3d_put *open_create_only(struct fake_store *fake)
{
    struct s3d_put_options options = {.if_none_match = true};
    struct s3d_put_plan plan = {
        .key = "object", .part_bytes = PART, .concurrency = 2, .options = &options};
    struct s3d_put *put;
    CHECK_CODE(s3d_put_new(&put, fake_base(fake), &plan, NULL), S3D_OK);
    return put;
}

enum condition { NO_CONDITION, CREATE_ONLY };

struct scenario {
    const char *name;
    enum condition condition;
    struct fake_rule commit, stat; /* of what the verb is filled in */
    size_t other_bytes; /* of another writer's object that is there; 0: there is none */
    enum s3d_code upload, single; /* what comes of one in parts, and of one PUT */
};

enum { WHOLE = 3 * PART + 9, SINGLE = 100 };

static const struct scenario scenarios[] = {
    {.name = "all is well", .condition = CREATE_ONLY},
    {.name = "another's",
     .condition = CREATE_ONLY,
     .other_bytes = WHOLE,
     .upload = S3D_EXISTS,
     .single = S3D_EXISTS},
    {.name = "lost", .commit = {.times = 1, .code = S3D_NETWORK, .late = true}},
    {.name = "lost, create only",
     .condition = CREATE_ONLY,
     .commit = {.times = 1, .code = S3D_NETWORK, .late = true}},
    {.name = "never heard",
     .condition = CREATE_ONLY,
     .commit = {.times = 9, .code = S3D_TIMEOUT, .late = true}},
    {.name = "never sent",
     .condition = CREATE_ONLY,
     .commit = {.times = 9, .code = S3D_TIMEOUT},
     .upload = S3D_TIMEOUT,
     .single = S3D_TIMEOUT},
    {.name = "lost, and nobody tells",
     .condition = CREATE_ONLY,
     .commit = {.times = 1, .code = S3D_NETWORK, .late = true},
     .stat = {.times = 9, .code = S3D_DENIED},
     .upload = S3D_UNDECIDED,
     .single = S3D_UNDECIDED},
    {.name = "lost, unconditional, and nobody tells",
     .commit = {.times = 1, .code = S3D_NETWORK, .late = true},
     .stat = {.times = 9, .code = S3D_DENIED},
     .upload = S3D_UNDECIDED,
     .single = S3D_OK},
    {.name = "deaf",
     .condition = CREATE_ONLY,
     .commit = {.times = 9, .code = S3D_NETWORK},
     .stat = {.times = 9, .code = S3D_NETWORK},
     .upload = S3D_NETWORK,
     .single = S3D_NETWORK},
    {.name = "one conflict",
     .condition = CREATE_ONLY,
     .commit = {.times = 1, .code = S3D_CONFLICT}},
    {.name = "only conflicts",
     .condition = CREATE_ONLY,
     .commit = {.times = 9, .code = S3D_CONFLICT},
     .upload = S3D_CONFLICT,
     .single = S3D_CONFLICT},
    {.name = "conflicts with another's",
     .condition = CREATE_ONLY,
     .commit = {.times = 9, .code = S3D_CONFLICT},
     .other_bytes = 1,
     .upload = S3D_EXISTS,
     .single = S3D_EXISTS},
    {.name = "dropped",
     .commit = {.times = 1, .code = S3D_NOT_FOUND},
     .upload = S3D_REJECTED,
     .single = S3D_NOT_FOUND},
    {.name = "dropped, another's of another size",
     .commit = {.times = 1, .code = S3D_NOT_FOUND},
     .other_bytes = 1,
     .upload = S3D_REJECTED,
     .single = S3D_NOT_FOUND},
    {.name = "dropped, another's of this size",
     .commit = {.times = 1, .code = S3D_NOT_FOUND},
     .other_bytes = WHOLE,
     .upload = S3D_UNDECIDED,
     .single = S3D_NOT_FOUND},
    {.name = "denied",
     .condition = CREATE_ONLY,
     .commit = {.times = 1, .code = S3D_DENIED},
     .upload = S3D_DENIED,
     .single = S3D_DENIED},
};

static void check_end(struct fake_store *fake, const struct scenario *scenario, size_t size,
                      enum s3d_code code)
{
    bool took_place = code == S3D_OK || scenario->commit.late;
    size_t stored = 0;
    const char *data = fake_object(fake, "object", &stored);
    if (took_place) {
        check_object(fake, size);
    } else if (scenario->other_bytes) {
        CHECK(data && stored == scenario->other_bytes && data[0] == 'o');
    } else {
        CHECK(!data);
    }
    CHECK(fake_open_uploads(fake) == 0);
}

static void play(const struct scenario *scenario, bool in_parts, int64_t timeout_ms)
{
    struct fake_store *fake = fake_open();
    size_t size = in_parts ? WHOLE : SINGLE;
    char *data = pattern(size);
    struct fake_rule commit = scenario->commit, stat = scenario->stat;
    commit.verb = in_parts ? S3D_VERB_UPLOAD_COMPLETE : S3D_VERB_PUT;
    stat.verb = S3D_VERB_STAT;
    unsigned rule = fake_rule(fake, commit);
    fake_rule(fake, stat);
    struct s3d_put *put =
        scenario->condition == CREATE_ONLY ? open_create_only(fake) : open_put(fake, 2);
    if (scenario->other_bytes) {
        char *other = fake_memory(scenario->other_bytes);
        other[0] = 'o';
        fake_put_object(fake, "object", other, scenario->other_bytes);
        free(other);
    }
    struct s3d_error error = {0};
    unsigned agains = 0;
    CHECK_CODE(write_pieces(put, data, size, 5000, -1, &agains, NULL), S3D_OK);
    enum s3d_code expected = in_parts ? scenario->upload : scenario->single;
    CHECK_CODE(finish(put, timeout_ms, &agains, &error), expected);
    CHECK((fake_fired(fake, rule) > 0) == (commit.times > 0));
    check_end(fake, scenario, size, expected);
    if (expected) {
        CHECK_CODE(error.code, expected);
        CHECK_TEXT(error.operation, in_parts ? "CompleteMultipartUpload" : "PutObject");
        bool unclear = expected == S3D_UNDECIDED || (scenario->stat.times && expected);
        CHECK((strstr(error.message, "could not be found out") != NULL) == unclear);
        check_poisoned(put, &error);
    } else {
        CHECK(s3d_put_finished(put) && s3d_put_etag(put)[0] == '"');
    }
    s3d_put_free(put);
    free(data);
    fake_close(fake);
}

static void test_scenarios(void)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        for (int in_parts = 0; in_parts <= 1; in_parts++) {
            fprintf(stderr, "%s, %s\n", scenarios[i].name, in_parts ? "in parts" : "in one");
            play(&scenarios[i], in_parts, -1);
            play(&scenarios[i], in_parts, 0);
        }
    }
}

static void *release_soon(void *argument)
{
    usleep(20000);
    fake_release(argument);
    return NULL;
}

/* An abort while the object is asked for: it was written, and that is what finish says. */
static void test_abort_in_doubt(void)
{
    for (int denied = 0; denied <= 1; denied++) {
        struct fake_store *fake = fake_open();
        char *data = pattern(WHOLE);
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_UPLOAD_COMPLETE,
                                           .times = 1,
                                           .code = S3D_NETWORK,
                                           .late = true});
        fake_rule(fake, (struct fake_rule){.verb = S3D_VERB_STAT,
                                           .times = 1,
                                           .hold = true,
                                           .code = denied ? S3D_DENIED : S3D_OK});
        struct s3d_put *put = open_create_only(fake);
        unsigned agains = 0;
        CHECK_CODE(write_pieces(put, data, WHOLE, 5000, -1, &agains, NULL), S3D_OK);
        while (!fake_held_by(fake, 0) && !fake_held_by(fake, 1)) {
            CHECK_CODE(s3d_put_finish(put, 1, NULL), S3D_AGAIN);
        }
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, release_soon, fake) == 0);
        s3d_put_abort(put, NULL);
        pthread_join(thread, NULL);
        struct s3d_put_remains remains;
        s3d_put_remains(put, &remains);
        CHECK(remains.unclear == (denied == 1) && !remains.upload_id);
        CHECK_CODE(s3d_put_finish(put, -1, NULL), denied ? S3D_CANCELLED : S3D_OK);
        check_object(fake, WHOLE);
        CHECK(fake_open_uploads(fake) == 0);
        s3d_put_free(put);
        free(data);
        fake_close(fake);
    }
}

int main(void)
{
    alarm(150);
    setvbuf(stdout, NULL, _IONBF, 0);
    fake_engine("");
    RUN(test_scenarios);
    RUN(test_abort_in_doubt);
    s3d_engine_shutdown();
    return 0;
}
