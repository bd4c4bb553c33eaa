/* affinity.c - the life of a worker's part, what requests wait for, and soft sessions.
 *
 *                  ┌ 429: 8 wait
 *   IDLE ─hard─► LANE ─► LOOKING ─► ASKING ─► HOLDING ─► DECIDED ─claim─► CLAIMING ─► DECIDED
 *     │                     │          │         ▲ │ owner in doubt           │
 *     │                     └──────────┴─────────┘ └─────► 503                └ another's: HOLDING,
 *     └─soft─► LOOKING (5 ms at most) ─► DECIDED                                or DECIDED at once
 *
 * Rules:
 *  1. A request never waits for Redis beyond its deadline, and not at all while Redis is away. An
 *     answer that comes later fills the cache.
 *  2. Soft: what the cache has confirmed within PIN_TRUST_MS isn't asked for, nor what a token says,
 *     nor the first message of a conversation. Being wrong costs time only.
 *  3. Hard: the decision is affinity_plan.h's; one turn of a session at a time goes through this
 *     proxy (session_lanes.h), and Redis is asked for each, since other proxies serve it too.
 *  4. on_ready never runs inside a step; it may end the request, so it comes last. */
#define LOG_MODULE "session"
#include "proxy/affinity.h"

#include "proxy/affinity_parts.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- what a proxy has once ---- */

struct affinity_shared *affinity_shared_create(const struct affinity_options *options)
{
    struct affinity_shared *s = xcalloc(1, sizeof *s);
    struct pin_cache_options cache = {.soft_ttl_ms = PIN_SOFT_TTL_MS,
                                      .hard_ttl_ms = options->hard_ttl_ms};
    s->cache = pin_cache_create(&cache);
    s->lanes = session_lanes_create();
    random_bytes(&s->own_key, sizeof s->own_key);
    return s;
}

void affinity_shared_destroy(struct affinity_shared *s)
{
    if (!s) return;
    session_lanes_destroy(s->lanes);
    pin_cache_destroy(s->cache);
    explicit_bzero(s, sizeof *s);
    free(s);
}

/* ---- what was claimed while Redis was away ---- */

struct publication {
    struct affinity_service *service;
    struct pin pin;
};

static void publish(struct affinity_service *s);

static void on_published(void *arg, int status, const struct pin_answer *answer)
{
    struct publication *p = arg;
    struct affinity_service *s = p->service;
    if (status != 0) {
        p->pin.is_unpublished = true; // with the next on_store_ready()
    } else if (!answer->is_won) {
        if (strcmp(p->pin.owner.agent, answer->owner.agent) != 0) {
            log_info("a session was claimed elsewhere while redis was away",
                     "key=%016" PRIx64 " agent=%s turn=%u theirs=%s turn_there=%u", p->pin.key,
                     p->pin.owner.agent, p->pin.turn, answer->owner.agent, answer->turn);
        }
        p->pin.owner = answer->owner;
        p->pin.turn = answer->turn;
        p->pin.is_counted = false;
    }
    struct pin now;
    uint64_t now_ms = clock_ms();
    /* What was learnt meanwhile is newer. */
    if (pin_cache_get(s->shared->cache, p->pin.key, p->pin.kind, now_ms, &now) &&
        (status != 0 || !answer->is_won) && now.turn <= p->pin.turn) {
        p->pin.refreshed_ms = now_ms;
        pin_cache_put(s->shared->cache, &p->pin, now_ms);
    }
    free(p);
    if (--s->publishing == 0 && status == 0) publish(s);
}

