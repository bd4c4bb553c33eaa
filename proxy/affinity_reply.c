/* affinity_reply.c - what a session's request tells the agent, what its answer tells us, and the end.
 *
 * Rules:
 *  1. A soft session belongs to whoever has begun to answer: claimed, or moved from where it was, by
 *     compare-and-set, while the answer already runs. Who loses learns the winner for the next time.
 *  2. Redis is told that a soft session is in use at most every eighth of its TTL. Of a hard one it is
 *     told each turn that went out: if the agent couldn't write it down and is lost, no proxy takes
 *     what was written before for all there was.
 *  3. Turns that are counted here (because an answer went out whole) are less than those that Redis
 *     or an agent told: they are asked for when the owner is lost, never held against one that lives. */
#define LOG_MODULE "session"
#include "proxy/affinity_parts.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define REFRESHES_PER_TTL 8

bool affinity_hop(const struct affinity *a, char out[AFFINITY_HOP_BYTES])
{
    static const char *const texts[] = {
        [SESSION_EXPECT_ANY] = "",
        [SESSION_EXPECT_NEW] = "; expect=new",
        [SESSION_EXPECT_EXISTING] = "; expect=existing",
        [SESSION_EXPECT_ADOPT] = "; expect=adopt",
    };
    if (a->kind != SESSION_HARD || a->in.use == AFFINITY_USE_CANCEL) return false;
    int len = snprintf(out, AFFINITY_HOP_BYTES, "%016" PRIx64 "%s", a->key, texts[a->expect]);
    size_t room = AFFINITY_HOP_BYTES - (size_t)len;
    bool is_restored = a->expect == SESSION_EXPECT_ADOPT ||
                       (a->expect == SESSION_EXPECT_EXISTING && a->plan.must_write);
    if (a->is_again && a->this_turn > 0) {
        snprintf(out + len, room, "; turn=%" PRIu32, a->this_turn);
    } else if (is_restored && a->turn > 0) {
        snprintf(out + len, room, "; has=%" PRIu32, a->turn);
    }
    return true;
}

void affinity_hear_turn(struct affinity *a, struct str number)
{
    int64_t turn;
    if (a->kind != SESSION_HARD || !number.data || str_to_int(number, &turn) != 0) return;
    if (turn < 1 || turn > INT32_MAX) return;
    a->this_turn = (uint32_t)turn;
    a->was_told = true;
}

/* ---- lost ---- */

void affinity_lost(struct affinity *a, const char *why, struct api_error *error)
{
    struct affinity_service *s = a->service;
    api_error_set(error, 410, "session_lost", "session_id",
                  "The session %" PRId64
                  " is lost: %s. Its history cannot be continued. End it (an "
                  "empty prompt with 'interactive_mode' false) to use the id again.",
                  a->in.ident.conversation_id, why);
    a->result = AFFINITY_RESULT_LOST;
    metric_add(&proxy_metrics.session_lost_total, 1);
    log_info("a session is lost", "key=%016" PRIx64 " agent=%s reason=\"%s\"", a->key,
             a->view.owner.agent, why);
    if (!a->in.is_end) return;
    pin_cache_drop(s->shared->cache, a->key);
    struct pin_request request = {
        .key = a->key, .kind = SESSION_HARD, .owner = a->is_claimed ? a->owner : a->view.owner};
    if (s->store) pin_store_end(s->store, &request);
}

bool affinity_is_lost(struct affinity *a, int status, struct str body, struct api_error *error)
{
    if (a->kind != SESSION_HARD || status != 404) return false;
    struct error err;
    struct json *root = json_parse(body.data, body.len, &err);
    const struct json *code = json_get_set(json_get_set(root, "error"), "code");
    bool is_unknown = code && json_type(code) == JSON_STRING &&
                      strcmp(json_string(code, NULL), "session_unknown") == 0;
    json_destroy(root);
    if (is_unknown) {
        pin_cache_drop(a->service->shared->cache, a->key);
        affinity_lost(a, "its agent doesn't have it, or lacks turns", error);
    }
    return is_unknown;
}

/* ---- the token ---- */

static void add_cookie(const struct affinity *a, const char *token, struct http_exchange *x)
{
    bool is_hard = a->kind == SESSION_HARD;
    uint64_t ttl_ms = is_hard ? a->service->options->hard_ttl_ms : PIN_SOFT_TTL_MS;
    char cookie[SESSION_TOKEN_BYTES + 96];
    snprintf(cookie, sizeof cookie,
             SESSION_COOKIE "=%s; Path=/; Max-Age=%" PRIu64 "; HttpOnly; SameSite=Lax%s", token,
             ttl_ms / 1000, http_exchange_request(x)->is_tls ? "; Secure" : "");
    http_exchange_add_header(x, STR("set-cookie"), str_of(cookie));
}

/* Nobody would send a token back for what he never named, unless it is in a cookie. Ids of foreign
 * nodes are addresses of the inside. */
