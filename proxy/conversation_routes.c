/* conversation_routes.c - all agents are asked at once, and what they say is merged.
 *
 *   list:    ASKING ─► answer
 *   get:     ASKING ─► answer of who knows most turns
 *   delete:  ASKING ─► DELETING, at who has it; else at one agent of each model, since a transcript
 *            may be all that is left ─► answer, and the pins are gone
 *
 * An agent may hold an old copy of what has moved: of two that have a session the one with more turns
 * is believed. The struct is freed where the exchange ends. */
#include "proxy/conversation_routes.h"

#include "proxy/affinity_parts.h"
#include "proxy/conversation.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LIST_MS   1000
#define DELETE_MS 60000 // the turn that runs comes to its end first

struct conversation_look {
    struct affinity_service *service;
    struct http_exchange *client;
    struct fleet_ask *ask;
    int64_t id; // -1: list
    bool is_delete;
    bool is_partial; // there are more agents than are asked
    char tenant[SESSION_TENANT_BYTES];
};

/* What one agent says of one session. */
struct listed {
    int64_t id, turn, turns, history_tokens, last_used;
    char state[16];
    const struct fleet_agent *agent;
};

/* ---- asking ---- */

static void finish(struct conversation_look *k)
{
    if (k->ask) fleet_ask_cancel(k->ask);
    free(k);
}

static void on_gone(void *arg)
{
    finish(arg);
}

static void ask(struct conversation_look *k, const char *method, struct fleet_agent *const *agents,
                int count, int timeout_ms,
                void (*on_done)(void *arg, const struct fleet_answer *answers, int count))
{
    struct affinity_service *s = k->service;
    char target[64] = "/v1/sessions";
    if (k->id >= 0) snprintf(target, sizeof target, "/v1/sessions/%" PRId64, k->id);
    struct http_header headers[AFFINITY_ASK_HEADERS];
    struct fleet_ask_options options = {
        .client = s->client,
        .agents = agents,
        .agent_count = count,
        .method = method,
        .target = str_of(target),
        .headers = headers,
        .header_count = affinity_ask_headers(s->options, k->tenant, headers),
        .timeout_ms = timeout_ms,
        .on_done = on_done,
        .arg = k,
    };
    k->ask = fleet_ask_start(s->loop, &options);
}

static void ask_all(struct conversation_look *k,
                    void (*on_done)(void *arg, const struct fleet_answer *answers, int count))
{
    const struct fleet *fleet = k->service->fleet(k->service->fleet_arg);
    struct fleet_agent *agents[FLEET_ASK_MAX];
    int count = 0;
    for (int i = 0; i < fleet->count; i++) {
        if (fleet->agents[i]->foreign) continue;
        k->is_partial = count == FLEET_ASK_MAX;
        if (k->is_partial) break;
        agents[count++] = fleet->agents[i];
    }
    ask(k, "GET", agents, count, LIST_MS, on_done);
}

static struct conversation_look *begin(struct affinity_service *s, struct http_exchange *x,
                                       struct str tenant)
{
    struct conversation_look *k = xcalloc(1, sizeof *k);
    k->service = s;
    k->client = x;
    k->id = -1;
    if (tenant.len > 0) session_tenant(tenant, (struct str){0}, k->tenant);
    http_exchange_watch(x, on_gone, NULL, k);
    return k;
}

static void answer(struct conversation_look *k, int status, struct str body)
{
    struct http_exchange *client = k->client;
    http_respond(client, status, "application/json", body);
    finish(k);
}

static void fail(struct conversation_look *k, int status, const char *code, const char *text)
{
    struct api_error error;
    api_error_set(&error, status, code, "session_id", "There is no session %" PRId64 "%s.", k->id,
                  text);
    struct http_exchange *client = k->client;
    api_error_respond(client, &error);
    finish(k);
}

/* ---- what they say ---- */

static int64_t integer_of(const struct json *v, const char *name)
{
    const struct json *member = json_get_set(v, name);
    return member && json_is_integer(member) ? (int64_t)json_number(member) : 0;
}

