#include "formats/plain_state.h"

#include "core/mem.h"

#include <string.h>

/* The opcodes that torch's own weights_only unpickler knows, but for legacy ones. */
enum opcode {
    OP_MARK = '(',
    OP_EMPTY_TUPLE = ')',
    OP_STOP = '.',
    OP_FLOAT = 'G',
    OP_INT4 = 'J',
    OP_INT1 = 'K',
    OP_INT2 = 'M',
    OP_NONE = 'N',
    OP_PERSISTENT = 'Q',
    OP_REDUCE = 'R',
    OP_TEXT = 'X',
    OP_EMPTY_LIST = ']',
    OP_APPEND = 'a',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_APPENDS = 'e',
    OP_GET1 = 'h',
    OP_GET4 = 'j',
    OP_PUT1 = 'q',
    OP_PUT4 = 'r',
    OP_SET_ITEM = 's',
    OP_TUPLE = 't',
    OP_SET_ITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_PROTOCOL = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_TRUE = 0x88,
    OP_FALSE = 0x89,
    OP_LONG1 = 0x8a
};

/* Of any other protocol torch warns. */
enum { PROTOCOL = 2 };

enum { ROOM_MAX = 1 << 20 }; /* steps to make room for beforehand */

static const char *const dtype_names[] = {
#define X(name, storage, bytes, gradients) #name,
    S3D_PLAIN_DTYPES(X)
#undef X
};

static const unsigned char dtype_bytes[] = {
#define X(name, storage, bytes, gradients) bytes,
    S3D_PLAIN_DTYPES(X)
#undef X
};

const char *s3d_plain_dtype_name(enum s3d_plain_dtype dtype)
{
    return dtype_names[dtype];
}

unsigned s3d_plain_dtype_bytes(enum s3d_plain_dtype dtype)
{
    return dtype_bytes[dtype];
}

/* --- refusals and memory ------------------------------------------------------------------- */

enum s3d_code plain_refuse(const struct plain_scan *scan, const char *why)
{
    return s3d_fail(scan->error, S3D_UNSUPPORTED, "not a plain pickle up to byte %zu: %s",
                    (size_t)(scan->at - scan->plain->pickle), why);
}

enum s3d_code plain_enlarge(const struct plain_scan *scan, void **items, size_t count,
                            size_t more, size_t bytes, size_t *room)
{
    size_t need, larger = *room ? *room : 32, size;
    if (!s3d_size_add(count, more, &need) || need > SIZE_MAX / 2) {
        return s3d_fail_memory(scan->error, SIZE_MAX);
    }
    while (larger < need) {
        larger *= 2;
    }
    if (!s3d_size_mul(larger, bytes, &size)) {
        return s3d_fail_memory(scan->error, SIZE_MAX);
    }
    void *memory = s3d_resize(*items, size);
    if (!memory) {
        return s3d_fail_memory(scan->error, size);
    }
    *items = memory;
    *room = larger;
    return S3D_OK;
}

enum s3d_code plain_reach(const struct plain_scan *scan, uint32_t **items, size_t *count,
                          size_t *room, uint64_t number)
{
    void *memory = *items;
    if (number < *count) {
        return S3D_OK;
    }
    if (number >= (uint64_t)(scan->end - scan->plain->pickle)) {
        return plain_refuse(scan, "a number that torch.save would not have reached");
    }
    size_t more = (size_t)number + 1 - *count;
    enum s3d_code code = plain_grow(scan, &memory, *count, more, sizeof **items, room);
    if (code) {
        return code;
    }
    *items = memory;
    memset(*items + *count, 0xff, more * sizeof **items); /* PLAIN_NOTHING */
    *count += more;
    return S3D_OK;
}

/* --- steps and the stack ------------------------------------------------------------------- */

