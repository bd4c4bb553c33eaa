/* scheduler.c - continuous batching with chunked prefill over a bounded pool of KV blocks.
 *
 *     submit --> QUEUED --admit--> RUNNING --finish--> FINISHED
 *                                  |     ^
 *                               preempt admit      (what it computed is in the prefix cache,
 *                                  v     |          if it was not evicted: recomputed by prefill)
 *                                 PREEMPTED
 *
 * A step: every running sequence that needs one token (decode) gets it; then who waits may come in,
 * until a full step's worth of prompts runs; then these share the budget for prompts, in order, but
 * half of it goes to the short ones.
 *
 * Rules
 *  1. Order is (rank, first admission). Rank is the request's priority, or RANK_FIRST for who was
 *     passed over too often. Who needs a block evicts idle ones, then demotes hot sessions, then
 *     preempts the last in order that runs; the last of all waits with its blocks kept. A victim
 *     isn't in the plan yet: a plan is never undone.
 *  2. The preempted go before the queue, but not before better priorities there. wait_queue.c says
 *     who is next in the queue. Nobody overtakes that one, except by better priority.
 *  3. It is admitted only if all its tokens fit at once, with a block to spare for each that runs:
 *     half-filled prompts never hold each other up. A better priority preempts worse ranks for it,
 *     if that will be enough.
 *  4. It waits while somebody of no worse rank runs and has yet to compute what both begin with.
 *  5. A request that the whole pool can't serve fails: before admission, or as soon as it is alone.
 *  6. Plans may be made while earlier steps run. Then `pending` tokens are known by number, not by
 *     value, and a draw may depend on that (batch.h: draws_late); a preempted request comes back only
 *     when its own are known.
 *
 * Why everybody ends. The first in order takes what it needs from all others (1), and when it is
 * alone it goes on or fails (5): so it ends. Each time another goes first - is admitted before one
 * that was preempted, preempts it, takes the prompts' budget with a better rank - that one's
 * `passed` grows, until it has RANK_FIRST, in which only older ones are before it: so who was
 * admitted becomes first. As runners end, there is room for the next one to be admitted (3); a
 * wait for a producer (4) ends with its prompt, because it isn't behind in the order; and the queue
 * comes to everyone (wait_queue.c rules 1 and 2), who then can't be preempted for a better class. */
#include "engine/scheduler.h"

#include "shared/base/check.h"

#include <limits.h>
#include <stdlib.h>

/* However many decodes a step has, prompts move by that many tokens if they may at all. */
#define PREFILL_MIN   KV_BLOCK_TOKENS

#define PREFILL_SHORT KV_BLOCK_TOKENS // needs no more: goes by others

#define RANK_FIRST    INT_MIN
#define PASSED_MAX    256
#define PASSED_TURN   16 // a lost turn to run, in lost turns to prefill
#define SHARE_MIN     16 // fewer tokens of another's prompt are not worth waiting for

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

void scheduler_init(struct scheduler *s, const struct scheduler_limits *limits,
                    struct kv_memory *memory)
{
    CHECK(limits->running_max > 0 && limits->prefill_max > 0 && limits->queue_max > 0);
    *s = (struct scheduler){.limits = *limits, .memory = memory};
    s->pacer.pace = limits->prefill_pace;
    list_init(&s->running);
    list_init(&s->preempted);
    list_init(&s->failed);
    wait_queue_init(&s->queue);
}

