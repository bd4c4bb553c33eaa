/* admission.c - lanes, classes, tenants, turns.
 *
 *     queue ── lane ── line (a class in it) ── flow (a tenant in that) ── tickets, by arrival
 *                 └─ aside: tickets that were skipped in the pump that runs now
 *
 * Rules:
 *  1. A flow is in its line's ring while it has tickets to give, and is freed with its last ticket:
 *     what a tenant saved up or was denied ends there. So nobody hoards turns.
 *  2. Each visit of the ring gives a flow one quantum, and it is served while that lasts. When
 *     nobody in the ring could be served for a whole round, as many rounds as it takes are given to
 *     all at once: a peek costs two rounds at most.
 *  3. While a lower class is overdue, what classes above it are served counts; each
 *     ADMISSION_AGED_SHARE tokens of it buy one for the line whose oldest ticket has waited longest.
 *     Inside that line turns go by rule 2, too. The oldest of a line is always its flow's head, so it
 *     is served within a round of its line's turns.
 *  4. Totals are reserved before a ticket is linked, and passed on when one is pushed out for
 *     another: no other thread can come between. */
#include "proxy/admission.h"

#include "shared/base/check.h"

#include <math.h>
#include <stdlib.h>

#define PACE_WEIGHT   0.1 // of the newest interval in the smoothed one
#define STALL_FACTOR  4   // so many smoothed intervals without an accept are a stall
#define RETRY_AFTER_S 60  // at most

struct admission_tenant {
    uint64_t id;
    struct list tickets; // by since_ms
    int64_t count, class_counts[ADMISSION_CLASSES];
};

struct admission_line {
    struct list flows; // the ring; first: whose turn it is
    struct list by_age;
    int ring_count;
    int64_t count;
};

struct admission_lane {
    struct list link; // admission->busy or ->idle
    uint64_t id;
    char *name;
    struct admission_line lines[ADMISSION_CLASSES];
    struct list aside;
    int64_t count;
    int64_t credit;     // tokens served above an overdue class, not used yet (rule 3)
    double interval_ms; // smoothed, between accepts while some wait
    uint64_t accepts;
    uint64_t last_ms; // of those; or when the lane filled
    bool is_pumped;   // not to be freed now
};

struct flow_key {
    uint64_t lane, tenant, class;
};

struct admission_flow {
    struct list link; // line->flows, or itself
    struct flow_key key;
    struct admission_lane *lane;
    struct admission_tenant *tenant;
    struct list tickets;
    int64_t count; // with those aside
    int64_t deficit;
    bool is_visited; // had its quantum in this round
};

/* ---- life ---- */

void admission_shared_init(struct admission_shared *s, const struct admission_limits *limits)
{
    *s = (struct admission_shared){.limits = *limits};
    if (s->limits.ageing_ms == 0) s->limits.ageing_ms = s->limits.timeout_ms / 6;
}

void admission_init(struct admission *a, struct admission_shared *shared,
                    void (*on_evict)(void *arg, struct admission_ticket *t), void *arg)
{
    *a = (struct admission){.shared = shared, .on_evict = on_evict, .arg = arg};
    hash_map_init(&a->lanes);
    hash_map_init(&a->tenants);
    hash_map_init(&a->flows);
    list_init(&a->busy);
    list_init(&a->idle);
    list_init(&a->by_deadline);
}

static void free_idle(struct admission *a)
{
    struct admission_lane *lane = list_first(&a->idle, struct admission_lane, link);
    list_remove(&lane->link);
    a->idle_count--;
    hash_map_remove(&a->lanes, str_of(lane->name));
    free(lane->name);
    free(lane);
}

void admission_deinit(struct admission *a)
{
    CHECK(a->count == 0 && list_is_empty(&a->busy));
    while (a->idle_count > 0)
        free_idle(a);
    hash_map_deinit(&a->lanes);
    hash_map_deinit(&a->tenants);
    hash_map_deinit(&a->flows);
}

/* ---- lanes, tenants, flows: made with their first ticket, gone with the last ---- */