static enum s3d_code add_step(struct plain_scan *scan, enum s3d_plain_kind kind,
                              struct s3d_plain_step **step)
{
    struct s3d_plain *plain = scan->plain;
    void *memory = plain->steps;
    enum s3d_code code =
        plain_grow(scan, &memory, plain->step_count, 1, sizeof **step, &scan->step_room);
    plain->steps = memory;
    if (!code) {
        *step = &plain->steps[plain->step_count++];
        **step = (struct s3d_plain_step){.kind = (uint8_t)kind};
    }
    return code;
}

static enum s3d_code push_number(struct plain_scan *scan, uint32_t number)
{
    void *memory = scan->stack;
    enum s3d_code code =
        plain_grow(scan, &memory, scan->stack_count, 1, sizeof *scan->stack, &scan->stack_room);
    scan->stack = memory;
    if (!code) {
        scan->stack[scan->stack_count++] = number;
    }
    return code;
}

enum s3d_code plain_push(struct plain_scan *scan, enum s3d_plain_kind kind,
                         struct s3d_plain_step **step)
{
    enum s3d_code code = add_step(scan, kind, step);
    return code ? code : push_number(scan, (uint32_t)(scan->plain->step_count - 1));
}

static size_t on_top(const struct plain_scan *scan)
{
    return scan->stack_count - scan->floor;
}

struct s3d_plain_step *plain_peek(const struct plain_scan *scan, size_t below)
{
    return below < on_top(scan)
               ? &scan->plain->steps[scan->stack[scan->stack_count - 1 - below]]
               : NULL;
}

/* Takes the top `count` from the stack and puts them among the operands, at *first. */
static enum s3d_code take_operands(struct plain_scan *scan, size_t count, uint32_t *first)
{
    struct s3d_plain *plain = scan->plain;
    void *memory = plain->operands;
    enum s3d_code code = plain_grow(scan, &memory, plain->operand_count, count,
                                    sizeof *plain->operands, &scan->operand_room);
    plain->operands = memory;
    if (code) {
        return code;
    }
    *first = (uint32_t)plain->operand_count; /* each opcode adds three at most, or what others
                                                have pushed: it fits */
    scan->stack_count -= count;
    for (size_t i = 0; i < count; i++) { /* mostly few: memcpy would take longer */
        plain->operands[plain->operand_count++] = scan->stack[scan->stack_count + i];
    }
    return S3D_OK;
}

static enum s3d_code mark(struct plain_scan *scan)
{
    void *memory = scan->floors;
    enum s3d_code code =
        plain_grow(scan, &memory, scan->mark_count, 1, sizeof *scan->floors, &scan->mark_room);
    scan->floors = memory;
    if (!code) {
        scan->floors[scan->mark_count++] = (uint32_t)scan->floor;
        scan->floor = scan->stack_count;
    }
    return code;
}

/* The items above the last mark become operands; what is below is the stack again. */
static enum s3d_code take_to_mark(struct plain_scan *scan, uint32_t *first, uint32_t *count)
{
    if (!scan->mark_count) {
        return plain_refuse(scan, "there is no mark");
    }
    *count = (uint32_t)on_top(scan);
    enum s3d_code code = take_operands(scan, *count, first);
    if (!code) {
        scan->floor = scan->floors[--scan->mark_count];
    }
    return code;
}

/* --- containers ---------------------------------------------------------------------------- */

static bool is_hashable(const struct s3d_plain_step *step)
{
    switch ((enum s3d_plain_kind)step->kind) {
    case S3D_PLAIN_NONE:
    case S3D_PLAIN_FALSE:
    case S3D_PLAIN_TRUE:
    case S3D_PLAIN_INTEGER:
    case S3D_PLAIN_LONG:
    case S3D_PLAIN_REAL:
    case S3D_PLAIN_TEXT:
    case S3D_PLAIN_BYTES:
    case S3D_PLAIN_COMPLEX:
    case S3D_PLAIN_SIZE:
    case S3D_PLAIN_DTYPE:
    case S3D_PLAIN_DEVICE: return true;
    case S3D_PLAIN_TUPLE: return !step->unhashable;
    case S3D_PLAIN_LIST:
    case S3D_PLAIN_DICT:
    case S3D_PLAIN_ORDERED_DICT:
    case S3D_PLAIN_SET:
    case S3D_PLAIN_BYTEARRAY:
    case S3D_PLAIN_TENSOR: /* is hashable, but by code of torch's */
    case S3D_PLAIN_PARAMETER:
    case S3D_PLAIN_STORAGE:
    case S3D_PLAIN_FUNCTION:
    case S3D_PLAIN_APPEND:
    case S3D_PLAIN_SET_ITEMS:
    case S3D_PLAIN_SET_STATE: return false;
    }
    return false;
}

