/* worker.c - the life of one thread, which follows the proxy's phase (proxy.c) by its own clock:
 *
 *   SERVING ─phase DRAINING─► DRAINING ─phase CLOSING─► CUTTING ─idle, or LAST_WORDS_MS─► CLOSING
 *
 * Worker 0 is closed by the proxy, when all others are. */
#define LOG_MODULE "worker"
#include "proxy/worker.h"

#include "proxy/exchange.h"
#include "proxy/proxy.h"
#include "proxy/proxy_routes.h"
#include "proxy/upgrade.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/http_server.h"
#include "shared/net/loop.h"

#define TICK_MS       100
#define SWEEP_TICKS   5
#define DRAIN_IDLE_MS 500 // for requests that are on their way on connections kept open
#define LAST_WORDS_MS 500 // for error events to reach clients that are cut

/* ---- the end ---- */

static void part_closed(struct worker *w)
{
    if (--w->closing_parts > 0) return;
    w->state = WORKER_CLOSED;
    fleet_unref(w->fleet);
    w->fleet = NULL;
    api_key_view_deinit(&w->keys);
    if (w->is_open) admission_deinit(&w->admission);
    void (*on_closed)(void *) = w->on_closed;
    void *arg = w->on_closed_arg;
    atomic_store(&w->is_closed, true);
    if (on_closed) on_closed(arg);
}

static void on_client_closed(void *arg)
{
    struct worker *w = arg;
    w->client = NULL;
    part_closed(w);
}

static void on_affinity_closed(void *arg)
{
    struct worker *w = arg;
    w->affinity = NULL;
    http_client_destroy(w->client, on_client_closed, w);
}

