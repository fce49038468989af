#include "bind/errors.h"

#include "bind/target.h"
#include "core/str.h"
#include "core/uri.h"

#include <errno.h>
#include <string.h>

enum { TEXT_MAX = 8192 };

/* The exception column of core/error.h. */
enum kind {
    KIND_NONE,
    KIND_STORAGE,
    KIND_MEMORY,
    KIND_VALUE,
    KIND_UNSUPPORTED,
    KIND_PERMISSION,
    KIND_NOT_FOUND,
    KIND_EXISTS,
    KIND_CHANGED,
    KIND_INTEGRITY,
    KIND_OS,
    KIND_RUNTIME,
};

static const enum kind kinds[] = {
#define X(name, exception, retryable) KIND_##exception,
    S3D_CODES(X)
#undef X
};

static enum kind kind_of(enum s3d_code code)
{
    return (size_t)code < sizeof kinds / sizeof *kinds ? kinds[code] : KIND_RUNTIME;
}

/* --- the classes -------------------------------------------------------------------------- */

/* The whole message and nothing else: OSError would put "[Errno 2]" before and the name behind
 * a text that says both already. */
static PyObject *storage_error_str(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *text = PyObject_GetAttrString(self, "strerror");
    if (!text || PyUnicode_Check(text)) {
        return text;
    }
    Py_DECREF(text);
    return ((PyTypeObject *)PyExc_OSError)->tp_str(self);
}

static PyMethodDef storage_error_str_method = {"__str__", storage_error_str, METH_NOARGS, NULL};

static PyObject *default_attributes(void)
{
    return Py_BuildValue("{s:O,s:O,s:O,s:O,s:i,s:O,s:O}", "code", Py_None, "status", Py_None,
                         "server_code", Py_None, "request_id", Py_None, "attempts", 0, "uri",
                         Py_None, "operation", Py_None);
}

static PyObject *new_storage_error(void)
{
    PyObject *attributes = default_attributes();
    if (!attributes) {
        return NULL;
    }
    PyObject *type = PyErr_NewExceptionWithDoc(
        "s3dlio_np.StorageError",
        "A store refused or could not be reached.\n\n"
        "code: this library's name of what happened, such as \"NETWORK\". status: the HTTP\n"
        "status. server_code and request_id: the store's own. attempts: how often it was\n"
        "tried. uri, operation: what failed. None where not known.",
        PyExc_OSError, attributes);
    Py_DECREF(attributes);
    if (!type) {
        return NULL;
    }
    PyObject *method = PyDescr_NewMethod((PyTypeObject *)type, &storage_error_str_method);
    if (!method || PyObject_SetAttrString(type, "__str__", method)) {
        Py_CLEAR(type);
    }
    Py_XDECREF(method);
    return type;
}

static PyObject *new_subclass(PyObject *storage_error, PyObject *builtin, const char *name,
                              const char *doc)
{
    PyObject *bases =
        builtin ? PyTuple_Pack(2, storage_error, builtin) : PyTuple_Pack(1, storage_error);
    if (!bases) {
        return NULL;
    }
    PyObject *type = PyErr_NewExceptionWithDoc(name, doc, bases, NULL);
    Py_DECREF(bases);
    return type;
}

static int add_subclass(PyObject *module, PyObject *storage_error, PyObject *builtin,
                        const char *name, const char *doc, PyObject **slot)
{
    *slot = new_subclass(storage_error, builtin, name, doc);
    return *slot ? PyModule_AddObjectRef(module, strrchr(name, '.') + 1, *slot) : -1;
}

static PyObject *import_unsupported(void)
{
    PyObject *io = PyImport_ImportModule("io");
    PyObject *type = io ? PyObject_GetAttrString(io, "UnsupportedOperation") : NULL;
    Py_XDECREF(io);
    return type;
}

