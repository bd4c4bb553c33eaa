/* dispatch_table.c - watermarks and recent ids, both bounded.
 *
 * Rules
 *  1. A number is accepted when the engine's figures count its request, or when that is over: from
 *     then on the proxy needn't add it to what we report. Numbers come in any order; those that were
 *     passed over are gaps, of which the newest AGENT_SEEN_GAPS are kept. One that never comes (the
 *     connection broke before) stays a gap until newer ones push it out, which harms nobody: the
 *     proxy has it in no ledger.
 *  2. A proxy that no ticket points to goes when it was silent for DISPATCH_KEPT_MS, or earlier to
 *     make room. When all rows are in use another proxy isn't counted: its requests then look like
 *     nobody's.
 *  3. An id runs at most once. It is remembered for DISPATCH_KEPT_MS after its end with its last
 *     attempt, so that one which was long on its way, and was given up, doesn't begin behind it. When
 *     there are too many the oldest of those that are over go; when all run, more aren't known. */
#include "agent/dispatch_table.h"

#include "shared/base/buf.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define ATTEMPT_MAX 1000000
#define NUMBER_MAX  (INT64_C(1) << 53)

struct dispatch_request {
    uint64_t id;
    int attempt; // the last one
    bool is_running;
    uint64_t ended_ms;
    struct list link; // dispatch_table.ended
};

/* ---- the header ---- */

int dispatch_parse(struct str header, struct dispatch *out)
{
    struct str part, rest = header;
    int64_t number, attempt;
    *out = (struct dispatch){0};
    if (!str_split(&rest, ';', &part) || str_to_hex64(str_trim(part), &out->proxy) != 0 ||
        out->proxy == 0) {
        return E_FORMAT;
    }
    if (!str_split(&rest, ';', &part) || str_to_int(part, &number) != 0) return E_FORMAT;
    if (!str_split(&rest, ';', &part) || str_to_hex64(part, &out->request) != 0) return E_FORMAT;
    if (!str_split(&rest, ';', &part) || str_to_int(str_trim(part), &attempt) != 0) return E_FORMAT;
    if (rest.len > 0 || number < 1 || number > NUMBER_MAX || attempt < 1 || attempt > ATTEMPT_MAX) {
        return E_FORMAT;
    }
    out->number = (uint64_t)number;
    out->attempt = (int)attempt;
    return 0;
}

/* ---- numbers ---- */

static void remove_gap(struct dispatch_proxy *p, int index)
{
    p->seen.gap_count--;
    memmove(p->gaps + index, p->gaps + index + 1,
            (size_t)(p->seen.gap_count - index) * sizeof *p->gaps);
}

static void raise_high(struct dispatch_proxy *p, uint64_t number)
{
    uint64_t first = p->seen.high + 1;
    if (number - first > AGENT_SEEN_GAPS) first = number - AGENT_SEEN_GAPS;
    for (uint64_t n = first; n < number; n++) {
        if (p->seen.gap_count == AGENT_SEEN_GAPS) remove_gap(p, 0);
        p->gaps[p->seen.gap_count++] = n;
    }
    p->seen.high = number;
}

static void accept_number(struct dispatch_proxy *p, uint64_t number)
{
    if (number > p->seen.high) {
        raise_high(p, number);
        return;
    }
    for (int i = 0; i < p->seen.gap_count; i++) {
        if (p->gaps[i] != number) continue;
        remove_gap(p, i);
        return;
    }
}

/* ---- proxies ---- */

static bool is_silent(const struct dispatch_proxy *p, uint64_t now_ms)
{
    return p->tickets == 0 && now_ms - p->heard_ms >= DISPATCH_KEPT_MS;
}

static struct dispatch_proxy *find_proxy(struct dispatch_table *t, uint64_t id)
{
    for (int i = 0; i < AGENT_SEEN_MAX; i++) {
        if (t->proxies[i].seen.proxy == id) return &t->proxies[i];
    }
    return NULL;
}

/* A row that is free, else the one that was silent for longest. Rows don't move: tickets point there. */
static struct dispatch_proxy *take_proxy(struct dispatch_table *t, uint64_t id, uint64_t now_ms)
{
    struct dispatch_proxy *row = find_proxy(t, id);
    if (!row) {
        for (int i = 0; i < AGENT_SEEN_MAX; i++) {
            struct dispatch_proxy *p = &t->proxies[i];
            if (p->tickets > 0) continue;
            if (!row || p->heard_ms < row->heard_ms) row = p;
            if (p->seen.proxy == 0) {
                row = p;
                break;
            }
        }
        if (!row) return NULL;
        *row = (struct dispatch_proxy){.seen.proxy = id};
    }
    row->heard_ms = now_ms;
    return row;
}

/* ---- ids ---- */

static struct str key_of(const uint64_t *id)
{
    return (struct str){(const char *)id, sizeof *id};
}

static void forget(struct dispatch_table *t, struct dispatch_request *r)
{
    hash_map_remove(&t->requests, key_of(&r->id));
    list_remove(&r->link);
    free(r);
    t->request_count--;
}