static struct admission_lane *take_lane(struct admission *a, struct str name)
{
    struct admission_lane *lane = hash_map_get(&a->lanes, name);
    if (lane) return lane;
    lane = xcalloc(1, sizeof *lane);
    lane->id = ++a->lane_ids;
    lane->name = xstrndup(name.data ? name.data : "", name.len);
    list_init(&lane->aside);
    for (int i = 0; i < ADMISSION_CLASSES; i++) {
        list_init(&lane->lines[i].flows);
        list_init(&lane->lines[i].by_age);
    }
    hash_map_put(&a->lanes, name, lane);
    list_push_back(&a->idle, &lane->link);
    a->idle_count++;
    return lane;
}

static void wake_lane(struct admission *a, struct admission_lane *lane, uint64_t now_ms)
{
    list_remove(&lane->link);
    list_push_back(&a->busy, &lane->link);
    a->idle_count--;
    a->busy_count++;
    lane->last_ms = now_ms;
}

static void rest_lane(struct admission *a, struct admission_lane *lane)
{
    list_remove(&lane->link);
    list_push_back(&a->idle, &lane->link);
    a->busy_count--;
    a->idle_count++;
    lane->credit = 0;
    if (a->idle_count <= ADMISSION_IDLE_LANES) return;
    struct admission_lane *oldest = list_first(&a->idle, struct admission_lane, link);
    if (oldest->is_pumped) { // in use a little longer
        list_remove(&oldest->link);
        list_push_back(&a->idle, &oldest->link);
    }
    free_idle(a);
}

static struct str bytes_of(const void *data, size_t len)
{
    return (struct str){data, len};
}

static struct admission_tenant *take_tenant(struct admission *a, uint64_t id)
{
    struct admission_tenant *tenant = hash_map_get(&a->tenants, bytes_of(&id, sizeof id));
    if (tenant) return tenant;
    tenant = xcalloc(1, sizeof *tenant);
    tenant->id = id;
    list_init(&tenant->tickets);
    hash_map_put(&a->tenants, bytes_of(&id, sizeof id), tenant);
    return tenant;
}

static struct admission_flow *take_flow(struct admission *a, struct admission_lane *lane,
                                        uint64_t tenant, enum admission_class class)
{
    struct flow_key key = {lane->id, tenant, class};
    struct admission_flow *flow = hash_map_get(&a->flows, bytes_of(&key, sizeof key));
    if (flow) return flow;
    flow = xcalloc(1, sizeof *flow);
    flow->key = key;
    flow->lane = lane;
    flow->tenant = take_tenant(a, tenant);
    list_init(&flow->link);
    list_init(&flow->tickets);
    hash_map_put(&a->flows, bytes_of(&key, sizeof key), flow);
    return flow;
}

static struct admission_line *line_of(struct admission_flow *flow)
{
    return &flow->lane->lines[flow->key.class];
}

static void join_ring(struct admission_flow *flow, bool first)
{
    if (!list_is_empty(&flow->link)) return;
    struct admission_line *line = line_of(flow);
    if (first) {
        list_push_front(&line->flows, &flow->link);
    } else {
        list_push_back(&line->flows, &flow->link);
    }
    line->ring_count++;
}

static void leave_ring(struct admission_flow *flow)
{
    if (list_is_empty(&flow->link)) return;
    list_remove(&flow->link);
    line_of(flow)->ring_count--;
}

/* ---- entering and leaving ---- */

/* Sorted by since_ms. A newcomer is the newest; one that comes back is among the oldest. */
#define INSERT_BY_AGE(head, t, member)                                                    \
    do {                                                                                  \
        struct list *at_ = (head);                                                        \
        if (list_is_empty(at_) ||                                                         \
            list_last(at_, struct admission_ticket, member)->since_ms <= (t)->since_ms) { \
            list_push_back(at_, &(t)->member);                                            \
            break;                                                                        \
        }                                                                                 \
        list_each (other_, head, struct admission_ticket, member) {                       \
            at_ = &other_->member;                                                        \
            if (other_->since_ms > (t)->since_ms) break;                                  \
        }                                                                                 \
        list_push_back(at_, &(t)->member);                                                \
    } while (0)

