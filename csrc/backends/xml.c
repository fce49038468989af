/*
 * One SAX pass over the text, nothing kept but the path of the open element and the text of the
 * leaf being read, both of fixed size: an answer costs the same memory whatever it says. A
 * document may be given to its handler in part before it turns out to be broken; the code
 * returned then says so.
 */
#include "backends/xml.h"

#include "backends/xml_control.h"
#include "core/mem.h"
#include "formats/iso8601.h"

#include <libxml/parser.h>
#include <libxml/xmlerror.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    TEXT_MAX = 8 * 1024 * 1024, /* of a whole document */
    GAP_MAX = 16 * 1024,        /* from one '<' to the next: a tag and the text behind it */
    LEAF_MAX = 8 * 1024,        /* text of one leaf; a key of 1,024 bytes encodes to 3,072 */
    PATH_MAX_BYTES = 256,       /* "ListBucketResult/Contents/Key" */
    DEPTH_MAX = 16
};

/* An element that ended. `text` is NULL for an element that holds elements, `cut` says that
 * what is given is not all of the text. A code other than OK stops the parse. */
typedef enum s3d_code (*leaf_fn)(void *context, const char *path, char *text, bool cut,
                                 struct s3d_error *error);

struct document {
    const char *root; /* the local name demanded */
    const char *encoding;
    leaf_fn leaf;
    void *context;
    struct s3d_error *error;

    xmlParserCtxtPtr parser;
    enum s3d_code code;  /* the first failure; later events are ignored */
    bool started, ended; /* the root element */
    unsigned depth;
    size_t path_length;
    size_t parents[DEPTH_MAX]; /* path_length of what each open element lies in */
    bool is_leaf;              /* nothing but text since the innermost start tag */
    bool cut;
    bool hides_control; /* the text is one with stand-ins */
    size_t text_length;
    char path[PATH_MAX_BYTES];
    char text[LEAF_MAX + 1];
};

/* --- SAX events --- */

static enum s3d_code fail_libxml2_memory(struct s3d_error *error)
{
    return s3d_fail(error, S3D_NO_MEMORY, "libxml2 could not allocate memory");
}

static void stop(struct document *document, enum s3d_code code)
{
    if (!document->code) {
        document->code = code;
        xmlStopParser(document->parser);
    }
}

static void refuse(struct document *document, const char *why)
{
    if (!document->code) {
        stop(document, s3d_fail(document->error, S3D_PROTOCOL, "the server's XML %s", why));
    }
}

static bool push_path(struct document *document, const char *name)
{
    size_t length = strlen(name), at = document->path_length, slash = at ? 1 : 0;
    if (document->depth == DEPTH_MAX || length + slash >= PATH_MAX_BYTES - at) {
        return false;
    }
    document->parents[document->depth++] = at;
    if (slash) {
        document->path[at] = '/';
    }
    memcpy(document->path + at + slash, name, length + 1);
    document->path_length = at + slash + length;
    return true;
}

static void pop_path(struct document *document)
{
    document->path_length = document->parents[--document->depth];
    document->path[document->path_length] = '\0';
}

static void on_start(void *user, const xmlChar *local_name, const xmlChar *prefix,
                     const xmlChar *uri, int namespace_count, const xmlChar **namespaces,
                     int attribute_count, int defaulted_count, const xmlChar **attributes)
{
    struct document *document = user;
    const char *name = (const char *)local_name;
    (void)prefix, (void)uri, (void)namespace_count, (void)namespaces;
    (void)attribute_count, (void)defaulted_count, (void)attributes;
    if (document->code) {
        return;
    }
    if (!document->depth && strcmp(name, document->root) != 0) {
        stop(document,
             s3d_fail(document->error, S3D_PROTOCOL,
                      "the server's XML is a <%.100s>, not a <%s>", name, document->root));
    } else if (!push_path(document, name)) {
        refuse(document, "is nested too deep");
    } else {
        document->started = true;
        document->is_leaf = true;
        document->cut = false;
        document->text_length = 0;
    }
}

static void on_end(void *user, const xmlChar *local_name, const xmlChar *prefix,
                   const xmlChar *uri)
{
    struct document *document = user;
    (void)local_name, (void)prefix, (void)uri;
    if (document->code || !document->depth) {
        return;
    }
    document->text[document->text_length] = '\0';
    if (document->hides_control && !s3d_xml_show_control(document->text)) {
        document->cut = true;
    }
    enum s3d_code code = document->leaf(document->context, document->path,
                                        document->is_leaf ? document->text : NULL,
                                        document->cut, document->error);
    if (code) {
        stop(document, code);
        return;
    }
    pop_path(document);
    document->is_leaf = false;
    document->ended = document->depth == 0;
}

