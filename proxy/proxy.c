/* proxy.c - opening, the clock that everything without a request runs on, and the end.
 *
 *   STARTING ─(fleet seen, or START_MS)─► READY ─SIGTERM─► LEAVING ─(delay)─► DRAINING
 *        └──────────────────SIGTERM────────────────────────────┘                 │ idle, or timeout
 *                                                   stopped ◄─(all closed)─ CLOSING */
#define LOG_MODULE "proxy"
#include "proxy/proxy.h"

#include "proxy/exchange.h"
#include "proxy/proxy_routes.h"
#include "proxy/registry_redis.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/http_server.h"

#include <stdio.h>
#include <stdlib.h>

#define TICK_MS       100
#define SWEEP_TICKS   5
#define START_MS      1200 // a beat and a bit: whoever is alive has been heard by then
#define LAST_WORDS_MS 500  // for error events to reach clients that are cut

/* ---- the end ---- */

static void part_closed(void *arg)
{
    struct proxy *p = arg;
    if (--p->closing_parts > 0) return;
    void (*on_stopped)(void *) = p->on_stopped;
    if (on_stopped) on_stopped(p->on_stopped_arg);
}

static void on_client_closed(void *arg)
{
    struct proxy *p = arg;
    p->client = NULL;
    part_closed(p);
}

static void on_redis_closed(void *arg)
{
    struct proxy *p = arg;
    p->redis = NULL;
    part_closed(p);
}

static void on_server_closed(void *arg)
{
    struct proxy *p = arg;
    p->server = NULL;
    /* Only now is no exchange left that could use these. */
    prober_deinit(&p->prober);
    http_client_destroy(p->client, on_client_closed, p);
    if (p->redis) {
        p->closing_parts++;
        registry_redis_stop(p->redis, on_redis_closed, p);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

static void close_all(struct proxy *p)
{
    p->closing_parts = 3; // two handles, and the client at the end of the server's chain
    uv_close((uv_handle_t *)&p->tick, on_handle_closed);
    uv_close((uv_handle_t *)&p->before_sleep, on_handle_closed);
    if (p->server) {
        http_server_close(p->server, on_server_closed, p);
    } else {
        on_server_closed(p);
    }
}

void proxy_deinit(struct proxy *p)
{
    CHECK(!p->server && !p->client && p->exchange_count == 0);
    ledger_check(&p->ledger);
    relay_gather_deinit(&p->gather);
    registry_deinit(&p->registry);
    free(p->cors_origins);
    free(p->cors_methods);
    free(p->cors_headers);
}

/* ---- draining ---- */

static void begin_draining(struct proxy *p, uint64_t now_ms)
{
    p->phase = PROXY_DRAINING;
    uint64_t timeout_ms = (uint64_t)p->config->drain_timeout_s * 1000;
    p->phase_until_ms = timeout_ms ? now_ms + timeout_ms : UINT64_MAX;
    log_info("draining", "running=%d timeout_s=%lld", p->exchange_count,
             (long long)p->config->drain_timeout_s);
    http_server_drain(p->server);
}

void proxy_drain(struct proxy *p, void (*on_stopped)(void *arg), void *arg)
{
    CHECK(p->phase < PROXY_LEAVING);
    p->on_stopped = on_stopped;
    p->on_stopped_arg = arg;
    uint64_t now_ms = clock_ms();
    p->phase = PROXY_LEAVING;
    p->phase_until_ms = now_ms + (uint64_t)p->config->drain_delay_s * 1000;
    if (p->config->drain_delay_s == 0) begin_draining(p, now_ms);
}

bool proxy_is_ready(const struct proxy *p)
{
    const struct fleet *fleet = p->registry.fleet;
    for (int i = 0; i < fleet->count; i++) {
        if (fleet->agents[i]->state == FLEET_UP) return true;
    }
    return p->redis && registry_redis_has_scanned(p->redis);
}

static void advance_phase(struct proxy *p, uint64_t now_ms)
{
    switch (p->phase) {
    case PROXY_STARTING:
        registry_fleet(&p->registry);
        if (!proxy_is_ready(p) && now_ms - p->started_ms < START_MS) return;
        p->phase = PROXY_READY;
        log_info("ready", "url=http://%s:%d agents=%d routing=%s", p->config->server_name,
                 http_server_port(p->server), p->registry.fleet->count, p->policy->name);
        return;
    case PROXY_READY:
        return;
    case PROXY_LEAVING:
        if (now_ms >= p->phase_until_ms) begin_draining(p, now_ms);
        return;
    case PROXY_DRAINING:
        if (http_server_connections(p->server) > 0 && now_ms < p->phase_until_ms) return;
        p->phase = PROXY_CLOSING;
        if (p->exchange_count > 0) log_warn("drain timeout", "cut=%d", p->exchange_count);
        p->phase_until_ms = p->exchange_count > 0 ? now_ms + LAST_WORDS_MS : now_ms;
        exchange_cut_all(p);
        return;
    case PROXY_CLOSING:
        if (http_server_connections(p->server) > 0 && now_ms < p->phase_until_ms) return;
        close_all(p);
        return;
    }
    UNREACHABLE();
}

static void on_tick(uv_timer_t *timer)
{
    struct proxy *p = timer->data;
    uint64_t now_ms = clock_ms();
    registry_tick(&p->registry, now_ms);
    prober_tick(&p->prober, now_ms);
    if (++p->ticks % SWEEP_TICKS == 0) exchange_sweep(p);
    advance_phase(p, now_ms);
#ifndef NDEBUG
    registry_check(&p->registry);
    ledger_check(&p->ledger);
#endif
}

static void on_before_sleep(uv_check_t *check)
{
    struct proxy *p = check->data;
    relay_flush(&p->gather);
}

/* ---- opening ---- */

static char *join(const struct option_list *list)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < list->count; i++)
        buf_printf(&out, "%s%s", i ? "," : "", list->items[i]);
    return buf_detach(&out, NULL);
}

