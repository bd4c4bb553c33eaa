/* affinity_test.h - two proxies' session affinity on one loop, a fleet that the test makes up, one
 * server that plays all agents, and a real Redis. */
#ifndef LM_AFFINITY_TEST_H
#define LM_AFFINITY_TEST_H

#include "proxy/affinity.h"
#include "proxy/affinity_parts.h"
#include "shared/base/log.h"
#include "shared/net/http_server.h"
#include "tests/proxy_fleet.h"
#include "tests/unit/net/redis_test.h"

#include <inttypes.h>

#define AGENTS   4
#define HARD_TTL 60000

/* ---- agents ---- */

static struct agent_state {
    bool is_there, is_draining, is_silent;
    enum fleet_state state;
    char incarnation[33];
    int turns; // what it answers for any session; -1: it has none
    int asked, deleted;
} agents[AGENTS];

static struct fleet *fleet;
static struct http_server *agent_server;
static int agent_port;
static char asked_tenant[80];

static inline void make_fleet(void)
{
    static const char *const models[] = {"m"};
    struct fleet_agent *list[AGENTS];
    int count = 0;
    for (int i = 0; i < AGENTS; i++) {
        if (!agents[i].is_there) continue;
        char id[8], path[8];
        snprintf(id, sizeof id, "a%d", i);
        snprintf(path, sizeof path, "/a%d", i);
        struct fleet_cell *cell = fleet_cell_create();
        struct fleet_agent facts = {.id = id,
                                    .url = "http://127.0.0.1:1",
                                    .host = "127.0.0.1",
                                    .path = path,
                                    .port = agent_port,
                                    .incarnation = agents[i].incarnation,
                                    .state = agents[i].state,
                                    .draining = agents[i].is_draining,
                                    .cell = cell,
                                    .model_count = 1};
        list[count++] = fleet_agent_create(&facts, models);
        fleet_cell_unref(cell);
    }
    fleet_unref(fleet);
    fleet = fleet_create_take(list, count);
}

static inline struct fleet *give_fleet(void *arg)
{
    (void)arg;
    return fleet;
}

static inline struct fleet_agent *agent_at(const char *id)
{
    for (int i = 0; i < fleet->count; i++) {
        if (strcmp(fleet->agents[i]->id, id) == 0) return fleet->agents[i];
    }
    return NULL;
}

static struct http_exchange *held; // the request to /hold: somewhere to put headers

static inline void forget(void *arg)
{
    (void)arg;
}

static inline void on_agent_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    const struct http_request *r = http_exchange_request(x);
    if (str_equal(r->path, STR("/hold"))) {
        held = x;
        return;
    }
    struct agent_state *agent = &agents[r->path.data[2] - '0'];
    agent->asked++;
    struct str tenant = http_headers_get(&r->headers, "x-lm-tenant");
    snprintf(asked_tenant, sizeof asked_tenant, STR_FMT, STR_ARG(tenant));
    if (agent->is_silent) {
        http_exchange_watch(x, forget, NULL, NULL);
        return;
    }
    bool is_there = agent->turns >= 0;
    bool is_list = str_equal((struct str){r->path.data + 3, r->path.len - 3}, STR("/v1/sessions"));
    char body[256], one[128];
    snprintf(one, sizeof one,
             "{\"session_id\":7,\"state\":\"hot\",\"turns\":%d,\"turn\":%d,\"history_tokens\":9}",
             agent->turns, agent->turns);
    snprintf(body, sizeof body, "%s", one);
    if (is_list) {
        snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[%s]}", is_there ? one : "");
    }
    if (str_equal(r->method, STR("DELETE"))) {
        agent->deleted++;
        agent->turns = -1;
        snprintf(body, sizeof body, "{\"deleted\":true}");
    }
    http_respond(x, is_there || is_list ? 200 : 404, "application/json", str_of(body));
}

/* ---- proxies ---- */

struct test_proxy {
    struct affinity_options options;
    struct affinity_shared *shared;
    struct affinity_service *service;
    bool is_closed;
};