static void add_token(const struct affinity *a, const struct fleet_agent *agent,
                      struct http_exchange *x)
{
    const struct affinity_service *s = a->service;
    bool is_named = a->named_by != SESSION_FROM_FINGERPRINT;
    if (agent->foreign || a->in.is_end || a->is_final) return;
    if (!is_named && !s->options->cookie) return;
    bool is_hard = a->kind == SESSION_HARD;
    uint64_t ttl_ms = is_hard ? s->options->hard_ttl_ms : PIN_SOFT_TTL_MS;
    struct session_token token = {
        .kind = a->kind,
        .key = a->key,
        .turn = a->turn + 1,
        .expires_s = clock_wall_ms() / 1000 + (int64_t)(ttl_ms / 1000),
    };
    str_copy(token.agent, sizeof token.agent, agent->id);
    str_copy(token.incarnation, sizeof token.incarnation, agent->incarnation);
    char text[SESSION_TOKEN_BYTES];
    session_token_print(&s->token_key, &token, str_of(a->tenant), a->model, text);
    if (is_named) http_exchange_add_header(x, STR(SESSION_TOKEN_HEADER), str_of(text));
    if (s->options->cookie && !is_hard) add_cookie(a, text, x);
}

/* ---- soft sessions find their place ---- */

struct soft_write {
    struct affinity_service *service;
    struct pin_request request;
    bool is_move;
};

static void on_soft_written(void *arg, int status, const struct pin_answer *answer)
{
    struct soft_write *w = arg;
    struct affinity_service *s = w->service;
    bool is_lost = status == 0 && !answer->is_won;
    if (is_lost && answer->presence == PIN_ABSENT && w->is_move) { // it has expired
        w->is_move = false;
        pin_store_claim(s->store, &w->request, on_soft_written, w);
        return;
    }
    struct pin held;
    uint64_t now_ms = clock_ms();
    bool is_held = pin_cache_get(s->shared->cache, w->request.key, SESSION_SOFT, now_ms, &held) &&
                   strcmp(held.owner.agent, w->request.owner.agent) == 0;
    if (is_held && is_lost && answer->presence != PIN_ABSENT) {
        metric_add(&proxy_metrics.session_claims_lost_total, 1);
        held.owner = answer->owner;
        held.turn = answer->turn;
        held.refreshed_ms = now_ms;
        pin_cache_put(s->shared->cache, &held, now_ms);
    } else if (is_held && status == E_CLOSED) {
        held.is_unpublished = true;
        pin_cache_put(s->shared->cache, &held, now_ms);
    }
    free(w);
}

static void place_soft(struct affinity *a, const struct fleet_agent *agent)
{
    struct affinity_service *s = a->service;
    uint64_t now_ms = clock_ms();
    struct pin *before = &a->before;
    struct pin pin = {.key = a->key, .kind = SESSION_SOFT, .turn = a->turn + 1};
    str_copy(pin.owner.agent, sizeof pin.owner.agent, agent->id);
    str_copy(pin.owner.incarnation, sizeof pin.owner.incarnation, agent->incarnation);
    bool was_there = before->owner.agent[0] != 0;
    bool is_hit = was_there && strcmp(before->owner.agent, pin.owner.agent) == 0;
    bool is_same = is_hit && strcmp(before->owner.incarnation, pin.owner.incarnation) == 0;
    a->result = is_hit      ? AFFINITY_RESULT_HIT
                : was_there ? AFFINITY_RESULT_MOVED
                            : AFFINITY_RESULT_NONE;
    struct pin_request request = {.key = a->key,
                                  .kind = SESSION_SOFT,
                                  .owner = pin.owner,
                                  .from = before->owner,
                                  .turn = pin.turn,
                                  .deadline_ms = 1000};
    bool is_due = now_ms - before->refreshed_ms >= PIN_SOFT_TTL_MS / REFRESHES_PER_TTL;
    bool is_up = affinity_redis_is_up(s);
    pin.refreshed_ms = is_same && !is_due ? before->refreshed_ms : now_ms;
    pin.is_unpublished = !is_up && (!is_same || before->is_unpublished) && s->store;
    pin_cache_put(s->shared->cache, &pin, now_ms);
    if (!is_up) return;
    if (is_same && before->refreshed_ms != 0) {
        if (is_due) pin_store_refresh(s->store, &request);
        return;
    }
    struct soft_write *w = xcalloc(1, sizeof *w);
    *w = (struct soft_write){s, request, is_same ? false : was_there};
    if (w->is_move) {
        pin_store_move(s->store, &request, on_soft_written, w);
    } else if (is_same) {
        free(w);
        pin_store_refresh(s->store, &request);
    } else {
        pin_store_claim(s->store, &request, on_soft_written, w);
    }
}

/* ---- the head of an answer ---- */

