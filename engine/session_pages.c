/* session_pages.c - the ladder that a session's pages go down, and up again.
 *
 *     request ends ──► HOT ──budget or pressure──► CACHED ──evicted──► HOST ──its budget──► TOKENS
 *                       ▲                            ▲  a prompt comes that │
 *                       └── the next request ends    └────── begins so ─────┘
 *
 * Rules
 *  1. A session points to the node where its last request's sequence ends. When that node goes, the
 *     session points to the node before it: the state is that of the deepest page still there.
 *  2. Hot sessions pin all pages up to theirs. Pages that several of them pass are pinned, and
 *     counted, once. Beyond pin_max the one used least recently is let go, be it the newest.
 *  3. Keys are bounded; to forget one costs nothing but time at its next turn.
 *  4. Only the engine thread writes entries. Readers on other threads see `state` under the lock. */
#include "engine/session_pages.h"

#include "shared/base/check.h"

#include <stdlib.h>

struct session_entry {
    uint64_t session;
    struct list use;          // session_pages.by_use
    struct list hot;          // session_pages.hot while pinned, else by itself
    struct list at_leaf;      // leaf->sessions
    struct prefix_node *leaf; // NULL: nothing is left
    bool pinned;
    bool released; // by its owner; the command for it is on its way
    enum engine_session_state state;
};

void session_pages_init(struct session_pages *s, struct prefix_cache *cache, int pin_max)
{
    *s = (struct session_pages){.cache = cache, .pin_max = pin_max};
    pthread_mutex_init(&s->lock, NULL);
    hash_map_init(&s->keys);
    list_init(&s->by_use);
    list_init(&s->hot);
}

static struct str key_of(const uint64_t *session)
{
    return (struct str){(const char *)session, sizeof *session};
}

static enum engine_session_state state_of(const struct session_entry *e)
{
    if (!e->leaf) return SESSION_TOKENS;
    if (e->leaf->block < 0) return SESSION_HOST;
    return e->pinned ? SESSION_HOT : SESSION_CACHED;
}

static void update_state(struct session_pages *s, struct session_entry *e)
{
    pthread_mutex_lock(&s->lock);
    s->count[e->state]--;
    e->state = state_of(e);
    s->count[e->state]++;
    pthread_mutex_unlock(&s->lock);
}

/* ---- pins ---- */

static void unpin(struct session_pages *s, struct session_entry *e)
{
    if (!e->pinned) return;
    e->pinned = false;
    list_remove(&e->hot);
    s->pinned -= prefix_cache_unpin(s->cache, e->leaf);
}

static void pin(struct session_pages *s, struct session_entry *e)
{
    CHECK(!e->pinned && e->leaf->block >= 0);
    e->pinned = true;
    list_push_back(&s->hot, &e->hot);
    s->pinned += prefix_cache_pin(s->cache, e->leaf);
}

bool session_pages_demote(struct session_pages *s)
{
    if (list_is_empty(&s->hot)) return false;
    struct session_entry *e = list_first(&s->hot, struct session_entry, hot);
    unpin(s, e);
    update_state(s, e);
    return true;
}

/* ---- where a session points ---- */

static void detach(struct session_pages *s, struct session_entry *e)
{
    if (!e->leaf) return;
    unpin(s, e);
    list_remove(&e->at_leaf);
    prefix_cache_count_session(e->leaf, -1);
    e->leaf = NULL;
}

static void attach(struct session_entry *e, struct prefix_node *leaf)
{
    e->leaf = leaf;
    if (!leaf) return;
    list_push_back(&leaf->sessions, &e->at_leaf);
    prefix_cache_count_session(leaf, 1);
}

void session_pages_on_change(void *pages, struct prefix_node *node, struct prefix_node *to)
{
    struct session_pages *s = pages;
    list_each_safe (e, &node->sessions, struct session_entry, at_leaf) {
        if (to != node) {
            detach(s, e);
            attach(e, to);
        }
        update_state(s, e);
    }
}

/* ---- keys ---- */

static void destroy_entry(struct session_pages *s, struct session_entry *e)
{
    detach(s, e);
    list_remove(&e->use);
    pthread_mutex_lock(&s->lock);
    hash_map_remove(&s->keys, key_of(&e->session));
    s->count[e->state]--;
    pthread_mutex_unlock(&s->lock);
    free(e);
}

static struct session_entry *find_or_create(struct session_pages *s, uint64_t session)
{
    struct session_entry *e = hash_map_get(&s->keys, key_of(&session)); // rule 4: no lock needed
    if (e) return e;
    if (s->keys.len >= SESSION_KEYS_MAX)
        destroy_entry(s, list_first(&s->by_use, struct session_entry, use));
    e = xcalloc(1, sizeof *e);
    e->session = session;
    e->state = SESSION_TOKENS;
    list_init(&e->use);
    list_init(&e->hot);
    list_init(&e->at_leaf);
    pthread_mutex_lock(&s->lock);
    s->count[e->state]++;
    hash_map_put(&s->keys, key_of(&e->session), e);
    pthread_mutex_unlock(&s->lock);
    return e;
}

void session_pages_keep(struct session_pages *s, uint64_t session, struct prefix_node *leaf)
{
    if (!leaf) return; // it computed nothing: what was there before is as good as it was
    struct session_entry *e = find_or_create(s, session);
    struct prefix_node *before = e->leaf;
    list_remove(&e->use);
    list_push_back(&s->by_use, &e->use);
    detach(s, e);
    attach(e, leaf);
    if (leaf->block >= 0) pin(s, e);
    if (before && before != leaf) prefix_cache_tidy(s->cache, before);
    while (s->pinned > s->pin_max && session_pages_demote(s))
        ;
    pthread_mutex_lock(&s->lock);
    e->released = false;
    pthread_mutex_unlock(&s->lock);
    update_state(s, e);
}

enum engine_session_state session_pages_state(struct session_pages *s, uint64_t session)
{
    pthread_mutex_lock(&s->lock);
    const struct session_entry *e = hash_map_get(&s->keys, key_of(&session));
    enum engine_session_state state = e && !e->released ? e->state : SESSION_TOKENS;
    pthread_mutex_unlock(&s->lock);
    return state;
}

void session_pages_forget_soon(struct session_pages *s, uint64_t session)
{
    pthread_mutex_lock(&s->lock);
    struct session_entry *e = hash_map_get(&s->keys, key_of(&session));
    if (e) e->released = true;
    pthread_mutex_unlock(&s->lock);
}

void session_pages_forget(struct session_pages *s, uint64_t session)
{
    struct session_entry *e = hash_map_get(&s->keys, key_of(&session));
    if (!e) return;
    struct prefix_node *leaf = e->leaf;
    destroy_entry(s, e);
    if (leaf) prefix_cache_tidy(s->cache, leaf);
}

void session_pages_deinit(struct session_pages *s)
{
    list_each_safe (e, &s->by_use, struct session_entry, use)
        destroy_entry(s, e);
    CHECK(s->keys.len == 0 && s->pinned == 0);
    hash_map_deinit(&s->keys);
    pthread_mutex_destroy(&s->lock);
}

void session_pages_check(const struct session_pages *s)
{
    int count[ENGINE_SESSION_STATES] = {0};
    list_each (e, &s->by_use, struct session_entry, use) {
        CHECK(e->state == state_of(e) && e->pinned == !list_is_empty(&e->hot));
        CHECK(!e->leaf || !e->leaf->lost);
        count[e->state]++;
    }
    for (int i = 0; i < ENGINE_SESSION_STATES; i++)
        CHECK(count[i] == s->count[i]);
    CHECK(s->pinned <= s->pin_max);
}
