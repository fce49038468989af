#include "bind/calls.h"

#include "bind/errors.h"
#include "bind/request.h"
#include "core/mem.h"
#include "core/str.h"

#include <datetime.h>
#include <string.h>

enum {
    URI_MAX = 65536,
    EMPTY_PAGES_MAX = 10000, /* in a row: S3 sends some where it passes over delete markers */
};

static const int64_t YEAR_1_S = INT64_C(-62135596800);
static const int64_t YEAR_10000_S = INT64_C(253402300800);

int bind_calls_init(void)
{
    PyDateTime_IMPORT;
    return PyDateTimeAPI ? 0 : -1;
}

/* --- an object as a dict ------------------------------------------------------------------ */

/* UTC, or None when the store did not say, or named a year that Python does not know. */
static PyObject *time_of(int64_t unix_s)
{
    if (!unix_s || unix_s < YEAR_1_S || unix_s >= YEAR_10000_S) {
        Py_RETURN_NONE;
    }
    PyObject *args = Py_BuildValue("(LO)", (long long)unix_s, PyDateTime_TimeZone_UTC);
    PyObject *time = args ? PyDateTime_FromTimestamp(args) : NULL;
    Py_XDECREF(args);
    return time;
}

/* {size, etag, last_modified, uri}; steals uri, which may be NULL after an error. */
static PyObject *dict_of(const struct s3d_object *object, PyObject *uri)
{
    PyObject *time = uri ? time_of(object->modified_s) : NULL;
    PyObject *dict = time ? Py_BuildValue("{s:K,s:s,s:O,s:O}", "size",
                                          (unsigned long long)object->size_bytes, "etag",
                                          object->etag, "last_modified", time, "uri", uri)
                          : NULL;
    Py_XDECREF(time);
    Py_XDECREF(uri);
    return dict;
}

/* --- stat and delete ---------------------------------------------------------------------- */

/* Opens the target of the only argument. */
static int open_only_target(struct bind_target *target, PyObject *module, PyObject *args,
                            PyObject *keywords, bool object)
{
    static const char *const names[] = {"uri", NULL};
    PyObject *uri;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", BIND_NAMES(names), &uri)) {
        return -1;
    }
    return bind_target_open(target, PyModule_GetState(module), uri, object);
}

/* "crc64nvme:VALUE", or None. 0 or -1. */
static int add_checksum(PyObject *dict, const struct s3d_object *object)
{
    PyObject *text = object->sum_kind
                         ? PyUnicode_FromFormat("%s:%s", object->sum_kind->name, object->sum)
                         : Py_NewRef(Py_None);
    int failed = text ? PyDict_SetItemString(dict, "checksum", text) : -1;
    Py_XDECREF(text);
    return failed;
}

PyObject *bind_stat(PyObject *module, PyObject *args, PyObject *keywords)
{
    struct bind_target target;
    PyObject *result = NULL;
    if (open_only_target(&target, module, args, keywords, true)) {
        return NULL;
    }
    const struct bind_state *state = PyModule_GetState(module);
    struct s3d_call *call = bind_request_new(state, &target, S3D_VERB_STAT);
    if (call && !bind_request_run(state, &target, call)) {
        result = dict_of(&call->request.result.object, Py_NewRef(target.name));
        if (result && add_checksum(result, &call->request.result.object)) {
            Py_CLEAR(result);
        }
    }
    bind_request_free(call);
    bind_target_fini(&target);
    return result;
}

PyObject *bind_delete(PyObject *module, PyObject *args, PyObject *keywords)
{
    struct bind_target target;
    if (open_only_target(&target, module, args, keywords, true)) {
        return NULL;
    }
    const struct bind_state *state = PyModule_GetState(module);
    struct s3d_call *call = bind_request_new(state, &target, S3D_VERB_DELETE);
    bool done = call && !bind_request_run(state, &target, call);
    bind_request_free(call);
    bind_target_fini(&target);
    return done ? Py_NewRef(Py_None) : NULL;
}

/* --- list --------------------------------------------------------------------------------- */

/* One page, gathered on an I/O thread, where no Python object may be touched. */
struct page {
    struct row {
        char *key;
        struct s3d_object object;
    } *rows;
    size_t count, capacity;
    struct s3d_list_sink sink;
    char token[S3D_LIST_TOKEN_MAX]; /* of the page before */
};

static void page_reset(void *context)
{
    struct page *page = context;
    for (size_t i = 0; i < page->count; i++) {
        s3d_free(page->rows[i].key);
    }
    page->count = 0;
}

static void page_fini(struct page *page)
{
    page_reset(page);
    s3d_free(page->rows);
}

static enum s3d_code page_grow(struct page *page, struct s3d_error *error)
{
    size_t capacity = page->capacity ? page->capacity * 2 : 256, bytes;
    struct row *rows = NULL;
    if (s3d_size_mul(capacity, sizeof *rows, &bytes)) {
        rows = s3d_resize(page->rows, bytes);
    }
    if (!rows) {
        return s3d_fail_memory(error, capacity);
    }
    page->rows = rows;
    page->capacity = capacity;
    return S3D_OK;
}

