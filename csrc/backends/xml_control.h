/*
 * Control characters in XML. Version 1.0 cannot express them, but S3 and Ceph write "&#1;" all the same
 * where they repeat a key or a prefix that has some (Ceph 16 "&#x00;" behind one of 1,024 bytes), and a parser that knows the rules refuses the whole
 * document. So a stand-in takes the place of each such reference, one of the 32 noncharacters from U+FDD0
 * on, and is undone in the texts that come out.
 */
#ifndef S3D_BACKENDS_XML_CONTROL_H
#define S3D_BACKENDS_XML_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

/* Whether there is a reference to U+0000 to U+001F that XML 1.0 does not allow. */
bool s3d_xml_has_control(const char *text, size_t length);

/* Writes the text with stand-ins to `to`, which has room for length bytes, and returns how long that is; 0:
 * it cannot be, as the text has noncharacters of its own. */
size_t s3d_xml_hide_control(char *to, const char *text, size_t length);

/* Puts the characters back, in place. False: there was a NUL, and what follows it is lost. */
bool s3d_xml_show_control(char *text);

#endif
