/*
 * The part of libtorch's C ABI that is used here, declared anew.
 *
 * torch's own headers for it (torch/csrc/inductor/aoti_torch/c/shim.h,
 * torch/csrc/stable/c/shim.h) are not valid C, but the functions are. Every int32_t result is 0
 * for success; they may be called from any thread.
 */
#ifndef S3D_BIND_TORCH_ABI_H
#define S3D_BIND_TORCH_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct torch_tensor;  /* AtenTensorOpaque */
struct torch_library; /* TorchLibraryOpaque */
struct torch_list;    /* StableListOpaque */

/* An argument or result of a boxed operator: an int as it is, a tensor or list as its owned
 * handle. */
typedef uint64_t torch_value;
typedef void torch_boxed(torch_value *stack, uint64_t argument_count, uint64_t result_count);

/* Frees a storage's memory when the last reference to it goes; any thread, without the GIL. */
typedef void torch_deleter(void *data, void *context);

/* Drops an owned handle. */
int32_t aoti_torch_delete_tensor_object(struct torch_tensor *tensor);
int32_t aoti_torch_get_data_ptr(struct torch_tensor *tensor, void **data);
int32_t aoti_torch_get_numel(struct torch_tensor *tensor, int64_t *numel);

/* A second tensor over the same storage and of the same dtype: no view in autograd's sense. */
int32_t aoti_torch__reinterpret_tensor(struct torch_tensor *tensor, int64_t dimensions,
                                       const int64_t *sizes, const int64_t *strides,
                                       int64_t storage_offset, struct torch_tensor **result);

int32_t aoti_torch_device_type_cpu(void);
int32_t aoti_torch_dtype_bfloat16(void);
int32_t aoti_torch_dtype_bool(void);
int32_t aoti_torch_dtype_complex128(void);
int32_t aoti_torch_dtype_complex32(void);
int32_t aoti_torch_dtype_complex64(void);
int32_t aoti_torch_dtype_float16(void);
int32_t aoti_torch_dtype_float32(void);
int32_t aoti_torch_dtype_float64(void);
int32_t aoti_torch_dtype_float8_e4m3fn(void);
int32_t aoti_torch_dtype_float8_e4m3fnuz(void);
int32_t aoti_torch_dtype_float8_e5m2(void);
int32_t aoti_torch_dtype_float8_e5m2fnuz(void);
int32_t aoti_torch_dtype_int16(void);
int32_t aoti_torch_dtype_int32(void);
int32_t aoti_torch_dtype_int64(void);
int32_t aoti_torch_dtype_int8(void);
int32_t aoti_torch_dtype_uint16(void);
int32_t aoti_torch_dtype_uint32(void);
int32_t aoti_torch_dtype_uint64(void);
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

/* torch 2.10. Weak: NULL in an older torch. Lists are of torch_values, which they take over. */
__attribute__((weak)) int32_t torch_new_list_reserve_size(size_t size,
                                                          struct torch_list **list);
__attribute__((weak)) int32_t torch_list_push_back(struct torch_list *list, torch_value item);
__attribute__((weak)) int32_t torch_set_requires_grad(struct torch_tensor *tensor,
                                                      bool requires_grad);

/* torch 2.11. Weak, as above. */
__attribute__((weak)) int32_t torch_dtype_float8_e8m0fnu(void);

/*
 * torch 2.11. A strided CPU tensor (device_index must be -1) over memory that is the tensor's
 * from then on; the deleter runs when its last storage goes, on any thread, without the GIL.
 * Weak: NULL in an older torch.
 */
__attribute__((weak)) int32_t torch_from_blob(
    void *data, int64_t dimensions, const int64_t *sizes, const int64_t *strides,
    int64_t storage_offset, int32_t dtype, int32_t device_type, int32_t device_index,
    struct torch_tensor **tensor, int32_t layout, const uint8_t *opaque_metadata,
    int64_t opaque_metadata_size, torch_deleter *deleter, void *context);

/* torch 2.13. What went wrong last on this thread; borrowed. Weak: NULL in an older torch. */
__attribute__((weak)) const char *torch_exception_get_what_without_backtrace(void);

#endif
