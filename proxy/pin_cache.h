/* pin_cache.h - what this proxy knows of sessions: key -> agent, incarnation, turn. A bounded table
 * shared by all threads of a proxy; the one that was used longest ago goes first.
 *
 * An entry is believed without asking Redis for PIN_TRUST_MS after it was last confirmed; after that
 * it is what remains when Redis can't be asked. Time comes in (monotonic ms). Any thread: a lock
 * inside, held for a look-up only. */
#ifndef LM_PROXY_PIN_CACHE_H
#define LM_PROXY_PIN_CACHE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/session_ident.h"
#include "shared/net/agent_record.h"

#define PIN_CACHE_ENTRIES   (1u << 18)
#define PIN_OWNERS_MAX      4096 // (agent, incarnation) pairs with entries
#define PIN_TRUST_MS        5000
#define PIN_INCARNATION_LEN 33

/* Whose a session is. */
struct pin_owner {
    char agent[AGENT_ID_BYTES]; // "": nobody's
    char incarnation[PIN_INCARNATION_LEN];
};

struct pin {
    uint64_t key;
    enum session_kind kind;
    struct pin_owner owner;
    uint32_t turn;         // turns it is known to have had
    bool is_counted;       // `turn` was counted here, not read from Redis or heard of an agent
    bool is_unpublished;   // Redis doesn't know it yet
    bool is_trusted;       // out: confirmed within PIN_TRUST_MS
    uint64_t refreshed_ms; // last written to Redis; 0: never
};

struct pin_cache;

struct pin_cache_options {
    uint32_t entries;                  // 0: PIN_CACHE_ENTRIES
    uint64_t soft_ttl_ms, hard_ttl_ms; // idle
};

struct pin_cache *pin_cache_create(const struct pin_cache_options *options);
void pin_cache_destroy(struct pin_cache *c); // NULL is fine

/* False: not known, or idle for longer than its TTL. Counts as use. */
bool pin_cache_get(struct pin_cache *c, uint64_t key, enum session_kind kind, uint64_t now_ms,
                   struct pin *out);
/* Confirmed now; replaces what stood there. */
void pin_cache_put(struct pin_cache *c, const struct pin *pin, uint64_t now_ms);
void pin_cache_drop(struct pin_cache *c, uint64_t key);
/* Up to `max` pins that Redis should hear of; they count as published from now on. */
int pin_cache_take_unpublished(struct pin_cache *c, uint64_t now_ms, struct pin *out, int max);
uint32_t pin_cache_count(struct pin_cache *c);
void pin_cache_check(struct pin_cache *c);

#endif