static enum s3d_code push_tuple(struct plain_scan *scan, uint32_t first, uint32_t count)
{
    struct s3d_plain_step *tuple;
    bool unhashable = false;
    uint8_t depth = 1;
    for (uint32_t i = 0; i < count; i++) {
        const struct s3d_plain_step *item =
            &scan->plain->steps[scan->plain->operands[first + i]];
        unhashable |= !is_hashable(item);
        if (item->depth >= depth) {
            depth = (uint8_t)(item->depth + 1);
        }
    }
    if (depth > PLAIN_DEPTH_MAX) {
        return plain_refuse(scan, "tuples in tuples, too deep");
    }
    enum s3d_code code = plain_push(scan, S3D_PLAIN_TUPLE, &tuple);
    if (!code) {
        tuple->first = first;
        tuple->count = count;
        tuple->depth = depth;
        tuple->unhashable = unhashable;
    }
    return code;
}

static enum s3d_code short_tuple(struct plain_scan *scan, uint32_t count)
{
    uint32_t first = 0;
    if (on_top(scan) < count) {
        return plain_refuse(scan, "a tuple of more than there is");
    }
    enum s3d_code code = take_operands(scan, count, &first);
    return code ? code : push_tuple(scan, first, count);
}

static enum s3d_code long_tuple(struct plain_scan *scan)
{
    uint32_t first = 0, count = 0;
    enum s3d_code code = take_to_mark(scan, &first, &count);
    return code ? code : push_tuple(scan, first, count);
}

/* Adds a step that fills the container on the stack's top, and chains it to the container. */
static enum s3d_code add_filling(struct plain_scan *scan, enum s3d_plain_kind kind,
                                 uint32_t first, uint32_t count)
{
    uint32_t target = scan->stack[scan->stack_count - 1];
    struct s3d_plain_step *filling;
    enum s3d_code code = add_step(scan, kind, &filling);
    if (code) {
        return code;
    }
    struct s3d_plain_step *container = &scan->plain->steps[target];
    filling->target = target;
    filling->first = first;
    filling->count = count;
    filling->index = container->first;
    container->first = (uint32_t)(scan->plain->step_count - 1);
    container->filled = true;
    return S3D_OK;
}

static enum s3d_code append(struct plain_scan *scan, uint32_t first, uint32_t count)
{
    struct s3d_plain_step *list = plain_peek(scan, 0);
    if (!list || list->kind != S3D_PLAIN_LIST) {
        return plain_refuse(scan, "an append to what is no list");
    }
    for (uint32_t i = 0; i < count; i++) {
        list->unhashable |= !is_hashable(&scan->plain->steps[scan->plain->operands[first + i]]);
    }
    return add_filling(scan, S3D_PLAIN_APPEND, first, count);
}

static enum s3d_code set_items(struct plain_scan *scan, uint32_t first, uint32_t count)
{
    const struct s3d_plain_step *dict = plain_peek(scan, 0);
    if (!dict || dict->hooks ||
        (dict->kind != S3D_PLAIN_DICT && dict->kind != S3D_PLAIN_ORDERED_DICT)) {
        return plain_refuse(scan, "items for what is no dict");
    }
    if (count % 2) {
        return plain_refuse(scan, "a key without a value");
    }
    for (uint32_t i = 0; i < count; i += 2) {
        if (!is_hashable(&scan->plain->steps[scan->plain->operands[first + i]])) {
            return plain_refuse(scan, "a key of a rare kind");
        }
    }
    return add_filling(scan, S3D_PLAIN_SET_ITEMS, first, count);
}