static bool read_listed(const struct json *v, const struct fleet_agent *agent, struct listed *out)
{
    const struct json *id = json_get_set(v, "session_id"), *state = json_get_set(v, "state");
    if (!id || !json_is_integer(id)) return false;
    *out = (struct listed){
        .id = (int64_t)json_number(id),
        .turn = integer_of(v, "turn"),
        .turns = integer_of(v, "turns"),
        .history_tokens = integer_of(v, "history_tokens"),
        .last_used = integer_of(v, "last_used"),
        .agent = agent,
    };
    if (state && json_type(state) == JSON_STRING) {
        snprintf(out->state, sizeof out->state, "%s", json_string(state, NULL));
    }
    return true;
}

static const char *model_of(const struct fleet_agent *agent)
{
    return agent->model_count > 0 ? agent->models[0] : "";
}

/* By id and model; the one with more turns first. */
static int compare(const void *a, const void *b)
{
    const struct listed *left = a, *right = b;
    if (left->id != right->id) return left->id < right->id ? -1 : 1;
    int order = strcmp(model_of(left->agent), model_of(right->agent));
    if (order != 0) return order;
    return left->turn > right->turn ? -1 : left->turn < right->turn;
}

static bool is_copy(const struct listed *a, const struct listed *b)
{
    return a->id == b->id && strcmp(model_of(a->agent), model_of(b->agent)) == 0;
}

static int read_list(const struct fleet_answer *from, struct listed *out, int max)
{
    struct error err;
    struct json *root = json_parse(from->body.data, from->body.len, &err);
    int count = 0;
    for (const struct json *v = json_first(json_get(root, "data")); v && count < max;
         v = json_next(v)) {
        if (read_listed(v, from->agent, &out[count])) count++;
    }
    json_destroy(root);
    return count;
}

static void print_listed(struct json_writer *w, const struct listed *l)
{
    json_object_begin(w);
    json_field_int(w, "session_id", l->id);
    json_field_text(w, "state", l->state);
    json_field_int(w, "history_tokens", l->history_tokens);
    json_field_int(w, "turns", l->turns);
    json_field_int(w, "turn", l->turn);
    json_field_int(w, "last_used", l->last_used);
    json_field_text(w, "agent", l->agent->id);
    json_object_end(w);
}

static void on_list(void *arg, const struct fleet_answer *answers, int count)
{
    struct conversation_look *k = arg;
    k->ask = NULL;
    struct listed *all = xcalloc(CONVERSATION_LIST_MAX, sizeof *all);
    int total = 0;
    bool is_whole = !k->is_partial;
    for (int i = 0; i < count; i++) {
        bool is_there = answers[i].status == 200;
        is_whole = is_whole && is_there;
        if (is_there) total += read_list(&answers[i], all + total, CONVERSATION_LIST_MAX - total);
    }
    qsort(all, (size_t)total, sizeof *all, compare);
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (int i = 0; i < total; i++) {
        if (i == 0 || !is_copy(&all[i], &all[i - 1])) print_listed(&w, &all[i]);
    }
    json_array_end(&w);
    /* Some agent didn't answer, or there are more than fit. */
    json_field_bool(&w, "complete", is_whole && total < CONVERSATION_LIST_MAX);
    json_object_end(&w);
    free(all);
    answer(k, 200, buf_str(&body));
    buf_deinit(&body);
}

void conversation_list(struct affinity_service *s, struct http_exchange *x, struct str tenant)
{
    ask_all(begin(s, x, tenant), on_list);
}

/* ---- one ---- */

static const struct fleet_answer *newest(const struct fleet_answer *answers, int count)
{
    const struct fleet_answer *best = NULL;
    int64_t best_turn = -1;
    for (int i = 0; i < count; i++) {
        struct error err;
        struct listed one;
        if (answers[i].status != 200) continue;
        struct json *root = json_parse(answers[i].body.data, answers[i].body.len, &err);
        if (read_listed(root, answers[i].agent, &one) && one.turn > best_turn) {
            best = &answers[i];
            best_turn = one.turn;
        }
        json_destroy(root);
    }
    return best;
}

