/* hash_map.h - open addressing map from byte strings to pointers. Keys are copied, values borrowed.
 * Hashed with SipHash under a per-process random key: peers can't aim at one bucket. Not for hot
 * loops over millions of entries; the tokenizer has its own tables. */
#ifndef LM_BASE_HASH_MAP_H
#define LM_BASE_HASH_MAP_H

#include <stddef.h>

#include "shared/base/str.h"

struct hash_map_slot;

struct hash_map {
    struct hash_map_slot *slots;
    size_t cap; // power of two, or 0
    size_t len;
    size_t used; // len + tombstones
};

void hash_map_init(struct hash_map *m);
void hash_map_deinit(struct hash_map *m); // values are the caller's

void *hash_map_get(const struct hash_map *m, struct str key); // NULL: absent
/* Returns the value that stood there, or NULL. `value` must not be NULL. */
void *hash_map_put(struct hash_map *m, struct str key, void *value);
void *hash_map_remove(struct hash_map *m, struct str key);
/* Iterate: start with *pos = 0; false at the end. No put or remove in between. */
bool hash_map_next(const struct hash_map *m, size_t *pos, struct str *key, void **value);

#endif