static void publish(struct affinity_service *s)
{
    if (s->publishing > 0 || !affinity_redis_is_up(s)) return;
    struct pin *pins = xcalloc(AFFINITY_PUBLISH_MAX, sizeof *pins);
    int count =
        pin_cache_take_unpublished(s->shared->cache, clock_ms(), pins, AFFINITY_PUBLISH_MAX);
    s->publishing = count;
    for (int i = 0; i < count; i++) {
        struct publication *p = xcalloc(1, sizeof *p);
        *p = (struct publication){s, pins[i]};
        p->pin.is_unpublished = false;
        struct pin_request request = {.key = pins[i].key,
                                      .kind = pins[i].kind,
                                      .owner = pins[i].owner,
                                      .turn = pins[i].turn,
                                      .deadline_ms = 1000};
        pin_store_publish(s->store, &request, on_published, p);
    }
    free(pins);
}

/* ---- life ---- */

static void take_secret(struct affinity_service *s)
{
    bool is_ours = s->options->secret != NULL;
    if (is_ours) {
        session_secret_of(str_of(s->options->secret), &s->secret);
    } else if (!s->store || !pin_store_secret(s->store, &s->secret)) {
        /* Public: proxies without a store agree on keys all the same. */
        session_secret_of(STR(""), &s->secret);
        s->token_key = s->shared->own_key;
        return;
    }
    session_token_key_of(&s->secret, &s->token_key);
}

static void on_store_ready(void *arg)
{
    struct affinity_service *s = arg;
    take_secret(s);
    publish(s);
}

static void on_timer(uv_timer_t *timer);

int affinity_create(uv_loop_t *loop, struct affinity_shared *shared,
                    const struct affinity_options *options, struct fleet *(*fleet)(void *arg),
                    void *fleet_arg, struct http_client *client, struct affinity_service **out,
                    struct error *err)
{
    struct affinity_service *s = xcalloc(1, sizeof *s);
    s->loop = loop;
    s->shared = shared;
    s->options = options;
    s->fleet = fleet;
    s->fleet_arg = fleet_arg;
    s->client = client;
    s->started_ms = uv_now(loop);
    list_init(&s->waiters);
    if (options->redis_url) {
        struct pin_store_options store = {.url = options->redis_url,
                                          .secret = options->secret,
                                          .hard_ttl_ms = options->hard_ttl_ms,
                                          .on_ready = on_store_ready,
                                          .arg = s};
        int rc = pin_store_create(loop, &store, &s->store, err);
        if (rc != 0) {
            free(s);
            return rc;
        }
    }
    take_secret(s);
    s->mailbox = lane_mailbox_open(shared->lanes, loop);
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    *out = s;
    return 0;
}

static void part_closed(void *arg)
{
    struct affinity_service *s = arg;
    if (--s->open_parts > 0) return;
    void (*on_closed)(void *) = s->on_closed;
    void *closed_arg = s->on_closed_arg;
    explicit_bzero(&s->secret, sizeof s->secret);
    free(s);
    if (on_closed) on_closed(closed_arg);
}

static void on_timer_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void affinity_destroy(struct affinity_service *s, void (*on_closed)(void *arg), void *arg)
{
    CHECK(s->live == 0);
    s->on_closed = on_closed;
    s->on_closed_arg = arg;
    s->open_parts = s->store ? 3 : 2;
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
    lane_mailbox_close(s->mailbox, part_closed, s);
    if (s->store) pin_store_destroy(s->store, part_closed, s);
}

/* ---- waiting ---- */

static void arm(struct affinity_service *s)
{
    uint64_t first_ms = UINT64_MAX, now_ms = uv_now(s->loop);
    list_each (a, &s->waiters, struct affinity, wait_link) {
        if (a->wake_ms < first_ms) first_ms = a->wake_ms;
    }
    if (first_ms == UINT64_MAX) {
        uv_timer_stop(&s->timer);
    } else {
        uv_timer_start(&s->timer, on_timer, first_ms > now_ms ? first_ms - now_ms : 0, 0);
    }
}

void affinity_wait_until(struct affinity *a, uint64_t wake_ms)
{
    struct affinity_service *s = a->service;
    a->wake_ms = wake_ms;
    list_remove(&a->wait_link);
    list_push_back(&s->waiters, &a->wait_link);
    uint64_t now_ms = uv_now(s->loop);
    uint64_t due_ms = uv_is_active((uv_handle_t *)&s->timer)
                          ? now_ms + uv_timer_get_due_in(&s->timer)
                          : UINT64_MAX;
    if (wake_ms < due_ms) {
        uv_timer_start(&s->timer, on_timer, wake_ms > now_ms ? wake_ms - now_ms : 0, 0);
    }
}

