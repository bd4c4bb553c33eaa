/* session_pages.h - how much of its last request's computation each session still has.
 *
 * The engine thread calls all but session_pages_state and session_pages_forget_soon, which any
 * thread may. Rules at the head of session_pages.c. */
#ifndef LM_ENGINE_SESSION_PAGES_H
#define LM_ENGINE_SESSION_PAGES_H

#include "engine/engine.h"
#include "engine/prefix_cache.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"

#include <pthread.h>

#define SESSION_KEYS_MAX 65536 // beyond them the one used least recently is forgotten

struct session_pages {
    struct prefix_cache *cache; // borrowed
    int pin_max;                // blocks that hot sessions may keep
    int pinned;                 // blocks that they do keep
    pthread_mutex_t lock;       // guards the map, and `state` and `released` of its entries
    struct hash_map keys;       // session -> entry
    struct list by_use;         // of all entries; used least recently: first
    struct list hot;            // likewise, of those pinned
    int count[ENGINE_SESSION_STATES];
};

void session_pages_init(struct session_pages *s, struct prefix_cache *cache, int pin_max);
void session_pages_deinit(struct session_pages *s); // before the cache's

/* A request of this session has ended, and `leaf` is the last page of its sequence (NULL: none). */
void session_pages_keep(struct session_pages *s, uint64_t session, struct prefix_node *leaf);

/* Let the hot session go that was used least recently. False: there is none. */
bool session_pages_demote(struct session_pages *s);

/* prefix_cache_setup.on_change, with the session_pages as its argument. */
void session_pages_on_change(void *pages, struct prefix_node *node, struct prefix_node *to);

/* Any thread: what engine_session_state says. */
enum engine_session_state session_pages_state(struct session_pages *s, uint64_t session);
/* Any thread: from now on it says SESSION_TOKENS, until a request of the session ends. The engine
 * thread does the rest in session_pages_forget. */
void session_pages_forget_soon(struct session_pages *s, uint64_t session);
void session_pages_forget(struct session_pages *s, uint64_t session);

void session_pages_check(const struct session_pages *s);

#endif
