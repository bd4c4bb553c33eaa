/* hash_map.c - linear probing; a removed slot becomes a tombstone so that probes go on past it.
 * Tombstones are swept by the next rehash. A probe ends because at least a quarter of all slots
 * were never used. */
#include "shared/base/hash_map.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"

#include <pthread.h>
#include <stdlib.h>

#define CAP_MIN 8

struct hash_map_slot {
    uint64_t hash;
    char *key; // owned, with a 0 behind it; NULL: never used, tombstone: removed
    size_t key_len;
    void *value;
};

static char tombstone[1];
static uint8_t process_key[16];
static pthread_once_t process_key_once = PTHREAD_ONCE_INIT;

static void make_process_key(void)
{
    random_bytes(process_key, sizeof process_key);
}

static uint64_t hash_of(struct str key)
{
    pthread_once(&process_key_once, make_process_key);
    return hash_sip24(process_key, key.data, key.len);
}

static bool is_live(const struct hash_map_slot *slot)
{
    return slot->key && slot->key != tombstone;
}

void hash_map_init(struct hash_map *m)
{
    *m = (struct hash_map){0};
}

void hash_map_deinit(struct hash_map *m)
{
    for (size_t i = 0; i < m->cap; i++) {
        if (is_live(&m->slots[i])) free(m->slots[i].key);
    }
    free(m->slots);
    hash_map_init(m);
}

static struct hash_map_slot *find(const struct hash_map *m, struct str key, uint64_t hash)
{
    if (m->cap == 0) return NULL;
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct hash_map_slot *slot = &m->slots[i];
        if (!slot->key) return NULL;
        if (slot->key != tombstone && slot->hash == hash &&
            str_equal((struct str){slot->key, slot->key_len}, key)) {
            return slot;
        }
    }
}

static void rehash(struct hash_map *m)
{
    size_t cap = CAP_MIN;
    while (cap < m->len * 2 + 2)
        cap *= 2; // at most half full afterwards
    struct hash_map_slot *slots = xcalloc(cap, sizeof *slots);
    for (size_t i = 0; i < m->cap; i++) {
        if (!is_live(&m->slots[i])) continue;
        size_t at = m->slots[i].hash & (cap - 1);
        while (slots[at].key)
            at = (at + 1) & (cap - 1);
        slots[at] = m->slots[i];
    }
    free(m->slots);
    m->slots = slots;
    m->cap = cap;
    m->used = m->len;
}

void *hash_map_get(const struct hash_map *m, struct str key)
{
    struct hash_map_slot *slot = find(m, key, hash_of(key));
    return slot ? slot->value : NULL;
}

void *hash_map_put(struct hash_map *m, struct str key, void *value)
{
    CHECK(value);
    uint64_t hash = hash_of(key);
    struct hash_map_slot *slot = find(m, key, hash);
    if (slot) {
        void *old = slot->value;
        slot->value = value;
        return old;
    }
    if ((m->used + 1) * 4 > m->cap * 3) rehash(m);
    size_t at = hash & (m->cap - 1);
    while (is_live(&m->slots[at]))
        at = (at + 1) & (m->cap - 1);
    if (!m->slots[at].key) m->used++; // else a tombstone is used again
    m->slots[at] = (struct hash_map_slot){hash, xstrndup(key.data, key.len), key.len, value};
    m->len++;
    return NULL;
}

void *hash_map_remove(struct hash_map *m, struct str key)
{
    struct hash_map_slot *slot = find(m, key, hash_of(key));
    if (!slot) return NULL;
    void *old = slot->value;
    free(slot->key);
    *slot = (struct hash_map_slot){.key = tombstone};
    m->len--;
    return old;
}

bool hash_map_next(const struct hash_map *m, size_t *pos, struct str *key, void **value)
{
    while (*pos < m->cap) {
        const struct hash_map_slot *slot = &m->slots[(*pos)++];
        if (!is_live(slot)) continue;
        if (key) *key = (struct str){slot->key, slot->key_len};
        if (value) *value = slot->value;
        return true;
    }
    return false;
}