static void link_ticket(struct admission *a, struct admission_lane *lane,
                        struct admission_ticket *t, uint64_t now_ms)
{
    bool returns = t->since_ms != 0;
    if (!returns) t->since_ms = now_ms;
    if (lane->count++ == 0) wake_lane(a, lane, now_ms);
    struct admission_flow *flow = take_flow(a, lane, t->tenant, t->class);
    struct admission_line *line = line_of(flow);
    t->flow = flow;
    if (returns) {
        list_push_front(&flow->tickets, &t->link);
    } else {
        list_push_back(&flow->tickets, &t->link);
    }
    join_ring(flow, false);
    flow->count++;
    line->count++;
    flow->tenant->count++;
    flow->tenant->class_counts[t->class]++;
    a->count++;
    atomic_fetch_add(&a->shared->class_counts[t->class], 1);
    INSERT_BY_AGE(&line->by_age, t, class_link);
    INSERT_BY_AGE(&a->by_deadline, t, deadline_link);
    INSERT_BY_AGE(&flow->tenant->tickets, t, tenant_link);
}

/* Its reservation stays. */
static void unlink_ticket(struct admission *a, struct admission_ticket *t)
{
    struct admission_flow *flow = t->flow;
    struct admission_lane *lane = flow->lane;
    struct admission_tenant *tenant = flow->tenant;
    list_remove(&t->link);
    list_remove(&t->class_link);
    list_remove(&t->deadline_link);
    list_remove(&t->tenant_link);
    t->flow = NULL;
    a->count--;
    a->departures++;
    line_of(flow)->count--;
    tenant->class_counts[flow->key.class]--;
    atomic_fetch_sub(&a->shared->class_counts[flow->key.class], 1);
    if (list_is_empty(&flow->tickets)) leave_ring(flow);
    if (--flow->count == 0) {
        hash_map_remove(&a->flows, bytes_of(&flow->key, sizeof flow->key));
        free(flow);
    }
    if (--tenant->count == 0) {
        hash_map_remove(&a->tenants, bytes_of(&tenant->id, sizeof tenant->id));
        free(tenant);
    }
    if (--lane->count == 0) rest_lane(a, lane);
}

static bool reserve(_Atomic int64_t *total, int64_t amount, int64_t limit)
{
    int64_t before = atomic_fetch_add(total, amount);
    if (before + amount <= limit) return true;
    atomic_fetch_sub(total, amount);
    return false;
}

static bool reserve_both(struct admission_shared *s, int64_t bytes)
{
    if (!reserve(&s->count, 1, s->limits.count)) return false;
    if (reserve(&s->bytes, bytes, s->limits.bytes)) return true;
    atomic_fetch_sub(&s->count, 1);
    return false;
}

static void release(struct admission_shared *s, int64_t count, int64_t bytes)
{
    atomic_fetch_sub(&s->count, count);
    atomic_fetch_sub(&s->bytes, bytes);
}

/* The newest ticket of the lowest class below `class`, in the lane that has most of them. */
static struct admission_ticket *find_lower(struct admission *a, enum admission_class class)
{
    for (int c = ADMISSION_CLASSES - 1; c > (int)class; c--) {
        struct admission_line *longest = NULL;
        list_each (lane, &a->busy, struct admission_lane, link) {
            struct admission_line *line = &lane->lines[c];
            if (line->count > (longest ? longest->count : 0)) longest = line;
        }
        if (longest) return list_last(&longest->by_age, struct admission_ticket, class_link);
    }
    return NULL;
}

/* The newest ticket in `class` of the tenant that has most there, if it can spare one. */
static struct admission_ticket *find_greedy(struct admission *a, uint64_t tenant,
                                            enum admission_class class)
{
    struct admission_tenant *own = hash_map_get(&a->tenants, bytes_of(&tenant, sizeof tenant));
    int64_t most = (own ? own->class_counts[class] : 0) + 1;
    struct admission_tenant *greedy = NULL;
    size_t pos = 0;
    struct str key;
    void *value;
    while (hash_map_next(&a->tenants, &pos, &key, &value)) {
        struct admission_tenant *other = value;
        if (other->class_counts[class] <= most) continue;
        most = other->class_counts[class];
        greedy = other;
    }
    if (!greedy) return NULL;
    struct list *at = greedy->tickets.prev;
    while (list_entry(at, struct admission_ticket, tenant_link)->class != class)
        at = at->prev;
    return list_entry(at, struct admission_ticket, tenant_link);
}

