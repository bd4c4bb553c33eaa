/* gguf.h - the GGUF v2/v3 container: mapped, bounds-checked, read-only. Hostile input is expected:
 * every count, length, offset, alignment and product is checked against the file before it is used.
 * Format: ggml's docs/gguf.md. Not for concurrent open/close; reads from any thread. */
#ifndef LM_ENGINE_GGUF_H
#define LM_ENGINE_GGUF_H

#include "kernels/tensor.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

struct gguf; // opaque

struct gguf_tensor {
    struct str name;    // into the mapping
    uint32_t gguf_type; // raw number; dtype_from_gguf() says whether we read it
    int dims;           // 1..4
    int64_t dim[4];     // fastest first, as stored; unused are 1
    const void *data;   // into the mapping; whole tensor is inside the file (types we read)
    size_t bytes;       // 0 for types whose block size is unknown to us
};

/* Map and parse. E_FORMAT: not a GGUF or damaged, with what and where. -errno: the file. */
FALLIBLE int gguf_open(const char *path, struct gguf **out, struct error *err);
/* The same for bytes in memory, borrowed until close. `data` is 8-byte aligned (tests, fuzzing). */
FALLIBLE int gguf_open_memory(const void *data, size_t size, struct gguf **out, struct error *err);
/* The tensors of `part` become g's too; its metadata is not used. Takes part, also on failure. What
 * gguf_tensor_at/find gave before is invalid afterwards. E_FORMAT: a tensor that g has already. */
FALLIBLE int gguf_join_take(struct gguf *g, struct gguf *part, struct error *err);
void gguf_close(struct gguf *g); // NULL is fine; everything below becomes invalid

/* Metadata. False: the key is absent or of another type, or the value doesn't fit; *value
 * untouched. */
bool gguf_get_int(const struct gguf *g, const char *key,
                  int64_t *value); // any integer or bool type
bool gguf_get_float(const struct gguf *g, const char *key, double *value); // integers too
bool gguf_get_bool(const struct gguf *g, const char *key, bool *value);
bool gguf_get_str(const struct gguf *g, const char *key, struct str *value);

bool gguf_has(const struct gguf *g, const char *key);
size_t gguf_key_count(const struct gguf *g);
struct str gguf_key_at(const struct gguf *g, size_t index); // in byte order

/* Arrays of strings, of integers, of floats. All O(log keys). */
bool gguf_array_len(const struct gguf *g, const char *key, size_t *len);
bool gguf_array_str(const struct gguf *g, const char *key, size_t index, struct str *value);
bool gguf_array_int(const struct gguf *g, const char *key, size_t index, int64_t *value);
bool gguf_array_float(const struct gguf *g, const char *key, size_t index, double *value);

size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); // NULL: absent

/* View of matrix `index` of a tensor of a type that we read, whose last two dimensions count
 * matrices: 0 for an ordinary one, 0 .. dim[2] * dim[3] - 1 for experts. */
struct matrix gguf_tensor_matrix(const struct gguf_tensor *t, int64_t index);

/* Tell the kernel that [data, data + bytes) of the mapping won't be read soon (MADV_DONTNEED). */
void gguf_drop_pages(const struct gguf *g, const void *data, size_t bytes);

#endif
