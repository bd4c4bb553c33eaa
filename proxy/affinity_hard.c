/* affinity_hard.c - sessions whose history is at an agent: gathering what is known, carrying out the
 * plan (affinity_plan.h), and the claim.
 *
 * Rules:
 *  1. Nothing is sent before the claim stands, is known to be another's, or Redis can't be asked.
 *  2. A claim that was lost changes the facts, and the decision is made anew, AFFINITY_ROUNDS_MAX
 *     times at most.
 *  3. The owner that Redis calls alive is believed to be, although our picture of the fleet may be
 *     older than that: else two proxies would move a session to and fro between two incarnations.
 *  4. That is true when it is said, no longer: Redis is asked again while an owner is in doubt.
 *  5. One that refused this very request, and isn't in the fleet any more, isn't waited for until its
 *     lease ends, if nothing is lost by going elsewhere. */
#define LOG_MODULE "session"
#include "proxy/affinity_parts.h"
#include "proxy/proxy_metrics.h"
#include "proxy/rendezvous.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static enum affinity_step decide(struct affinity *a);

static bool is_same(const struct pin_owner *a, const struct pin_owner *b)
{
    return strcmp(a->agent, b->agent) == 0 && strcmp(a->incarnation, b->incarnation) == 0;
}

static void owner_of(const struct fleet_agent *agent, struct pin_owner *out)
{
    *out = (struct pin_owner){.agent = ""};
    snprintf(out->agent, sizeof out->agent, "%s", agent->id);
    snprintf(out->incarnation, sizeof out->incarnation, "%s", agent->incarnation);
}

/* ---- failing ---- */

static enum affinity_step fail_unreachable(struct affinity *a)
{
    api_error_set(&a->error, 503, "session_unreachable", "session_id",
                  "The agent that has the session %" PRId64
                  " can't be reached now. Please retry shortly.",
                  a->in.ident.conversation_id);
    a->error.retry_after_s = 1;
    return AFFINITY_FAILED;
}

static enum affinity_step fail_lost(struct affinity *a)
{
    affinity_lost(a, "its agent is gone, and it was not written down", &a->error);
    return AFFINITY_FAILED;
}

/* ---- asking the agents ---- */

static int64_t turns_of(struct str body)
{
    struct error err;
    struct json *root = json_parse(body.data, body.len, &err);
    const struct json *turn = json_get_set(root, "turn");
    if (!turn) turn = json_get_set(root, "turns");
    int64_t turns = turn && json_is_integer(turn) ? (int64_t)json_number(turn) : -1;
    json_destroy(root);
    return turns;
}

/* Who has most turns; of equals, who was known to have it. A copy with fewer than are known of isn't
 * the session. */
static void take_answers(struct affinity *a, const struct fleet_answer *answers, int count)
{
    struct pin *known = &a->facts.known;
    const char *owner = a->facts.is_known ? known->owner.agent : "";
    int64_t most = a->facts.is_known ? (int64_t)known->turn : 0;
    int best = -1;
    for (int i = 0; i < count; i++) {
        int64_t turns = answers[i].status == 200 ? turns_of(answers[i].body) : -1;
        if (turns < most || turns > INT32_MAX) continue;
        if (best >= 0 && turns == most && strcmp(answers[i].agent->id, owner) != 0) continue;
        most = turns;
        best = i;
    }
    if (best < 0) return;
    const struct fleet_agent *agent = answers[best].agent;
    *known = (struct pin){
        .key = a->key, .kind = SESSION_HARD, .turn = (uint32_t)most, .is_unpublished = true};
    owner_of(agent, &known->owner);
    a->facts.known_from = AFFINITY_FROM_AGENTS;
    a->facts.is_known = true;
}

static void on_asked(void *arg, const struct fleet_answer *answers, int count)
{
    struct affinity *a = arg;
    a->ask = NULL;
    a->facts.was_asked = true;
    take_answers(a, answers, count);
    log_debug("agents were asked for a session", "key=%016" PRIx64 " asked=%d found=%s", a->key,
              count, a->facts.is_known ? a->facts.known.owner.agent : "nobody");
    enum affinity_step step = decide(a);
    if (step != AFFINITY_WAIT) affinity_ready(a, step);
}