void scheduler_deinit(struct scheduler *s)
{
    CHECK(!scheduler_any(s) && list_is_empty(&s->failed));
    wait_queue_deinit(&s->queue);
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

int scheduler_waiting(const struct scheduler *s)
{
    return s->queue.count + s->preempted_count;
}

/* ---- coming and going ---- */

int scheduler_submit(struct scheduler *s, struct request *r, struct error *err)
{
    int open = s->running_count + scheduler_waiting(s);
    if (open >= scheduler_open_max(&s->limits))
        return error_set(err, E_BUSY, "%d requests run and wait already", open);
    CHECK(r->state == REQUEST_WAITING && r->order == 0);
    r->rank = r->priority;
    r->cached = r->prompt_count;
    kv_memory_join(s->memory, r);
    struct prefix_match match;
    kv_memory_match(s->memory, r, &match);
    r->found = match.tokens;
    wait_queue_push(&s->queue, r);
    return 0;
}

static void insert(struct list *list, struct request *r)
{
    struct list *at = list->prev;
    for (; at != list; at = at->prev) {
        const struct request *o = list_entry(at, struct request, link);
        if (o->rank < r->rank || (o->rank == r->rank && o->order < r->order)) break;
    }
    list_push_front(at, &r->link); // behind `at`
}

static void leave(struct scheduler *s, struct request *r)
{
    if (r->flow) {
        wait_queue_remove(&s->queue, r);
    } else {
        list_remove(&r->link);
        if (r->state == REQUEST_RUNNING)
            s->running_count--;
        else
            s->preempted_count--;
    }
    kv_memory_leave(s->memory, r);
    r->state = REQUEST_FINISHED;
}

void scheduler_finish(struct scheduler *s, struct request *r)
{
    if (r->state == REQUEST_FINISHED) return;
    kv_memory_end(s->memory, r);
    leave(s, r);
}

void scheduler_finish_distrusted(struct scheduler *s, struct request *r)
{
    kv_memory_end_distrusted(s->memory, r);
    leave(s, r);
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

static void preempt(struct scheduler *s, struct request *r)
{
    kv_memory_yield(s->memory, r);
    list_remove(&r->link);
    s->running_count--;
    r->state = REQUEST_WAITING;
    r->passed += PASSED_TURN;
    insert(&s->preempted, r);
    s->preempted_count++;
    s->preemptions++;
}

static void admit(struct scheduler *s, struct request *r, const struct prefix_match *match)
{
    struct request *passed = list_first(&s->preempted, struct request, link);
    bool is_first = r->flow != NULL;
    if (is_first) {
        if (s->preempted_count > 0) passed->passed += PASSED_TURN;
        if (wait_queue_is_overdue(&s->queue)) r->rank = RANK_FIRST;
        wait_queue_admit(&s->queue, r, r->count - match->tokens);
        r->order = ++s->admissions;
    } else {
        list_remove(&r->link);
        s->preempted_count--;
    }
    kv_memory_admit(s->memory, r, match);
    if (is_first || request_generated(r) == 0) r->cached = min_int(r->cached, match->tokens);
    r->state = REQUEST_RUNNING;
    insert(&s->running, r);
    s->running_count++;
}

/* ---- who is next ---- */

static struct request *next_waiting(struct scheduler *s)
{
    struct request *queued = wait_queue_peek(&s->queue);
    if (s->preempted_count == 0) return queued;
    struct request *back = list_first(&s->preempted, struct request, link);
    return queued && queued->priority < back->rank ? queued : back;
}

/* Rule 4. */
static bool waits_for_producer(const struct scheduler *s, const struct request *r,
                               const struct prefix_match *match)
{
    if (!r->space) return false;
    list_each (p, &s->running, struct request, link) {
        if (p->space != r->space || p->rank > r->priority) continue;
        int common = 0, most = min_int(p->count, kv_memory_findable(r));
        while (common < most && p->tokens[common] == r->tokens[common])
            common++;
        int least = r->group && r->group == p->group ? 1 : SHARE_MIN;
        if (common > p->published && common - match->tokens >= least) return true;
    }
    return false;
}

/* Rule 3. */
static bool has_room(const struct scheduler *s, const struct request *r,
                     const struct prefix_match *match)
{
    return s->running_count < s->limits.running_max &&
           kv_memory_spare(s->memory, r, match) >= s->running_count;
}

/* Would it have room if all that have a worse rank yielded? */
static bool would_have_room(const struct scheduler *s, const struct request *r,
                            const struct prefix_match *match)
{
    int spare = kv_memory_spare(s->memory, r, match), left = s->running_count;
    list_each (p, &s->running, struct request, link) {
        if (p->rank <= r->priority) continue;
        left--;
        for (int i = 0; i < p->table.count; i++)
            spare += s->memory->kv.refs[p->table.blocks[i]] == 1;
    }
    return left < s->limits.running_max && spare >= left;
}

/* Before anything is planned, so that victims aren't in the plan. */
static void make_way(struct scheduler *s)
{
    struct request *r = next_waiting(s);
    struct prefix_match match;
    if (!r || r->pending > 0 || s->running_count == 0) return;
    if (list_last(&s->running, struct request, link)->rank <= r->priority) return;
    kv_memory_match(s->memory, r, &match);
    if (waits_for_producer(s, r, &match) || !would_have_room(s, r, &match)) return;
    while (s->running_count > 0 && !has_room(s, r, &match)) {
        struct request *last = list_last(&s->running, struct request, link);
        if (last->rank <= r->priority) return;
        preempt(s, last);
        kv_memory_match(s->memory, r, &match); // it may find what the victim left
    }
}

/* Those who were passed over too often (rule 1). */
static void promote(struct list *list)
{
    struct list late;
    list_init(&late);
    list_each_safe (r, list, struct request, link) {
        if (r->passed < PASSED_MAX || r->rank == RANK_FIRST) continue;
        r->rank = RANK_FIRST;
        list_remove(&r->link);
        list_push_back(&late, &r->link);
    }
    list_each_safe (l, &late, struct request, link) {
        list_remove(&l->link);
        insert(list, l);
    }
}

/* ---- planning ---- */

static void add(struct scheduler *s, struct batch *b, struct request *r, int count)
{
    r->plan = s->plans;
    bool sample = r->computed + count == r->count + r->pending;
    batch_add(b, r, count, sample);
    r->computed += count;
    r->in_flight++;
    if (!sample) return;
    r->pending++;
    r->pending_row = b->rows - 1;
}

/* False: r must wait, or (it is alone) has failed. */
static bool make_room(struct scheduler *s, struct request *r)
{
    while (!kv_memory_grow(s->memory, r, r->computed + 1)) {
        struct request *last = list_last(&s->running, struct request, link);
        if (last != r)
            preempt(s, last);
        else if (s->running_count > 1)
            return false;
        else {
            fail(s, r); // rule 5
            return false;
        }
    }
    return true;
}

/* False: blocks were short, so nobody may come in. */
static bool plan_decodes(struct scheduler *s, struct batch *b)
{
    uint64_t preemptions = s->preemptions;
    bool stalled = false;
    for (struct list *at = s->running.next; at != &s->running;) {
        struct request *r = list_entry(at, struct request, link);
        if (request_need(r) != 1) {
            at = at->next;
            continue;
        }
        bool fits = make_room(s, r);
        at = fits ? r->link.next : &s->running; // who is last and doesn't fit ends the walk
        if (fits)
            add(s, b, r, 1);
        else
            stalled = true;
    }
    return !stalled && s->preemptions == preemptions;
}

/* Prompt tokens of running requests that will be computed before r's. */
static int64_t prefill_before(const struct scheduler *s, const struct request *r)
{
    int64_t tokens = 0;
    list_each (p, &s->running, struct request, link)
        if (p->rank <= r->rank && request_need(p) > 1) tokens += request_need(p);
    return tokens;
}

static void admit_waiting(struct scheduler *s)
{
    int backlog_max = prefill_budget(&s->limits, 0); // a step's worth, however slow they come
    struct prefix_match match;
    for (struct request *r; (r = next_waiting(s)) != NULL;) {
        if (r->pending > 0) return; // rule 6
        if (blocks_for(r->count) > s->memory->kv.total) {
            fail(s, r); // rule 5
            continue;
        }
        if (s->running_count == s->limits.running_max || prefill_before(s, r) >= backlog_max)
            return;
        kv_memory_match(s->memory, r, &match);
        if (waits_for_producer(s, r, &match) || !has_room(s, r, &match)) return;
        admit(s, r, &match);
    }
}

/* Who was admitted just now may need a single token. One that stalled has no room for it. */
static bool may_prefill(const struct scheduler *s, const struct request *r)
{
    int need = request_need(r);
    return r->plan != s->plans && need > 0 && r->table.count >= blocks_for(r->computed + need);
}

/* Chunks of prompts that need at most `need_max`. Returns the tokens they got. */
static int plan_chunks(struct scheduler *s, struct batch *b, int budget, int need_max)
{
    const struct request *first = NULL;
    int left = budget;
    bool lane = need_max < INT_MAX;
    list_each (r, &s->running, struct request, link) {
        if (!may_prefill(s, r)) continue;
        if (!first) first = r;
        if (request_need(r) > need_max || (lane && r->rank > first->rank)) continue;
        if (lane && r == first) return 0; // nobody is in their way
        int count = min_int(min_int(request_need(r), left), batch_room(b, r));
        if (count > 0)
            add(s, b, r, count);
        else if (first->rank < r->rank)
            r->passed++; // rule 1
        left -= count;
    }
    return budget - left;
}

/* Half of the budget is for those who are nearly done, so that a long prompt doesn't stop the short
 * ones behind it; what they leave, and the other half, goes in order. */
static void plan_prefills(struct scheduler *s, struct batch *b, int budget)
{
    int taken = plan_chunks(s, b, budget / 2, PREFILL_SHORT);
    plan_chunks(s, b, budget - taken, INT_MAX);
}

static int count_decodes(const struct scheduler *s)
{
    int decodes = 0;
    list_each (r, &s->running, struct request, link)
        decodes += request_need(r) == 1;
    return decodes;
}

bool scheduler_plan(struct scheduler *s, struct batch *b)
{
    s->plans++;
    promote(&s->running);
    promote(&s->preempted);
    make_way(s);
    int decodes = count_decodes(s);
    int prompts = s->running_count - decodes + scheduler_waiting(s);
    int budget = min_int(prefill_budget(&s->limits, decodes),
                         prefill_pacer_budget(&s->pacer, decodes, prompts, s->limits.prefill_max));
    if (plan_decodes(s, b)) admit_waiting(s);
    plan_prefills(s, b, budget);
    if (b->sequences == 0) plan_prefills(s, b, prefill_budget(&s->limits, decodes));
    for (int i = 0; i < b->sequences; i++)
        kv_memory_publish(s->memory, b->entry[i].request);
    batch_seal(b);
    if (b->sequences == 0) return false;
    kv_moves_hand_over(&s->memory->cache.moves, &b->moves);
    return true;
}

/* ---- results ---- */

bool scheduler_complete_entry(struct scheduler *s, struct batch *b, int index)
{
    struct batch_entry *e = &b->entry[index];
    struct request *r = e->request;
    CHECK(r->in_flight > 0 && index < b->sequences);
    r->in_flight--;
    if (e->row < 0) return false;
    r->pending--;
    if (r->state == REQUEST_FINISHED || b->row_info[e->row].status < 0) return false;
    request_push_token(r, b->row_info[e->row].token);
    wait_queue_charge(&s->queue, r->tenant, 1);
    return true;
}

void scheduler_measure(struct scheduler *s, const struct batch *b, double seconds)
{
    prefill_pacer_measure(&s->pacer, b->answers, b->prefill_tokens, seconds);
}

static bool is_over(const struct request *r, uint64_t now_ms)
{
    return r->deadline_ms > 0 && r->deadline_ms <= now_ms;
}

struct request *scheduler_take_expired(struct scheduler *s, uint64_t now_ms)
{
    struct list *const lists[] = {&s->running, &s->preempted, &s->queue.requests};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        list_each (r, lists[i], struct request, link) {
            if (!is_over(r, now_ms)) continue;
            scheduler_finish(s, r);
            return r;
        }
    }
    return NULL;
}

/* ---- looking in ---- */

struct request *scheduler_find(struct scheduler *s, uint64_t id)
{
    struct list *const lists[] = {&s->running, &s->preempted, &s->queue.requests};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        list_each (r, lists[i], struct request, link)
            if (r->id == id) return r;
    return NULL;
}

struct request *scheduler_any(struct scheduler *s)
{
    struct list *const lists[] = {&s->running, &s->preempted, &s->queue.requests};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if (!list_is_empty(lists[i])) return list_first(lists[i], struct request, link);
    return NULL;
}

int64_t scheduler_prefill_waiting(const struct scheduler *s)
{
    int64_t tokens = 0;
    uint64_t group = 0;
    list_each (q, &s->queue.requests, struct request, link) {
        bool is_shared = q->group != 0 && q->group == group; // with the one before it
        tokens += is_shared ? 1 : q->count - q->found;
        group = q->group;
    }
    list_each (p, &s->preempted, struct request, link)
        tokens += p->count;
    list_each (r, &s->running, struct request, link) {
        int need = request_need(r);
        if (need > 1) tokens += need;
    }
    return tokens;
}

static void check_request(const struct scheduler *s, const struct request *r, uint32_t *refs)
{
    const struct kv_memory *m = s->memory;
    CHECK(r->pending >= 0 && r->pending <= r->in_flight && r->order > 0);
    CHECK(r->computed <= r->count + r->pending && r->published <= r->computed);
    CHECK(r->table.count >= blocks_for(r->computed) && r->whole <= r->table.count);
    for (int i = 0; i < r->table.count; i++) {
        int32_t block = r->table.blocks[i];
        const struct prefix_node *node = m->cache.node_of[block];
        refs[block]++;
        CHECK(kv_cache_state(&m->kv, block) == KV_ACTIVE);
        CHECK((i < r->whole) == (node && node->count == KV_BLOCK_TOKENS));
        CHECK(i < r->whole || m->kv.refs[block] == 1); // what it writes is its own
        for (int j = 0; node && j < node->count; j++)
            CHECK(node->tokens[j] == r->tokens[i * KV_BLOCK_TOKENS + j]);
    }
}

static int check_list(const struct list *list, enum request_state state)
{
    const struct request *last = NULL;
    int count = 0;
    list_each (r, list, struct request, link) {
        CHECK(r->state == state && !r->flow);
        CHECK(!last || last->rank < r->rank || (last->rank == r->rank && last->order < r->order));
        last = r;
        count++;
    }
    return count;
}

void scheduler_check(const struct scheduler *s)
{
    const struct kv_cache *kv = &s->memory->kv;
    uint32_t *refs = xcalloc((size_t)kv->total, sizeof *refs);
    CHECK(check_list(&s->running, REQUEST_RUNNING) == s->running_count);
    CHECK(check_list(&s->preempted, REQUEST_WAITING) == s->preempted_count);
    CHECK(s->running_count <= s->limits.running_max);
    CHECK(s->running_count + scheduler_waiting(s) <= scheduler_open_max(&s->limits));
    list_each (r, &s->running, struct request, link)
        check_request(s, r, refs);
    list_each (p, &s->preempted, struct request, link)
        CHECK(p->table.count == 0 && p->computed == 0);
    for (int i = 0; i < kv->total; i++)
        CHECK(refs[i] == kv->refs[i]);
    wait_queue_check(&s->queue);
    kv_memory_check(s->memory);
    free(refs);
}