static void forget_old(struct dispatch_table *t, uint64_t now_ms)
{
    while (!list_is_empty(&t->ended)) {
        struct dispatch_request *r = list_first(&t->ended, struct dispatch_request, link);
        bool is_old = now_ms - r->ended_ms >= DISPATCH_KEPT_MS;
        if (!is_old && t->request_count < DISPATCH_IDS_MAX) return;
        forget(t, r);
    }
}

/* E_BUSY, or *out: the id's entry, which runs now; NULL: there is no room for it. */
static int take_request(struct dispatch_table *t, const struct dispatch *d, uint64_t now_ms,
                        struct dispatch_request **out)
{
    struct dispatch_request *r = hash_map_get(&t->requests, key_of(&d->request));
    if (r && (r->is_running || d->attempt < r->attempt)) return E_BUSY;
    forget_old(t, now_ms);
    r = hash_map_get(&t->requests, key_of(&d->request));
    if (!r && t->request_count < DISPATCH_IDS_MAX) {
        r = xcalloc(1, sizeof *r);
        r->id = d->request;
        list_init(&r->link);
        hash_map_put(&t->requests, key_of(&r->id), r);
        t->request_count++;
    }
    if (r) {
        list_remove(&r->link);
        r->is_running = true;
        r->attempt = d->attempt;
    }
    *out = r;
    return 0;
}

/* ---- tickets ---- */

int dispatch_begin(struct dispatch_table *t, const struct dispatch *d, uint64_t now_ms,
                   struct dispatch_ticket *ticket)
{
    *ticket = (struct dispatch_ticket){.dispatch = *d};
    if (d->number == 0) return 0;
    struct dispatch_proxy *proxy = take_proxy(t, d->proxy, now_ms);
    int rc = take_request(t, d, now_ms, &ticket->request);
    if (rc != 0) {
        if (proxy) accept_number(proxy, d->number);
        return rc;
    }
    ticket->table = t;
    ticket->proxy = proxy;
    if (proxy) proxy->tickets++;
    return 0;
}

static void accept_ticket(struct dispatch_ticket *ticket)
{
    if (!ticket->is_accepted && ticket->proxy)
        accept_number(ticket->proxy, ticket->dispatch.number);
    ticket->is_accepted = true;
}

void dispatch_enter_engine(struct dispatch_ticket *ticket)
{
    if (!ticket->table) return;
    accept_ticket(ticket);
    ticket->active++;
    if (ticket->proxy) ticket->proxy->seen.active++;
}

void dispatch_leave_engine(struct dispatch_ticket *ticket)
{
    if (!ticket->table) return;
    CHECK(ticket->active > 0);
    ticket->active--;
    if (ticket->proxy) ticket->proxy->seen.active--;
}

void dispatch_end(struct dispatch_ticket *ticket, uint64_t now_ms)
{
    struct dispatch_table *t = ticket->table;
    if (!t) return;
    accept_ticket(ticket);
    while (ticket->active > 0)
        dispatch_leave_engine(ticket);
    if (ticket->proxy) {
        ticket->proxy->tickets--;
        ticket->proxy->heard_ms = now_ms;
    }
    if (ticket->request) {
        ticket->request->is_running = false;
        ticket->request->ended_ms = now_ms;
        list_push_back(&t->ended, &ticket->request->link);
    }
    ticket->table = NULL;
}

/* ---- the table ---- */

void dispatch_table_init(struct dispatch_table *t)
{
    memset(t, 0, sizeof *t);
    hash_map_init(&t->requests);
    list_init(&t->ended);
}

void dispatch_table_deinit(struct dispatch_table *t)
{
    while (!list_is_empty(&t->ended))
        forget(t, list_first(&t->ended, struct dispatch_request, link));
    CHECK(t->request_count == 0); // no ticket lives
    hash_map_deinit(&t->requests);
}

void dispatch_table_report(struct dispatch_table *t, uint64_t now_ms, struct agent_load *out)
{
    forget_old(t, now_ms);
    for (int i = 0; i < AGENT_SEEN_MAX; i++) {
        struct dispatch_proxy *p = &t->proxies[i];
        if (p->seen.proxy == 0) continue;
        if (is_silent(p, now_ms)) {
            *p = (struct dispatch_proxy){0};
            continue;
        }
        agent_load_add_seen(out, &p->seen, p->gaps);
    }
}

void dispatch_table_check(const struct dispatch_table *t)
{
    size_t ended = 0, running = 0, pos = 0;
    struct str key;
    void *value;
    list_each (r, &t->ended, struct dispatch_request, link) {
        CHECK(!r->is_running);
        ended++;
    }
    while (hash_map_next(&t->requests, &pos, &key, &value))
        running += ((struct dispatch_request *)value)->is_running;
    CHECK(ended + running == t->request_count && t->request_count == t->requests.len);
    CHECK(t->request_count <= DISPATCH_IDS_MAX);
    for (int i = 0; i < AGENT_SEEN_MAX; i++) {
        const struct dispatch_proxy *p = &t->proxies[i];
        CHECK(p->tickets >= 0 && p->seen.active >= 0 && p->seen.gap_count <= AGENT_SEEN_GAPS);
        CHECK(p->seen.proxy != 0 || p->tickets == 0);
        for (int g = 0; g < p->seen.gap_count; g++)
            CHECK(p->gaps[g] < (g + 1 < p->seen.gap_count ? p->gaps[g + 1] : p->seen.high));
    }
}