static uint64_t look_ms(const struct affinity_service *s)
{
    return s->options->look_hard_ms ? s->options->look_hard_ms : AFFINITY_LOOK_HARD_MS;
}

/* Of a large fleet those that come first for the session: there it is, unless it was moved. */
static int whom_to_ask(const struct affinity *a, struct fleet_agent *out[FLEET_ASK_MAX])
{
    const struct fleet *fleet = a->service->fleet(a->service->fleet_arg);
    const struct fleet_model *model = fleet_find_model(fleet, a->model);
    double ranks[FLEET_ASK_MAX];
    int count = 0;
    for (int i = 0; model && i < model->count; i++) {
        struct fleet_agent *agent = fleet->agents[model->agents[i]];
        if (agent->foreign) continue;
        double rank = rendezvous_rank(a->key, agent);
        int at = count < FLEET_ASK_MAX ? count++ : FLEET_ASK_MAX;
        for (; at > 0 && ranks[at - 1] < rank; at--) {
            if (at == FLEET_ASK_MAX) continue; // the last one falls off
            ranks[at] = ranks[at - 1];
            out[at] = out[at - 1];
        }
        if (at == FLEET_ASK_MAX) continue;
        ranks[at] = rank;
        out[at] = agent;
    }
    return count;
}

static enum affinity_step ask_agents(struct affinity *a)
{
    struct affinity_service *s = a->service;
    struct fleet_agent *agents[FLEET_ASK_MAX];
    int count = whom_to_ask(a, agents);
    char target[64];
    snprintf(target, sizeof target, "/v1/sessions/%" PRId64, a->in.ident.conversation_id);
    struct http_header headers[AFFINITY_ASK_HEADERS];
    struct fleet_ask_options options = {
        .client = s->client,
        .agents = agents,
        .agent_count = count,
        .method = "GET",
        .target = str_of(target),
        .headers = headers,
        .header_count = affinity_ask_headers(s->options, a->tenant, headers),
        .timeout_ms = look_ms(s),
        .on_done = on_asked,
        .arg = a,
    };
    a->state = AFFINITY_ASKING;
    metric_add(&proxy_metrics.session_asks_total, 1);
    a->ask = fleet_ask_start(s->loop, &options);
    return AFFINITY_WAIT;
}

/* ---- deciding ---- */

static bool others_are_there(const struct affinity *a, const struct fleet_agent *owner)
{
    const struct fleet *fleet = a->service->fleet(a->service->fleet_arg);
    const struct fleet_model *model = fleet_find_model(fleet, a->model);
    for (int i = 0; model && i < model->count; i++) {
        const struct fleet_agent *agent = fleet->agents[model->agents[i]];
        bool is_open = agent->state == FLEET_UP && !agent->draining && !agent->foreign;
        if (agent != owner && is_open) return true;
    }
    return false;
}

static bool is_patient(const struct affinity *a)
{
    return a->patience_until_ms == 0 || uv_now(a->service->loop) < a->patience_until_ms;
}

/* After an outage a pin may be of before it, or a claim of then that Redis carried out when it woke,
 * and another agent may have gone on: that one isn't passed over because it comes second. Where the
 * owner is sound the pin is believed, and of a fresh one nobody has more. */
static bool may_be_old(const struct affinity *a, const struct fleet_agent *agent)
{
    const struct affinity_view *v = &a->view;
    if (!v->is_settling || !v->is_in_redis || v->is_fresh || a->facts.was_asked) return false;
    bool is_same = agent && strcmp(agent->incarnation, v->owner.incarnation) == 0;
    bool is_sound = is_same && agent->state == FLEET_UP && strcmp(a->failed.agent, agent->id) != 0;
    return !is_sound && a->in.use != AFFINITY_USE_CANCEL;
}

