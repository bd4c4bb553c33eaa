/* wait_queue.c - classes, tenants, turns.
 *
 *     queue ── class (priority) ── flow (a tenant in that class) ── requests, by arrival
 *
 * 1. The class of the lowest priority number goes first, but each 16th admission belongs to the
 *    class of the request that waits longest: no class starves.
 * 2. Within a class tenants take turns by surplus round robin (H. Adiseshu, G. Parulkar,
 *    G. Varghese, "A reliable and scalable striping protocol", SIGCOMM 1996), the deficit round
 *    robin in which one pays afterwards: a flow is served while its tenant's balance is above 0,
 *    then goes to the end of the ring. When nobody there has a balance above 0, all get as many
 *    quanta as it takes until one has. So what a tenant is given differs from any other's by a
 *    quantum and one request, whatever the sizes.
 * 3. Nobody saves: a balance is never above one quantum, and a tenant that has nothing waiting
 *    keeps only its debts, and those only while few do (TENANTS_IDLE_MAX).
 * 4. Within a flow requests go by arrival. */
#include "engine/wait_queue.h"

#include "shared/base/check.h"

#include <stdlib.h>

#define QUANTUM          2048 // tokens
#define LONGEST_EVERY    16   // rule 1
#define TENANTS_IDLE_MAX 4096

struct wait_tenant {
    uint64_t id;
    int64_t balance; // tokens
    int waiting;     // requests, in all classes
};

struct wait_flow {
    struct list link; // wait_class.ring
    struct wait_class *class;
    struct wait_tenant *tenant;
    struct list requests; // of struct request.flow_link
};

struct wait_class {
    struct list link; // wait_queue.classes
    int priority;
    struct list ring; // of struct wait_flow; the first one's turn it is
};

void wait_queue_init(struct wait_queue *q)
{
    *q = (struct wait_queue){0};
    list_init(&q->requests);
    list_init(&q->classes);
    hash_map_init(&q->tenants);
}

/* ---- tenants ---- */

static struct str tenant_key(const uint64_t *id)
{
    return (struct str){(const char *)id, sizeof *id};
}

static void forget_idle_tenants(struct wait_queue *q)
{
    struct hash_map kept;
    struct str key;
    void *value;
    hash_map_init(&kept);
    for (size_t pos = 0; hash_map_next(&q->tenants, &pos, &key, &value);) {
        struct wait_tenant *t = value;
        if (t->waiting > 0)
            hash_map_put(&kept, key, t);
        else
            free(t);
    }
    hash_map_deinit(&q->tenants);
    q->tenants = kept;
}

void wait_queue_deinit(struct wait_queue *q)
{
    CHECK(q->count == 0 && list_is_empty(&q->classes));
    forget_idle_tenants(q);
    hash_map_deinit(&q->tenants);
}

static struct wait_tenant *find_tenant(struct wait_queue *q, uint64_t id)
{
    struct wait_tenant *t = hash_map_get(&q->tenants, tenant_key(&id));
    if (t) return t;
    if (q->tenants.len >= (size_t)q->count + TENANTS_IDLE_MAX) forget_idle_tenants(q);
    t = xcalloc(1, sizeof *t);
    t->id = id;
    hash_map_put(&q->tenants, tenant_key(&t->id), t);
    return t;
}

/* Rule 3. */
static void settle_idle_tenant(struct wait_queue *q, struct wait_tenant *t)
{
    if (t->waiting > 0 || t->balance < 0) return;
    hash_map_remove(&q->tenants, tenant_key(&t->id));
    free(t);
}

void wait_queue_charge(struct wait_queue *q, uint64_t tenant, int64_t tokens)
{
    struct wait_tenant *t = find_tenant(q, tenant);
    t->balance -= tokens;
    if (t->balance > QUANTUM) t->balance = QUANTUM;
    settle_idle_tenant(q, t);
}

/* ---- classes and flows ---- */

static struct wait_class *find_class(struct wait_queue *q, int priority)
{
    struct list *at = q->classes.next;
    for (; at != &q->classes; at = at->next) {
        struct wait_class *c = list_entry(at, struct wait_class, link);
        if (c->priority == priority) return c;
        if (c->priority > priority) break;
    }
    struct wait_class *c = xcalloc(1, sizeof *c);
    c->priority = priority;
    list_init(&c->ring);
    list_push_back(at, &c->link); // before `at`
    return c;
}