void affinity_wait_end(struct affinity *a)
{
    list_remove(&a->wait_link); // the timer may fire for nobody: it looks again
}

void affinity_ready(struct affinity *a, enum affinity_step step)
{
    a->step = step;
    a->in.on_ready(a->in.arg);
}

struct affinity_call *affinity_call_start(struct affinity *a)
{
    struct affinity_call *call = xcalloc(1, sizeof *call);
    *call =
        (struct affinity_call){.service = a->service, .request = a, .key = a->key, .kind = a->kind};
    a->call = call;
    return call;
}

int affinity_ask_headers(const struct affinity_options *options, const char *tenant,
                         struct http_header out[AFFINITY_ASK_HEADERS])
{
    int count = 0;
    out[count++] = (struct http_header){STR("x-lm-tenant"), str_of(tenant)};
    if (options->join_key) {
        out[count++] = (struct http_header){STR("x-lm-join-key"), str_of(options->join_key)};
    }
    if (options->authorization) {
        out[count++] = (struct http_header){STR("authorization"), str_of(options->authorization)};
    }
    return count;
}

struct fleet_agent *affinity_find(const struct affinity_service *s, const char *id)
{
    const struct fleet *f = s->fleet(s->fleet_arg);
    int low = 0, high = f->count - 1;
    while (low <= high) { // by id, ascending
        int middle = (low + high) / 2, order = strcmp(id, f->agents[middle]->id);
        if (order == 0) return f->agents[middle];
        if (order < 0) {
            high = middle - 1;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

struct fleet_agent *affinity_find_owner(const struct affinity *a)
{
    if (!a->service || !a->owner.agent[0]) return NULL;
    return affinity_find(a->service, a->owner.agent);
}

/* ---- soft sessions ---- */

static void soft_decide(struct affinity *a, const struct pin *pin, enum affinity_source source)
{
    a->state = AFFINITY_DECIDED;
    if (!pin) return;
    a->before = *pin;
    a->source = source;
    a->turn = pin->turn;
    const struct fleet_agent *agent = affinity_find(a->service, pin->owner.agent);
    if (!agent || agent->state != FLEET_UP || agent->draining) return;
    a->owner = pin->owner;
    a->owner_is_same = strcmp(agent->incarnation, pin->owner.incarnation) == 0;
}

static void soft_fall_back(struct affinity *a)
{
    soft_decide(a, a->facts.is_known ? &a->facts.known : NULL, AFFINITY_FROM_CACHE);
}

static void on_soft_look(void *arg, int status, const struct pin_answer *answer)
{
    struct affinity_call *call = arg;
    struct affinity_service *s = call->service;
    struct affinity *a = call->request;
    bool is_found = status == 0 && answer->presence != PIN_ABSENT;
    struct pin pin = {.key = call->key, .kind = SESSION_SOFT};
    if (is_found) {
        uint64_t now_ms = clock_ms();
        struct pin held;
        pin.owner = answer->owner;
        pin.turn = answer->turn;
        /* Whoever has gone on meanwhile knows better. */
        if (a || !pin_cache_get(s->shared->cache, call->key, SESSION_SOFT, now_ms, &held)) {
            pin_cache_put(s->shared->cache, &pin, now_ms);
        }
    }
    free(call);
    if (!a) return;
    a->call = NULL;
    affinity_wait_end(a);
    if (is_found) {
        soft_decide(a, &pin, AFFINITY_FROM_REDIS);
    } else {
        soft_fall_back(a);
    }
    affinity_ready(a, AFFINITY_GO);
}

static enum affinity_step soft_begin(struct affinity *a, const struct session_ident *ident)
{
    struct affinity_service *s = a->service;
    struct pin *known = &a->facts.known;
    a->facts.is_known = pin_cache_get(s->shared->cache, a->key, SESSION_SOFT, clock_ms(), known);
    if (a->facts.is_known && known->is_trusted) {
        soft_decide(a, known, AFFINITY_FROM_CACHE);
        return AFFINITY_GO;
    }
    if (ident->has_token && (!a->facts.is_known || ident->token.turn >= known->turn)) {
        *known = (struct pin){.key = a->key, .kind = SESSION_SOFT, .turn = ident->token.turn};
        memcpy(known->owner.agent, ident->token.agent, sizeof known->owner.agent);
        memcpy(known->owner.incarnation, ident->token.incarnation, sizeof known->owner.incarnation);
        soft_decide(a, known, AFFINITY_FROM_TOKEN);
        return AFFINITY_GO;
    }
    if (a->in.is_first || !affinity_redis_is_up(s)) {
        soft_fall_back(a);
        return AFFINITY_GO;
    }
    uint64_t look_ms = s->options->look_soft_ms;
    a->state = AFFINITY_LOOKING;
    affinity_wait_until(a, uv_now(s->loop) + (look_ms ? look_ms : AFFINITY_LOOK_SOFT_MS));
    pin_store_look(s->store, a->key, 1000, on_soft_look, affinity_call_start(a));
    return AFFINITY_WAIT;
}

/* ---- the beginning ---- */

static void on_wake(struct affinity *a)
{
    affinity_wait_end(a);
    enum affinity_step step = AFFINITY_GO;
    if (a->kind == SESSION_HARD) {
        step = affinity_hard_on_wake(a);
    } else {
        if (a->call) a->call->request = NULL;
        a->call = NULL;
        metric_add(&proxy_metrics.session_looks_late_total, 1);
        soft_fall_back(a);
    }
    if (step != AFFINITY_WAIT) affinity_ready(a, step);
}

static void on_timer(uv_timer_t *timer)
{
    struct affinity_service *s = timer->data;
    uint64_t now_ms = uv_now(s->loop);
    bool found;
    do { // on_ready may end others
        found = false;
        list_each (a, &s->waiters, struct affinity, wait_link) {
            if (a->wake_ms > now_ms) continue;
            found = true;
            on_wake(a);
            break;
        }
    } while (found);
    arm(s);
}

enum affinity_step affinity_begin(struct affinity_service *s, struct affinity *a,
                                  const struct affinity_input *in)
{
    CHECK(!a->service);
    struct session_ident ident;
    *a = (struct affinity){.service = s, .in = *in, .model = in->ident.model};
    a->in.ident.header = s->options->header;
    list_init(&a->wait_link);
    s->live++;
    session_ident_find(&a->in.ident, &s->secret, &s->token_key, clock_wall_ms() / 1000, &ident);
    a->kind = ident.kind;
    a->named_by = ident.source;
    a->key = ident.key;
    a->has_token = ident.has_token;
    a->is_final = ident.is_final;
    a->is_claimed = a->kind != SESSION_HARD;
    memcpy(a->tenant, ident.tenant, sizeof a->tenant);
    if (a->kind == SESSION_NONE) {
        a->state = AFFINITY_DECIDED;
        a->step = AFFINITY_GO;
    } else if (a->kind == SESSION_SOFT) {
        a->step = soft_begin(a, &ident);
    } else {
        struct pin *known = &a->facts.known;
        if (ident.has_token) {
            *known = (struct pin){
                .key = a->key, .kind = SESSION_HARD, .turn = ident.token.turn, .is_counted = true};
            memcpy(known->owner.agent, ident.token.agent, sizeof known->owner.agent);
            memcpy(known->owner.incarnation, ident.token.incarnation,
                   sizeof known->owner.incarnation);
            a->facts.is_known = true;
            a->facts.known_from = AFFINITY_FROM_TOKEN;
        }
        a->step = affinity_hard_begin(a);
    }
    return a->step;
}