static enum affinity_owner judge_owner(const struct affinity *a, const struct fleet_agent *agent)
{
    const struct affinity_view *v = &a->view;
    if (!v->owner.agent[0]) return AFFINITY_OWNER_NONE;
    bool is_alive = v->is_in_redis && a->facts.seen.is_alive; // rule 3
    bool has_failed = is_same(&a->failed, &v->owner);
    if (!agent) {
        uint64_t age_ms = uv_now(a->service->loop) - a->service->started_ms;
        bool is_over = has_failed && (v->has_transcript || v->turn == 0); // rule 5
        bool may_come = !is_over && (is_alive || age_ms < AFFINITY_START_MS);
        return may_come && is_patient(a) ? AFFINITY_OWNER_SUSPECT : AFFINITY_OWNER_GONE;
    }
    if (agent->state == FLEET_SUSPECT) return AFFINITY_OWNER_SUSPECT;
    if (strcmp(agent->incarnation, v->owner.incarnation) != 0 && !is_alive) {
        return AFFINITY_OWNER_RESTARTED;
    }
    bool may_stay = has_failed && !v->has_transcript;
    if (agent->draining && !may_stay && others_are_there(a, agent)) return AFFINITY_OWNER_DRAINING;
    if (has_failed) return AFFINITY_OWNER_FAILED;
    return AFFINITY_OWNER_UP;
}

static enum affinity_step hold(struct affinity *a)
{
    uint64_t now_ms = uv_now(a->service->loop);
    uint64_t patience_ms = a->service->options->patience_ms;
    if (patience_ms == 0) patience_ms = AFFINITY_PATIENCE_MS;
    if (a->patience_until_ms == 0) a->patience_until_ms = now_ms + patience_ms;
    a->state = AFFINITY_HOLDING;
    affinity_wait_until(a, now_ms + AFFINITY_STEP_MS);
    return AFFINITY_WAIT;
}

/* What this turn's number is, while nobody has begun it: if all that is known says the same. */
static void count_before(struct affinity *a)
{
    const struct pin_answer *seen = &a->facts.seen;
    if (a->is_again) return;
    a->this_turn = 0;
    if (!a->facts.is_seen || a->facts.is_doubtful) return;
    if (seen->presence == PIN_PRESENT && seen->transcript > 0 && seen->transcript == seen->turn &&
        a->view.turn == seen->turn) {
        a->this_turn = seen->turn + 1;
    } else if (a->view.turn == 0 && !a->view.owner.agent[0]) {
        a->this_turn = 1;
    }
}

static enum affinity_step decide(struct affinity *a)
{
    struct affinity_service *s = a->service;
    a->facts.is_shared = s->store != NULL;
    if (s->store && pin_store_is_doubtful(s->store, clock_ms())) a->facts.is_doubtful = true;
    a->facts.is_settling = s->store && pin_store_is_settling(s->store, clock_ms());
    affinity_view_make(&a->facts, &a->view);
    if (a->view.must_ask) return ask_agents(a);
    const struct fleet_agent *agent =
        a->view.owner.agent[0] ? affinity_find(s, a->view.owner.agent) : NULL;
    if (may_be_old(a, agent)) return ask_agents(a);
    count_before(a);
    bool is_cancel = a->in.use == AFFINITY_USE_CANCEL; // waits for nothing, and nothing is lost
    struct affinity_asked asked = {.is_patient = is_patient(a) && !is_cancel,
                                   .is_allotted = a->in.is_allotted,
                                   .is_bare_end = a->in.is_bare_end || is_cancel};
    affinity_plan_make(&a->view, judge_owner(a, agent), &asked, &a->plan);
    a->owner = (struct pin_owner){.agent = ""};
    a->is_bound = false;
    switch (a->plan.action) {
    case AFFINITY_HOLD:
        return hold(a);
    case AFFINITY_LOST:
        return fail_lost(a);
    case AFFINITY_UNREACHABLE:
        return fail_unreachable(a);
    case AFFINITY_TO_OWNER:
        a->owner = a->view.owner;
        if (agent && a->plan.must_write) owner_of(agent, &a->owner);
        a->is_bound = true;
        break;
    case AFFINITY_CHOOSE:
        break;
    }
    a->state = AFFINITY_DECIDED;
    a->source = a->view.source;
    a->turn = a->view.turn;
    a->expect = a->plan.expect;
    a->rendezvous_only = a->plan.rendezvous_only;
    a->is_claimed = !a->plan.must_write || a->in.use == AFFINITY_USE_CANCEL;
    return AFFINITY_GO;
}