static void on_text(void *user, const xmlChar *text, int length)
{
    struct document *document = user;
    size_t bytes = length > 0 ? (size_t)length : 0, room = LEAF_MAX - document->text_length;
    if (document->code || !document->is_leaf) {
        return;
    }
    if (bytes > room) {
        bytes = room;
        document->cut = true;
    }
    memcpy(document->text + document->text_length, text, bytes);
    document->text_length += bytes;
}

/* Told of <!DOCTYPE before what it declares is read: no entity ever comes to be. */
static void on_doctype(void *user, const xmlChar *name, const xmlChar *external_id,
                       const xmlChar *system_id)
{
    (void)name, (void)external_id, (void)system_id;
    refuse(user, "has a document type declaration");
}

static void on_reference(void *user, const xmlChar *name)
{
    (void)name;
    refuse(user, "refers to an entity");
}

#if LIBXML_VERSION >= 21200
static void on_error(void *user, const xmlError *problem)
#else
static void on_error(void *user, xmlErrorPtr problem)
#endif
{
    /* Only noted: libxml2 may be anywhere in its input here, so it is not to be stopped. It
     * sends no event after a fatal error. */
    struct document *document = user;
    if (document->code) {
        return;
    }
    if (problem->code == XML_ERR_NO_MEMORY) {
        document->code = fail_libxml2_memory(document->error);
    } else if (problem->level == XML_ERR_FATAL) {
        const char *message = problem->message ? problem->message : "no reason given";
        document->code = s3d_fail(document->error, S3D_PROTOCOL,
                                  "the server's XML is broken at line %d: %.*s", problem->line,
                                  (int)strcspn(message, "\n"), message);
    }
}

/* --- one document --- */

static void initialise_libxml2(void)
{
    xmlInitParser();
}

/*
 * The distance between two '<' bounds a tag, since none may stand in an attribute: libxml2's
 * time for one tag grows with the square of its attributes.
 */
static bool has_gap(const char *text, size_t length)
{
    const char *end = text + length, *from = text;
    while (end - from > GAP_MAX) {
        const char *next = memchr(from + 1, '<', GAP_MAX);
        if (!next) {
            return true;
        }
        from = next;
    }
    return false;
}

static const char *skip_blanks(const char *text, size_t *length)
{
    while (*length && (*text == ' ' || *text == '\n' || *text == '\r' || *text == '\t')) {
        text++;
        --*length;
    }
    return text;
}

static enum s3d_code run_parser(struct document *document, const char *text, size_t length)
{
    static const xmlSAXHandler handler = {
        .initialized = XML_SAX2_MAGIC,
        .internalSubset = on_doctype,
        .externalSubset = on_doctype,
        .reference = on_reference,
        .startElementNs = on_start,
        .endElementNs = on_end,
        .characters = on_text,
        .ignorableWhitespace = on_text,
        .cdataBlock = on_text,
        .serror = on_error,
    };
    xmlParserCtxtPtr parser = xmlNewParserCtxt();
    if (!parser) {
        return fail_libxml2_memory(document->error);
    }
    document->parser = parser;
    *parser->sax = handler;
    parser->userData = document;
    /* The encoding is given so that no declaration inside can choose another. */
    xmlDocPtr tree =
        xmlCtxtReadMemory(parser, text, (int)length, NULL, document->encoding,
                          XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    bool well_formed = parser->wellFormed == 1;
    xmlFreeDoc(tree); /* NULL: the handler builds none */
    xmlFreeParserCtxt(parser);
    document->parser = NULL;
    if (document->code) {
        return document->code;
    }
    if (well_formed && !document->started) {
        /* It never began to read: only memory for its input can have been lacking. */
        return fail_libxml2_memory(document->error);
    }
    if (!well_formed || !document->ended) {
        return s3d_fail(document->error, S3D_PROTOCOL, "the server's XML is broken");
    }
    return S3D_OK;
}

static enum s3d_code run_hiding_control(struct document *document, const char *text,
                                        size_t length)
{
    char *hidden = s3d_alloc(length);
    if (!hidden) {
        return s3d_fail_memory(document->error, length);
    }
    size_t hidden_length = s3d_xml_hide_control(hidden, text, length);
    document->hides_control = true;
    enum s3d_code code =
        hidden_length ? run_parser(document, hidden, hidden_length)
                      : s3d_fail(document->error, S3D_PROTOCOL,
                                 "the server's XML has control and noncharacters at once");
    s3d_free(hidden);
    return code;
}

/* Leading blanks are what S3 sends to keep a connection alive while it completes an upload. */
static enum s3d_code parse_as(const char *encoding, const char *text, size_t length,
                              const char *root, leaf_fn leaf, void *context,
                              struct s3d_error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, initialise_libxml2);
    if (length > TEXT_MAX) {
        return s3d_fail(error, S3D_PROTOCOL, "the server's XML is longer than %d bytes",
                        TEXT_MAX);
    }
    text = skip_blanks(text, &length);
    if (!length) {
        return s3d_fail(error, S3D_PROTOCOL, "the server sent nothing where a <%s> belongs",
                        root);
    }
    if (memchr(text, '\0', length)) {
        /* libxml2 takes it for the end and overlooks what follows. */
        return s3d_fail(error, S3D_PROTOCOL, "the server's XML holds a NUL byte");
    }
    if (has_gap(text, length)) {
        return s3d_fail(error, S3D_PROTOCOL,
                        "the server's XML has a tag or text longer than %d bytes", GAP_MAX);
    }
    struct document document;
    memset(&document, 0, offsetof(struct document, path));
    document.path[0] = '\0';
    document.root = root;
    document.encoding = encoding;
    document.leaf = leaf;
    document.context = context;
    document.error = error;
    return s3d_xml_has_control(text, length) ? run_hiding_control(&document, text, length)
                                             : run_parser(&document, text, length);
}

