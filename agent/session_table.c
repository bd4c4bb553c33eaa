/* session_table.c - who holds what.
 *
 *     (none) ──take──► empty ──a turn──► held ──TTL──► buried ──the client ends it──► (none)
 *        ▲               │ nobody waits   │ ended        │ forgotten, the oldest first
 *        └───────────────┴────────────────┴──────────────┘
 *
 * Rules:
 *  1. The front ticket of a session's queue has the turn, and with it history and file. Tickets
 *     come to the front in the order in which they entered.
 *  2. A session with tickets is never dropped or freed.
 *  3. To make room only sessions go of which a whole copy exists elsewhere. Others live until
 *     their TTL; when they fill the table no new session begins.
 *  4. A key is held or buried, never both. */
#include "agent/session_table.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

struct grave {
    struct list link;
    uint64_t key;
    uint64_t until_ms;
    enum session_loss why;
};

static struct str key_str(const uint64_t *key)
{
    return (struct str){(const char *)key, sizeof *key};
}

void session_table_init(struct session_table *t, const struct session_table_options *options)
{
    *t = (struct session_table){.options = *options};
    hash_map_init(&t->by_key);
    hash_map_init(&t->graves_by_key);
    list_init(&t->sessions);
    list_init(&t->graves);
}

static void free_session(struct session_table *t, struct session *s)
{
    CHECK(list_is_empty(&s->queue)); // rule 2
    hash_map_remove(&t->by_key, key_str(&s->key));
    list_remove(&s->link);
    t->count--;
    t->bytes -= s->history.bytes_owned;
    session_history_deinit(&s->history);
    free(s);
}

static void free_grave(struct session_table *t, struct grave *g)
{
    hash_map_remove(&t->graves_by_key, key_str(&g->key));
    list_remove(&g->link);
    t->grave_count--;
    free(g);
}

void session_table_deinit(struct session_table *t)
{
    list_each_safe (s, &t->sessions, struct session, link)
        free_session(t, s);
    list_each_safe (g, &t->graves, struct grave, link)
        free_grave(t, g);
    hash_map_deinit(&t->by_key);
    hash_map_deinit(&t->graves_by_key);
}

uint64_t session_table_key(const struct session_owner *owner, const char *model)
{
    static const struct session_secret plain = {"lm session table"};
    uint64_t key =
        session_key(&plain, str_of(owner->tenant), str_of(model), STR("interactive"), owner->id);
    return key ? key : 1; // 0 is "none" to the engine
}

struct session *session_table_find(const struct session_table *t, uint64_t key)
{
    return hash_map_get(&t->by_key, key_str(&key));
}

struct session *session_table_take(struct session_table *t, uint64_t key,
                                   const struct session_owner *owner)
{
    struct session *s = session_table_find(t, key);
    if (s) return s;
    s = xcalloc(1, sizeof *s);
    s->key = key;
    s->owner = *owner;
    s->file.name = key;
    list_init(&s->queue);
    list_push_back(&t->sessions, &s->link);
    hash_map_put(&t->by_key, key_str(&s->key), s);
    t->count++;
    return s;
}

/* ---- turns ---- */

bool session_has_turn(const struct session *s, const struct session_ticket *ticket)
{
    return s->queue.next == &ticket->link;
}

int session_table_enter(struct session_table *t, struct session *s, struct session_ticket *ticket)
{
    (void)t;
    if (s->queue_count > SESSION_WAITING_MAX) return E_BUSY;
    list_push_back(&s->queue, &ticket->link);
    s->queue_count++;
    return s->queue_count == 1;
}

void session_table_leave(struct session_table *t, struct session *s, struct session_ticket *ticket,
                         uint64_t now_ms, int64_t now_s)
{
    bool had_turn = session_has_turn(s, ticket);
    list_remove(&ticket->link);
    s->queue_count--;
    if (had_turn) {
        s->used_ms = now_ms;
        s->used_s = now_s;
        list_remove(&s->link);
        list_push_back(&t->sessions, &s->link);
    }
    if (list_is_empty(&s->queue)) {
        if (s->history.turn_count == 0) free_session(t, s);
    } else if (had_turn) {
        struct session_ticket *next = list_first(&s->queue, struct session_ticket, link);
        next->on_turn(next->arg);
    }
}

