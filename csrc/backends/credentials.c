#include "backends/credentials.h"

#include "core/mem.h"
#include "core/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 1024 * 1024, PATH_MAX_BYTES = 64 * 1024 };

/* --- pieces of text: never copied, so that secrets lie in one place --- */

struct piece {
    const char *text; /* not terminated; NULL: absent */
    size_t length;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static struct piece trim(struct piece piece)
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

static bool piece_is(struct piece piece, const char *text)
{
    return strlen(text) == piece.length && memcmp(piece.text, text, piece.length) == 0;
}

/* Takes the next line, without its end, off the front; false when none is left. */
static bool next_line(struct piece *rest, struct piece *line)
{
    if (!rest->length) {
        return false;
    }
    const char *end = memchr(rest->text, '\n', rest->length);
    size_t length = end ? (size_t)(end - rest->text) : rest->length, taken = length + !!end;
    *line = (struct piece){rest->text, length};
    *rest = (struct piece){rest->text + taken, rest->length - taken};
    return true;
}

static bool is_set(const char *text)
{
    return text && *text;
}

static void free_secret(char **secret)
{
    if (*secret) {
        explicit_bzero(*secret, strlen(*secret));
        s3d_free(*secret);
        *secret = NULL;
    }
}

static enum s3d_code copy_piece(struct piece piece, char **copy, struct s3d_error *error)
{
    *copy = s3d_alloc(piece.length + 1);
    if (!*copy) {
        return s3d_fail_memory(error, piece.length + 1);
    }
    memcpy(*copy, piece.text, piece.length);
    (*copy)[piece.length] = '\0';
    return S3D_OK;
}

static enum s3d_code copy_text(const char *text, char **copy, struct s3d_error *error)
{
    return copy_piece((struct piece){text, strlen(text)}, copy, error);
}

/* --- one INI file --- */

struct ini_file {
    struct s3d_str path;
    char *data; /* FILE_MAX_BYTES of room; NULL: no such file */
    size_t length;
    bool is_config; /* sections are "[profile name]", but for "[default]" */
};

static void ini_fini(struct ini_file *file)
{
    if (file->data) {
        explicit_bzero(file->data, file->length);
        s3d_free(file->data);
    }
    s3d_str_fini(&file->path);
}

/* A leading "~/" stands for HOME. Leaves path empty when HOME is needed and not set. */
static enum s3d_code expand_path(const char *text, struct s3d_str *path,
                                 struct s3d_error *error)
{
    const char *home = getenv("HOME");
    if (strncmp(text, "~/", 2) == 0) {
        if (!is_set(home)) {
            return S3D_OK;
        }
        s3d_str_add(path, home);
        text++;
    }
    s3d_str_add(path, text);
    return s3d_str_check(path, error);
}

static enum s3d_code read_all(int fd, struct ini_file *file, struct s3d_error *error)
{
    const char *path = s3d_str_text(&file->path);
    size_t room = FILE_MAX_BYTES + 1; /* the one byte more shows that the file is too long */
    file->data = s3d_alloc(room);
    if (!file->data) {
        return s3d_fail_memory(error, room);
    }
    for (;;) {
        ssize_t got = read(fd, file->data + file->length, room - file->length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return s3d_fail_errno(error, errno, "cannot read %.300s", path);
        }
        if (!got) {
            break;
        }
        file->length += (size_t)got;
        if (file->length > FILE_MAX_BYTES) {
            return s3d_fail(error, S3D_INVALID, "%.300s is longer than %d bytes", path,
                            FILE_MAX_BYTES);
        }
    }
    if (memchr(file->data, '\0', file->length)) {
        return s3d_fail(error, S3D_INVALID, "%.300s holds a NUL byte", path);
    }
    return S3D_OK;
}

/* A missing file is an empty one. Devices pass for the sake of /dev/null; pipes could block. */
static enum s3d_code read_file(struct ini_file *file, struct s3d_error *error)
{
    const char *path = s3d_str_text(&file->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return errno == ENOENT || errno == ENOTDIR
                   ? S3D_OK
                   : s3d_fail_errno(error, errno, "cannot open %.300s", path);
    }
    struct stat status;
    enum s3d_code code;
    if (fstat(fd, &status) != 0) {
        code = s3d_fail_errno(error, errno, "cannot read %.300s", path);
    } else if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode)) {
        code = s3d_fail(error, S3D_INVALID, "%.300s is not a file", path);
    } else {
        code = read_all(fd, file, error);
    }
    close(fd);
    return code;
}

