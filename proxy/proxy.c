/* proxy.c - opening, the clock that everything without a request runs on, and the end. The phase is
 * the main thread's to change; workers follow it (worker.c).
 *
 *   STARTING ─(fleet seen, or START_MS)─► READY ─SIGTERM─► LEAVING ─(delay)─► DRAINING
 *        └──────────────────SIGTERM────────────────────────────┘                 │ idle, or timeout
 *                                                   stopped ◄─(all closed)─ CLOSING */
#define LOG_MODULE "proxy"
#include "proxy/proxy.h"

#include "proxy/access_log.h"
#include "proxy/proxy_routes.h"
#include "proxy/quota_redis.h"
#include "proxy/recent.h"
#include "proxy/registry_redis.h"
#include "proxy/snapshot.h"
#include "proxy/upgrade.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/http_server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TICK_MS  100
#define START_MS 1200 // a beat and a bit: whoever is alive has been heard by then

/* ---- the end ---- */

static void part_closed(struct proxy *p)
{
    if (--p->closing_parts > 0) return;
    if (p->on_stopped) p->on_stopped(p->on_stopped_arg);
}

static void on_redis_closed(void *arg)
{
    struct proxy *p = arg;
    p->redis = NULL;
    part_closed(p);
}

static void on_quota_closed(void *arg)
{
    struct proxy *p = arg;
    p->quota = NULL;
    part_closed(p);
}

static void on_worker_closed(void *arg)
{
    part_closed(arg);
}

/* Its requests use what is worker 0's. */
static void on_admin_closed(void *arg)
{
    struct proxy *p = arg;
    p->admin = NULL;
    if (p->worker_count > 0) worker_close(&p->workers[0], on_worker_closed, p);
}

static void on_handle_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

/* Threads must have closed their workers, or never have begun. */
static void close_all(struct proxy *p)
{
    p->is_closing = true;
    p->closing_parts = 1 + (p->worker_count > 0) + (p->redis != NULL) + (p->quota != NULL);
    for (int i = 1; i < p->worker_count; i++) {
        if (p->workers[i].has_thread) continue;
        worker_close(&p->workers[i], NULL, NULL);
        uv_run(p->workers[i].loop, UV_RUN_DEFAULT);
    }
    uv_close((uv_handle_t *)&p->tick, on_handle_closed);
    if (p->redis) registry_redis_stop(p->redis, on_redis_closed, p);
    if (p->quota) quota_redis_stop(p->quota, on_quota_closed, p);
    if (p->has_prefix_sync) prefix_sync_deinit(&p->prefix_sync); // whose client is worker 0's
    access_log_close(p->access_log);
    p->access_log = NULL;
    snapshot_close(p->snapshot);
    p->snapshot = NULL;
    if (p->admin) {
        http_server_close(p->admin, on_admin_closed, p);
    } else {
        on_admin_closed(p);
    }
}

void proxy_deinit(struct proxy *p)
{
    for (int i = 0; i < p->worker_count; i++)
        worker_deinit(&p->workers[i]);
    free(p->workers);
    affinity_shared_destroy(p->affinity);
    registry_deinit(&p->registry);
    limits_deinit(&p->limits);
    api_key_ring_deinit(&p->keys);
    model_stats_deinit(&p->model_stats);
    recent_destroy(p->recent);
    prefix_table_destroy(p->prefix_table);
    free(p->agent_authorization);
    free(p->cors_origins);
    free(p->cors_methods);
    free(p->cors_headers);
    tls_destroy(p->tls);
}

/* ---- phases ---- */

static int sum_connections(const struct proxy *p)
{
    int sum = http_server_connections(p->workers[0].server);
    for (int i = 1; i < p->worker_count; i++)
        sum += atomic_load(&p->workers[i].connections);
    return sum;
}

static void begin_draining(struct proxy *p, uint64_t now_ms)
{
    uint64_t timeout_ms = (uint64_t)p->config->drain_timeout_s * 1000;
    p->phase_until_ms = timeout_ms ? now_ms + timeout_ms : UINT64_MAX;
    log_info("draining", "connections=%d timeout_s=%lld", sum_connections(p),
             (long long)p->config->drain_timeout_s);
    atomic_store(&p->phase, PROXY_DRAINING); // the workers follow with their next tick
}

