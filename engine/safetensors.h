/* safetensors.h - Hugging Face's container of tensors: one file or many shards, mapped,
 * bounds-checked, read-only. Hostile input is expected: the header is bounded before it is parsed,
 * and a tensor's byte range is checked against its type, its shape, the file and its neighbours.
 * Format: the README of huggingface/safetensors. Not for concurrent open/close; reads from any
 * thread. */
#ifndef LM_ENGINE_SAFETENSORS_H
#define LM_ENGINE_SAFETENSORS_H

#include "kernels/tensor.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

#define SAFETENSORS_DIMS_MAX 8

/* The format's types of whole bytes: name, bytes of one element. */
#define SAFETENSORS_TYPES(X) \
    X(BOOL, 1)               \
    X(U8, 1)                 \
    X(I8, 1)                 \
    X(F8_E4M3, 1)            \
    X(F8_E5M2, 1)            \
    X(F8_E8M0, 1)            \
    X(U16, 2)                \
    X(I16, 2)                \
    X(F16, 2)                \
    X(BF16, 2)               \
    X(U32, 4)                \
    X(I32, 4)                \
    X(F32, 4)                \
    X(U64, 8)                \
    X(I64, 8)                \
    X(F64, 8)

enum safetensors_type {
#define X(name, bytes) SAFETENSORS_##name,
    SAFETENSORS_TYPES(X)
#undef X
        SAFETENSORS_TYPE_COUNT
};

const char *safetensors_type_name(enum safetensors_type type); // "F8_E4M3"

struct safetensors_tensor {
    struct str name;
    enum safetensors_type type;
    int dims;                          // 0..SAFETENSORS_DIMS_MAX; 0: one element
    int64_t dim[SAFETENSORS_DIMS_MAX]; // slowest first, as stored; unused are 1
    const void *data;                  // into a mapping; the format promises no alignment
    size_t bytes;                      // elements * bytes of the type
    int shard;
};

struct safetensors; // opaque

/* The tensors of a folder: model.safetensors, else all shards that model.safetensors.index.json
 * names. E_NOT_FOUND: it has neither. E_FORMAT: damaged, with file and tensor. -errno: a file,
 * also a shard that is missing. */
FALLIBLE int safetensors_open(const char *folder, struct safetensors **out, struct error *err);
/* One file in memory, borrowed until close (tests, fuzzing). */
FALLIBLE int safetensors_open_memory(const void *data, size_t size, struct safetensors **out,
                                     struct error *err);
void safetensors_close(struct safetensors *s); // NULL is fine; everything below becomes invalid

size_t safetensors_count(const struct safetensors *s);
/* In byte order of their names; the index stays what it is. */
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t index);
/* NULL: absent. *index may be NULL. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name,
                                                  size_t *index);

/* Tell the kernel that [data, data + bytes) won't be read soon. False: not in any of the mappings. */
bool safetensors_drop_pages(const struct safetensors *s, const void *data, size_t bytes);

#endif
