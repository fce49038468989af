/*
 * The part of libtorch's C ABI that is used here, declared anew.
 *
 * torch's own headers for it (torch/csrc/inductor/aoti_torch/c/shim.h,
 * torch/csrc/stable/c/shim.h) are not valid C, but the functions are. Every int32_t result is 0
 * for success; they may be called from any thread.
 */
#ifndef S3D_BIND_TORCH_ABI_H
#define S3D_BIND_TORCH_ABI_H

#include <stdint.h>

struct torch_tensor;  /* AtenTensorOpaque */
struct torch_library; /* TorchLibraryOpaque */

/* An argument or result of a boxed operator: an int as it is, a tensor as its owned handle. */
typedef uint64_t torch_value;
typedef void torch_boxed(torch_value *stack, uint64_t argument_count, uint64_t result_count);

/* Frees a storage's memory when the last reference to it goes; any thread, without the GIL. */
typedef void torch_deleter(void *data, void *context);

/* Drops an owned handle. */
int32_t aoti_torch_delete_tensor_object(struct torch_tensor *tensor);
int32_t aoti_torch_get_data_ptr(struct torch_tensor *tensor, void **data);
int32_t aoti_torch_get_numel(struct torch_tensor *tensor, int64_t *numel);

int32_t aoti_torch_device_type_cpu(void);
int32_t aoti_torch_dtype_uint8(void);
int32_t aoti_torch_layout_strided(void);

/* torch 2.7 */
int32_t aoti_torch_library_init_fragment(const char *space, const char *file, uint32_t line,
                                         struct torch_library **library);
int32_t aoti_torch_library_init_impl(const char *space, const char *dispatch_key,
                                     const char *file, uint32_t line,
                                     struct torch_library **library);
int32_t aoti_torch_library_def(struct torch_library *library, const char *schema);
int32_t aoti_torch_library_impl(struct torch_library *library, const char *name,
                                torch_boxed *function);
/* Takes back what was registered through it. */
int32_t aoti_torch_delete_library_object(struct torch_library *library);

/*
 * torch 2.11. A strided CPU tensor (device_index must be -1) over memory that is the tensor's
 * from then on; the deleter runs when its last storage goes, on any thread, without the GIL.
 * Weak: NULL in an older torch.
 */
__attribute__((weak)) int32_t
torch_from_blob(void *data, int64_t dimensions, const int64_t *sizes, const int64_t *strides,
                int64_t storage_offset, int32_t dtype, int32_t device_type,
                int32_t device_index, struct torch_tensor **tensor, int32_t layout,
                const uint8_t *opaque_metadata, int64_t opaque_metadata_size,
                torch_deleter *deleter, void *context);

/* torch 2.13. What went wrong last on this thread; borrowed. Weak: NULL in an older torch. */
__attribute__((weak)) const char *torch_exception_get_what_without_backtrace(void);

#endif