/* There is no room: push somebody out who has less right to it. True: t has its reservation. */
static bool make_room(struct admission *a, const struct admission_ticket *t)
{
    struct admission_shared *s = a->shared;
    if (s->limits.count <= 0) return false;
    struct admission_ticket *victim = find_lower(a, t->class);
    if (!victim) victim = find_greedy(a, t->tenant, t->class);
    if (!victim) return false;
    int64_t more = t->bytes - victim->bytes;
    if (!reserve(&s->bytes, more, s->limits.bytes)) return false;
    unlink_ticket(a, victim);
    a->evicted_total++;
    a->on_evict(a->arg, victim);
    return true;
}

int admission_enter(struct admission *a, struct str lane, struct admission_ticket *t,
                    uint64_t now_ms)
{
    CHECK(!t->flow && t->bytes >= 0 && t->class >= 0 && t->class < ADMISSION_CLASSES);
    if (t->tokens < 1) t->tokens = 1;
    if (t->tokens > ADMISSION_TOKENS_MAX) t->tokens = ADMISSION_TOKENS_MAX;
    if (!reserve_both(a->shared, t->bytes) && !make_room(a, t)) return E_LIMIT;
    link_ticket(a, take_lane(a, lane), t, now_ms);
    return 0;
}

void admission_leave(struct admission *a, struct admission_ticket *t)
{
    if (!t->flow) return;
    unlink_ticket(a, t);
    release(a->shared, 1, t->bytes);
}

/* ---- turns ---- */

static struct admission_ticket *flow_head(const struct admission_flow *flow)
{
    return list_first(&flow->tickets, struct admission_ticket, link);
}

/* Rule 2: give all of the ring the rounds after which the first of them can be served. */
static void skip_rounds(struct admission_line *line)
{
    int64_t least = INT64_MAX;
    list_each (flow, &line->flows, struct admission_flow, link) {
        int64_t lacks = flow_head(flow)->tokens - flow->deficit;
        int64_t rounds = (lacks + ADMISSION_QUANTUM - 1) / ADMISSION_QUANTUM - 1;
        if (rounds < least) least = rounds;
    }
    if (least <= 0) return;
    list_each (flow, &line->flows, struct admission_flow, link)
        flow->deficit += least * ADMISSION_QUANTUM;
}

static struct admission_ticket *line_head(struct admission_line *line)
{
    for (int visits = 1;; visits++) {
        struct admission_flow *flow = list_first(&line->flows, struct admission_flow, link);
        if (!flow->is_visited) {
            flow->deficit += ADMISSION_QUANTUM;
            flow->is_visited = true;
        }
        if (flow->deficit >= flow_head(flow)->tokens) return flow_head(flow);
        flow->is_visited = false;
        list_remove(&flow->link);
        list_push_back(&line->flows, &flow->link);
        if (visits % (line->ring_count + 1) == 0) skip_rounds(line);
    }
}

/* The overdue line below `top` whose oldest ticket has waited longest, or NULL. */
static struct admission_line *find_overdue(const struct admission *a, struct admission_lane *lane,
                                           int top, uint64_t now_ms)
{
    struct admission_line *found = NULL;
    uint64_t oldest_ms = UINT64_MAX;
    for (int c = top + 1; c < ADMISSION_CLASSES; c++) {
        struct admission_line *line = &lane->lines[c];
        if (line->ring_count == 0) continue;
        uint64_t since_ms =
            list_first(&line->by_age, struct admission_ticket, class_link)->since_ms;
        if (since_ms + a->shared->limits.ageing_ms > now_ms || since_ms >= oldest_ms) continue;
        oldest_ms = since_ms;
        found = line;
    }
    return found;
}

static struct admission_ticket *lane_head(struct admission *a, struct admission_lane *lane,
                                          uint64_t now_ms)
{
    int top = 0;
    while (top < ADMISSION_CLASSES && lane->lines[top].ring_count == 0)
        top++;
    if (top == ADMISSION_CLASSES) return NULL;
    struct admission_line *overdue = find_overdue(a, lane, top, now_ms);
    if (overdue) {
        struct admission_ticket *t = line_head(overdue);
        if (lane->credit >= t->tokens * ADMISSION_AGED_SHARE) return t;
    }
    return line_head(&lane->lines[top]);
}

struct admission_ticket *admission_next(struct admission *a, struct str lane, uint64_t now_ms)
{
    struct admission_lane *l = hash_map_get(&a->lanes, lane);
    return l ? lane_head(a, l, now_ms) : NULL;
}

