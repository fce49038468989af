#include "bind/gather.h"

#include <string.h>

static bool is_indirect(const Py_buffer *view, int dimension)
{
    return view->suboffsets && view->suboffsets[dimension] >= 0;
}

void bind_gather_init(struct bind_gather *gather, const Py_buffer *view)
{
    *gather = (struct bind_gather){.view = view,
                                   .outer = view->ndim,
                                   .run_bytes = (size_t)view->itemsize,
                                   .ended = !view->len};
    while (gather->outer && !gather->ended) {
        int last = gather->outer - 1;
        bool together = !view->strides || view->strides[last] == (Py_ssize_t)gather->run_bytes;
        if (!together || is_indirect(view, last)) {
            break;
        }
        gather->run_bytes *= (size_t)view->shape[last];
        gather->outer = last;
    }
}

/* To the next run, like an odometer. */
static void advance(struct bind_gather *gather)
{
    int dimension = gather->outer;
    while (dimension-- && ++gather->index[dimension] == gather->view->shape[dimension]) {
        gather->index[dimension] = 0;
    }
    gather->ended = dimension < 0;
}

size_t bind_gather_next(struct bind_gather *gather, char *to, size_t room)
{
    size_t placed = 0;
    while (placed < room && !gather->ended) {
        const char *run = PyBuffer_GetPointer(gather->view, gather->index);
        size_t left = gather->run_bytes - gather->skip_bytes;
        size_t piece = left < room - placed ? left : room - placed;
        memcpy(to + placed, run + gather->skip_bytes, piece);
        placed += piece;
        gather->skip_bytes += piece;
        if (gather->skip_bytes == gather->run_bytes) {
            gather->skip_bytes = 0;
            advance(gather);
        }
    }
    return placed;
}
