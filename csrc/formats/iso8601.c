#include "formats/iso8601.h"

#include <stddef.h>
#include <string.h>

static bool read_digits(const char **text, size_t count, int *value)
{
    *value = 0;
    for (size_t i = 0; i < count; i++, ++*text) {
        if (**text < '0' || **text > '9') {
            return false;
        }
        *value = *value * 10 + (**text - '0');
    }
    return true;
}

static bool read_char(const char **text, char expected)
{
    bool found = **text == expected;
    *text += found;
    return found;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* Days from 1970-01-01, for years 0 to 9999: years counted from March, so that a leap day is
 * the last of its year. */
static int64_t days_from_epoch(int year, int month, int day)
{
    int64_t y = year - (month <= 2) + 400; /* positive; 400 years are 146,097 days */
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719468 - 146097;
}

/* Up to the zone, which *rest then points to. */
static bool parse_local(const char *text, const char **rest, int64_t *unix_s)
{
    int year, month, day, hour, minute, second;
    if (!read_digits(&text, 4, &year) || !read_char(&text, '-') ||
        !read_digits(&text, 2, &month) || !read_char(&text, '-') ||
        !read_digits(&text, 2, &day) || !read_char(&text, 'T') ||
        !read_digits(&text, 2, &hour) || !read_char(&text, ':') ||
        !read_digits(&text, 2, &minute) || !read_char(&text, ':') ||
        !read_digits(&text, 2, &second)) {
        return false;
    }
    if (read_char(&text, '.')) {
        size_t digits = strspn(text, "0123456789");
        text += digits;
        if (!digits) {
            return false;
        }
    }
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) || hour > 23 ||
        minute > 59 || second > 60) {
        return false;
    }
    *unix_s = ((days_from_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    *rest = text;
    return true;
}

bool s3d_iso8601_parse(const char *text, int64_t *unix_s)
{
    const char *zone;
    int64_t seconds;
    if (!parse_local(text, &zone, &seconds) || strcmp(zone, "Z") != 0) {
        return false;
    }
    *unix_s = seconds;
    return true;
}

bool s3d_iso8601_parse_offset(const char *text, int64_t *unix_s)
{
    const char *zone;
    int64_t seconds;
    int hours, minutes;
    if (s3d_iso8601_parse(text, unix_s)) {
        return true;
    }
    if (!parse_local(text, &zone, &seconds)) {
        return false;
    }
    int sign = read_char(&zone, '+') ? -1 : 1; /* east of Greenwich is earlier in UTC */
    if ((sign > 0 && !read_char(&zone, '-')) || !read_digits(&zone, 2, &hours) ||
        !read_char(&zone, ':') || !read_digits(&zone, 2, &minutes) || *zone || hours > 23 ||
        minutes > 59) {
        return false;
    }
    *unix_s = seconds + (int64_t)sign * (hours * 60 + minutes) * 60;
    return true;
}