static void on_server_closed(void *arg)
{
    struct worker *w = arg;
    w->server = NULL;
    prober_deinit(&w->prober); // only now is no exchange left that could use these
    if (w->affinity) {
        affinity_destroy(w->affinity, on_affinity_closed, w);
    } else {
        on_affinity_closed(w);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    part_closed(handle->data);
}

void worker_close(struct worker *w, void (*on_closed)(void *arg), void *arg)
{
    CHECK(w->state < WORKER_CLOSING);
    w->state = WORKER_CLOSING;
    w->on_closed = on_closed;
    w->on_closed_arg = arg;
    w->closing_parts = 4; // three handles, and the client at the end of the server's chain
    uv_close((uv_handle_t *)&w->tick, on_handle_closed);
    uv_close((uv_handle_t *)&w->wake, on_handle_closed);
    uv_close((uv_handle_t *)&w->before_sleep, on_handle_closed);
    if (w->server) {
        http_server_close(w->server, on_server_closed, w);
    } else {
        on_server_closed(w);
    }
}

void worker_deinit(struct worker *w)
{
    if (w->has_thread) uv_thread_join(&w->thread);
    CHECK(w->state == WORKER_CLOSED && w->exchange_count == 0);
    ledger_check(&w->ledger);
    relay_gather_deinit(&w->gather);
    exchange_spares_destroy(w->spares);
    if (w->index > 0) loop_close_all(&w->own_loop);
}

/* ---- who waits ---- */

void worker_note_slot_free(struct worker *w)
{
    w->slot_is_free = true;
}

/* The slots that are free: for our own first, what they leave for those of other threads. */
static void offer_slots(struct worker *w)
{
    w->slot_is_free = false;
    if (w->admission.count > 0) admission_pump(&w->admission, clock_ms(), exchange_try_slot, w);
    struct proxy *p = w->proxy;
    if (p->worker_count == 1 || admission_shared_count(&p->queue) <= w->admission.count) return;
    for (int i = 0; i < p->worker_count; i++)
        if (i != w->index) uv_async_send(&p->workers[i].wake);
}

static void on_wake(uv_async_t *async)
{
    struct worker *w = async->data;
    if (w->admission.count > 0) admission_pump(&w->admission, clock_ms(), exchange_try_slot, w);
}

/* ---- the clock ---- */

void worker_publish(struct worker *w)
{
    atomic_store(&w->connections, http_server_connections(w->server));
    atomic_store(&w->entries, w->ledger.count);
}

static bool is_idle(const struct worker *w)
{
    return http_server_connections(w->server) == 0;
}

static void follow_phase(struct worker *w)
{
    enum proxy_phase phase = proxy_phase(w->proxy);
    if (phase >= PROXY_READY) http_server_accept(w->server);
    if (w->state == WORKER_SERVING && phase >= PROXY_DRAINING) {
        w->state = WORKER_DRAINING;
        http_server_drain(w->server);
    }
    if (w->state == WORKER_DRAINING && phase == PROXY_CLOSING) {
        w->state = WORKER_CUTTING;
        w->cut_until_ms = clock_ms() + (w->exchange_count > 0 ? LAST_WORDS_MS : 0);
        if (w->exchange_count > 0) log_warn("drain timeout", "cut=%d", w->exchange_count);
        exchange_cut_all(w);
    }
    worker_publish(w);
    bool is_over = is_idle(w) || clock_ms() >= w->cut_until_ms;
    if (w->state == WORKER_CUTTING && is_over && w->index > 0) worker_close(w, NULL, NULL);
}

static void on_tick(uv_timer_t *timer)
{
    struct worker *w = timer->data;
    if (++w->ticks % SWEEP_TICKS == 0) exchange_sweep(w);
    if (w->admission.count > 0) { // agents' reports free slots, too
        admission_expire(&w->admission, clock_ms(), exchange_on_expired, w);
        w->slot_is_free = true;
        offer_slots(w);
    }
#ifndef NDEBUG
    ledger_check(&w->ledger);
#endif
    follow_phase(w);
}

static void on_before_sleep(uv_check_t *check)
{
    struct worker *w = check->data;
    relay_flush(&w->gather);
    if (w->slot_is_free) offer_slots(w);
}

/* ---- opening ---- */

static int open_server(struct worker *w, int port, struct error *err)
{
    const struct proxy_config *config = w->proxy->config;
    int threads = (int)config->threads, inherited = upgrade_take_socket(port);
    struct http_server_options options = {
        .host = config->server_name,
        .port = port,
        .reuse_port = threads > 1,
        .listen_fd = inherited > 0 ? inherited : 0,
        .held = inherited > 0, // the old process still accepts
        .drain_idle_ms = DRAIN_IDLE_MS,
        .connections_max = (int)config->connections_max / threads + 1,
        .body_bytes_total = config->body_bytes_total / (uint64_t)threads,
        .limits = {.body_bytes = config->body_bytes},
        .tls = w->proxy->tls,
        .on_request = http_router_dispatch,
        .arg = &w->router,
    };
    return http_server_open(w->loop, &options, &w->server, err);
}

static struct fleet *fleet_of(void *arg)
{
    return worker_fleet(arg);
}

int worker_open(struct worker *w, struct proxy *p, int index, uv_loop_t *loop, int port,
                struct error *err)
{
    w->proxy = p;
    w->index = index;
    w->loop = loop;
    if (index > 0) {
        w->loop = &w->own_loop;
        CHECK(uv_loop_init(w->loop) == 0);
    }
    list_init(&w->exchanges);
    w->spares = exchange_spares_create();
    ledger_init(&w->ledger);
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    route_state_init(&w->route, seed);
    proxy_routes_init(&w->router, w);
    relay_gather_init(&w->gather);
    CHECK(uv_timer_init(w->loop, &w->tick) == 0);
    CHECK(uv_check_init(w->loop, &w->before_sleep) == 0);
    CHECK(uv_async_init(w->loop, &w->wake, on_wake) == 0);
    w->tick.data = w->before_sleep.data = w->wake.data = w;
    admission_init(&w->admission, &p->queue, exchange_on_evicted, w);
    w->is_open = true;
    struct http_client_options options = {
        .idle_per_origin_max = (int)p->config->idle_connections,
        .tls = p->tls,
    };
    w->client = http_client_create(w->loop, &options);
    prober_init(&w->prober, w->client, &p->registry, p->agent_authorization);
    int rc = affinity_create(w->loop, p->affinity, &p->affinity_options, fleet_of, w, w->client,
                             &w->affinity, err);
    if (rc == 0) rc = open_server(w, port, err);
    if (rc < 0) return rc;
    CHECK(uv_timer_start(&w->tick, on_tick, TICK_MS, TICK_MS) == 0);
    CHECK(uv_check_start(&w->before_sleep, on_before_sleep) == 0);
    return 0;
}

static void thread_main(void *arg)
{
    struct worker *w = arg;
    uv_run(w->loop, UV_RUN_DEFAULT);
}

void worker_start_thread(struct worker *w)
{
    CHECK(w->index > 0 && uv_thread_create(&w->thread, thread_main, w) == 0);
    w->has_thread = true;
}

struct fleet *worker_fleet(struct worker *w)
{
    struct registry *r = &w->proxy->registry;
    if (w->fleet && registry_generation(r) == w->fleet_generation) return w->fleet;
    registry_lock(r);
    fleet_unref(w->fleet);
    w->fleet = fleet_ref(registry_fleet(r));
    w->fleet_generation = registry_generation(r);
    registry_unlock(r);
    return w->fleet;
}