void proxy_drain(struct proxy *p, void (*on_stopped)(void *arg), void *arg)
{
    CHECK(proxy_phase(p) < PROXY_LEAVING);
    p->on_stopped = on_stopped;
    p->on_stopped_arg = arg;
    uint64_t now_ms = clock_ms();
    p->phase_until_ms = now_ms + (uint64_t)p->config->drain_delay_s * 1000;
    atomic_store(&p->phase, PROXY_LEAVING);
    if (p->config->drain_delay_s == 0) begin_draining(p, now_ms);
}

/* The picture of the fleet is as complete as it gets: an agent is up, or the registry has been
 * heard out. */
static bool knows_fleet(struct proxy *p)
{
    const struct fleet *fleet = worker_fleet(&p->workers[0]);
    for (int i = 0; i < fleet->count; i++) {
        if (fleet->agents[i]->state == FLEET_UP) return true;
    }
    return p->redis && registry_redis_has_scanned(p->redis);
}

static bool knows_keys(struct proxy *p)
{
    return !atomic_load(&p->keys.awaits_redis);
}

static bool are_threads_closed(const struct proxy *p)
{
    for (int i = 1; i < p->worker_count; i++) {
        if (!atomic_load(&p->workers[i].is_closed)) return false;
    }
    return true;
}

static bool has_drained(const struct proxy *p)
{
    for (int i = 0; i < p->worker_count; i++) {
        if (p->workers[i].index == 0 && p->workers[i].state < WORKER_DRAINING) return false;
    }
    return sum_connections(p) == 0;
}

static void log_ready(const struct proxy *p)
{
    const struct worker *first = &p->workers[0];
    char url[320];
    http_url_print_origin(url, sizeof url, tls_serves(p->tls) ? HTTP_TLS : HTTP_PLAIN,
                          p->config->server_name, http_server_port(first->server));
    log_info("ready", "url=%s agents=%d routing=%s threads=%d", url, first->fleet->count,
             p->policy->name, p->worker_count);
}

static void advance_phase(struct proxy *p, uint64_t now_ms)
{
    const struct worker *first = &p->workers[0];
    switch (proxy_phase(p)) {
    case PROXY_STARTING:
        if (!(knows_fleet(p) && knows_keys(p)) && now_ms - p->started_ms < START_MS) return;
        atomic_store(&p->phase, PROXY_READY);
        upgrade_confirm();
        log_ready(p);
        return;
    case PROXY_READY:
        return;
    case PROXY_LEAVING:
        if (now_ms >= p->phase_until_ms) begin_draining(p, now_ms);
        return;
    case PROXY_DRAINING:
        if (!has_drained(p) && now_ms < p->phase_until_ms) return;
        atomic_store(&p->phase, PROXY_CLOSING);
        return;
    case PROXY_CLOSING:
        if (first->state < WORKER_CUTTING || !are_threads_closed(p)) return;
        if (http_server_connections(first->server) > 0 && now_ms < first->cut_until_ms) return;
        if (access_log_is_busy(p->access_log) || snapshot_is_busy(p->snapshot)) return;
        close_all(p);
        return;
    }
    UNREACHABLE();
}

