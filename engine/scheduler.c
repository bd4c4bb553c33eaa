/* scheduler.c - continuous batching with chunked prefill over a bounded pool of KV blocks.
 *
 *     submit --> WAITING --admit--> RUNNING --finish--> FINISHED
 *                   ^                  |
 *                   +---- preempt -----+      (blocks given back; recomputed by prefill later)
 *
 * A step, in the order of arrival:
 *     every running sequence that needs one token (decode) gets it;
 *     what is left of the prefill budget goes to running prompts, then to waiting ones.
 *
 * Rules
 *  1. First come, first served. Whoever runs arrived before anybody who waits, so the oldest
 *     request can always take what it needs from younger ones, and ends: no deadlock, no
 *     starvation.
 *  2. A waiting request is admitted only if its whole prompt fits at once, with a block to spare
 *     for each that runs: half-filled prompts never hold each other up, and rarely get preempted at
 *     once.
 *  3. Who needs a block that isn't there preempts the youngest that runs; the youngest of all waits
 *     with its blocks kept. A victim is always later in the order than the taker, so it isn't in
 *     the plan yet: a plan is never undone.
 *  4. A request that can't be served by the whole pool fails as soon as it is alone.
 *  5. Plans may be made while earlier steps run. Then `pending` tokens are known by number, not by
 *     value; a preempted request comes back only when its own are known. */
#include "engine/scheduler.h"

#include "shared/base/check.h"

#include <stdlib.h>

/* However many decodes a step has, prompts move by that many tokens if they may at all. */
#define PREFILL_MIN KV_BLOCK_TOKENS

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

void scheduler_init(struct scheduler *s, const struct scheduler_limits *limits, struct kv_cache *kv)
{
    CHECK(limits->running_max > 0 && limits->prefill_max > 0 && limits->queue_max > 0);
    *s = (struct scheduler){.limits = *limits, .kv = kv};
    list_init(&s->running);
    list_init(&s->waiting);
    list_init(&s->failed);
}

static int prefill_budget(const struct scheduler_limits *limits, int decodes)
{
    return max_int(limits->prefill_max - decodes, min_int(limits->prefill_max, PREFILL_MIN));
}

int scheduler_tokens_max(const struct scheduler_limits *limits)
{
    int all_decode = limits->running_max + prefill_budget(limits, limits->running_max);
    return max_int(limits->prefill_max, all_decode);
}

int scheduler_open_max(const struct scheduler_limits *limits)
{
    return limits->running_max + limits->queue_max;
}

int scheduler_submit(struct scheduler *s, struct request *r, struct error *err)
{
    int open = s->running_count + s->waiting_count;
    if (open >= scheduler_open_max(&s->limits))
        return error_set(err, E_BUSY, "%d requests run and wait already", open);
    CHECK(r->state == REQUEST_WAITING && !r->admitted);
    r->arrival = s->next_arrival++;
    list_push_back(&s->waiting, &r->link);
    s->waiting_count++;
    return 0;
}

void scheduler_finish(struct scheduler *s, struct request *r)
{
    if (r->state == REQUEST_FINISHED) return;
    list_remove(&r->link);
    if (r->state == REQUEST_RUNNING)
        s->running_count--;
    else
        s->waiting_count--;
    block_table_release(&r->table, s->kv);
    r->state = REQUEST_FINISHED;
}

static void fail(struct scheduler *s, struct request *r)
{
    scheduler_finish(s, r);
    list_push_back(&s->failed, &r->link);
}

struct request *scheduler_take_failed(struct scheduler *s)
{
    if (list_is_empty(&s->failed)) return NULL;
    struct request *r = list_first(&s->failed, struct request, link);
    list_remove(&r->link);
    return r;
}

/* ---- planning ---- */

static void preempt(struct scheduler *s, struct request *r)
{
    list_remove(&r->link);
    s->running_count--;
    block_table_release(&r->table, s->kv);
    r->computed = 0;
    r->state = REQUEST_WAITING;
    list_push_front(&s->waiting, &r->link); // rule 1: it is the oldest there now
    s->waiting_count++;
    s->preemptions++;
}

/* Rule 3. False: r must wait, or (it is alone) has failed. */
static bool reserve(struct scheduler *s, struct request *r, int count)
{
    while (!block_table_reserve(&r->table, s->kv, r->computed + count)) {
        struct request *youngest = list_last(&s->running, struct request, link);
        if (youngest == r) return false;
        preempt(s, youngest);
    }
    return true;
}

static void add(struct batch *b, struct request *r, int count)
{
    bool sample = r->computed + count == r->count + r->pending;
    batch_add(b, r, count, sample);
    r->computed += count;
    r->in_flight++;
    if (!sample) return;
    r->pending++;
    r->pending_row = b->rows - 1;
}

static int count_decodes(const struct scheduler *s)
{
    int decodes = 0;
    list_each (r, &s->running, struct request, link)
        decodes += request_need(r) == 1;
    return decodes;
}

