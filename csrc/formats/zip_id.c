/*
 * torch combines the hashes of the record names in the order in which its unordered_set lists
 * them. libstdc++ keeps one chain of all nodes, a bucket's nodes side by side in it: a node
 * that is alone in its bucket is put at the head of the chain, another one at the head of its
 * bucket's stretch. At each growth the chain is walked and built anew by the same rule. What
 * matters is the order alone, so the nodes here are indices.
 */
#include "formats/zip_id.h"

#include "core/mem.h"

enum { HEAD = 0 }; /* the place before the first node; node i is i + 1 */

/* The numbers of buckets that libstdc++ goes through: each the first of its primes that is at
 * least twice the one before. */
static const uint32_t BUCKETS[] = {
    13,      29,      59,      127,      257,      541,      1109,      2357,
    5087,    10273,   20753,   42043,    85229,    172933,   351061,    712697,
    1447153, 2938679, 5967347, 12117689, 24607243, 49969847, 101473717, 206062531,
};

struct chain {
    const uint64_t *hashes;
    uint32_t *next;   /* [HEAD] is the first node; 0 ends the chain */
    uint32_t *before; /* per bucket: the node before its stretch, plus 1; 0: empty */
    uint32_t buckets;
};

static uint32_t bucket_of(const struct chain *chain, uint32_t node)
{
    return (uint32_t)(chain->hashes[node - 1] % chain->buckets);
}

static void insert(struct chain *chain, uint32_t node)
{
    uint32_t *before = &chain->before[bucket_of(chain, node)];
    if (*before) {
        chain->next[node] = chain->next[*before - 1];
        chain->next[*before - 1] = node;
        return;
    }
    uint32_t first = chain->next[HEAD];
    chain->next[node] = first;
    chain->next[HEAD] = node;
    *before = HEAD + 1;
    if (first) {
        chain->before[bucket_of(chain, first)] = node + 1;
    }
}

static enum s3d_code grow(struct chain *chain, uint32_t buckets, struct s3d_error *error)
{
    uint32_t *before = s3d_alloc_zeroed(buckets, sizeof *before);
    if (!before) {
        return s3d_fail_memory(error, buckets * sizeof *before);
    }
    s3d_free(chain->before);
    chain->before = before;
    chain->buckets = buckets;
    uint32_t node = chain->next[HEAD];
    chain->next[HEAD] = 0;
    while (node) {
        uint32_t following = chain->next[node];
        insert(chain, node);
        node = following;
    }
    return S3D_OK;
}

uint64_t s3d_zip_id_combine(uint64_t seed, uint64_t value)
{
    return seed ^ (value + 0x9e3779b9 + (seed << 6) + (seed >> 2));
}

enum s3d_code s3d_zip_id_names(const uint64_t *hashes, size_t count, uint64_t *out,
                               struct s3d_error *error)
{
    enum s3d_code code = S3D_OK;
    size_t step = 0, steps = sizeof BUCKETS / sizeof BUCKETS[0];
    struct chain chain = {.hashes = hashes};
    chain.next = s3d_alloc_zeroed(count + 1, sizeof *chain.next);
    if (!chain.next) {
        return s3d_fail_memory(error, (count + 1) * sizeof *chain.next);
    }
    for (size_t i = 0; i < count && !code; i++) {
        /* Full at one node a bucket; past the last size (never: the directory ends at 4 GiB)
         * the order would differ from torch's, no more. */
        if (i == (step ? BUCKETS[step - 1] : 0) && step < steps) {
            code = grow(&chain, BUCKETS[step++], error);
        }
        if (!code) {
            insert(&chain, (uint32_t)i + 1);
        }
    }
    uint64_t seed = 0;
    for (uint32_t node = chain.next[HEAD]; node && !code; node = chain.next[node]) {
        seed = s3d_zip_id_combine(seed, hashes[node - 1]);
    }
    *out = seed;
    s3d_free(chain.next);
    s3d_free(chain.before);
    return code;
}