static enum s3d_code parse(const char *text, size_t length, const char *root, leaf_fn leaf,
                           void *context, struct s3d_error *error)
{
    return parse_as("UTF-8", text, length, root, leaf, context, error);
}

/* --- <Error> --- */

static enum s3d_code error_leaf(void *context, const char *path, char *text, bool cut,
                                struct s3d_error *error)
{
    struct s3d_xml_error *out = context;
    const struct {
        const char *path;
        char *to;
        size_t size;
    } fields[] = {
        {"Error/Code", out->code, sizeof out->code},
        {"Error/Message", out->message, sizeof out->message},
        {"Error/RequestId", out->request_id, sizeof out->request_id},
        {"Error/Region", out->region, sizeof out->region},
    };
    (void)cut, (void)error;
    for (size_t i = 0; text && i < sizeof fields / sizeof *fields; i++) {
        if (strcmp(path, fields[i].path) == 0) {
            s3d_copy_text(fields[i].to, fields[i].size, text, strlen(text));
        }
    }
    return S3D_OK;
}

bool s3d_xml_error(const char *text, size_t length, struct s3d_xml_error *out)
{
    memset(out, 0, sizeof *out);
    if (parse(text, length, "Error", error_leaf, out, NULL) != S3D_OK) {
        memset(out, 0, sizeof *out);
        return false;
    }
    return true;
}

/* --- STS --- */

static enum s3d_code sts_error_leaf(void *context, const char *path, char *text, bool cut,
                                    struct s3d_error *error)
{
    static const char root[] = "ErrorResponse/";
    const char *inner = path + sizeof root - 1;
    if (strncmp(path, root, sizeof root - 1) != 0) {
        return S3D_OK;
    }
    /* Only the request's id lies beside the <Error>, not in it. */
    return error_leaf(context, strcmp(inner, "RequestId") == 0 ? "Error/RequestId" : inner,
                      text, cut, error);
}

bool s3d_xml_sts_error(const char *text, size_t length, struct s3d_xml_error *out)
{
    memset(out, 0, sizeof *out);
    if (parse(text, length, "ErrorResponse", sts_error_leaf, out, NULL) != S3D_OK) {
        memset(out, 0, sizeof *out);
        return false;
    }
    return true;
}

struct sts_answer {
    char inside[PATH_MAX_BYTES]; /* "AssumeRoleResponse/AssumeRoleResult/Credentials/" */
    char **access_key, **secret_key, **session_token;
    int64_t *expires_s;
};

static enum s3d_code take_copy(char **to, const char *text, struct s3d_error *error)
{
    if (*to) {
        return s3d_fail(error, S3D_PROTOCOL, "the server's XML has credentials twice");
    }
    *to = s3d_copy_string(text);
    return *to ? S3D_OK : s3d_fail_memory(error, strlen(text) + 1);
}

