/* Points in time as web services write them. Source: ISO 8601, in the profile of RFC 3339. */
#ifndef S3D_FORMATS_ISO8601_H
#define S3D_FORMATS_ISO8601_H

#include <stdbool.h>
#include <stdint.h>

/* "2009-10-12T17:50:30.000Z", with or without the fraction, which is passed over; nothing before
 * or after it. Years 0 to 9999. */
bool s3d_iso8601_parse(const char *text, int64_t *unix_s);
/* The same, or with "+01:00" in place of the Z. */
bool s3d_iso8601_parse_offset(const char *text, int64_t *unix_s);

#endif