int bind_errors_init(PyObject *module, struct bind_state *state)
{
    state->unsupported_error = import_unsupported();
    state->storage_error = state->unsupported_error ? new_storage_error() : NULL;
    if (!state->storage_error ||
        PyModule_AddObjectRef(module, "StorageError", state->storage_error)) {
        return -1;
    }
    PyObject *base = state->storage_error;
    if (add_subclass(module, base, PyExc_FileNotFoundError, "s3dlio_np.ObjectNotFoundError",
                     "No such object, bucket or file.", &state->not_found_error) ||
        add_subclass(module, base, PyExc_PermissionError, "s3dlio_np.AccessDeniedError",
                     "Credentials are missing, wrong, or lack the right.",
                     &state->denied_error) ||
        add_subclass(module, base, PyExc_FileExistsError, "s3dlio_np.ObjectExistsError",
                     "A create-only write found the object there.", &state->exists_error) ||
        add_subclass(
            module, base, NULL, "s3dlio_np.ObjectChangedError",
            "The object was replaced while it was read, or before a write on a condition.",
            &state->changed_error) ||
        add_subclass(module, base, NULL, "s3dlio_np.IntegrityError",
                     "A checksum does not match the bytes.", &state->integrity_error)) {
        return -1;
    }
    return 0;
}

/* --- the text ----------------------------------------------------------------------------- */

static void add_details(struct s3d_str *text, const struct s3d_error *error)
{
    const char *before = " (";
    if (error->http_status) {
        s3d_str_add_format(text, "%sHTTP %d", before, error->http_status);
        before = ", ";
    }
    if (error->server_code[0]) {
        s3d_str_add_format(text, "%s%s", error->http_status ? " " : before, error->server_code);
        before = ", ";
    }
    if (error->request_id[0]) {
        s3d_str_add_format(text, "%srequest id %s", before, error->request_id);
        before = ", ";
    }
    if (error->attempts > 1) {
        s3d_str_add_format(text, "%safter %u attempts", before, error->attempts);
        before = ", ";
    }
    if (before[0] == ',') {
        s3d_str_add(text, ")");
    }
}

/* A key may hold anything, but a message is one line that steers no terminal: C0, DEL and C1 become \xNN. */
static void add_shown(struct s3d_str *text, const char *raw)
{
    for (const unsigned char *c = (const unsigned char *)raw; *c; c++) {
        bool is_c1 = c[0] == 0xC2 && c[1] >= 0x80 && c[1] <= 0x9F;
        c += is_c1;
        if (is_c1 || *c < ' ' || *c == 0x7F) {
            s3d_str_add_format(text, "\\x%02x", *c);
        } else {
            s3d_str_add_bytes(text, c, 1);
        }
    }
}

/* "URI: OPERATION failed: MESSAGE (HTTP 403 AccessDenied, request id X, after 3 attempts)" */
static PyObject *text_of(const struct s3d_error *error, const char *uri)
{
    struct s3d_str raw = S3D_STR(TEXT_MAX), text = S3D_STR(4 * TEXT_MAX);
    if (uri && uri[0]) {
        s3d_str_add_format(&raw, "%.4096s: ", uri);
    }
    if (error->operation[0]) {
        s3d_str_add_format(&raw, "%s failed: ", error->operation);
    }
    s3d_str_add(&raw, error->message[0] ? error->message : s3d_code_name(error->code));
    add_details(&raw, error);
    add_shown(&text, s3d_str_text(&raw));
    PyObject *result =
        s3d_str_check(&raw, NULL) || s3d_str_check(&text, NULL)
            ? PyUnicode_FromString(s3d_code_name(error->code))
            : PyUnicode_DecodeUTF8(text.data, (Py_ssize_t)text.length, "backslashreplace");
    s3d_str_fini(&raw);
    s3d_str_fini(&text);
    return result;
}

/* What OSError.filename says: the path for local files, else the URI. */
static PyObject *filename_of(const char *uri)
{
    struct s3d_uri parsed;
    if (!uri) {
        Py_RETURN_NONE;
    }
    if (s3d_uri_parse(&parsed, uri, strlen(uri), NULL)) {
        return bind_uri_text(uri, strlen(uri));
    }
    PyObject *name = parsed.scheme == S3D_SCHEME_FILE ? PyUnicode_DecodeFSDefault(parsed.key)
                                                      : bind_uri_text(uri, strlen(uri));
    s3d_uri_fini(&parsed);
    return name;
}