static enum s3d_code sts_leaf(void *context, const char *path, char *text, bool cut,
                              struct s3d_error *error)
{
    struct sts_answer *answer = context;
    size_t length = strlen(answer->inside);
    if (strncmp(path, answer->inside, length) != 0) {
        return S3D_OK;
    }
    const char *name = path + length;
    if (!text || cut) {
        return s3d_fail(error, S3D_PROTOCOL, "the server's %s is no text, or too long", path);
    }
    if (strcmp(name, "AccessKeyId") == 0) {
        return take_copy(answer->access_key, text, error);
    }
    if (strcmp(name, "SecretAccessKey") == 0) {
        return take_copy(answer->secret_key, text, error);
    }
    if (strcmp(name, "SessionToken") == 0) {
        return take_copy(answer->session_token, text, error);
    }
    if (strcmp(name, "Expiration") == 0 && !s3d_iso8601_parse(text, answer->expires_s)) {
        return s3d_fail(error, S3D_PROTOCOL, "the server's %s is no ISO 8601 date", path);
    }
    return S3D_OK;
}

enum s3d_code s3d_xml_sts_credentials(const char *text, size_t length, const char *action,
                                      char **access_key, char **secret_key,
                                      char **session_token, int64_t *expires_s,
                                      struct s3d_error *error)
{
    struct sts_answer answer = {{0}, access_key, secret_key, session_token, expires_s};
    char root[PATH_MAX_BYTES / 2];
    snprintf(root, sizeof root, "%.60sResponse", action);
    snprintf(answer.inside, sizeof answer.inside, "%s/%.60sResult/Credentials/", root, action);
    return parse(text, length, root, sts_leaf, &answer, error);
}

/* --- one field of a document --- */

struct field {
    const char *path;
    char *to;
    size_t size;
};

static enum s3d_code field_leaf(void *context, const char *path, char *text, bool cut,
                                struct s3d_error *error)
{
    const struct field *field = context;
    if (strcmp(path, field->path) != 0) {
        return S3D_OK;
    }
    if (!text || cut || !s3d_copy_text(field->to, field->size, text, strlen(text))) {
        return s3d_fail(error, S3D_PROTOCOL, "the server's %s is no text of at most %zu bytes",
                        path, field->size - 1);
    }
    return S3D_OK;
}

/* Ceph 16 cuts a long Location within a character. What is wanted of such a document is ASCII and the
 * same in Latin-1, where no bytes are wrong. */
static enum s3d_code parse_field(const char *text, size_t length, const char *root,
                                 struct field *field, struct s3d_error *error)
{
    enum s3d_code code = parse(text, length, root, field_leaf, field, error);
    return code == S3D_PROTOCOL
               ? parse_as("ISO-8859-1", text, length, root, field_leaf, field, error)
               : code;
}

enum s3d_code s3d_xml_upload_id(const char *text, size_t length, char *id, size_t id_size,
                                struct s3d_error *error)
{
    struct field field = {"InitiateMultipartUploadResult/UploadId", id, id_size};
    id[0] = '\0';
    enum s3d_code code =
        parse_field(text, length, "InitiateMultipartUploadResult", &field, error);
    if (!code && !id[0]) {
        code =
            s3d_fail(error, S3D_PROTOCOL, "the server started an upload without an UploadId");
    }
    if (code) {
        id[0] = '\0';
    }
    return code;
}

enum s3d_code s3d_xml_complete(const char *text, size_t length, char *etag, size_t etag_size,
                               struct s3d_error *error)
{
    struct field field = {"CompleteMultipartUploadResult/ETag", etag, etag_size};
    etag[0] = '\0';
    enum s3d_code code =
        parse_field(text, length, "CompleteMultipartUploadResult", &field, error);
    if (code) {
        etag[0] = '\0';
    }
    return code;
}

/* --- <ListBucketResult> --- */

struct listing {
    const struct s3d_list_sink *sink;
    char *next_token;
    size_t token_size;
    bool encoded; /* keys are URL-encoded: the server said so */
    bool restart; /* ... but only after the first keys were given out undecoded */
    bool has_truncated, truncated;
    size_t given;
    /* of the <Contents> being read */
    bool has_key, has_size;
    struct s3d_object object;
    char key[LEAF_MAX + 1];
};

/* In place. S3 writes a space as '+'. False: a broken escape, or a NUL byte. */
static bool decode_url(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++) {
        char plain = *c == '+' ? ' ' : *c;
        if (*c == '%') {
            int byte = s3d_percent_byte(c);
            if (byte <= 0) {
                return false;
            }
            plain = (char)byte;
            c += 2;
        }
        *to++ = plain;
    }
    *to = '\0';
    return true;
}

static enum s3d_code fail_value(struct s3d_error *error, const char *path)
{
    return s3d_fail(error, S3D_PROTOCOL, "the server's %s is missing or no valid value", path);
}

static bool take_key(struct listing *listing, const char *text, bool cut)
{
    if (listing->has_key || cut || !*text) {
        return false;
    }
    memcpy(listing->key, text, strlen(text) + 1);
    listing->has_key = true;
    return !listing->encoded || decode_url(listing->key);
}