typedef enum s3d_code fill_fn(struct plain_scan *scan, uint32_t first, uint32_t count);

static enum s3d_code fill_few(struct plain_scan *scan, fill_fn *fill, uint32_t count)
{
    uint32_t first = 0;
    if (on_top(scan) < count) {
        return plain_refuse(scan, "nothing to fill in");
    }
    enum s3d_code code = take_operands(scan, count, &first);
    return code ? code : fill(scan, first, count);
}

static enum s3d_code fill_to_mark(struct plain_scan *scan, fill_fn *fill)
{
    uint32_t first = 0, count = 0;
    enum s3d_code code = take_to_mark(scan, &first, &count);
    return code ? code : fill(scan, first, count);
}

static enum s3d_code build(struct plain_scan *scan)
{
    const struct s3d_plain_step *state = plain_peek(scan, 0), *target = plain_peek(scan, 1);
    if (!target || target->kind != S3D_PLAIN_ORDERED_DICT || target->hooks ||
        state->kind != S3D_PLAIN_DICT) {
        return plain_refuse(scan, "a state for what is no OrderedDict");
    }
    uint32_t number = scan->stack[--scan->stack_count];
    return add_filling(scan, S3D_PLAIN_SET_STATE, number, 0);
}

/* --- bytes --------------------------------------------------------------------------------- */

/* The next `length` bytes; NULL when there are fewer. */
static const unsigned char *take_bytes(struct plain_scan *scan, size_t length)
{
    const unsigned char *bytes = scan->at;
    if ((size_t)(scan->end - bytes) < length) {
        return NULL;
    }
    scan->at += length;
    return bytes;
}

static uint64_t little_endian(const unsigned char *bytes, size_t length)
{
    uint64_t value = 0;
    while (length) {
        value = value << 8 | bytes[--length];
    }
    return value;
}

/* A line and its length without the newline, which is taken, too; NULL when there is no end. */
static const char *take_line(struct plain_scan *scan, size_t *length)
{
    const unsigned char *line = scan->at;
    const unsigned char *end = memchr(line, '\n', (size_t)(scan->end - line));
    if (!end) {
        return NULL;
    }
    *length = (size_t)(end - line);
    scan->at = end + 1;
    return (const char *)line;
}

static enum s3d_code is_short(const struct plain_scan *scan)
{
    return plain_refuse(scan, "it ends here");
}