/* Rule 3. */
static void keep_credit(struct admission *a, struct admission_lane *lane,
                        const struct admission_ticket *t, uint64_t now_ms)
{
    int top = 0;
    while (lane->lines[top].ring_count == 0)
        top++;
    if (!find_overdue(a, lane, top, now_ms)) {
        lane->credit = 0;
    } else if ((int)t->class == top) {
        lane->credit += t->tokens;
    } else {
        lane->credit -= t->tokens * ADMISSION_AGED_SHARE;
        if (lane->credit < 0) lane->credit = 0;
    }
}

static void keep_pace(struct admission_lane *lane, uint64_t now_ms)
{
    double interval = now_ms > lane->last_ms ? (double)(now_ms - lane->last_ms) : 0;
    lane->last_ms = now_ms;
    double weight = 1.0 / (double)++lane->accepts; // the mean at first
    if (weight < PACE_WEIGHT) weight = PACE_WEIGHT;
    lane->interval_ms += weight * (interval - lane->interval_ms);
}

void admission_accept(struct admission *a, struct admission_ticket *t, uint64_t now_ms)
{
    struct admission_flow *flow = t->flow;
    CHECK(flow && flow_head(flow) == t && flow->deficit >= t->tokens);
    flow->deficit -= t->tokens;
    keep_credit(a, flow->lane, t, now_ms);
    keep_pace(flow->lane, now_ms);
    admission_leave(a, t);
}

/* ---- offering slots ---- */

static void set_aside(struct admission_lane *lane, struct admission_ticket *t)
{
    list_remove(&t->link);
    list_push_back(&lane->aside, &t->link);
    if (list_is_empty(&t->flow->tickets)) leave_ring(t->flow);
}

static void put_back(struct admission_lane *lane)
{
    while (!list_is_empty(&lane->aside)) {
        struct admission_ticket *t = list_last(&lane->aside, struct admission_ticket, link);
        list_remove(&t->link);
        list_push_front(&t->flow->tickets, &t->link);
        join_ring(t->flow, true);
    }
}

static int pump_lane(struct admission *a, struct admission_lane *lane, uint64_t now_ms,
                     enum admission_try (*try)(void *arg, struct admission_ticket *t), void *arg)
{
    int started = 0, skipped = 0;
    lane->is_pumped = true;
    struct admission_ticket *t;
    while (skipped < ADMISSION_SKIPS_MAX && (t = lane_head(a, lane, now_ms))) {
        uint64_t departures = a->departures;
        enum admission_try verdict = try(arg, t);
        if (verdict == ADMISSION_FULL) break;
        if (verdict == ADMISSION_STARTED) {
            CHECK(a->departures > departures);
            started++;
        } else {
            set_aside(lane, t);
            skipped++;
        }
    }
    put_back(lane);
    lane->is_pumped = false;
    return started;
}

int admission_pump(struct admission *a, uint64_t now_ms,
                   enum admission_try (*try)(void *arg, struct admission_ticket *t), void *arg)
{
    int started = 0;
    for (int left = a->busy_count; left > 0 && a->busy_count > 0; left--) {
        struct admission_lane *lane = list_first(&a->busy, struct admission_lane, link);
        list_remove(&lane->link);
        list_push_back(&a->busy, &lane->link);
        started += pump_lane(a, lane, now_ms, try, arg);
    }
    if (a->busy_count > 1) { // the next pump begins with another one
        struct list *first = a->busy.next;
        list_remove(first);
        list_push_back(&a->busy, first);
    }
    return started;
}

/* ---- time ---- */

static uint64_t deadline_of(const struct admission *a, const struct admission_ticket *t)
{
    return t->since_ms + a->shared->limits.timeout_ms;
}

uint64_t admission_deadline_ms(const struct admission *a)
{
    if (list_is_empty(&a->by_deadline)) return 0;
    return deadline_of(a, list_first(&a->by_deadline, struct admission_ticket, deadline_link));
}

int admission_expire(struct admission *a, uint64_t now_ms,
                     void (*on_expired)(void *arg, struct admission_ticket *t), void *arg)
{
    int expired = 0;
    while (a->count > 0 && admission_deadline_ms(a) <= now_ms) {
        struct admission_ticket *t =
            list_first(&a->by_deadline, struct admission_ticket, deadline_link);
        admission_leave(a, t);
        a->expired_total++;
        expired++;
        on_expired(arg, t);
    }
    return expired;
}