/* ---- looking ---- */

static void on_looked(void *arg, int status, const struct pin_answer *answer)
{
    struct affinity_call *call = arg;
    struct affinity *a = call->request;
    free(call);
    if (!a) return;
    a->call = NULL;
    if (status == 0) {
        a->facts.seen = *answer;
        a->facts.is_seen = true;
    } else {
        a->facts.seen.is_alive = false; // nobody says so any more
    }
    enum affinity_step step = decide(a);
    if (step != AFFINITY_WAIT) affinity_ready(a, step);
}

static enum affinity_step ask_redis(struct affinity *a)
{
    struct affinity_service *s = a->service;
    a->looked_ms = uv_now(s->loop);
    a->state = AFFINITY_LOOKING;
    pin_store_look(s->store, a->key, look_ms(s), on_looked, affinity_call_start(a));
    return AFFINITY_WAIT;
}

/* Rule 4. */
enum affinity_step affinity_hard_on_wake(struct affinity *a)
{
    struct affinity_service *s = a->service;
    if (!affinity_redis_is_up(s)) {
        a->facts.seen.is_alive = false;
        return decide(a);
    }
    bool is_due = uv_now(s->loop) - a->looked_ms >= AFFINITY_LOOK_AGAIN_MS;
    return is_due ? ask_redis(a) : decide(a);
}

static enum affinity_step look(struct affinity *a)
{
    struct affinity_service *s = a->service;
    struct affinity_facts *f = &a->facts;
    struct pin pin;
    f->is_allotted = a->in.is_allotted;
    if (f->is_allotted) return decide(a);
    if (pin_cache_get(s->shared->cache, a->key, SESSION_HARD, clock_ms(), &pin) &&
        (!f->is_known || pin.turn >= f->known.turn)) {
        f->known = pin;
        f->known_from = AFFINITY_FROM_CACHE;
        f->is_known = true;
    }
    f->is_seen = false;
    return affinity_redis_is_up(s) ? ask_redis(a) : decide(a);
}

static void on_turn(void *arg)
{
    struct affinity *a = arg;
    enum affinity_step step = look(a);
    if (step != AFFINITY_WAIT) affinity_ready(a, step);
}

enum affinity_step affinity_hard_begin(struct affinity *a)
{
    if (a->in.use == AFFINITY_USE_CANCEL) return look(a);
    a->state = AFFINITY_LANE;
    int rc = session_lanes_enter(a->service->mailbox, a->key, &a->ticket, on_turn, a);
    if (rc == 1) return look(a);
    if (rc == 0) return AFFINITY_WAIT;
    api_error_set(&a->error, 429, "session_busy", "session_id",
                  "%d turns of the session %" PRId64 " wait already.", SESSION_LANE_WAITING,
                  a->in.ident.conversation_id);
    a->error.retry_after_s = 1;
    return AFFINITY_FAILED;
}

/* ---- the claim ---- */

/* Redis can't be asked: it will hear of it. */
static void claim_here(struct affinity *a)
{
    struct pin pin = {
        .key = a->key,
        .kind = SESSION_HARD,
        .owner = a->owner,
        .turn = a->turn,
        .is_counted = !a->view.is_proven,
        .is_unpublished = a->service->options->redis_url != NULL,
    };
    pin_cache_put(a->service->shared->cache, &pin, clock_ms());
    a->is_claimed = a->is_bound = true;
    a->state = AFFINITY_DECIDED;
}

