// The checksums that S3 takes in headers: CRC-32, CRC-32C and CRC-64/NVME, computed bit by bit as they are defined, so
// that they check a client's and share nothing with it.
#ifndef S3S_CHECKSUM_H
#define S3S_CHECKSUM_H

#include "http.h"
#include "store.h"

struct s3s_checksum {
    const char *algorithm;
    const char *header;
    uint64_t generator, ones; // reflected; ones: as many as the CRC has bits
};

// Which checksum header a request carries, and its value; NULL: none.
const struct s3s_checksum *s3s_checksum_sent(const struct s3s_request *request,
                                             struct s3s_span *value);
// Which one x-amz-checksum-algorithm names; NULL: none. False: one that does not exist.
bool s3s_checksum_named(const struct s3s_request *request,
                        const struct s3s_checksum **checksum);
// Whether `value` is the base64 of the CRC of all the pieces.
bool s3s_checksum_matches(const struct s3s_checksum *checksum, const struct s3s_piece *pieces,
                          size_t count, struct s3s_span value);
// The header lines that tell it to those who ask. Owned by the caller.
char *s3s_checksum_lines(const struct s3s_checksum *checksum, struct s3s_span value);

#endif