/* A field of <Contents>; false: it is wrong. Unknown ones are passed over. */
static bool take_object_field(struct listing *listing, const char *name, const char *text,
                              bool cut)
{
    struct s3d_object *object = &listing->object;
    if (strcmp(name, "Key") == 0) {
        return text && take_key(listing, text, cut);
    }
    if (strcmp(name, "Size") == 0) {
        bool again = listing->has_size;
        listing->has_size = true;
        return text && !again && s3d_parse_u64(text, &object->size_bytes);
    }
    if (strcmp(name, "ETag") == 0) {
        return text && s3d_copy_text(object->etag, sizeof object->etag, text, strlen(text));
    }
    if (strcmp(name, "LastModified") == 0) {
        return text && s3d_iso8601_parse(text, &object->modified_s);
    }
    return true;
}

static enum s3d_code give_object(struct listing *listing, struct s3d_error *error)
{
    if (!listing->has_key || !listing->has_size) {
        return s3d_fail(error, S3D_PROTOCOL, "the server listed an object without its %s",
                        listing->has_key ? "Size" : "Key");
    }
    const struct s3d_list_sink *sink = listing->sink;
    enum s3d_code code = sink->add(sink->context, listing->key, &listing->object, error);
    listing->has_key = listing->has_size = false;
    memset(&listing->object, 0, sizeof listing->object);
    listing->given++;
    return code;
}

static bool take_page_field(struct listing *listing, const char *name, const char *text,
                            bool cut)
{
    if (strcmp(name, "NextContinuationToken") == 0) {
        return text && !cut &&
               s3d_copy_text(listing->next_token, listing->token_size, text, strlen(text));
    }
    if (strcmp(name, "IsTruncated") == 0) {
        listing->has_truncated = true;
        listing->truncated = text && strcmp(text, "true") == 0;
        return listing->truncated || (text && strcmp(text, "false") == 0);
    }
    if (strcmp(name, "EncodingType") == 0 && text && strcmp(text, "url") == 0) {
        listing->restart = listing->given > 0 && !listing->encoded;
        listing->encoded = true;
    }
    return true;
}

static enum s3d_code list_leaf(void *context, const char *path, char *text, bool cut,
                               struct s3d_error *error)
{
    static const char object_prefix[] = "ListBucketResult/Contents/";
    static const char page_prefix[] = "ListBucketResult/";
    const size_t object_length = sizeof object_prefix - 1, page_length = sizeof page_prefix - 1;
    struct listing *listing = context;
    if (strcmp(path, "ListBucketResult/Contents") == 0) {
        return give_object(listing, error);
    }
    bool good = true;
    if (strncmp(path, object_prefix, object_length) == 0) {
        good = take_object_field(listing, path + object_length, text, cut);
    } else if (strncmp(path, page_prefix, page_length) == 0) {
        good = take_page_field(listing, path + page_length, text, cut);
    }
    if (!good) {
        return fail_value(error, path);
    }
    return listing->restart ? S3D_AGAIN : S3D_OK; /* AGAIN goes to list_page */
}

static enum s3d_code check_page(struct listing *listing, struct s3d_error *error)
{
    if (!listing->has_truncated) {
        return fail_value(error, "ListBucketResult/IsTruncated");
    }
    if (!listing->truncated) {
        listing->next_token[0] = '\0';
    } else if (!listing->next_token[0]) {
        return fail_value(error, "ListBucketResult/NextContinuationToken");
    }
    return S3D_OK;
}

/* AGAIN: the keys turned out to be encoded after some were given out as they stood. */
static enum s3d_code list_page(struct listing *listing, const char *text, size_t length,
                               struct s3d_error *error)
{
    listing->next_token[0] = '\0';
    if (listing->sink->reset) {
        listing->sink->reset(listing->sink->context);
    }
    enum s3d_code code = parse(text, length, "ListBucketResult", list_leaf, listing, error);
    if (!code) {
        code = check_page(listing, error);
    }
    return code;
}

enum s3d_code s3d_xml_list(const char *text, size_t length, const struct s3d_list_sink *sink,
                           char *next_token, size_t token_size, struct s3d_error *error)
{
    struct listing listing = {.sink = sink, .next_token = next_token, .token_size = token_size};
    enum s3d_code code = list_page(&listing, text, length, error);
    if (code == S3D_AGAIN && listing.restart) {
        listing = (struct listing){
            .sink = sink, .next_token = next_token, .token_size = token_size, .encoded = true};
        code = list_page(&listing, text, length, error);
    }
    if (code) {
        next_token[0] = '\0';
    }
    return code;
}