/* Running sequences. False: blocks were short, so nobody new may come in. */
static bool plan_running(struct scheduler *s, struct batch *b, int *prefill_left)
{
    uint64_t preemptions = s->preemptions;
    bool stalled = false;
    for (struct list *at = s->running.next; at != &s->running;) {
        struct request *r = list_entry(at, struct request, link);
        int need = request_need(r);
        int count = need > 1 ? min_int(need, *prefill_left) : need;
        count = min_int(count, batch_room(b, r));
        bool fits = count == 0 || reserve(s, r, count);
        at = at->next; // after reserve: it may have removed what came next
        if (!fits && s->running_count == 1) {
            fail(s, r); // rule 4
        } else if (!fits) {
            stalled = true;
        } else if (count > 0) {
            add(b, r, count);
            if (need > 1) *prefill_left -= count;
        }
    }
    return !stalled && s->preemptions == preemptions;
}

/* Rule 2. */
static bool may_admit(const struct scheduler *s, const struct request *r)
{
    int spare = s->kv->free_count - blocks_for(r->count);
    return spare >= 0 && (s->running_count == 0 || spare >= s->running_count);
}

static void plan_waiting(struct scheduler *s, struct batch *b, int prefill_left)
{
    while (!list_is_empty(&s->waiting)) {
        struct request *r = list_first(&s->waiting, struct request, link);
        if (r->pending > 0) return; // rule 5
        if (blocks_for(r->count) > s->kv->total) {
            fail(s, r); // rule 4
            continue;
        }
        if (batch_room(b, r) == 0) return;
        if (prefill_left == 0 || s->running_count == s->limits.running_max || !may_admit(s, r))
            return;
        CHECK(block_table_reserve(&r->table, s->kv, r->count));
        list_remove(&r->link);
        s->waiting_count--;
        r->admitted = true;
        r->state = REQUEST_RUNNING;
        list_push_back(&s->running, &r->link);
        s->running_count++;
        int count = min_int(min_int(request_need(r), prefill_left), batch_room(b, r));
        add(b, r, count);
        prefill_left -= count;
    }
}

bool scheduler_plan(struct scheduler *s, struct batch *b)
{
    int prefill_left = prefill_budget(&s->limits, count_decodes(s));
    if (plan_running(s, b, &prefill_left)) plan_waiting(s, b, prefill_left);
    batch_seal(b);
    return b->sequences > 0;
}

bool scheduler_complete_entry(struct batch *b, int index)
{
    struct batch_entry *e = &b->entry[index];
    struct request *r = e->request;
    CHECK(r->in_flight > 0 && index < b->sequences);
    r->in_flight--;
    if (e->row < 0) return false;
    r->pending--;
    if (r->state == REQUEST_FINISHED || b->row_info[e->row].status < 0) return false;
    request_push_token(r, b->row_info[e->row].token);
    return true;
}

/* ---- looking in ---- */

int64_t scheduler_prefill_waiting(const struct scheduler *s)
{
    int64_t tokens = 0;
    list_each (r, &s->waiting, struct request, link)
        tokens += r->count;
    list_each (r, &s->running, struct request, link) {
        int need = request_need(r);
        if (need > 1) tokens += need;
    }
    return tokens;
}

static void check_request(const struct scheduler *s, const struct request *r, uint32_t *refs)
{
    CHECK(r->pending >= 0 && r->pending <= r->in_flight);
    CHECK(r->computed <= r->count + r->pending);
    CHECK(r->table.count >= blocks_for(r->computed));
    for (int i = 0; i < r->table.count; i++) {
        CHECK(r->table.blocks[i] >= 0 && r->table.blocks[i] < s->kv->total);
        refs[r->table.blocks[i]]++;
    }
}

void scheduler_check(const struct scheduler *s)
{
    uint32_t *refs = xcalloc((size_t)s->kv->total, sizeof *refs);
    uint64_t last = 0;
    int running = 0, waiting = 0;
    list_each (r, &s->running, struct request, link) {
        CHECK(r->state == REQUEST_RUNNING && r->admitted && (running == 0 || r->arrival > last));
        check_request(s, r, refs);
        last = r->arrival;
        running++;
    }
    list_each (r, &s->waiting, struct request, link) {
        CHECK(r->state == REQUEST_WAITING && (running + waiting == 0 || r->arrival > last));
        CHECK(r->table.count == 0 && r->computed == 0);
        last = r->arrival;
        waiting++;
    }
    CHECK(running == s->running_count && running <= s->limits.running_max);
    CHECK(waiting == s->waiting_count && running + waiting <= scheduler_open_max(&s->limits));
    for (int i = 0; i < s->kv->total; i++)
        CHECK(refs[i] == s->kv->refs[i]);
    kv_cache_check(s->kv);
    free(refs);
}