static void place_hard(struct affinity *a, const struct http_headers *headers)
{
    a->is_new = str_equal(http_headers_get(headers, "x-lm-session-new"), STR("1"));
    bool is_moved = str_equal(http_headers_get(headers, "x-lm-session-moved"), STR("1"));
    a->result = is_moved    ? AFFINITY_RESULT_MOVED
                : a->is_new ? AFFINITY_RESULT_NONE
                            : AFFINITY_RESULT_HIT;
    if (a->is_new) {
        a->turn = 0;
    } else if (a->this_turn > 0) {
        a->turn = a->this_turn - 1;
    } else if (a->turn == 0) {
        a->turn = 1; // at least: there was a history
    }
}

void affinity_confirm(struct affinity *a, const struct fleet_agent *agent, int status,
                      const struct http_headers *headers, struct http_exchange *x)
{
    bool is_fine = status >= 200 && status < 300;
    if (a->kind == SESSION_NONE || !a->service || !is_fine || a->was_confirmed) return;
    if (a->in.use == AFFINITY_USE_CANCEL) return;
    a->was_confirmed = true;
    if (a->kind == SESSION_HARD) {
        place_hard(a, headers);
    } else {
        place_soft(a, agent);
    }
    if (a->result == AFFINITY_RESULT_HIT) metric_add(&proxy_metrics.session_hits_total, 1);
    if (a->result == AFFINITY_RESULT_MOVED) metric_add(&proxy_metrics.session_moves_total, 1);
    add_token(a, agent, x);
}

/* ---- the end ---- */

struct turn_note {
    struct affinity_service *service;
    uint64_t key;
};

static void on_turn_noted(void *arg, int status, const struct pin_answer *answer)
{
    (void)answer;
    struct turn_note *n = arg;
    struct pin_cache *cache = n->service->shared->cache;
    uint64_t now_ms = clock_ms();
    struct pin held;
    if (status != 0 && pin_cache_get(cache, n->key, SESSION_HARD, now_ms, &held)) {
        held.is_unpublished = true;
        pin_cache_put(cache, &held, now_ms);
    }
    free(n);
}

/* Rule 2. */
static void note_turn(struct affinity_service *s, const struct pin_request *request)
{
    struct turn_note *n = xcalloc(1, sizeof *n);
    *n = (struct turn_note){s, request->key};
    pin_store_note_turn(s->store, request, on_turn_noted, n);
}

static void end_hard(struct affinity *a, bool is_served)
{
    struct affinity_service *s = a->service;
    struct pin_request request = {.key = a->key, .kind = SESSION_HARD, .owner = a->owner};
    if (!a->was_confirmed) {
        if (s->store && a->claimed.agent[0]) {
            request.owner = a->claimed;
            pin_store_withdraw(s->store, &request);
            pin_cache_drop(s->shared->cache, a->key);
        }
        return;
    }
    if (a->in.is_end) {
        pin_cache_drop(s->shared->cache, a->key);
        request.is_fresh = a->claimed.agent[0] != 0;
        if (s->store) pin_store_end(s->store, &request);
        return;
    }
    uint64_t now_ms = clock_ms();
    struct pin pin, held;
    bool is_held = pin_cache_get(s->shared->cache, a->key, SESSION_HARD, now_ms, &held);
    bool is_up = affinity_redis_is_up(s);
    uint32_t before = a->this_turn > 0 ? a->this_turn - 1 : a->turn;
    pin = (struct pin){
        .key = a->key,
        .kind = SESSION_HARD,
        .owner = a->owner,
        .turn = before + (is_served ? 1 : 0),
        .is_counted = (is_served || a->is_new) && !a->was_told,
        .is_unpublished = (is_held && held.is_unpublished) || (s->store && !is_up),
        .refreshed_ms = now_ms,
    };
    pin_cache_put(s->shared->cache, &pin, now_ms);
    request.turn = pin.turn;
    request.deadline_ms = 1000;
    if (is_up) note_turn(s, &request);
}

void affinity_end(struct affinity *a, bool is_served)
{
    struct affinity_service *s = a->service;
    if (!s) return;
    if (a->call) a->call->request = NULL;
    a->call = NULL;
    if (a->ask) fleet_ask_cancel(a->ask);
    a->ask = NULL;
    affinity_wait_end(a);
    if (a->kind == SESSION_HARD && a->in.use == AFFINITY_USE_TURN && a->is_claimed) {
        end_hard(a, is_served);
    } else if (a->kind == SESSION_SOFT && a->is_final && a->was_confirmed) {
        struct pin pin;
        bool is_held = pin_cache_get(s->shared->cache, a->key, SESSION_SOFT, clock_ms(), &pin);
        struct pin_request request = {.key = a->key, .kind = SESSION_SOFT, .owner = pin.owner};
        if (is_held && s->store) pin_store_end(s->store, &request);
        pin_cache_drop(s->shared->cache, a->key);
    }
    session_lanes_leave(&a->ticket);
    a->service = NULL;
    s->live--;
}