int admission_retry_after_s(const struct admission *a, struct str lane, enum admission_class class,
                            uint64_t now_ms)
{
    const struct admission_lane *l = hash_map_get(&a->lanes, lane);
    if (!l || l->count == 0) return 1;
    int64_t before = 0;
    for (int c = 0; c <= (int)class; c++)
        before += l->lines[c].count;
    double interval_ms = l->interval_ms;
    double silent_ms = now_ms > l->last_ms ? (double)(now_ms - l->last_ms) : 0;
    if (silent_ms > STALL_FACTOR * interval_ms) interval_ms = silent_ms;
    double seconds = ceil((double)before * interval_ms / 1e3 - 1e-6);
    return seconds < 1 ? 1 : seconds > RETRY_AFTER_S ? RETRY_AFTER_S : (int)seconds;
}

void admission_set_full(struct api_error *error, int retry_after_s)
{
    api_error_set(error, 429, "rate_limit_exceeded", NULL,
                  "All agents are busy and the queue is full. Please retry shortly.");
    error->retry_after_s = retry_after_s;
}

void admission_set_expired(struct api_error *error, int retry_after_s)
{
    api_error_set(error, 503, "queue_timeout", NULL,
                  "No agent had room for this request in time. Please retry shortly.");
    error->retry_after_s = retry_after_s;
}

/* ---- checks ---- */

static int64_t list_len(const struct list *head)
{
    int64_t len = 0;
    for (const struct list *at = head->next; at != head; at = at->next) {
        CHECK(at->next->prev == at);
        len++;
    }
    return len;
}

static int64_t check_line(const struct admission_lane *lane, int class)
{
    const struct admission_line *line = &lane->lines[class];
    CHECK(list_len(&line->flows) == line->ring_count && list_len(&line->by_age) == line->count);
    int64_t tickets = 0;
    list_each (flow, &line->flows, const struct admission_flow, link) {
        CHECK(flow->lane == lane && flow->key.class == (uint64_t) class && flow->deficit >= 0);
        int64_t len = list_len(&flow->tickets);
        CHECK(len > 0 && len <= flow->count);
        list_each (t, &flow->tickets, const struct admission_ticket, link)
            CHECK(t->flow == flow && (int)t->class == class && t->tenant == flow->tenant->id);
        tickets += len;
    }
    uint64_t since_ms = 0;
    list_each (t, &line->by_age, const struct admission_ticket, class_link) {
        CHECK(t->since_ms >= since_ms);
        since_ms = t->since_ms;
    }
    return tickets;
}

void admission_check(const struct admission *a)
{
    int64_t count = 0;
    CHECK(list_len(&a->busy) == a->busy_count && list_len(&a->idle) == a->idle_count);
    CHECK(a->lanes.len == (size_t)(a->busy_count + a->idle_count));
    CHECK(a->idle_count <= ADMISSION_IDLE_LANES + 1);
    list_each (lane, &a->busy, const struct admission_lane, link) {
        int64_t tickets = list_len(&lane->aside);
        for (int c = 0; c < ADMISSION_CLASSES; c++)
            tickets += check_line(lane, c);
        CHECK(tickets == lane->count && tickets > 0);
        count += tickets;
    }
    list_each (lane, &a->idle, const struct admission_lane, link)
        CHECK(lane->count == 0);
    CHECK(count == a->count && list_len(&a->by_deadline) == count);
    size_t pos = 0;
    struct str key;
    void *value;
    int64_t of_tenants = 0;
    while (hash_map_next(&a->tenants, &pos, &key, &value)) {
        const struct admission_tenant *tenant = value;
        CHECK(list_len(&tenant->tickets) == tenant->count && tenant->count > 0);
        of_tenants += tenant->count;
    }
    CHECK(of_tenants == count);
    CHECK(atomic_load(&a->shared->count) >= count);
    int64_t of_classes = 0;
    for (int c = 0; c < ADMISSION_CLASSES; c++)
        of_classes += atomic_load(&a->shared->class_counts[c]);
    CHECK(of_classes >= count);
}