/* How long the character is that begins here; 0 if it is none, or a surrogate. */
static size_t character_bytes(const unsigned char *at, const unsigned char *end)
{
    unsigned char lead = at[0];
    size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (!length || lead > 0xf4 || (size_t)(end - at) < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool wrong = (lead == 0xe0 && at[1] < 0xa0) || (lead == 0xed && at[1] > 0x9f) ||
                 (lead == 0xf0 && at[1] < 0x90) || (lead == 0xf4 && at[1] > 0x8f);
    return wrong ? 0 : length;
}

static bool is_utf8(const unsigned char *at, size_t length)
{
    const unsigned char *end = at + length;
    while (at < end) {
        size_t bytes = character_bytes(at, end);
        if (!bytes) {
            return false;
        }
        at += bytes;
    }
    return true;
}

/* --- values -------------------------------------------------------------------------------- */

enum s3d_code plain_push_kind(struct plain_scan *scan, enum s3d_plain_kind kind)
{
    struct s3d_plain_step *step;
    enum s3d_code code = plain_push(scan, kind, &step);
    if (!code) {
        step->first = PLAIN_NOTHING; /* of a container: nothing fills it yet */
    }
    return code;
}

static enum s3d_code push_integer(struct plain_scan *scan, size_t length)
{
    const unsigned char *bytes = take_bytes(scan, length);
    struct s3d_plain_step *step;
    if (!bytes) {
        return is_short(scan);
    }
    uint64_t value = little_endian(bytes, length);
    enum s3d_code code = plain_push(scan, S3D_PLAIN_INTEGER, &step);
    if (!code) {
        step->integer = length == 4 ? (int32_t)value : (int64_t)value;
    }
    return code;
}

/* Sign-extends an integer of at most eight bytes: its sign bit moves up to ours and back. */
static int64_t small_long(const unsigned char *bytes, size_t length)
{
    unsigned shift = 64 - 8 * (unsigned)length;
    return length ? (int64_t)(little_endian(bytes, length) << shift) >> shift : 0;
}

static enum s3d_code push_long(struct plain_scan *scan)
{
    const unsigned char *length = take_bytes(scan, 1);
    const unsigned char *bytes = length ? take_bytes(scan, *length) : NULL;
    struct s3d_plain_step *step;
    if (!bytes) {
        return is_short(scan);
    }
    enum s3d_code code =
        plain_push(scan, *length <= 8 ? S3D_PLAIN_INTEGER : S3D_PLAIN_LONG, &step);
    if (!code && *length <= 8) {
        step->integer = small_long(bytes, *length);
    } else if (!code) {
        step->first = (uint32_t)(bytes - scan->plain->pickle);
        step->count = *length;
    }
    return code;
}

static enum s3d_code push_real(struct plain_scan *scan)
{
    const unsigned char *bytes = take_bytes(scan, sizeof(double));
    struct s3d_plain_step *step;
    uint64_t bits = 0;
    if (!bytes) {
        return is_short(scan);
    }
    for (size_t i = 0; i < sizeof bits; i++) { /* big endian */
        bits = bits << 8 | bytes[i];
    }
    enum s3d_code code = plain_push(scan, S3D_PLAIN_REAL, &step);
    if (!code) {
        memcpy(&step->real, &bits, sizeof bits);
    }
    return code;
}

static enum s3d_code push_text(struct plain_scan *scan)
{
    const unsigned char *digits = take_bytes(scan, 4);
    size_t length = digits ? (size_t)little_endian(digits, 4) : 0;
    const unsigned char *bytes = digits ? take_bytes(scan, length) : NULL;
    struct s3d_plain_step *step;
    if (!bytes) {
        return is_short(scan);
    }
    if (!is_utf8(bytes, length)) {
        return plain_refuse(scan, "a text that is not UTF-8");
    }
    enum s3d_code code = plain_push(scan, S3D_PLAIN_TEXT, &step);
    if (!code) {
        step->first = (uint32_t)(bytes - scan->plain->pickle);
        step->count = (uint32_t)length;
    }
    return code;
}

static enum s3d_code push_global(struct plain_scan *scan)
{
    size_t module_length = 0, name_length = 0;
    const char *module = take_line(scan, &module_length);
    const char *name = module ? take_line(scan, &name_length) : NULL;
    return name ? plain_global(scan, module, module_length, name, name_length) : is_short(scan);
}

/* --- the memo ------------------------------------------------------------------------------ */

static enum s3d_code get(struct plain_scan *scan, size_t length)
{
    const unsigned char *bytes = take_bytes(scan, length);
    if (!bytes) {
        return is_short(scan);
    }
    uint64_t number = little_endian(bytes, length);
    if (number >= scan->memo_count || scan->memo[number] == PLAIN_NOTHING) {
        return plain_refuse(scan, "a memo that was never put");
    }
    return push_number(scan, scan->memo[number]);
}

static enum s3d_code put(struct plain_scan *scan, size_t length)
{
    const unsigned char *bytes = take_bytes(scan, length);
    if (!bytes) {
        return is_short(scan);
    }
    if (!on_top(scan)) {
        return plain_refuse(scan, "nothing to put into the memo");
    }
    uint64_t number = little_endian(bytes, length);
    enum s3d_code code =
        plain_reach(scan, &scan->memo, &scan->memo_count, &scan->memo_room, number);
    if (!code) {
        scan->memo[number] = scan->stack[scan->stack_count - 1];
    }
    return code;
}

/* --- what is alive ------------------------------------------------------------------------- */

struct marking {
    struct s3d_plain *plain;
    uint32_t *work; /* alive, but what they consist of is still to be marked */
    size_t count;   /* each step comes in once at most */
};

static void revive(struct marking *marking, uint32_t number)
{
    struct s3d_plain_step *step = &marking->plain->steps[number];
    if (!step->alive) {
        step->alive = true;
        marking->work[marking->count++] = number;
    }
}

static void revive_operands(struct marking *marking, const struct s3d_plain_step *step)
{
    for (uint32_t i = 0; i < step->count; i++) {
        revive(marking, marking->plain->operands[step->first + i]);
    }
}

/* False: it is nothing that a result may consist of. */
static bool revive_parts(struct marking *marking, const struct s3d_plain_step *step)
{
    switch ((enum s3d_plain_kind)step->kind) {
    case S3D_PLAIN_TUPLE:
    case S3D_PLAIN_COMPLEX:
    case S3D_PLAIN_APPEND:
    case S3D_PLAIN_SET_ITEMS: revive_operands(marking, step); return true;
    case S3D_PLAIN_ORDERED_DICT:
    case S3D_PLAIN_LIST:
    case S3D_PLAIN_DICT:
        for (uint32_t i = step->first; i != PLAIN_NOTHING; i = marking->plain->steps[i].index) {
            revive(marking, i);
        }
        return !step->hooks;
    case S3D_PLAIN_SET_STATE: revive(marking, step->first); return true;
    case S3D_PLAIN_SET:
    case S3D_PLAIN_BYTES:
    case S3D_PLAIN_SIZE:
    case S3D_PLAIN_DEVICE:
    case S3D_PLAIN_PARAMETER: revive(marking, step->target); return true;
    case S3D_PLAIN_BYTEARRAY:
        if (step->count) {
            revive(marking, step->target);
        }
        return true;
    case S3D_PLAIN_NONE:
    case S3D_PLAIN_FALSE:
    case S3D_PLAIN_TRUE:
    case S3D_PLAIN_INTEGER:
    case S3D_PLAIN_LONG:
    case S3D_PLAIN_REAL:
    case S3D_PLAIN_TEXT:
    case S3D_PLAIN_DTYPE:
    case S3D_PLAIN_TENSOR: return true;
    case S3D_PLAIN_STORAGE:
    case S3D_PLAIN_FUNCTION: return false;
    }
    return false;
}

static enum s3d_code find_alive(struct plain_scan *scan)
{
    struct marking marking = {.plain = scan->plain};
    bool plain = true;
    marking.work = s3d_alloc_zeroed(scan->plain->step_count, sizeof *marking.work);
    if (!marking.work) {
        return s3d_fail_memory(scan->error, scan->plain->step_count * sizeof *marking.work);
    }
    revive(&marking, scan->plain->result);
    while (plain && marking.count) {
        plain = revive_parts(&marking, &scan->plain->steps[marking.work[--marking.count]]);
    }
    s3d_free(marking.work);
    return plain ? S3D_OK : plain_refuse(scan, "its result holds storages, functions or hooks");
}

/* --- the scan ------------------------------------------------------------------------------ */

static enum s3d_code take_step(struct plain_scan *scan, enum opcode opcode)
{
    switch (opcode) {
    case OP_MARK: return mark(scan);
    case OP_EMPTY_TUPLE: return push_tuple(scan, 0, 0);
    case OP_FLOAT: return push_real(scan);
    case OP_INT4: return push_integer(scan, 4);
    case OP_INT1: return push_integer(scan, 1);
    case OP_INT2: return push_integer(scan, 2);
    case OP_NONE: return plain_push_kind(scan, S3D_PLAIN_NONE);
    case OP_PERSISTENT: return plain_persistent(scan);
    case OP_REDUCE: return plain_reduce(scan);
    case OP_TEXT: return push_text(scan);
    case OP_EMPTY_LIST: return plain_push_kind(scan, S3D_PLAIN_LIST);
    case OP_APPEND: return fill_few(scan, append, 1);
    case OP_BUILD: return build(scan);
    case OP_GLOBAL: return push_global(scan);
    case OP_APPENDS: return fill_to_mark(scan, append);
    case OP_GET1: return get(scan, 1);
    case OP_GET4: return get(scan, 4);
    case OP_PUT1: return put(scan, 1);
    case OP_PUT4: return put(scan, 4);
    case OP_SET_ITEM: return fill_few(scan, set_items, 2);
    case OP_TUPLE: return long_tuple(scan);
    case OP_SET_ITEMS: return fill_to_mark(scan, set_items);
    case OP_EMPTY_DICT: return plain_push_kind(scan, S3D_PLAIN_DICT);
    case OP_TUPLE1: return short_tuple(scan, 1);
    case OP_TUPLE2: return short_tuple(scan, 2);
    case OP_TUPLE3: return short_tuple(scan, 3);
    case OP_TRUE: return plain_push_kind(scan, S3D_PLAIN_TRUE);
    case OP_FALSE: return plain_push_kind(scan, S3D_PLAIN_FALSE);
    case OP_LONG1: return push_long(scan);
    case OP_PROTOCOL: /* only at the very start */
    case OP_STOP: break;
    }
    return plain_refuse(scan, "an opcode of another kind");
}

static enum s3d_code run(struct plain_scan *scan)
{
    const unsigned char *head = take_bytes(scan, 2);
    if (!head || head[0] != OP_PROTOCOL || head[1] != PROTOCOL) {
        return plain_refuse(scan, "it is not of protocol 2");
    }
    enum s3d_code code = S3D_OK;
    while (!code && scan->at < scan->end && *scan->at != OP_STOP) {
        code = take_step(scan, (enum opcode) * scan->at++);
    }
    if (code) {
        return code;
    }
    if (scan->end - scan->at != 1) {
        return plain_refuse(scan, "it does not end with its stop");
    }
    if (scan->mark_count || scan->stack_count != 1) {
        return plain_refuse(scan, "it does not leave one value");
    }
    scan->plain->result = scan->stack[0];
    return find_alive(scan);
}

/* What torch.save writes takes a step for every six bytes: room for all of them at once. The
 * arrays that others point into are never NULL, even where nothing is in them. */
static enum s3d_code make_room(struct plain_scan *scan, size_t length)
{
    struct s3d_plain *plain = scan->plain;
    size_t steps = length / 6 < ROOM_MAX ? length / 6 : ROOM_MAX;
    void *memory[3] = {NULL, NULL, NULL};
    enum s3d_code code =
        plain_enlarge(scan, &memory[0], 0, steps, sizeof *plain->steps, &scan->step_room);
    code = code ? code
                : plain_enlarge(scan, &memory[1], 0, steps, sizeof *plain->operands,
                                &scan->operand_room);
    code = code ? code
                : plain_enlarge(scan, &memory[2], 0, 1, sizeof *plain->extents,
                                &scan->extent_room);
    plain->steps = memory[0];
    plain->operands = memory[1];
    plain->extents = memory[2];
    return code;
}

enum s3d_code s3d_plain_scan(struct s3d_plain *plain, const void *pickle, size_t length,
                             bool any_location, struct s3d_error *error)
{
    *plain = (struct s3d_plain){.pickle = pickle};
    struct plain_scan scan = {.at = pickle,
                              .end = plain->pickle + length,
                              .plain = plain,
                              .error = error,
                              .any_location = any_location};
    enum s3d_code code = length <= S3D_PLAIN_PICKLE_MAX
                             ? make_room(&scan, length)
                             : plain_refuse(&scan, "it is very long");
    code = code ? code : run(&scan);
    s3d_free(scan.stack);
    s3d_free(scan.floors);
    s3d_free(scan.memo);
    s3d_free(scan.keys);
    if (code) {
        s3d_plain_fini(plain);
    }
    return code;
}

void s3d_plain_fini(struct s3d_plain *plain)
{
    s3d_free(plain->steps);
    s3d_free(plain->operands);
    s3d_free(plain->storages);
    s3d_free(plain->tensors);
    s3d_free(plain->extents);
    *plain = (struct s3d_plain){0};
}