/* --- the object --------------------------------------------------------------------------- */

static int errno_of(const struct s3d_error *error, enum kind kind)
{
    if (error->sys_errno) {
        return error->sys_errno;
    }
    return kind == KIND_NOT_FOUND    ? ENOENT
           : kind == KIND_PERMISSION ? EACCES
           : kind == KIND_EXISTS     ? EEXIST
                                     : 0;
}

static PyObject *new_os_error(PyObject *type, const struct s3d_error *error, enum kind kind,
                              const char *uri)
{
    int number = errno_of(error, kind);
    /* Plain OSError appends the file name to its text by itself. */
    PyObject *text = text_of(error, kind == KIND_OS && number ? NULL : uri);
    if (!text || !number) {
        PyObject *bare = text ? PyObject_CallFunctionObjArgs(type, text, NULL) : NULL;
        Py_XDECREF(text);
        return bare;
    }
    PyObject *filename = filename_of(uri);
    PyObject *exception =
        filename ? PyObject_CallFunction(type, "iOO", number, text, filename) : NULL;
    Py_XDECREF(filename);
    Py_DECREF(text);
    return exception;
}

/* Steals value. */
static int set_attribute(PyObject *exception, const char *name, PyObject *value)
{
    int failure = value ? PyObject_SetAttrString(exception, name, value) : -1;
    Py_XDECREF(value);
    return failure;
}

static PyObject *text_or_none(const char *text)
{
    if (!text || !text[0]) {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");
}

static PyObject *status_or_none(int status)
{
    if (!status) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(status);
}

static int set_attributes(PyObject *exception, const struct s3d_error *error, const char *uri)
{
    if (set_attribute(exception, "code", PyUnicode_FromString(s3d_code_name(error->code))) ||
        set_attribute(exception, "status", status_or_none(error->http_status)) ||
        set_attribute(exception, "server_code", text_or_none(error->server_code)) ||
        set_attribute(exception, "request_id", text_or_none(error->request_id)) ||
        set_attribute(exception, "attempts", PyLong_FromUnsignedLong(error->attempts)) ||
        set_attribute(exception, "uri", text_or_none(uri)) ||
        set_attribute(exception, "operation", text_or_none(error->operation))) {
        return -1;
    }
    return 0;
}

/* Borrowed. */
static PyObject *type_of(const struct bind_state *state, enum kind kind)
{
    switch (kind) {
    case KIND_STORAGE: return state->storage_error;
    case KIND_PERMISSION: return state->denied_error;
    case KIND_NOT_FOUND: return state->not_found_error;
    case KIND_EXISTS: return state->exists_error;
    case KIND_CHANGED: return state->changed_error;
    case KIND_INTEGRITY: return state->integrity_error;
    case KIND_OS: return PyExc_OSError;
    case KIND_MEMORY: return PyExc_MemoryError;
    case KIND_VALUE: return PyExc_ValueError;
    case KIND_UNSUPPORTED: return state->unsupported_error;
    case KIND_NONE: /* a code that is no failure was raised: our bug */
    case KIND_RUNTIME: break;
    }
    return PyExc_RuntimeError;
}

PyObject *bind_error_object(const struct bind_state *state, const struct s3d_error *error,
                            const char *uri)
{
    enum kind kind = kind_of(error->code);
    PyObject *type = type_of(state, kind);
    PyObject *exception;
    if (PyType_IsSubtype((PyTypeObject *)type, (PyTypeObject *)PyExc_OSError) &&
        kind != KIND_UNSUPPORTED) {
        exception = new_os_error(type, error, kind, uri);
    } else {
        PyObject *text = text_of(error, uri);
        exception = text ? PyObject_CallFunctionObjArgs(type, text, NULL) : NULL;
        Py_XDECREF(text);
    }
    if (exception && set_attributes(exception, error, uri)) {
        Py_CLEAR(exception);
    }
    return exception;
}

PyObject *bind_raise(const struct bind_state *state, const struct s3d_error *error,
                     const char *uri)
{
    PyObject *exception = bind_error_object(state, error, uri);
    if (exception) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        Py_DECREF(exception);
    }
    return NULL;
}
