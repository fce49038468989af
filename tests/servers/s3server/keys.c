#include "keys.h"

#include <string.h>

void s3s_keys_init(struct s3s_keys *keys)
{
    *keys = (struct s3s_keys){0};
    pthread_mutex_init(&keys->mutex, NULL);
    keys->locked.rows = s3s_mem_zalloc(S3S_KEYS_MAX * sizeof *keys->locked.rows);
}

void s3s_keys_fini(struct s3s_keys *keys)
{
    s3s_mem_free(keys->locked.rows);
    pthread_mutex_destroy(&keys->mutex);
}

void s3s_keys_clear(struct s3s_keys *keys)
{
    pthread_mutex_lock(&keys->mutex);
    keys->locked.count = 0;
    pthread_mutex_unlock(&keys->mutex);
}

static struct s3s_key *find_locked(struct s3s_keys *keys, struct s3s_span access)
{
    for (size_t i = 0; i < keys->locked.count; i++) {
        if (s3s_span_is(access, keys->locked.rows[i].access))
            return &keys->locked.rows[i];
    }
    return NULL;
}

static bool read_line(struct s3s_span line, struct s3s_key *key)
{
    struct s3s_span access, secret, token;
    uint64_t expires;
    if (!s3s_span_cut(&line, ' ', &access) || !s3s_span_cut(&line, ' ', &secret) ||
        !s3s_span_cut(&line, ' ', &token) || !s3s_span_number(line, &expires) ||
        !access.length || access.length >= sizeof key->access || !secret.length ||
        secret.length >= sizeof key->secret || token.length >= sizeof key->token)
        return false;
    *key = (struct s3s_key){.expires_s = (int64_t)expires};
    s3s_span_store(access, key->access, sizeof key->access);
    s3s_span_store(secret, key->secret, sizeof key->secret);
    if (!s3s_span_is(token, "-"))
        s3s_span_store(token, key->token, sizeof key->token);
    return true;
}

bool s3s_keys_put(struct s3s_keys *keys, struct s3s_span line)
{
    struct s3s_key key;
    if (!read_line(line, &key))
        return false;
    pthread_mutex_lock(&keys->mutex);
    struct s3s_key *row = find_locked(keys, s3s_span_of(key.access));
    if (row)
        key.verified = row->verified;
    else if (keys->locked.count < S3S_KEYS_MAX)
        row = &keys->locked.rows[keys->locked.count++];
    if (row)
        *row = key;
    pthread_mutex_unlock(&keys->mutex);
    return row != NULL;
}

bool s3s_keys_find(struct s3s_keys *keys, struct s3s_span access, struct s3s_key *copy)
{
    pthread_mutex_lock(&keys->mutex);
    const struct s3s_key *row = find_locked(keys, access);
    if (row)
        *copy = *row;
    pthread_mutex_unlock(&keys->mutex);
    return row != NULL;
}

void s3s_keys_count(struct s3s_keys *keys, struct s3s_span access)
{
    pthread_mutex_lock(&keys->mutex);
    struct s3s_key *row = find_locked(keys, access);
    if (row)
        row->verified++;
    pthread_mutex_unlock(&keys->mutex);
}

void s3s_keys_json(struct s3s_keys *keys, struct s3s_text *out)
{
    s3s_text_puts(out, "{");
    pthread_mutex_lock(&keys->mutex);
    for (size_t i = 0; i < keys->locked.count; i++) {
        s3s_text_puts(out, i ? "," : "");
        s3s_text_json(out, s3s_span_of(keys->locked.rows[i].access));
        s3s_text_printf(out, ":%lu", (unsigned long)keys->locked.rows[i].verified);
    }
    pthread_mutex_unlock(&keys->mutex);
    s3s_text_puts(out, "}");
}
