/* pin_cache.c - chained hash table over one array of entries, least recently used list through the
 * same array, owners kept once each.
 *
 * Rules:
 *  1. Memory is what create() took, and the owners: 64 bytes an entry. The array is touched as it
 *     fills, so that an idle proxy doesn't pay for it.
 *  2. An entry holds a reference of its owner. When no place for another owner is left, the entries
 *     used longest ago go until there is one.
 *  3. Index 0 of entries is the head of the use list and nobody's entry; index 0 of owners is
 *     nobody. */
#include "proxy/pin_cache.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/hash_map.h"

#include <stdio.h>
#include <stdlib.h>

struct entry {
    uint64_t key;
    uint64_t used_ms, confirmed_ms, refreshed_ms;
    uint32_t turn;
    uint32_t chain;        // next in the bucket; 0: none
    uint32_t newer, older; // in order of use
    uint16_t owner;
    uint8_t kind;
    bool is_counted, is_unpublished;
};
_Static_assert(sizeof(struct entry) <= 64, "one line a pin");

struct owner {
    struct pin_owner name;
    uint32_t refs;
    uint16_t next_free;
};

struct pin_cache {
    pthread_mutex_t lock;
    struct pin_cache_options options;
    struct entry *entries; // options.entries + 1
    uint32_t *buckets;
    uint32_t mask;
    uint32_t count, free, fresh; // free: chain of those given back; fresh: first never used
    uint32_t unpublished;
    struct owner *owners; // PIN_OWNERS_MAX + 1
    struct hash_map owner_by_name;
    uint16_t owner_free, owner_fresh;
};