static struct test_proxy p, q;
static struct http_client *client;
static bool client_closed, server_closed;
static char redis_test_url[64];

static inline void set_flag(void *arg)
{
    *(bool *)arg = true;
}

static inline void open_proxy(struct test_proxy *proxy)
{
    struct error err = {0};
    proxy->is_closed = false;
    proxy->options.hard_ttl_ms = HARD_TTL;
    if (proxy->options.patience_ms == 0) proxy->options.patience_ms = 300;
    if (proxy->options.look_soft_ms == 0)
        proxy->options.look_soft_ms = 900; // a busy machine, not 5
    if (proxy->options.look_hard_ms == 0) proxy->options.look_hard_ms = 2000; // not 250
    proxy->shared = affinity_shared_create(&proxy->options);
    NEED(affinity_create(&loop, proxy->shared, &proxy->options, give_fleet, NULL, client,
                         &proxy->service, &err) == 0);
}

static inline void close_proxy(struct test_proxy *proxy)
{
    affinity_destroy(proxy->service, set_flag, &proxy->is_closed);
    EXPECT(SPIN_UNTIL(proxy->is_closed, 5000));
    affinity_shared_destroy(proxy->shared);
}

static inline void ask_redis(struct answer *answer, const char *format, uint64_t key)
{
    char words[512];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(words, sizeof words, format, key);
#pragma GCC diagnostic pop
    ask(answer, words);
}

/* with_redis: both use it, and it has kept pins for longer than a session lives, so that absence is
 * proof. */
static inline void begin_world(bool with_redis)
{
    struct answer answer;
    open_redis("redis://127.0.0.1:%d/0");
    NEED(SPIN_UNTIL(redis_client_is_connected(redis), 5000));
    ask(&answer, "FLUSHALL");
    ask(&answer, "INFO server");
    struct error err = {0};
    struct http_server_options server = {.host = "127.0.0.1", .on_request = on_agent_request};
    NEED(http_server_open(&loop, &server, &agent_server, &err) == 0);
    agent_port = http_server_port(agent_server);
    struct http_client_options none = {0};
    client = http_client_create(&loop, &none);
    for (int i = 0; i < AGENTS; i++) {
        agents[i] = (struct agent_state){.is_there = true, .state = FLEET_UP, .turns = -1};
        snprintf(agents[i].incarnation, sizeof agents[i].incarnation, "inc%d", i);
    }
    make_fleet();
    snprintf(redis_test_url, sizeof redis_test_url, "redis://127.0.0.1:%d/0", redis_port);
    p.options = q.options = (struct affinity_options){.redis_url = NULL};
    if (!with_redis) {
        open_proxy(&p);
        open_proxy(&q);
        return;
    }
    p.options.redis_url = q.options.redis_url = redis_test_url;
    open_proxy(&p); // makes the epoch
    NEED(SPIN_UNTIL((ask(&answer, "EXISTS lm:session-epoch"), answer.integer == 1), 5000));
    close_proxy(&p);
    ask(&answer, "HINCRBY lm:session-epoch since -100000");
    open_proxy(&p);
    open_proxy(&q);
    NEED(SPIN_UNTIL(affinity_redis_is_up(p.service) && affinity_redis_is_up(q.service), 10000));
    spin_for(50);
}

static inline void end_world(void)
{
    close_proxy(&p);
    close_proxy(&q);
    client_closed = server_closed = false;
    http_client_destroy(client, set_flag, &client_closed);
    EXPECT(SPIN_UNTIL(client_closed, 5000));
    http_server_close(agent_server, set_flag, &server_closed);
    EXPECT(SPIN_UNTIL(server_closed, 5000));
    proxy_fleet_free(fleet);
    fleet = NULL;
    close_redis();
}

/* ---- requests, as an exchange leads them ---- */

struct run {
    struct affinity a;
    struct affinity_input in;
    struct http_headers headers;
    struct http_header header[2];
    int ready;
    enum affinity_step step;
    const char *choice; // whom the policy would take
    bool is_done;       // claimed or failed
};

