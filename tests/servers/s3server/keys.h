// Key pairs that the control requests add to the one of the command line.
#ifndef S3S_KEYS_H
#define S3S_KEYS_H

#include <pthread.h>

#include "base.h"

enum { S3S_KEYS_MAX = 64, S3S_KEY_TEXT_MAX = 4096 };

struct s3s_key {
    char access[128], secret[256], token[S3S_KEY_TEXT_MAX]; // token "": none
    int64_t expires_s;                                      // 0: never
    uint64_t verified;                                      // requests signed with it
};

struct s3s_keys {
    pthread_mutex_t mutex;
    struct { // under mutex
        struct s3s_key *rows;
        size_t count;
    } locked;
};

void s3s_keys_init(struct s3s_keys *keys);
void s3s_keys_fini(struct s3s_keys *keys);
void s3s_keys_clear(struct s3s_keys *keys);
// "ACCESS SECRET TOKEN EXPIRES": TOKEN "-" is none, EXPIRES Unix seconds, 0 never. One of the same name is replaced,
// its count kept. False: the line is broken, or there is no room.
bool s3s_keys_put(struct s3s_keys *keys, struct s3s_span line);
bool s3s_keys_find(struct s3s_keys *keys, struct s3s_span access, struct s3s_key *copy);
void s3s_keys_count(struct s3s_keys *keys, struct s3s_span access);
void s3s_keys_json(struct s3s_keys *keys, struct s3s_text *out); // {"ACCESS": verified, ...}

#endif
