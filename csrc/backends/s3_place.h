/*
 * Where a bucket is asked for: the endpoint and the region of its requests' signatures. A store
 * begins with what the settings say; when an answer says that the bucket lies in another region it
 * moves there, once, and so does every store of the process that is opened for it afterwards.
 *
 * Only the region is ever taken from an answer, never a host: Amazon's endpoints are made from it, and
 * of a custom endpoint the region alone changes.
 * Source: Amazon S3 User Guide, "Making requests", redirects and the region of a bucket.
 */
#ifndef S3D_BACKENDS_S3_PLACE_H
#define S3D_BACKENDS_S3_PLACE_H

#include "core/error.h"

#include <stdbool.h>
#include <stdint.h>

struct s3d_s3_place {
    char *origin; /* "https://host:port", the bucket in front of the host where virtual */
    char *host;   /* the Host header: what follows "://" */
    char *region;
};

struct s3d_s3_places {
    /* frozen */
    struct s3d_s3_place home; /* by the settings */
    char *endpoint;           /* NULL: Amazon's */
    char *bucket;
    uint64_t site; /* a hash of home and bucket */
    bool virtual;  /* the bucket is in the host */
    /* set at most once */
    _Atomic(struct s3d_s3_place *) moved;
};

/* endpoint: "http[s]://host[:port]" without a slash behind, NULL for Amazon's. All texts are copied.
 * Fit for s3d_s3_places_fini whatever the result. */
S3D_MUST_USE enum s3d_code s3d_s3_places_init(struct s3d_s3_places *places,
                                              const char *endpoint, const char *region,
                                              const char *bucket, bool virtual,
                                              struct s3d_error *error);
void s3d_s3_places_fini(struct s3d_s3_places *places);
const struct s3d_s3_place *s3d_s3_place(const struct s3d_s3_places *places);
/* For an answer that names the region: true when a request that was signed for `signed_for` is worth
 * sending again. From any thread. */
bool s3d_s3_places_move(struct s3d_s3_places *places, const char *signed_for,
                        const char *region);

#endif