static inline void run_on(struct run *r, enum affinity_step step)
{
    while (step == AFFINITY_GO && !r->a.is_claimed) {
        struct fleet_agent *agent = affinity_find_owner(&r->a);
        step = agent           ? affinity_claim(&r->a, agent)
               : r->a.is_bound ? affinity_again(&r->a, false)
                               : affinity_claim(&r->a, agent_at(r->choice));
    }
    r->step = step;
    r->is_done = step != AFFINITY_WAIT;
}

static inline void on_run_ready(void *arg)
{
    struct run *r = arg;
    r->ready++;
    run_on(r, r->a.step);
}

static inline void run_start(struct test_proxy *proxy, struct run *r)
{
    r->headers.items = r->header;
    r->in.ident.headers = &r->headers;
    r->in.ident.model = STR("m");
    r->in.on_ready = on_run_ready;
    r->in.arg = r;
    r->is_done = false;
    run_on(r, affinity_begin(proxy->service, &r->a, &r->in));
}

/* A turn of the session `id`, until it could be sent. */
static inline void turn_start(struct test_proxy *proxy, struct run *r, int64_t id,
                              const char *choice)
{
    *r = (struct run){.choice = choice};
    r->in.ident.conversation_id = id;
    run_start(proxy, r);
}

static inline enum affinity_step turn(struct test_proxy *proxy, struct run *r, int64_t id,
                                      const char *choice)
{
    turn_start(proxy, r, id, choice);
    EXPECT(SPIN_UNTIL(r->is_done, 20000));
    return r->step;
}

static inline const char *hop_of(const struct run *r)
{
    static char text[AFFINITY_HOP_BYTES];
    if (!affinity_hop(&r->a, text)) return "none";
    return text + 16;
}

/* The agent answers; what it sends the client is in `answer_head`. */
static char answer_head[4096];

static inline void confirm(struct run *r, const char *agent, const char *header)
{
    struct raw_client c;
    struct http_header item = {str_of(header), STR("1")};
    struct http_headers headers = {&item, header ? 1 : 0};
    held = NULL;
    raw_open(&c, agent_port);
    NEED(raw_puts(&c, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"));
    NEED(SPIN_UNTIL(held != NULL, 5000));
    affinity_confirm(&r->a, agent_at(agent), 200, &headers, held);
    http_respond(held, 200, "text/plain", STR("ok"));
    NEED(SPIN_UNTIL(raw_has(&c, "ok"), 5000));
    snprintf(answer_head, sizeof answer_head, "%s", raw_text(&c));
    raw_close(&c);
    spin_for(2);
}

static inline const char *answered_header(const char *name)
{
    static char value[1024];
    const char *at = strcasestr(answer_head, name);
    if (!at) return NULL;
    at += strlen(name) + 2;
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\r"), at);
    return value;
}

/* What an agent leaves in Redis when a turn has ended. */
static inline void agent_records(const struct run *r, int serial, bool in_transcript)
{
    char words[512];
    struct answer answer;
    snprintf(words, sizeof words,
             "SET lm:s:%016" PRIx64 " {\"agent\":\"%s\",\"incarnation\":\"%s\",\"turn\":%d} PX %d",
             r->a.key, r->a.owner.agent, r->a.owner.incarnation, serial, HARD_TTL);
    ask(&answer, words);
    snprintf(words, sizeof words, "HSET lm:h:%016" PRIx64 " turns %d", r->a.key, serial);
    if (in_transcript) ask(&answer, words);
}

/* One whole turn that goes well. */
static inline void whole_turn(struct test_proxy *proxy, struct run *r, int64_t id,
                              const char *choice, int serial, bool in_transcript)
{
    EXPECT_INT(turn(proxy, r, id, choice), AFFINITY_GO);
    confirm(r, r->a.owner.agent, serial == 1 ? "x-lm-session-new" : NULL);
    if (redis_pid > 0 && serial > 0) agent_records(r, serial, in_transcript);
    affinity_end(&r->a, true);
}

#endif
