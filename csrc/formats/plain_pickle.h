/*
 * Scans the pickle of a plain torch checkpoint without building anything.
 *
 * Plain is what torch.save makes, by pickle protocol 2, of nested dicts, OrderedDicts, lists,
 * tuples and sets of numbers, None, str, bytes, bytearray, torch.Size, dtypes, devices, strided
 * tensors and Parameters. All else, all that torch.load(weights_only=True) would refuse or warn
 * of, and all whose meaning is not certain, is UNSUPPORTED: torch's own code is to read it then.
 * So the scan may be narrower than torch's unpickler, but never wider.
 *
 * The result is a program of steps in the order of the pickle. A step makes a value, or fills a
 * container that an earlier one made; it refers to other values by the number of the step that
 * made them, always an earlier one. What the program promises its runner:
 *
 *   - texts are valid UTF-8 without surrogates; keys and members of sets are hashable;
 *   - every tensor lies within its storage; its dtype is its storage's only one;
 *   - storages of several bytes differ in their key;
 *   - `alive` marks what the result consists of; no storage and no function is among it.
 *
 * No count or index in the pickle is trusted: memory is in proportion to the pickle's length,
 * which is at most S3D_PLAIN_PICKLE_MAX. A result is frozen: any thread may read it.
 */
#ifndef S3D_FORMATS_PLAIN_PICKLE_H
#define S3D_FORMATS_PLAIN_PICKLE_H

#include "core/error.h"

#define S3D_PLAIN_PICKLE_MAX (UINT64_C(1) << 28)

enum { S3D_PLAIN_DIMENSIONS_MAX = 64 };

/* X(dtype's name, its legacy storage's name or "", bytes of an element, takes gradients) */
#define S3D_PLAIN_DTYPES(X)                                                                    \
    X(uint8, "ByteStorage", 1, false)                                                          \
    X(int8, "CharStorage", 1, false)                                                           \
    X(int16, "ShortStorage", 2, false)                                                         \
    X(int32, "IntStorage", 4, false)                                                           \
    X(int64, "LongStorage", 8, false)                                                          \
    X(float16, "HalfStorage", 2, true)                                                         \
    X(float32, "FloatStorage", 4, true)                                                        \
    X(float64, "DoubleStorage", 8, true)                                                       \
    X(bfloat16, "BFloat16Storage", 2, true)                                                    \
    X(complex64, "ComplexFloatStorage", 8, true)                                               \
    X(complex128, "ComplexDoubleStorage", 16, true)                                            \
    X(bool, "BoolStorage", 1, false)                                                           \
    X(uint16, "", 2, false)                                                                    \
    X(uint32, "", 4, false)                                                                    \
    X(uint64, "", 8, false)                                                                    \
    X(float8_e4m3fn, "", 1, false)                                                             \
    X(float8_e4m3fnuz, "", 1, false)                                                           \
    X(float8_e5m2, "", 1, false)                                                               \
    X(float8_e5m2fnuz, "", 1, false)                                                           \
    X(float8_e8m0fnu, "", 1, false)                                                            \
    X(complex32, "", 4, false)

enum s3d_plain_dtype {
#define X(name, storage, bytes, gradients) S3D_PLAIN_##name,
    S3D_PLAIN_DTYPES(X)
#undef X
        S3D_PLAIN_DTYPE_COUNT
};

const char *s3d_plain_dtype_name(enum s3d_plain_dtype dtype);
unsigned s3d_plain_dtype_bytes(enum s3d_plain_dtype dtype);

enum s3d_plain_kind {
    S3D_PLAIN_NONE,
    S3D_PLAIN_FALSE,
    S3D_PLAIN_TRUE,
    S3D_PLAIN_INTEGER,
    S3D_PLAIN_LONG, /* little endian, two's complement: `count` bytes at `first` */
    S3D_PLAIN_REAL,
    S3D_PLAIN_TEXT,  /* UTF-8: `count` bytes at `first` */
    S3D_PLAIN_TUPLE, /* of the operands [first, first + count) */
    S3D_PLAIN_LIST,  /* these three are made empty; `first`: private */
    S3D_PLAIN_DICT,
    S3D_PLAIN_ORDERED_DICT,
    S3D_PLAIN_SET,       /* of what the list `target` holds now */
    S3D_PLAIN_BYTES,     /* the text `target`, all below U+0100, as Latin-1 */
    S3D_PLAIN_BYTEARRAY, /* of the bytes `target`; empty with a `count` of 0 */
    S3D_PLAIN_COMPLEX,   /* of two reals, operands at `first` */
    S3D_PLAIN_SIZE,      /* torch.Size of the tuple `target` */
    S3D_PLAIN_DTYPE,     /* `index` */
    S3D_PLAIN_DEVICE,    /* torch.device(*tuple `target`) */
    S3D_PLAIN_TENSOR,    /* `index` */
    S3D_PLAIN_PARAMETER, /* of the tensor `target`; `flag`: requires_grad */
    S3D_PLAIN_STORAGE,   /* `index`; never alive, nor is a function */
    S3D_PLAIN_FUNCTION,
    /* Steps without a value; `index`: private. */
    S3D_PLAIN_APPEND,    /* to the list `target`, operands [first, first + count) */
    S3D_PLAIN_SET_ITEMS, /* of the dict `target`: keys and values in turn */
    S3D_PLAIN_SET_STATE /* the __dict__ of the OrderedDict `target` takes the dict at `first` */
};

struct s3d_plain_step {
    uint8_t kind;
    bool alive;
    bool flag;
    uint8_t depth;   /* private: of tuples in tuples */
    bool unhashable; /* private: itself, or of a list: something in it */
    bool hooks;      /* private: an OrderedDict that stands for a tensor's hooks */
    bool filled;     /* private: a dict that is not empty */
    uint32_t target;
    uint32_t first;
    uint32_t count;
    union {
        int64_t integer;
        double real;
        uint32_t index;
    };
};

struct s3d_plain_storage {
    uint32_t key;          /* the record is "data/KEY", in decimal */
    uint8_t declared;      /* the dtype it was saved as */
    uint8_t dtype;         /* of its tensors; as declared when it has none */
    uint8_t element_bytes; /* of `dtype` */
    uint32_t users;        /* tensors over it */
    uint64_t bytes;        /* a multiple of both dtypes' sizes */
};

struct s3d_plain_tensor {
    uint32_t storage;
    uint8_t dtype;
    bool requires_grad;
    uint8_t dimensions;
    size_t shape;   /* index in `extents`: sizes, then strides in elements */
    int64_t offset; /* in elements */
    uint64_t bytes; /* of the storage up to its last element's end; 0: no element */
};

struct s3d_plain {
    const unsigned char *pickle; /* the caller's, who keeps it */
    struct s3d_plain_step *steps;
    uint32_t *operands;
    struct s3d_plain_storage *storages;
    struct s3d_plain_tensor *tensors;
    int64_t *extents;
    size_t step_count, operand_count, storage_count, tensor_count, extent_count;
    uint32_t result; /* a step */
};

/*
 * Scans the pickle, which stays in use. any_location: whether tensors from any device are wanted
 * (they then all go to the CPU), not only the CPU's. UNSUPPORTED, saying why, or NO_MEMORY; fit for
 * s3d_plain_fini whatever the result.
 */
S3D_MUST_USE enum s3d_code s3d_plain_scan(struct s3d_plain *plain, const void *pickle,
                                          size_t length, bool any_location,
                                          struct s3d_error *error);
void s3d_plain_fini(struct s3d_plain *plain);

#endif