struct pin_cache *pin_cache_create(const struct pin_cache_options *options)
{
    struct pin_cache *c = xcalloc(1, sizeof *c);
    c->options = *options;
    if (c->options.entries == 0) c->options.entries = PIN_CACHE_ENTRIES;
    uint32_t buckets = 16;
    while (buckets < c->options.entries)
        buckets *= 2;
    c->mask = buckets - 1;
    c->buckets = xcalloc(buckets, sizeof *c->buckets);
    c->entries = xcalloc((size_t)c->options.entries + 1, sizeof *c->entries);
    c->owners = xcalloc(PIN_OWNERS_MAX + 1, sizeof *c->owners);
    c->fresh = 1;
    c->owner_fresh = 1;
    hash_map_init(&c->owner_by_name);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void pin_cache_destroy(struct pin_cache *c)
{
    if (!c) return;
    pthread_mutex_destroy(&c->lock);
    hash_map_deinit(&c->owner_by_name);
    free(c->owners);
    free(c->entries);
    free(c->buckets);
    free(c);
}

/* ---- owners ---- */

struct owner_name {
    char text[AGENT_ID_BYTES + PIN_INCARNATION_LEN];
};

static struct str name_of(const struct pin_owner *owner, struct owner_name *out)
{
    char *at = str_put(out->text, str_of(owner->agent));
    *at++ = ' ';
    at = str_put(at, str_of(owner->incarnation));
    return (struct str){out->text, (size_t)(at - out->text)};
}

static void owner_unref(struct pin_cache *c, uint16_t index)
{
    struct owner *o = &c->owners[index];
    CHECK(o->refs > 0);
    if (--o->refs > 0) return;
    struct owner_name name;
    hash_map_remove(&c->owner_by_name, name_of(&o->name, &name));
    o->next_free = c->owner_free;
    c->owner_free = index;
}

static void evict_oldest(struct pin_cache *c);

static uint16_t owner_ref(struct pin_cache *c, const struct pin_owner *owner)
{
    struct owner_name name;
    struct str text = name_of(owner, &name);
    struct owner *o = hash_map_get(&c->owner_by_name, text);
    if (!o) {
        while (!c->owner_free && c->owner_fresh > PIN_OWNERS_MAX)
            evict_oldest(c);
        uint16_t index = c->owner_free ? c->owner_free : c->owner_fresh++;
        o = &c->owners[index];
        if (c->owner_free) c->owner_free = o->next_free;
        *o = (struct owner){.name = *owner};
        hash_map_put(&c->owner_by_name, text, o);
    }
    o->refs++;
    return (uint16_t)(o - c->owners);
}

/* ---- entries ---- */

static uint32_t *bucket_of(struct pin_cache *c, uint64_t key)
{
    return &c->buckets[hash_mix(key) & c->mask];
}

static uint32_t find(struct pin_cache *c, uint64_t key)
{
    uint32_t i = *bucket_of(c, key);
    while (i && c->entries[i].key != key)
        i = c->entries[i].chain;
    return i;
}

static void unlink_use(struct pin_cache *c, uint32_t i)
{
    struct entry *e = &c->entries[i];
    c->entries[e->newer].older = e->older;
    c->entries[e->older].newer = e->newer;
}

static void link_newest(struct pin_cache *c, uint32_t i)
{
    struct entry *e = &c->entries[i], *head = &c->entries[0];
    e->newer = 0;
    e->older = head->older;
    c->entries[head->older].newer = i;
    head->older = i;
}

static void remove_entry(struct pin_cache *c, uint32_t i)
{
    struct entry *e = &c->entries[i];
    uint32_t *at = bucket_of(c, e->key);
    while (*at != i)
        at = &c->entries[*at].chain;
    *at = e->chain;
    unlink_use(c, i);
    owner_unref(c, e->owner);
    if (e->is_unpublished) c->unpublished--;
    *e = (struct entry){.chain = c->free};
    c->free = i;
    c->count--;
}

static void evict_oldest(struct pin_cache *c)
{
    CHECK(c->count > 0);
    remove_entry(c, c->entries[0].newer);
}

static bool is_idle(const struct pin_cache *c, const struct entry *e, uint64_t now_ms)
{
    uint64_t ttl_ms = e->kind == SESSION_HARD ? c->options.hard_ttl_ms : c->options.soft_ttl_ms;
    return now_ms - e->used_ms >= ttl_ms;
}

static uint32_t add_entry(struct pin_cache *c, uint64_t key)
{
    if (!c->free && c->fresh > c->options.entries) evict_oldest(c);
    uint32_t i = c->free ? c->free : c->fresh++;
    struct entry *e = &c->entries[i];
    if (c->free) c->free = e->chain;
    uint32_t *bucket = bucket_of(c, key);
    *e = (struct entry){.key = key, .chain = *bucket};
    *bucket = i;
    link_newest(c, i);
    c->count++;
    return i;
}

static void read_entry(const struct pin_cache *c, const struct entry *e, uint64_t now_ms,
                       struct pin *out)
{
    *out = (struct pin){
        .key = e->key,
        .kind = (enum session_kind)e->kind,
        .owner = c->owners[e->owner].name,
        .turn = e->turn,
        .is_counted = e->is_counted,
        .is_unpublished = e->is_unpublished,
        .is_trusted = now_ms - e->confirmed_ms < PIN_TRUST_MS,
        .refreshed_ms = e->refreshed_ms,
    };
}

/* ---- the table ---- */

bool pin_cache_get(struct pin_cache *c, uint64_t key, enum session_kind kind, uint64_t now_ms,
                   struct pin *out)
{
    pthread_mutex_lock(&c->lock);
    uint32_t i = find(c, key);
    struct entry *e = &c->entries[i];
    if (i && (e->kind != kind || is_idle(c, e, now_ms))) {
        remove_entry(c, i);
        i = 0;
    }
    if (i) {
        unlink_use(c, i);
        link_newest(c, i);
        e->used_ms = now_ms;
        read_entry(c, e, now_ms, out);
    }
    pthread_mutex_unlock(&c->lock);
    return i != 0;
}

void pin_cache_put(struct pin_cache *c, const struct pin *pin, uint64_t now_ms)
{
    if (!pin->owner.agent[0] || pin->kind == SESSION_NONE) return;
    pthread_mutex_lock(&c->lock);
    uint32_t i = find(c, pin->key);
    if (i) remove_entry(c, i);
    uint16_t owner = owner_ref(c, &pin->owner); // may evict
    i = add_entry(c, pin->key);
    struct entry *e = &c->entries[i];
    e->owner = owner;
    e->kind = (uint8_t)pin->kind;
    e->turn = pin->turn;
    e->is_counted = pin->is_counted;
    e->is_unpublished = pin->is_unpublished;
    if (e->is_unpublished) c->unpublished++;
    e->used_ms = e->confirmed_ms = now_ms;
    e->refreshed_ms = pin->refreshed_ms;
    pthread_mutex_unlock(&c->lock);
}

void pin_cache_drop(struct pin_cache *c, uint64_t key)
{
    pthread_mutex_lock(&c->lock);
    uint32_t i = find(c, key);
    if (i) remove_entry(c, i);
    pthread_mutex_unlock(&c->lock);
}

int pin_cache_take_unpublished(struct pin_cache *c, uint64_t now_ms, struct pin *out, int max)
{
    int count = 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = c->entries[0].older; i && c->unpublished > 0 && count < max;
         i = c->entries[i].older) {
        struct entry *e = &c->entries[i];
        if (!e->is_unpublished) continue;
        read_entry(c, e, now_ms, &out[count++]);
        e->is_unpublished = false;
        c->unpublished--;
    }
    pthread_mutex_unlock(&c->lock);
    return count;
}

uint32_t pin_cache_count(struct pin_cache *c)
{
    pthread_mutex_lock(&c->lock);
    uint32_t count = c->count;
    pthread_mutex_unlock(&c->lock);
    return count;
}

void pin_cache_check(struct pin_cache *c)
{
    pthread_mutex_lock(&c->lock);
    uint32_t count = 0, unpublished = 0, refs = 0, owners = 0;
    for (uint32_t i = c->entries[0].older, newer = 0; i; newer = i, i = c->entries[i].older) {
        CHECK(c->entries[i].newer == newer && find(c, c->entries[i].key) == i);
        CHECK(c->entries[i].owner > 0 && c->owners[c->entries[i].owner].refs > 0);
        unpublished += c->entries[i].is_unpublished;
        count++;
    }
    CHECK(count == c->count && count <= c->options.entries && unpublished == c->unpublished);
    for (int i = 1; i <= PIN_OWNERS_MAX; i++) {
        refs += c->owners[i].refs;
        owners += c->owners[i].refs > 0;
    }
    CHECK(refs == count && owners == c->owner_by_name.len);
    pthread_mutex_unlock(&c->lock);
}