static void init_router(struct proxy *p)
{
    proxy_routes_init(&p->router, p);
    p->cors_origins = join(&p->config->allow_origins);
    p->cors_methods = join(&p->config->allow_methods);
    p->cors_headers = join(&p->config->allow_headers);
    p->router.cors = (struct http_cors){
        .origins = p->cors_origins[0] ? p->cors_origins : NULL,
        .methods = p->cors_methods,
        .headers = p->cors_headers,
        .credentials = p->config->allow_credentials,
    };
}

static int add_nodes(struct proxy *p, struct error *err)
{
    for (size_t i = 0; i < p->config->nodes.count; i++) {
        int rc = registry_add_foreign(&p->registry, p->config->nodes.items[i], NULL, 0, 0,
                                      clock_ms(), err);
        if (rc < 0) return error_prefix(err, rc, "--node: ");
    }
    return 0;
}

static int open_server(struct proxy *p, struct error *err)
{
    const struct proxy_config *config = p->config;
    struct http_server_options options = {
        .host = config->server_name,
        .port = (int)config->port,
        .connections_max = (int)config->connections_max,
        .body_bytes_total = config->body_bytes_total,
        .limits = {.body_bytes = config->body_bytes},
        .on_request = http_router_dispatch,
        .arg = &p->router,
    };
    return http_server_open(p->loop, &options, &p->server, err);
}

int proxy_start(struct proxy *p, uv_loop_t *loop, const struct proxy_config *config,
                struct error *err)
{
    memset(p, 0, sizeof *p);
    p->loop = loop;
    p->config = config;
    p->started_ms = clock_ms();
    p->started_wall_s = clock_wall_ms() / 1000;
    registry_init(&p->registry);
    ledger_init(&p->ledger);
    list_init(&p->exchanges);
    p->policy = route_policy_at(config->routing_strategy);
    char id[17];
    random_id(id, sizeof id - 1);
    snprintf(p->via, sizeof p->via, "1.1 lm-proxy-%s", id);
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    route_state_init(&p->route, seed);
    init_router(p);
    CHECK(uv_timer_init(loop, &p->tick) == 0);
    CHECK(uv_check_init(loop, &p->before_sleep) == 0);
    p->tick.data = p->before_sleep.data = p;
    relay_gather_init(&p->gather);
    p->client = http_client_create(
        loop, &(struct http_client_options){.idle_per_origin_max = (int)config->idle_connections});
    prober_init(&p->prober, p->client, &p->registry);

    int rc = add_nodes(p, err);
    if (rc == 0 && config->redis_url) {
        rc = registry_redis_start(loop, config->redis_url, &p->registry, &p->redis, err);
    }
    if (rc == 0) rc = open_server(p, err);
    if (rc < 0) {
        close_all(p);
        return rc;
    }
    CHECK(uv_timer_start(&p->tick, on_tick, 0, TICK_MS) == 0);
    CHECK(uv_check_start(&p->before_sleep, on_before_sleep) == 0);
    log_info("serving", "host=%s port=%d", config->server_name, http_server_port(p->server));
    return 0;
}
