/* The HTTP driver's patience: a server of this process answers a CompleteMultipartUpload by a script. */
#include "fake_store.h"
#include "test.h"

#include "backends/http.h"
#include "backends/open.h"
#include "core/call.h"
#include "core/config.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

/* Of the limits of 60 s of quiet and of 600 s there are left: 0.3 s and 3 s. libcurl's clock ticks in seconds. */
enum { HURRY = 200 };

static const char answer[] =
    "<CompleteMultipartUploadResult><ETag>e-1</ETag></CompleteMultipartUploadResult>";

struct script {
    unsigned blanks; /* so many, */
    unsigned gap_ms; /* each after so long */
    bool ends;       /* and then the answer */
    atomic_uint requests;
    int listener;
    char endpoint[64];
    pthread_t thread;
};

static bool say(int client, const char *text, size_t length)
{
    return send(client, text, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* All of it: what is left unread makes the end of a connection a reset. */
static bool read_request(int client)
{
    char request[65536] = "";
    size_t length = 0;
    while (!strstr(request, "</CompleteMultipartUpload>")) {
        ssize_t got = recv(client, request + length, sizeof request - 1 - length, 0);
        if (got <= 0) {
            return false;
        }
        length += (size_t)got;
        request[length] = '\0';
    }
    return true;
}

static void serve(struct script *script, int client)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    if (!read_request(client)) {
        return;
    }
    atomic_fetch_add(&script->requests, 1);
    bool heard = say(client, head, sizeof head - 1);
    for (unsigned i = 0; heard && i < script->blanks; i++) {
        usleep(script->gap_ms * 1000);
        heard = say(client, " ", 1);
    }
    if (heard && script->ends) {
        say(client, answer, sizeof answer - 1);
    } else if (heard) {
        char none;
        (void)!recv(client, &none, 1, 0); /* until the client goes */
    }
}

static void *listen_on(void *context)
{
    struct script *script = context;
    int client;
    while ((client = accept(script->listener, NULL, NULL)) >= 0) {
        serve(script, client);
        close(client);
    }
    return NULL;
}

static void script_start(struct script *script)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    script->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(script->listener, (struct sockaddr *)&address, length) == 0);
    CHECK(listen(script->listener, 8) == 0);
    CHECK(getsockname(script->listener, (struct sockaddr *)&address, &length) == 0);
    snprintf(script->endpoint, sizeof script->endpoint, "http://127.0.0.1:%u",
             ntohs(address.sin_port));
    CHECK(pthread_create(&script->thread, NULL, listen_on, script) == 0);
}

static void script_stop(struct script *script)
{
    shutdown(script->listener, SHUT_RDWR);
    CHECK(pthread_join(script->thread, NULL) == 0);
    close(script->listener);
}

static enum s3d_code complete(struct script *script, struct s3d_object *object,
                              struct s3d_error *error)
{
    static const char uri_text[] = "s3://bucket/key";
    const struct s3d_part part = {.number = 1, .stored = true, .etag = "e"};
    struct s3d_uri uri;
    struct s3d_store *store;
    struct s3d_call *call;
    script_start(script);
    CHECK_CODE(s3d_config_override("endpoint", script->endpoint, NULL), S3D_OK);
    CHECK_CODE(s3d_uri_parse(&uri, uri_text, sizeof uri_text - 1, NULL), S3D_OK);
    CHECK_CODE(s3d_store_open(&store, &uri, NULL), S3D_OK);
    CHECK_CODE(s3d_call_new(&call, store, NULL), S3D_OK);
    call->request.verb = S3D_VERB_UPLOAD_COMPLETE;
    call->request.key = uri.key;
    call->request.upload_id = "id";
    call->request.parts = &part;
    call->request.part_count = 1;
    s3d_call_start(call);
    enum s3d_code code = s3d_call_wait(call, -1, error);
    *object = call->request.result.object;
    s3d_call_free(call);
    s3d_store_release(store);
    s3d_uri_fini(&uri);
    script_stop(script);
    CHECK_CODE(s3d_config_override("endpoint", NULL, NULL), S3D_OK);
    return code;
}

static void test_blanks_before_the_answer(void)
{
    struct script script = {.blanks = 20, .gap_ms = 50, .ends = true};
    struct s3d_object object;
    struct s3d_error error;
    CHECK_CODE(complete(&script, &object, &error), S3D_OK);
    CHECK_TEXT(object.etag, "e-1");
    CHECK(atomic_load(&script.requests) == 1);
}

static void test_quiet(void)
{
    struct script script = {.blanks = 3, .gap_ms = 50};
    struct s3d_object object;
    struct s3d_error error;
    CHECK_CODE(complete(&script, &object, &error), S3D_TIMEOUT);
    CHECK(strstr(error.message, "has said nothing for 60 s") != NULL);
    CHECK(error.http_status == 200 && atomic_load(&script.requests) == 1);
}

static void test_blanks_without_end(void)
{
    struct script script = {.blanks = UINT32_MAX, .gap_ms = 50};
    struct s3d_object object;
    struct s3d_error error;
    CHECK_CODE(complete(&script, &object, &error), S3D_TIMEOUT);
    CHECK(strstr(error.message, "timed out") != NULL);
    CHECK(atomic_load(&script.requests) == 1);
}

int main(void)
{
    s3d_http_hurry(HURRY);
    fake_engine("AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=secret AWS_MAX_ATTEMPTS=1 "
                "AWS_EC2_METADATA_DISABLED=true");
    RUN(test_blanks_before_the_answer);
    RUN(test_quiet);
    RUN(test_blanks_without_end);
    s3d_engine_shutdown();
    return 0;
}