static enum s3d_code ini_load(struct ini_file *file, const char *configured,
                              const char *fallback, bool is_config, struct s3d_error *error)
{
    *file = (struct ini_file){.path = S3D_STR(PATH_MAX_BYTES), .is_config = is_config};
    enum s3d_code code =
        expand_path(is_set(configured) ? configured : fallback, &file->path, error);
    if (!code && file->path.length) {
        code = read_file(file, error);
    }
    return code;
}

/* "[name]", "[profile name]" and "[profile "name"]" are what AWS's own tools read. */
static bool header_names(struct piece header, bool is_config, const char *profile)
{
    static const char word[] = "profile";
    const size_t word_length = sizeof word - 1;
    header = trim(header);
    if (!is_config) {
        return piece_is(header, profile);
    }
    if (header.length > word_length && memcmp(header.text, word, word_length) == 0 &&
        is_blank(header.text[word_length])) {
        struct piece name =
            trim((struct piece){header.text + word_length, header.length - word_length});
        char first = name.length ? name.text[0] : '\0';
        if (name.length > 1 && (first == '"' || first == '\'') &&
            name.text[name.length - 1] == first) {
            name = (struct piece){name.text + 1, name.length - 2};
        }
        return piece_is(name, profile);
    }
    return piece_is(header, "default") && strcmp(profile, "default") == 0;
}

/* A comment may follow a value after a blank. */
static struct piece cut_comment(struct piece value)
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
    const struct ini_file *file;
    const char *profile;
    const char *name; /* the key looked for; NULL: only whether the section is there */
    unsigned line_number;
    bool in_section; /* behind any header */
    bool in_profile; /* behind the profile's */
    size_t indent;   /* of the last key; SIZE_MAX: none in this section yet */
    bool exists;
    struct piece value; /* the last one wins */
};

static enum s3d_code fail_line(const struct ini_scan *scan, const char *why,
                               struct s3d_error *error)
{
    /* Never the line itself: it may be a secret. */
    return s3d_fail(error, S3D_INVALID, "%.300s, line %u: %s", s3d_str_text(&scan->file->path),
                    scan->line_number, why);
}

static enum s3d_code scan_header(struct ini_scan *scan, struct piece line,
                                 struct s3d_error *error)
{
    const char *end = memchr(line.text, ']', line.length);
    if (!end) {
        return fail_line(scan, "a section without its ']'", error);
    }
    struct piece header = {line.text + 1, (size_t)(end - line.text) - 1};
    scan->in_section = true;
    scan->in_profile = header_names(header, scan->file->is_config, scan->profile);
    scan->exists |= scan->in_profile;
    scan->indent = SIZE_MAX;
    return S3D_OK;
}

static enum s3d_code scan_setting(struct ini_scan *scan, struct piece line,
                                  struct s3d_error *error)
{
    const char *equals = memchr(line.text, '=', line.length);
    if (!equals || equals == line.text) {
        return fail_line(scan, "neither a section nor \"key = value\"", error);
    }
    if (!scan->in_section) {
        return fail_line(scan, "a setting before any section", error);
    }
    struct piece name = trim((struct piece){line.text, (size_t)(equals - line.text)});
    if (scan->in_profile && scan->name && strlen(scan->name) == name.length &&
        strncasecmp(scan->name, name.text, name.length) == 0) {
        const char *end = line.text + line.length;
        scan->value = cut_comment((struct piece){equals + 1, (size_t)(end - equals) - 1});
    }
    return S3D_OK;
}

/* A line indented further than the key before it belongs to that key (a sub-section such as
 * "s3 =") and is passed over. */