static enum s3d_code page_add(void *context, const char *key, const struct s3d_object *object,
                              struct s3d_error *error)
{
    struct page *page = context;
    enum s3d_code code = page->count == page->capacity ? page_grow(page, error) : S3D_OK;
    if (code) {
        return code;
    }
    char *copy = s3d_copy_string(key);
    if (!copy) {
        return s3d_fail_memory(error, strlen(key) + 1);
    }
    page->rows[page->count++] = (struct row){copy, *object};
    return S3D_OK;
}

/* The URI that opens `key`, in the form in which the prefix was given. */
static PyObject *uri_of(const struct bind_target *target, const char *key)
{
    struct s3d_str text = S3D_STR(URI_MAX);
    if (target->uri.scheme == S3D_SCHEME_S3) {
        s3d_str_add_format(&text, "s3://%s/%s", target->uri.container, key);
    } else if (strstr(bind_target_text(target), "://")) {
        s3d_str_add(&text, "file://");
        s3d_str_add_encoded(&text, key, true);
    } else {
        s3d_str_add(&text, key);
    }
    PyObject *uri =
        s3d_str_check(&text, NULL) ? PyErr_NoMemory() : bind_uri_text(text.data, text.length);
    s3d_str_fini(&text);
    return uri;
}

static int append_page(PyObject *list, const struct bind_target *target,
                       const struct page *page)
{
    for (size_t i = 0; i < page->count; i++) {
        const struct row *row = &page->rows[i];
        PyObject *dict = dict_of(&row->object, uri_of(target, row->key));
        int failed = dict ? PyList_Append(list, dict) : -1;
        Py_XDECREF(dict);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

/*
 * Where a listing has been, to see whether it comes to an end: a page is kept and compared with the
 * ones that follow, and after twice as many pages another one (Brent's cycle detection). Keys may come
 * in any order, but none twice, and nobody is sent back to where he was.
 */
struct course {
    size_t pages, next_kept, empty;
    char *first_key; /* of the kept page */
    char token[S3D_LIST_TOKEN_MAX];
};

static enum s3d_code fail_endless(const char *why, struct s3d_error *error)
{
    enum s3d_code code =
        s3d_fail(error, S3D_PROTOCOL, "the store's listing has no end: %s", why);
    s3d_error_set_operation(error, "%s", s3d_verb_name(S3D_VERB_LIST));
    return code;
}

/* `token`: where the next page is to begin. */
static enum s3d_code course_check(struct course *course, const struct page *page,
                                  const char *token, struct s3d_error *error)
{
    const char *first_key = page->count ? page->rows[0].key : NULL;
    if (first_key && course->first_key && strcmp(first_key, course->first_key) == 0) {
        return fail_endless("a page begins with a key that was there before", error);
    }
    if (token[0] && strcmp(token, course->token) == 0) {
        return fail_endless("it leads back to a page that was there before", error);
    }
    course->empty = first_key ? 0 : course->empty + 1;
    if (course->empty > EMPTY_PAGES_MAX) {
        return fail_endless("thousands of pages in a row hold no key", error);
    }
    if (course->pages++ < course->next_kept) {
        return S3D_OK;
    }
    course->next_kept = 2 * course->pages;
    memcpy(course->token, token, sizeof course->token);
    s3d_free(course->first_key);
    course->first_key = first_key ? s3d_copy_string(first_key) : NULL;
    return first_key && !course->first_key ? s3d_fail_memory(error, strlen(first_key) + 1)
                                           : S3D_OK;
}

static PyObject *list_all(const struct bind_state *state, const struct bind_target *target,
                          struct s3d_call *call, struct page *page)
{
    PyObject *list = PyList_New(0);
    struct course course = {0};
    struct s3d_error error;
    page->sink = (struct s3d_list_sink){page, page_reset, page_add};
    call->request.list = &page->sink;
    bool more = list != NULL;
    while (more) {
        call->request.list_token = page->token[0] ? page->token : NULL;
        if (bind_request_run(state, target, call) || append_page(list, target, page)) {
            Py_CLEAR(list);
            break;
        }
        if (course_check(&course, page, call->request.result.next_token, &error)) {
            bind_raise(state, &error, bind_target_text(target));
            Py_CLEAR(list);
            break;
        }
        page_reset(page);
        memcpy(page->token, call->request.result.next_token, sizeof page->token);
        more = page->token[0] != '\0';
    }
    s3d_free(course.first_key);
    return list;
}

PyObject *bind_list(PyObject *module, PyObject *args, PyObject *keywords)
{
    struct bind_target target;
    struct page page = {0};
    PyObject *list = NULL;
    if (open_only_target(&target, module, args, keywords, false)) {
        return NULL;
    }
    const struct bind_state *state = PyModule_GetState(module);
    struct s3d_call *call = bind_request_new(state, &target, S3D_VERB_LIST);
    if (call) {
        list = list_all(state, &target, call, &page);
    }
    bind_request_free(call);
    page_fini(&page);
    bind_target_fini(&target);
    return list;
}