static struct wait_flow *find_flow(struct wait_queue *q, struct wait_class *c, uint64_t tenant)
{
    struct wait_tenant *t = find_tenant(q, tenant);
    list_each (f, &c->ring, struct wait_flow, link)
        if (f->tenant == t) return f;
    struct wait_flow *f = xcalloc(1, sizeof *f);
    f->class = c;
    f->tenant = t;
    list_init(&f->requests);
    list_push_back(&c->ring, &f->link);
    return f;
}

static void remove_empty(struct wait_flow *f)
{
    struct wait_class *c = f->class;
    if (!list_is_empty(&f->requests)) return;
    list_remove(&f->link);
    free(f);
    if (!list_is_empty(&c->ring)) return;
    list_remove(&c->link);
    free(c);
}

void wait_queue_push(struct wait_queue *q, struct request *r)
{
    struct wait_flow *f = find_flow(q, find_class(q, r->priority), r->tenant);
    CHECK(!r->flow);
    r->arrival = q->arrivals++;
    r->flow = f;
    list_push_back(&q->requests, &r->link);
    list_push_back(&f->requests, &r->flow_link);
    f->tenant->waiting++;
    q->count++;
    if (q->next && r->priority < q->next->priority) q->next = NULL;
}

/* ---- whose turn it is ---- */

/* Rule 2. */
static struct request *next_in_class(struct wait_class *c)
{
    int64_t best = INT64_MIN;
    list_each (f, &c->ring, struct wait_flow, link)
        best = f->tenant->balance > best ? f->tenant->balance : best;
    int64_t quanta = best > 0 ? 0 : -best / QUANTUM + 1;
    struct request *next = NULL;
    list_each (g, &c->ring, struct wait_flow, link) {
        g->tenant->balance += quanta * QUANTUM;
        if (g->tenant->balance > QUANTUM) g->tenant->balance = QUANTUM;
        if (!next && g->tenant->balance > 0)
            next = list_first(&g->requests, struct request, flow_link);
    }
    return next;
}

struct request *wait_queue_peek(struct wait_queue *q)
{
    if (q->count == 0 || q->next) return q->next;
    struct wait_class *c = list_first(&q->classes, struct wait_class, link);
    if (q->admissions % LONGEST_EVERY == LONGEST_EVERY - 1)
        c = list_first(&q->requests, struct request, link)->flow->class;
    q->next = next_in_class(c);
    return q->next;
}

bool wait_queue_is_overdue(const struct wait_queue *q)
{
    return q->next &&
           q->next->priority > list_first(&q->classes, struct wait_class, link)->priority;
}

static void take_out(struct wait_queue *q, struct request *r, int64_t tokens)
{
    struct wait_flow *f = r->flow;
    struct wait_tenant *t = f->tenant;
    list_remove(&r->link);
    list_remove(&r->flow_link);
    r->flow = NULL;
    if (r == q->next) q->next = NULL;
    q->count--;
    t->waiting--;
    t->balance -= tokens;
    if (t->balance <= 0) {
        list_remove(&f->link);
        list_push_back(&f->class->ring, &f->link);
    }
    remove_empty(f);
    settle_idle_tenant(q, t);
}

void wait_queue_admit(struct wait_queue *q, struct request *r, int64_t tokens)
{
    CHECK(r == q->next && tokens >= 0);
    q->admissions++;
    take_out(q, r, tokens);
}

void wait_queue_remove(struct wait_queue *q, struct request *r)
{
    take_out(q, r, 0);
}

/* ---- looking in ---- */

void wait_queue_check(const struct wait_queue *q)
{
    int count = 0, in_flows = 0;
    uint64_t last = 0;
    list_each (r, &q->requests, struct request, link) {
        CHECK(r->flow && (count == 0 || r->arrival > last));
        last = r->arrival;
        count++;
    }
    const struct wait_class *before = NULL;
    list_each (c, &q->classes, struct wait_class, link) {
        CHECK(!list_is_empty(&c->ring) && (!before || before->priority < c->priority));
        before = c;
        list_each (f, &c->ring, struct wait_flow, link) {
            CHECK(f->class == c && !list_is_empty(&f->requests));
            CHECK(f->tenant->balance <= QUANTUM);
            list_each (w, &f->requests, struct request, flow_link) {
                CHECK(w->flow == f && w->tenant == f->tenant->id && w->priority == c->priority);
                in_flows++;
            }
        }
    }
    CHECK(count == q->count && in_flows == count);
    CHECK(!q->next || q->next->flow);
}
