#include "backends/s3_place.h"

#include "backends/host.h"
#include "backends/shared.h"
#include "core/mem.h"
#include "core/str.h"

#include <stdatomic.h>
#include <string.h>

enum { REGION_MAX = 64, KNOWN_MAX = 64 };

/* locked{shared}: which buckets turned out to lie elsewhere; of the process, the oldest replaced. */
static struct known {
    uint64_t site; /* 0: none */
    char region[REGION_MAX];
} known[KNOWN_MAX];
static unsigned known_next;

/* FNV-1a. Two buckets of one hash cost a needless redirect, no more. */
static uint64_t hash_of(const struct s3d_s3_places *places)
{
    const char *const texts[] = {places->home.origin, places->home.region, places->bucket};
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (const char *c = texts[i]; *c; c++) {
            hash = (hash ^ (unsigned char)*c) * 0x100000001b3;
        }
        hash = (hash ^ 0xff) * 0x100000001b3;
    }
    hash ^= hash >> 32;
    return hash ? hash : 1;
}

static struct known *find_locked(uint64_t site)
{
    for (size_t i = 0; i < KNOWN_MAX; i++) {
        if (known[i].site == site) {
            return &known[i];
        }
    }
    return NULL;
}

static bool recall(const struct s3d_s3_places *places, char region[REGION_MAX])
{
    s3d_shared_lock();
    const struct known *found = find_locked(places->site);
    if (found) {
        memcpy(region, found->region, REGION_MAX);
    }
    s3d_shared_unlock();
    return found != NULL;
}

static void remember(const struct s3d_s3_places *places, const char *region)
{
    s3d_shared_lock();
    struct known *entry = find_locked(places->site);
    if (!entry) {
        entry = &known[known_next++ % KNOWN_MAX];
    }
    entry->site = places->site;
    s3d_copy_text(entry->region, sizeof entry->region, region, strlen(region));
    s3d_shared_unlock();
}

/* What is put into a host's name must not end it. */
static bool is_region(const char *region)
{
    size_t length = strlen(region);
    return length && length < REGION_MAX && region[0] != '-' &&
           strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static void place_free(struct s3d_s3_place *place)
{
    s3d_free(place->origin);
    s3d_free(place->host);
    s3d_free(place->region);
}

/* region: fit for a host's name where the endpoint is Amazon's. False: no memory. */
static bool place_init(struct s3d_s3_place *place, const struct s3d_s3_places *places,
                       const char *region)
{
    struct s3d_str origin = S3D_STR(4096);
    const char *endpoint = places->endpoint ? places->endpoint : "https://";
    const char *authority = strstr(endpoint, "://") + 3;
    s3d_str_add_bytes(&origin, endpoint, (size_t)(authority - endpoint));
    size_t host_at = origin.length;
    if (places->virtual) {
        s3d_str_add_format(&origin, "%s.", places->bucket);
    }
    if (places->endpoint) {
        s3d_str_add(&origin, authority);
    } else {
        s3d_host_add_amazon(&origin, "s3", region);
    }
    struct s3d_error error;
    if (s3d_str_check(&origin, &error)) {
        s3d_str_fini(&origin);
        return false;
    }
    place->host = s3d_copy_string(origin.data + host_at);
    place->region = s3d_copy_string(region);
    place->origin = origin.data; /* ownership moves */
    return place->host && place->region;
}

/* The same endpoint in another region; NULL: no memory. */
static struct s3d_s3_place *place_new(const struct s3d_s3_places *places, const char *region)
{
    struct s3d_s3_place *place = s3d_alloc_zeroed(1, sizeof *place);
    if (place && !place_init(place, places, region)) {
        place_free(place);
        s3d_free(place);
        return NULL;
    }
    return place;
}

enum s3d_code s3d_s3_places_init(struct s3d_s3_places *places, const char *endpoint,
                                 const char *region, const char *bucket, bool virtual,
                                 struct s3d_error *error)
{
    char elsewhere[REGION_MAX];
    places->virtual = virtual;
    places->endpoint = s3d_copy_string(endpoint);
    places->bucket = s3d_copy_string(bucket);
    if (!endpoint && !is_region(region)) {
        return s3d_fail(error, S3D_INVALID, "the region \"%.64s\" (AWS_REGION) is none",
                        region);
    }
    if (!places->bucket || (endpoint && !places->endpoint) ||
        !place_init(&places->home, places, region)) {
        return s3d_fail_memory(error, strlen(bucket) + 1);
    }
    places->site = hash_of(places);
    if (recall(places, elsewhere)) {
        struct s3d_s3_place *place = place_new(places, elsewhere);
        if (!place) {
            return s3d_fail_memory(error, sizeof *place);
        }
        atomic_store(&places->moved, place);
    }
    return S3D_OK;
}

void s3d_s3_places_fini(struct s3d_s3_places *places)
{
    struct s3d_s3_place *moved = atomic_load(&places->moved);
    if (moved) {
        place_free(moved);
        s3d_free(moved);
    }
    place_free(&places->home);
    s3d_free(places->endpoint);
    s3d_free(places->bucket);
}

const struct s3d_s3_place *s3d_s3_place(const struct s3d_s3_places *places)
{
    const struct s3d_s3_place *moved = atomic_load(&places->moved);
    return moved ? moved : &places->home;
}

bool s3d_s3_places_move(struct s3d_s3_places *places, const char *signed_for,
                        const char *region)
{
    if (!is_region(region) || strcmp(signed_for, region) == 0) {
        return false;
    }
    struct s3d_s3_place *before = NULL, *place = place_new(places, region);
    if (!place) {
        return false;
    }
    remember(places, region);
    if (atomic_compare_exchange_strong(&places->moved, &before, place)) {
        return true;
    }
    /* Another request has moved the store before; if to elsewhere, only the next store can follow. */
    place_free(place);
    s3d_free(place);
    return strcmp(before->region, region) == 0;
}
