#include "backends/xml_control.h"

#include "core/str.h"

#include <string.h>

/* U+FDD0, which stands for NUL; the others count up its last byte. */
static const char first[] = "\xEF\xB7\x90";
enum { STAND_IN = sizeof first - 1, CONTROLS = 32 };

/* Which one the text begins with; -1: none. */
static int stand_in(const char *text, size_t length)
{
    if (length < STAND_IN || memcmp(text, first, STAND_IN - 1) != 0) {
        return -1;
    }
    int number = (unsigned char)text[STAND_IN - 1] - (unsigned char)first[STAND_IN - 1];
    return number >= 0 && number < CONTROLS ? number : -1;
}

/* The length of the reference with which the text begins ("&#27;", "&#x1b;"); 0: it begins otherwise, or
 * with one that XML allows. */
static size_t control_reference(const char *text, size_t length, unsigned *value)
{
    if (length < 4 || text[0] != '&' || text[1] != '#') {
        return 0;
    }
    bool hexadecimal = text[2] == 'x';
    int base = hexadecimal ? 16 : 10, digit;
    size_t from = hexadecimal ? 3 : 2, at = from;
    *value = 0;
    for (; at < length && (digit = s3d_hex_digit(text[at])) >= 0 && digit < base &&
           *value < CONTROLS;
         at++) {
        *value = *value * (unsigned)base + (unsigned)digit;
    }
    bool allowed = *value == '\t' || *value == '\n' || *value == '\r';
    bool whole = at > from && at < length && text[at] == ';';
    return whole && *value < CONTROLS && !allowed ? at + 1 : 0;
}

bool s3d_xml_has_control(const char *text, size_t length)
{
    unsigned value;
    const char *end = text + length;
    for (const char *c = text; (c = memchr(c, '&', (size_t)(end - c))) != NULL; c++) {
        if (control_reference(c, (size_t)(end - c), &value)) {
            return true;
        }
    }
    return false;
}

size_t s3d_xml_hide_control(char *to, const char *text, size_t length)
{
    size_t written = 0;
    for (size_t at = 0; at < length;) {
        unsigned value;
        size_t reference = control_reference(text + at, length - at, &value);
        if (reference) {
            memcpy(to + written, first, STAND_IN);
            written += STAND_IN;
            to[written - 1] = (char)(to[written - 1] + (char)value);
            at += reference;
        } else if (stand_in(text + at, length - at) >= 0) {
            return 0;
        } else {
            to[written++] = text[at++];
        }
    }
    return written;
}

bool s3d_xml_show_control(char *text)
{
    char *to = text;
    size_t length = strlen(text);
    bool has_nul = false;
    for (size_t at = 0; at < length;) {
        int control = stand_in(text + at, length - at);
        has_nul |= control == 0;
        *to++ = control < 0 ? text[at] : (char)control;
        at += control < 0 ? 1 : STAND_IN;
    }
    *to = '\0';
    return !has_nul;
}
