/*
 * The least that libcurl can do: one object by ranged GETs into memory, one multi handle a thread.
 *
 *     cc -O2 -shared -fPIC -o curl_get.so curl_get.c -lcurl -lpthread
 *
 * No signing, no retries, no checks but status and length: what bench_numpy.py measures against.
 * curl_get() returns 0, or the line of this file at which it gave up.
 */
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 16, MAX_STREAMS = 64, BUFFER_BYTES = 512 * 1024 };

struct transfer {
    const char *url;
    char *data;
    size_t size, part;
    unsigned streams;
    atomic_size_t next; /* the first byte that nobody has asked for */
    atomic_int failed;  /* a line of this file */
};

struct range {
    char *to;
    size_t left;
};

struct loop {
    struct transfer *transfer;
    CURLM *multi;
    CURL *easy[MAX_STREAMS];
    struct range range[MAX_STREAMS];
};

static size_t receive(char *data, size_t unit, size_t count, void *context)
{
    struct range *range = context;
    size_t length = unit * count;
    if (length > range->left) {
        return 0;
    }
    memcpy(range->to, data, length);
    range->to += length;
    range->left -= length;
    return length;
}

/* 1: a range was started, 0: none is left, -1: libcurl refused. */
static int start(struct loop *loop, unsigned stream)
{
    struct transfer *transfer = loop->transfer;
    size_t first = atomic_fetch_add(&transfer->next, transfer->part);
    char text[64];
    if (first >= transfer->size) {
        return 0;
    }
    size_t left = transfer->size - first;
    size_t length = left < transfer->part ? left : transfer->part;
    CURL *easy = loop->easy[stream];
    loop->range[stream] = (struct range){transfer->data + first, length};
    snprintf(text, sizeof text, "%zu-%zu", first, first + length - 1);
    if (curl_easy_setopt(easy, CURLOPT_RANGE, text) || curl_multi_add_handle(loop->multi, easy)) {
        return -1;
    }
    return 1;
}

static int open_stream(struct loop *loop, unsigned stream)
{
    CURL *easy = loop->easy[stream] = curl_easy_init();
    return easy && !curl_easy_setopt(easy, CURLOPT_URL, loop->transfer->url) &&
           !curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive) &&
           !curl_easy_setopt(easy, CURLOPT_WRITEDATA, &loop->range[stream]) &&
           !curl_easy_setopt(easy, CURLOPT_PRIVATE, (char *)(uintptr_t)stream) &&
           !curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)BUFFER_BYTES) &&
           !curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L) &&
           !curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
}

/* Ended transfers make room for the next ranges; how many were started, or -1. */
static int turn_over(struct loop *loop)
{
    CURLMsg *message;
    int waiting, started = 0;
    while ((message = curl_multi_info_read(loop->multi, &waiting))) {
        char *private = NULL;
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        unsigned stream = (unsigned)(uintptr_t)private;
        if (message->data.result || loop->range[stream].left ||
            curl_multi_remove_handle(loop->multi, message->easy_handle)) {
            return -1;
        }
        int more = start(loop, stream);
        if (more < 0) {
            return -1;
        }
        started += more;
    }
    return started;
}

static int run_loop(struct loop *loop)
{
    int running = 0, started = 0;
    for (unsigned i = 0; i < loop->transfer->streams; i++) {
        if (!open_stream(loop, i) || start(loop, i) < 0) {
            return __LINE__;
        }
    }
    do {
        if (curl_multi_perform(loop->multi, &running) || (started = turn_over(loop)) < 0) {
            return __LINE__;
        }
        if (!started && running && curl_multi_poll(loop->multi, NULL, 0, 1000, NULL)) {
            return __LINE__;
        }
    } while (running || started);
    return 0;
}

static void *run_thread(void *context)
{
    struct loop loop = {.transfer = context, .multi = curl_multi_init()};
    int failed = loop.multi ? run_loop(&loop) : __LINE__;
    if (failed) {
        atomic_store(&loop.transfer->failed, failed);
    }
    for (unsigned i = 0; i < loop.transfer->streams; i++) {
        if (loop.easy[i]) {
            curl_multi_remove_handle(loop.multi, loop.easy[i]);
            curl_easy_cleanup(loop.easy[i]);
        }
    }
    curl_multi_cleanup(loop.multi);
    return NULL;
}

int curl_get(const char *url, char *data, size_t size, size_t part, unsigned streams,
             unsigned threads)
{
    struct transfer transfer = {url, data, size, part, streams, 0, 0};
    pthread_t thread[MAX_THREADS];
    unsigned running = 0;
    if (!part || !streams || streams > MAX_STREAMS || !threads || threads > MAX_THREADS ||
        curl_global_init(CURL_GLOBAL_DEFAULT)) {
        return __LINE__;
    }
    while (running < threads && !pthread_create(&thread[running], NULL, run_thread, &transfer)) {
        running++;
    }
    int failed = running < threads ? __LINE__ : 0;
    for (unsigned i = 0; i < running; i++) {
        pthread_join(thread[i], NULL);
    }
    return failed ? failed : atomic_load(&transfer.failed);
}