/* What agents hold of prompts is fetched where their reports say that it has changed. */
static void note_prefixes(struct proxy *p, uint64_t now_ms)
{
    list_each (m, &p->registry.members, struct registry_member, link) {
        const struct agent_record *r = &m->record;
        if (!m->visible || m->foreign || r->load.prefix_version == 0) continue;
        prefix_sync_note(&p->prefix_sync, r->url, r->incarnation, m->cell->column,
                         r->load.prefix_version, now_ms);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct proxy *p = timer->data;
    uint64_t now_ms = clock_ms();
    registry_lock(&p->registry);
    registry_tick(&p->registry, now_ms);
#ifndef NDEBUG
    registry_check(&p->registry);
#endif
    note_prefixes(p, now_ms);
    recent_tick(p->recent, p, now_ms);
    registry_unlock(&p->registry);
    prefix_sync_tick(&p->prefix_sync, now_ms);
    if (p->redis) registry_redis_write_leases(p->redis);
    access_log_tick(p->access_log);
    /* After an upgrade the file is the new process's. */
    if (proxy_phase(p) <= PROXY_READY) snapshot_tick(p->snapshot, now_ms);
    prober_tick(&p->workers[0].prober, now_ms);
    advance_phase(p, now_ms);
}

/* ---- while it runs ---- */

int proxy_upgrade(struct proxy *p, struct error *err)
{
    if (proxy_phase(p) != PROXY_READY) return error_set(err, E_BUSY, "the proxy isn't ready");
    int sockets[UPGRADE_SOCKETS_MAX], count = 0;
    for (int i = 0; i < p->worker_count; i++)
        sockets[count++] = http_server_fd(p->workers[i].server); // which only close in a drain
    if (p->admin) sockets[count++] = http_server_fd(p->admin);
    struct buf state;
    buf_init(&state, BUF_MAX_INTERNAL);
    registry_lock(&p->registry);
    snapshot_print(&p->registry, &state);
    registry_unlock(&p->registry);
    int rc = upgrade_start(p->workers[0].loop, sockets, count, buf_str(&state), err);
    buf_deinit(&state);
    return rc;
}

int proxy_reload(struct proxy *p, const struct proxy_config *fresh, struct error *err)
{
    struct tls *tls = NULL;
    int rc = tls_create(&fresh->tls, &tls, err);
    if (rc == 0) rc = api_key_ring_reload(&p->keys, fresh, err);
    if (rc < 0) {
        tls_destroy(tls);
        return rc;
    }
    tls_take(p->tls, tls);
    struct api_key_view view = {0};
    limits_retain(&p->limits, api_key_ring_current(&p->keys, &view));
    api_key_view_deinit(&view);
    access_log_reopen(p->access_log);
    return 0;
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

static int add_nodes(struct proxy *p, struct error *err)
{
    for (size_t i = 0; i < p->config->nodes.count; i++) {
        int rc = registry_add_foreign(&p->registry, p->config->nodes.items[i], NULL, 0, 0,
                                      clock_ms(), err);
        if (rc < 0) return error_prefix(err, rc, "--node");
    }
    return 0;
}

/* SO_REUSEPORT would let us share a port with another process of the same user without a word. */
static int check_port_is_free(struct proxy *p, uv_loop_t *loop, struct error *err)
{
    if (p->config->threads == 1 || p->config->port == 0 || upgrade_is_one()) return 0;
    return http_server_check_port(loop, p->config->server_name, (int)p->config->port, err);
}

static int open_workers(struct proxy *p, uv_loop_t *loop, struct error *err)
{
    int count = (int)p->config->threads, port = (int)p->config->port;
    int rc = check_port_is_free(p, loop, err);
    p->workers = xcalloc((size_t)count, sizeof *p->workers);
    while (rc == 0 && p->worker_count < count) {
        struct worker *w = &p->workers[p->worker_count];
        rc = worker_open(w, p, p->worker_count++, loop, port, err);
        if (rc == 0) port = http_server_port(w->server);
    }
    return rc;
}

static void init_constants(struct proxy *p, const struct proxy_config *config)
{
    p->config = config;
    p->started_ms = clock_ms();
    p->started_wall_s = clock_wall_ms() / 1000;
    p->policy = route_policy_at(config->routing_strategy);
    do {
        random_bytes(&p->number_base, sizeof p->number_base);
    } while (p->number_base == 0);
    snprintf(p->id, sizeof p->id, "%016" PRIx64, p->number_base);
    snprintf(p->via, sizeof p->via, "1.1 lm-proxy-%s", p->id);
    p->cors_origins = join(&config->allow_origins);
    p->cors_methods = join(&config->allow_methods);
    p->cors_headers = join(&config->allow_headers);
    if (config->agent_key) {
        size_t size = strlen(config->agent_key) + sizeof "Bearer ";
        p->agent_authorization = xmalloc(size);
        snprintf(p->agent_authorization, size, "Bearer %s", config->agent_key);
    }
    p->affinity_options = (struct affinity_options){
        .secret = config->session_secret,
        .redis_url = config->redis_url,
        .join_key = config->join_key,
        .authorization = p->agent_authorization,
        .header = config->session_header,
        .cookie = config->session_cookie,
        .hard_ttl_ms = (uint64_t)config->session_ttl_s * 1000,
    };
}

static int init_shared(struct proxy *p, uv_loop_t *loop, struct error *err)
{
    const struct proxy_config *config = p->config;
    struct admission_limits limits = {
        .count = config->queue_max,
        .bytes = (int64_t)config->queue_bytes,
        .timeout_ms = (uint32_t)config->queue_timeout_s * 1000,
    };
    registry_init(&p->registry);
    p->prefix_table = prefix_table_create((uint64_t)config->prefix_table_entries);
    p->registry.proxy = p->number_base;
    p->registry.prefixes = p->prefix_table;
    p->recent = recent_create();
    model_stats_init(&p->model_stats);
    retry_budget_init(&p->retry_budget);
    p->resume_budget.max = config->resume_bytes;
    admission_shared_init(&p->queue, &limits);
    limits_init(&p->limits);
    p->affinity = affinity_shared_create(&p->affinity_options);
    int rc = api_key_ring_init(&p->keys, config, err);
    return rc == 0 ? access_log_open(loop, config->access_log, &p->access_log, err) : rc;
}

static int open_redis(struct proxy *p, uv_loop_t *loop, struct error *err)
{
    const char *url = p->config->redis_url;
    if (!url) return 0;
    struct quota_redis_options quota = {
        .url = url,
        .proxy_id = p->id,
        .limits = &p->limits,
        .keys = p->config->api_keys_redis ? &p->keys : NULL,
    };
    int rc = registry_redis_start(loop, url, &p->registry, &p->redis, err);
    return rc == 0 ? quota_redis_start(loop, &quota, &p->quota, err) : rc;
}

static int open_admin(struct proxy *p, uv_loop_t *loop, struct error *err)
{
    if (p->config->admin_port < 0) return 0;
    proxy_routes_init_admin(&p->admin_router, &p->workers[0]);
    int inherited = upgrade_take_socket((int)p->config->admin_port);
    struct http_server_options options = {
        .host = p->config->admin_host,
        .port = (int)p->config->admin_port,
        .listen_fd = inherited > 0 ? inherited : 0,
        .connections_max = 64,
        .tls = p->tls,
        .on_request = http_router_dispatch,
        .arg = &p->admin_router,
    };
    int rc = http_server_open(loop, &options, &p->admin, err);
    if (rc < 0) return error_prefix(err, rc, "--admin-port");
    log_info("admin", "host=%s port=%d", p->config->admin_host, http_server_port(p->admin));
    return 0;
}

/* The fleet as the process knew it that this one replaces. */
static void recall_parent(struct proxy *p)
{
    struct buf state;
    struct error err;
    buf_init(&state, BUF_MAX_INTERNAL);
    upgrade_take_state(&state);
    if (state.len > 0 && snapshot_read(&p->registry, buf_str(&state), clock_ms(), &err) < 0) {
        log_warn("what the old process knew can't be read", "reason=\"%s\"", err.text);
    }
    buf_deinit(&state);
}

int proxy_start(struct proxy *p, uv_loop_t *loop, const struct proxy_config *config,
                struct error *err)
{
    memset(p, 0, sizeof *p);
    init_constants(p, config);
    CHECK(uv_timer_init(loop, &p->tick) == 0);
    p->tick.data = p;
    int rc = init_shared(p, loop, err);
    if (rc == 0) rc = tls_create(&config->tls, &p->tls, err);
    if (rc == 0) snapshot_open(loop, config->state_file, &p->registry, clock_ms(), &p->snapshot);
    if (rc == 0) recall_parent(p);
    if (rc == 0) rc = add_nodes(p, err);
    if (rc == 0) rc = open_redis(p, loop, err);
    if (rc == 0) rc = open_workers(p, loop, err);
    if (rc == 0) rc = open_admin(p, loop, err);
    if (rc < 0) {
        close_all(p);
        return rc;
    }
    prefix_sync_init(&p->prefix_sync, p->workers[0].client, p->prefix_table, config->join_key);
    p->has_prefix_sync = true;
    CHECK(uv_timer_start(&p->tick, on_tick, 0, TICK_MS) == 0);
    for (int i = 1; i < p->worker_count; i++)
        worker_start_thread(&p->workers[i]);
    if (p->keys.required && !config->join_key) {
        log_info("no --join-key, though clients need keys", "nodes_add=\"from here only\"");
    }
    log_info("serving", "host=%s port=%d threads=%d", config->server_name,
             http_server_port(p->workers[0].server), p->worker_count);
    return 0;
}