/* A pin may outlive its session where agents have no Redis themselves. Where there is none, proxies
 * that know the session are told by a note that it has ended. */
struct leftover {
    struct affinity_service *service;
    uint64_t key;
};

static void on_leftover(void *arg, int status, const struct pin_answer *pin)
{
    struct leftover *l = arg;
    if (status == 0 && pin->presence != PIN_FRESH) {
        struct pin_request request = {.key = l->key, .kind = SESSION_HARD, .owner = pin->owner};
        pin_store_end(l->service->store, &request);
    }
    free(l);
}

/* Whatever model it was of. */
static void drop_pins(const struct conversation_look *k)
{
    struct affinity_service *s = k->service;
    const struct fleet *fleet = s->fleet(s->fleet_arg);
    for (int i = 0; i < fleet->model_count && i < FLEET_ASK_MAX; i++) {
        uint64_t key = session_key(&s->secret, str_of(k->tenant), fleet->models[i].name,
                                   STR("interactive"), k->id);
        pin_cache_drop(s->shared->cache, key);
        if (!affinity_redis_is_up(s)) continue;
        struct leftover *l = xcalloc(1, sizeof *l);
        *l = (struct leftover){s, key};
        pin_store_look(s->store, key, LIST_MS, on_leftover, l);
    }
}

static void on_deleted(void *arg, const struct fleet_answer *answers, int count)
{
    struct conversation_look *k = arg;
    k->ask = NULL;
    bool is_silent = false;
    for (int i = 0; i < count; i++) {
        is_silent = is_silent || answers[i].status == 0;
        if (answers[i].status != 200) continue;
        drop_pins(k);
        answer(k, 200, answers[i].body);
        return;
    }
    if (is_silent) {
        fail(k, 504, "upstream_timeout", " at the agents that answered; one did not");
    } else {
        fail(k, 404, "session_not_found", "");
    }
}

static struct fleet_agent *open_agent(const struct fleet *fleet, const struct fleet_model *model)
{
    for (int i = 0; i < model->count; i++) {
        struct fleet_agent *agent = fleet->agents[model->agents[i]];
        if (!agent->foreign && agent->state == FLEET_UP && !agent->draining) return agent;
    }
    return NULL;
}

static void delete_at(struct conversation_look *k, const struct fleet_answer *answers, int count)
{
    struct fleet_agent *agents[FLEET_ASK_MAX];
    int agent_count = 0;
    for (int i = 0; i < count; i++) {
        if (answers[i].status == 200) agents[agent_count++] = answers[i].agent;
    }
    const struct fleet *fleet = k->service->fleet(k->service->fleet_arg);
    bool is_held = agent_count > 0;
    for (int i = 0; !is_held && i < fleet->model_count && agent_count < FLEET_ASK_MAX; i++) {
        struct fleet_agent *agent = open_agent(fleet, &fleet->models[i]);
        if (agent) agents[agent_count++] = agent;
    }
    ask(k, "DELETE", agents, agent_count, DELETE_MS, on_deleted);
}

static void on_one(void *arg, const struct fleet_answer *answers, int count)
{
    struct conversation_look *k = arg;
    k->ask = NULL;
    const struct fleet_answer *found = newest(answers, count);
    if (k->is_delete) {
        delete_at(k, answers, count);
    } else if (found) {
        answer(k, 200, found->body);
    } else {
        fail(k, 404, "session_not_found", "");
    }
}

void conversation_one(struct affinity_service *s, struct http_exchange *x, struct str param,
                      struct str tenant)
{
    int64_t id;
    if (conversation_parse_id(param, &id) != 0) {
        struct api_error error;
        api_error_set(&error, 400, "invalid_value", "session_id",
                      "A session id is an integer from 0 to 2^53 - 1.");
        api_error_respond(x, &error);
        return;
    }
    struct conversation_look *k = begin(s, x, tenant);
    k->id = id;
    k->is_delete = str_equal(http_exchange_request(x)->method, STR("DELETE"));
    ask_all(k, on_one);
}