static enum affinity_step take_claim(struct affinity *a, int status,
                                     const struct pin_answer *answer)
{
    if (status != 0) {
        claim_here(a);
        return AFFINITY_GO;
    }
    a->facts.seen = *answer;
    a->facts.is_seen = true;
    if (!answer->is_won) {
        metric_add(&proxy_metrics.session_claims_lost_total, 1);
        log_debug("a session is another agent's", "key=%016" PRIx64 " agent=%s wanted=%s", a->key,
                  answer->owner.agent, a->owner.agent);
        return ++a->rounds > AFFINITY_ROUNDS_MAX ? fail_unreachable(a) : decide(a);
    }
    if (answer->presence == PIN_FRESH) a->claimed = a->owner;
    if (a->plan.is_fresh && answer->transcript > 0) a->expect = SESSION_EXPECT_ADOPT;
    struct pin pin = {.key = a->key,
                      .kind = SESSION_HARD,
                      .owner = a->owner,
                      .turn = answer->turn,
                      .refreshed_ms = clock_ms()};
    pin_cache_put(a->service->shared->cache, &pin, clock_ms());
    a->is_claimed = a->is_bound = true;
    a->state = AFFINITY_DECIDED;
    return AFFINITY_GO;
}

static void on_claimed(void *arg, int status, const struct pin_answer *answer)
{
    struct affinity_call *call = arg;
    struct affinity *a = call->request;
    if (!a && status == 0 && answer->is_won && answer->presence == PIN_FRESH) {
        struct pin_request request = {
            .key = call->key, .kind = SESSION_HARD, .owner = answer->owner};
        pin_store_withdraw(call->service->store, &request); // its request has left
    }
    free(call);
    if (!a) return;
    a->call = NULL;
    enum affinity_step step = take_claim(a, status, answer);
    if (step != AFFINITY_WAIT) affinity_ready(a, step);
}

enum affinity_step affinity_claim(struct affinity *a, const struct fleet_agent *chosen)
{
    struct affinity_service *s = a->service;
    if (a->is_claimed) return AFFINITY_GO;
    CHECK(a->kind == SESSION_HARD && a->state == AFFINITY_DECIDED);
    owner_of(chosen, &a->owner);
    if (!affinity_redis_is_up(s)) {
        claim_here(a);
        return AFFINITY_GO;
    }
    bool is_pinned = a->facts.is_seen && a->facts.seen.presence != PIN_ABSENT;
    struct pin_request request = {
        .key = a->key,
        .kind = SESSION_HARD,
        .owner = a->owner,
        .from = a->facts.seen.owner,
        .turn = a->view.turn,
        .is_fresh = a->plan.is_fresh,
        .deadline_ms = look_ms(a->service),
    };
    a->state = AFFINITY_CLAIMING;
    struct affinity_call *call = affinity_call_start(a);
    if (is_pinned) {
        pin_store_move(s->store, &request, on_claimed, call);
    } else {
        pin_store_claim(s->store, &request, on_claimed, call);
    }
    return AFFINITY_WAIT;
}

/* So many turns it has had, whoever remembers. */
static void remember(struct affinity *a)
{
    uint32_t turns = a->was_told && a->this_turn > 0 ? a->this_turn - 1 : a->view.turn;
    if (turns == 0 || (a->facts.is_known && a->facts.known.turn >= turns)) return;
    a->facts.known =
        (struct pin){.key = a->key, .kind = SESSION_HARD, .owner = a->owner, .turn = turns};
    a->facts.known_from = AFFINITY_FROM_CACHE;
    a->facts.is_known = true;
}

enum affinity_step affinity_again(struct affinity *a, bool may_have_begun)
{
    CHECK(a->kind == SESSION_HARD && !a->call && !a->ask);
    a->failed = a->owner;
    a->patience_until_ms = 0;
    a->is_claimed = a->is_bound = false;
    a->is_again = a->is_again || may_have_begun; // else its number is counted anew
    remember(a);
    if (++a->rounds > AFFINITY_ROUNDS_MAX) return a->step = fail_unreachable(a);
    /* An id that we made up is known to one agent by now. */
    a->facts.is_allotted = a->in.is_allotted = false;
    return a->step = look(a);
}
