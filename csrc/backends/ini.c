#include "backends/ini.h"

#include "backends/text_file.h"

#include <string.h>
#include <strings.h>

enum { FILE_MAX_BYTES = 1024 * 1024, PATH_MAX_BYTES = 64 * 1024 };

/* --- pieces of text: never copied, so that secrets lie in one place --- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static struct s3d_piece trim(struct s3d_piece piece)
{
    while (piece.length && is_blank(piece.text[0])) {
        piece.text++;
        piece.length--;
    }
    while (piece.length && is_blank(piece.text[piece.length - 1])) {
        piece.length--;
    }
    return piece;
}

static bool piece_is(struct s3d_piece piece, const char *text)
{
    return strlen(text) == piece.length && memcmp(piece.text, text, piece.length) == 0;
}

/* Takes the next line, without its end, off the front; false when none is left. */
static bool next_line(struct s3d_piece *rest, struct s3d_piece *line)
{
    if (!rest->length) {
        return false;
    }
    const char *end = memchr(rest->text, '\n', rest->length);
    size_t length = end ? (size_t)(end - rest->text) : rest->length, taken = length + !!end;
    *line = (struct s3d_piece){rest->text, length};
    *rest = (struct s3d_piece){rest->text + taken, rest->length - taken};
    return true;
}

/* --- the file --- */

void s3d_ini_fini(struct s3d_ini *file)
{
    s3d_text_free(file->data, file->length);
    s3d_str_fini(&file->path);
}

enum s3d_code s3d_ini_load(struct s3d_ini *file, const char *configured, const char *fallback,
                           bool is_config, struct s3d_error *error)
{
    *file = (struct s3d_ini){.path = S3D_STR(PATH_MAX_BYTES), .is_config = is_config};
    enum s3d_code code =
        s3d_home_path(configured && *configured ? configured : fallback, &file->path, error);
    if (!code && file->path.length) {
        code = s3d_text_file_read(file->path.data, FILE_MAX_BYTES, &file->data, &file->length,
                                  error);
    }
    return code;
}

/* "[name]", "[profile name]" and "[profile "name"]" are what AWS's own tools read. */
static bool header_names(struct s3d_piece header, bool is_config, const char *word,
                         const char *profile)
{
    const size_t word_length = strlen(word);
    header = trim(header);
    if (!is_config) {
        return piece_is(header, profile);
    }
    if (header.length > word_length && memcmp(header.text, word, word_length) == 0 &&
        is_blank(header.text[word_length])) {
        struct s3d_piece name =
            trim((struct s3d_piece){header.text + word_length, header.length - word_length});
        char first = name.length ? name.text[0] : '\0';
        if (name.length > 1 && (first == '"' || first == '\'') &&
            name.text[name.length - 1] == first) {
            name = (struct s3d_piece){name.text + 1, name.length - 2};
        }
        return piece_is(name, profile);
    }
    return strcmp(word, S3D_INI_PROFILE) == 0 && piece_is(header, "default") &&
           strcmp(profile, "default") == 0;
}

/* A comment may follow a value after a blank. */
static struct s3d_piece cut_comment(struct s3d_piece value)
{
    for (size_t i = 1; i < value.length; i++) {
        if ((value.text[i] == '#' || value.text[i] == ';') && is_blank(value.text[i - 1])) {
            value.length = i;
        }
    }
    return trim(value);
}

/* Where a pass over a file stands. */
struct ini_scan {
    const struct s3d_ini *file;
    const char *kind;
    const char *section;
    const char *name; /* the key looked for; NULL: only whether the section is there */
    unsigned line_number;
    bool in_section; /* behind any header */
    bool in_profile; /* behind the profile's */
    size_t indent;   /* of the last key; SIZE_MAX: none in this section yet */
    bool exists;
    struct s3d_piece value; /* the last one wins */
};

static enum s3d_code fail_line(const struct ini_scan *scan, const char *why,
                               struct s3d_error *error)
{
    /* Never the line itself: it may be a secret. */
    return s3d_fail(error, S3D_INVALID, "%.300s, line %u: %s", s3d_str_text(&scan->file->path),
                    scan->line_number, why);
}

static enum s3d_code scan_header(struct ini_scan *scan, struct s3d_piece line,
                                 struct s3d_error *error)
{
    const char *end = memchr(line.text, ']', line.length);
    if (!end) {
        return fail_line(scan, "a section without its ']'", error);
    }
    struct s3d_piece header = {line.text + 1, (size_t)(end - line.text) - 1};
    scan->in_section = true;
    scan->in_profile = header_names(header, scan->file->is_config, scan->kind, scan->section);
    scan->exists |= scan->in_profile;
    scan->indent = SIZE_MAX;
    return S3D_OK;
}

static enum s3d_code scan_setting(struct ini_scan *scan, struct s3d_piece line,
                                  struct s3d_error *error)
{
    const char *equals = memchr(line.text, '=', line.length);
    if (!equals || equals == line.text) {
        return fail_line(scan, "neither a section nor \"key = value\"", error);
    }
    if (!scan->in_section) {
        return fail_line(scan, "a setting before any section", error);
    }
    struct s3d_piece name = trim((struct s3d_piece){line.text, (size_t)(equals - line.text)});
    if (scan->in_profile && scan->name && strlen(scan->name) == name.length &&
        strncasecmp(scan->name, name.text, name.length) == 0) {
        const char *end = line.text + line.length;
        scan->value = cut_comment((struct s3d_piece){equals + 1, (size_t)(end - equals) - 1});
    }
    return S3D_OK;
}

/* A line indented further than the key before it belongs to that key (a sub-section such as
 * "s3 =") and is passed over. */
static enum s3d_code scan_line(struct ini_scan *scan, struct s3d_piece line,
                               struct s3d_error *error)
{
    struct s3d_piece content = trim(line);
    if (!content.length || content.text[0] == '#' || content.text[0] == ';') {
        return S3D_OK;
    }
    size_t indent = (size_t)(content.text - line.text);
    if (scan->indent != SIZE_MAX && indent > scan->indent) {
        return S3D_OK;
    }
    if (content.text[0] == '[') {
        return scan_header(scan, content, error);
    }
    scan->indent = indent;
    return scan_setting(scan, content, error);
}

enum s3d_code s3d_ini_find(const struct s3d_ini *file, const char *kind, const char *section,
                           const char *name, struct s3d_piece *value, bool *exists,
                           struct s3d_error *error)
{
    static const char byte_order_mark[] = "\xEF\xBB\xBF";
    struct ini_scan scan = {
        .file = file, .kind = kind, .section = section, .name = name, .indent = SIZE_MAX};
    struct s3d_piece rest = {file->data, file->length}, line;
    *value = (struct s3d_piece){NULL, 0};
    if (rest.length >= 3 && memcmp(rest.text, byte_order_mark, 3) == 0) {
        rest = (struct s3d_piece){rest.text + 3, rest.length - 3};
    }
    while (next_line(&rest, &line)) {
        scan.line_number++;
        enum s3d_code code = scan_line(&scan, line, error);
        if (code) {
            return code;
        }
    }
    if (scan.value.length) {
        *value = scan.value;
    }
    if (exists) {
        *exists |= scan.exists;
    }
    return S3D_OK;
}