/* ---- bounds ---- */

void session_table_account(struct session_table *t, struct session *s, size_t bytes_before)
{
    t->bytes = t->bytes - bytes_before + s->history.bytes_owned;
}

static int compare_use(const void *a, const void *b)
{
    const struct session *x = *(struct session *const *)a, *y = *(struct session *const *)b;
    return x->used_ms < y->used_ms ? -1 : x->used_ms > y->used_ms;
}

void session_table_sort(struct session_table *t)
{
    struct session **all = xcalloc(t->count + 1, sizeof(struct session *));
    size_t count = 0;
    list_each_safe (s, &t->sessions, struct session, link) {
        list_remove(&s->link);
        all[count++] = s;
    }
    qsort(all, count, sizeof *all, compare_use);
    for (size_t i = 0; i < count; i++)
        list_push_back(&t->sessions, &all[i]->link);
    free(all);
}

static bool is_full(const struct session_table *t)
{
    return t->count >= t->options.count_max || t->bytes >= t->options.bytes_max;
}

bool session_table_make_room(struct session_table *t)
{
    list_each_safe (s, &t->sessions, struct session, link) {
        if (!is_full(t)) return true;
        if (!list_is_empty(&s->queue) || !s->is_safe) continue;
        t->options.on_drop(t->options.arg, s, false);
        free_session(t, s);
    }
    return !is_full(t);
}

void session_table_sweep(struct session_table *t, uint64_t now_ms)
{
    list_each_safe (s, &t->sessions, struct session, link) {
        if (!list_is_empty(&s->queue)) continue;
        if (s->used_ms + t->options.ttl_ms > now_ms) break; // the rest was used later
        uint64_t key = s->key;
        t->options.on_drop(t->options.arg, s, true);
        free_session(t, s);
        session_table_bury(t, key, SESSION_EXPIRED, now_ms);
    }
    while (!list_is_empty(&t->graves)) {
        struct grave *g = list_first(&t->graves, struct grave, link);
        if (g->until_ms > now_ms) break;
        free_grave(t, g);
    }
}

/* ---- graves ---- */

/* An id that is forgotten begins anew, as one that was never seen; so each grave stays for many
 * times the life of an idle session, and only their number ends it sooner. */
#define GRAVE_TTLS 16

void session_table_bury(struct session_table *t, uint64_t key, enum session_loss why,
                        uint64_t now_ms)
{
    session_table_unbury(t, key);
    if (t->options.graves_max == 0) return;
    if (t->grave_count == t->options.graves_max) {
        free_grave(t, list_first(&t->graves, struct grave, link));
    }
    struct grave *g = xcalloc(1, sizeof *g);
    *g =
        (struct grave){.key = key, .until_ms = now_ms + GRAVE_TTLS * t->options.ttl_ms, .why = why};
    list_push_back(&t->graves, &g->link);
    hash_map_put(&t->graves_by_key, key_str(&g->key), g);
    t->grave_count++;
}

enum session_loss session_table_grave(const struct session_table *t, uint64_t key)
{
    const struct grave *g = hash_map_get(&t->graves_by_key, key_str(&key));
    return g ? g->why : SESSION_NOT_LOST;
}

bool session_table_unbury(struct session_table *t, uint64_t key)
{
    struct grave *g = hash_map_get(&t->graves_by_key, key_str(&key));
    if (g) free_grave(t, g);
    return g != NULL;
}

void session_table_check(const struct session_table *t)
{
    size_t count = 0, bytes = 0, graves = 0;
    list_each (s, &t->sessions, struct session, link) {
        int tickets = 0;
        list_each (ticket, &s->queue, struct session_ticket, link)
            tickets++;
        CHECK(tickets == s->queue_count && tickets <= SESSION_WAITING_MAX + 1);
        CHECK(tickets > 0 || s->history.turn_count > 0);
        CHECK(session_table_find(t, s->key) == s);
        CHECK(session_table_grave(t, s->key) == SESSION_NOT_LOST);
        session_history_check(&s->history);
        bytes += s->history.bytes_owned;
        count++;
    }
    list_each (g, &t->graves, struct grave, link)
        graves++;
    CHECK(count == t->count && bytes == t->bytes && graves == t->grave_count);
}
