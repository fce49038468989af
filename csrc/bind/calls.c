#include "bind/calls.h"

#include "bind/request.h"
#include "core/mem.h"
#include "core/str.h"

#include <datetime.h>
#include <string.h>

enum { URI_MAX = 65536 };

_Static_assert(sizeof((struct s3d_request *)0)->result.next_token == 2048, "struct page");

int bind_calls_init(void)
{
    PyDateTime_IMPORT;
    return PyDateTimeAPI ? 0 : -1;
}

/* --- an object as a dict ------------------------------------------------------------------ */

/* UTC, or None when the store did not say. */
static PyObject *time_of(int64_t unix_s)
{
    if (!unix_s) {
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
    char token[2048]; /* of the page before */
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
    bool file_uri = strncmp(bind_target_text(target), "file:", 5) == 0;
    if (target->uri.scheme == S3D_SCHEME_S3) {
        s3d_str_add_format(&text, "s3://%s/%s", target->uri.container, key);
    } else if (file_uri) {
        s3d_str_add(&text, "file://");
        s3d_str_add_encoded(&text, key, true);
    } else {
        s3d_str_add(&text, key);
    }
    PyObject *uri = s3d_str_check(&text, NULL)
                        ? PyErr_NoMemory()
                        : PyUnicode_DecodeFSDefaultAndSize(text.data, (Py_ssize_t)text.length);
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

static PyObject *list_all(const struct bind_state *state, const struct bind_target *target,
                          struct s3d_call *call, struct page *page)
{
    PyObject *list = PyList_New(0);
    page->sink = (struct s3d_list_sink){page, page_reset, page_add};
    call->request.list = &page->sink;
    bool more = list != NULL;
    while (more) {
        call->request.list_token = page->token[0] ? page->token : NULL;
        if (bind_request_run(state, target, call) || append_page(list, target, page)) {
            Py_CLEAR(list);
            break;
        }
        page_reset(page);
        memcpy(page->token, call->request.result.next_token, sizeof page->token);
        more = page->token[0] != '\0';
    }
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