static enum s3d_code scan_line(struct ini_scan *scan, struct piece line,
                               struct s3d_error *error)
{
    struct piece content = trim(line);
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

/*
 * Looks `name` up in the profile: value->text is NULL when it is not there or empty. *exists
 * (when not NULL) becomes true when the file has the profile, and stays as it was otherwise.
 */
static enum s3d_code ini_find(const struct ini_file *file, const char *profile,
                              const char *name, struct piece *value, bool *exists,
                              struct s3d_error *error)
{
    static const char byte_order_mark[] = "\xEF\xBB\xBF";
    struct ini_scan scan = {.file = file, .profile = profile, .name = name, .indent = SIZE_MAX};
    struct piece rest = {file->data, file->length}, line;
    *value = (struct piece){NULL, 0};
    if (rest.length >= 3 && memcmp(rest.text, byte_order_mark, 3) == 0) {
        rest = (struct piece){rest.text + 3, rest.length - 3};
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

/* --- a profile: its two files --- */

struct profile {
    const char *name;
    bool exists;
    struct ini_file files[2]; /* credentials, config: the first that tells wins */
};

static const char *shown_path(const struct ini_file *file)
{
    return file->path.length ? s3d_str_text(&file->path) : "(~ without HOME)";
}

static void profile_fini(struct profile *profile)
{
    ini_fini(&profile->files[0]);
    ini_fini(&profile->files[1]);
}

static enum s3d_code profile_load(struct profile *profile, const struct s3d_config *config,
                                  struct s3d_error *error)
{
    bool named = is_set(config->profile);
    struct ini_file *files = profile->files;
    struct piece none;
    enum s3d_code code;
    memset(profile, 0, sizeof *profile);
    profile->name = named ? config->profile : "default";
    if ((code = ini_load(&files[0], config->credentials_file, "~/.aws/credentials", false,
                         error)) ||
        (code = ini_load(&files[1], config->config_file, "~/.aws/config", true, error)) ||
        (code = ini_find(&files[0], profile->name, NULL, &none, &profile->exists, error)) ||
        (code = ini_find(&files[1], profile->name, NULL, &none, &profile->exists, error))) {
        return code;
    }
    if (named && !profile->exists) {
        return s3d_fail(error, S3D_INVALID,
                        "there is no profile \"%.100s\" in %.150s or %.150s", profile->name,
                        shown_path(&files[0]), shown_path(&files[1]));
    }
    return S3D_OK;
}

/* Key, secret and token come from one file: two files' halves are no pair. */
static enum s3d_code take_keys(const struct profile *profile, const struct ini_file *file,
                               struct s3d_credentials *credentials, struct s3d_error *error)
{
    struct piece key, secret, token;
    enum s3d_code code;
    if ((code = ini_find(file, profile->name, "aws_access_key_id", &key, NULL, error)) ||
        (code = ini_find(file, profile->name, "aws_secret_access_key", &secret, NULL, error)) ||
        (code = ini_find(file, profile->name, "aws_session_token", &token, NULL, error))) {
        return code;
    }
    if (!key.text && !secret.text) {
        return S3D_OK;
    }
    if (!key.text || !secret.text) {
        return s3d_fail(error, S3D_INVALID, "profile \"%.100s\" in %.300s lacks %s",
                        profile->name, s3d_str_text(&file->path),
                        key.text ? "aws_secret_access_key" : "aws_access_key_id");
    }
    if ((code = copy_piece(key, &credentials->access_key, error)) ||
        (code = copy_piece(secret, &credentials->secret_key, error))) {
        return code;
    }
    return token.text ? copy_piece(token, &credentials->session_token, error) : S3D_OK;
}

/* What AWS's own tools would follow and this library does not, if the profile asks for it. */
static enum s3d_code find_unsupported(const struct profile *profile, const char **setting,
                                      struct s3d_error *error)
{
    static const char *const settings[] = {"credential_process", "sso_session", "sso_start_url",
                                           "web_identity_token_file", "role_arn"};
    *setting = NULL;
    for (size_t i = 0; i < sizeof settings / sizeof *settings && !*setting; i++) {
        for (size_t j = 0; j < 2; j++) {
            struct piece value;
            enum s3d_code code =
                ini_find(&profile->files[j], profile->name, settings[i], &value, NULL, error);
            if (code) {
                return code;
            }
            if (value.text) {
                *setting = settings[i];
            }
        }
    }
    return S3D_OK;
}

static enum s3d_code fail_no_credentials(const struct profile *profile, struct s3d_error *error)
{
    const char *unsupported;
    enum s3d_code code = find_unsupported(profile, &unsupported, error);
    if (code) {
        return code;
    }
    return s3d_fail(
        error, S3D_NO_CREDENTIALS,
        "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "S3DLIO_ANONYMOUS=1 for public data; profile \"%.60s\" in %.100s and %.100s "
        "has %s%s%s",
        profile->name, shown_path(&profile->files[0]), shown_path(&profile->files[1]),
        unsupported ? "only " : "no keys", unsupported ? unsupported : "",
        unsupported ? ", which is not supported" : "");
}

static enum s3d_code load_profile_keys(struct s3d_credentials *credentials,
                                       const struct s3d_config *config, struct s3d_error *error)
{
    struct profile profile;
    enum s3d_code code = profile_load(&profile, config, error);
    for (size_t i = 0; !code && i < 2 && !credentials->access_key; i++) {
        code = take_keys(&profile, &profile.files[i], credentials, error);
    }
    if (!code && !credentials->access_key) {
        code = fail_no_credentials(&profile, error);
    }
    profile_fini(&profile);
    return code;
}

/* --- the order of sources --- */

static enum s3d_code read_anonymous(const char *text, bool *anonymous, struct s3d_error *error)
{
    *anonymous = text && strcmp(text, "1") == 0;
    if (text && !*anonymous && strcmp(text, "0") != 0) {
        return s3d_fail(error, S3D_INVALID, "S3DLIO_ANONYMOUS is \"%.60s\", not 0 or 1", text);
    }
    return S3D_OK;
}

static enum s3d_code take_explicit_keys(struct s3d_credentials *credentials,
                                        const struct s3d_config *config,
                                        struct s3d_error *error)
{
    if (!is_set(config->access_key) || !is_set(config->secret_key)) {
        bool has_key = is_set(config->access_key);
        return s3d_fail(error, S3D_INVALID, "%s is set, but %s is not",
                        has_key ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                        has_key ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    }
    enum s3d_code code;
    if ((code = copy_text(config->access_key, &credentials->access_key, error)) ||
        (code = copy_text(config->secret_key, &credentials->secret_key, error))) {
        return code;
    }
    return is_set(config->session_token)
               ? copy_text(config->session_token, &credentials->session_token, error)
               : S3D_OK;
}

enum s3d_code s3d_credentials_load(struct s3d_credentials *credentials,
                                   const struct s3d_config *config, struct s3d_error *error)
{
    *credentials = (struct s3d_credentials){.anonymous = false};
    enum s3d_code code = read_anonymous(config->anonymous, &credentials->anonymous, error);
    if (!code && !credentials->anonymous) {
        code = is_set(config->access_key) || is_set(config->secret_key)
                   ? take_explicit_keys(credentials, config, error)
                   : load_profile_keys(credentials, config, error);
    }
    if (code) {
        s3d_credentials_fini(credentials);
    }
    return code;
}

void s3d_credentials_fini(struct s3d_credentials *credentials)
{
    if (credentials) {
        free_secret(&credentials->access_key);
        free_secret(&credentials->secret_key);
        free_secret(&credentials->session_token);
        credentials->anonymous = false;
    }
}

enum s3d_code s3d_profile_setting(const struct s3d_config *config, const char *name,
                                  char **value, struct s3d_error *error)
{
    struct profile profile;
    *value = NULL;
    enum s3d_code code = profile_load(&profile, config, error);
    struct piece found = {NULL, 0};
    for (size_t i = 0; !code && i < 2 && !found.text; i++) {
        code = ini_find(&profile.files[i], profile.name, name, &found, NULL, error);
    }
    if (!code && found.text) {
        code = copy_piece(found, value, error);
    }
    profile_fini(&profile);
    return code;
}
