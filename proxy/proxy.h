/* proxy.h - one proxy on one loop: everything that its parts share. One thread; there are no
 * globals beside log and metrics, so that several proxies can run in one process, each on its own
 * loop. */
#ifndef LM_PROXY_PROXY_H
#define LM_PROXY_PROXY_H

#include <uv.h>

#include "proxy/ledger.h"
#include "proxy/prober.h"
#include "proxy/proxy_config.h"
#include "proxy/registry.h"
#include "proxy/relay.h"
#include "proxy/route.h"
#include "shared/net/http_client.h"
#include "shared/net/http_router.h"

struct registry_redis;

enum proxy_phase {
    PROXY_STARTING, // serves, but its picture of the fleet may be incomplete: /ready says 503
    PROXY_READY,
    PROXY_LEAVING,  // SIGTERM came, still takes requests (--drain-delay): /ready says 503
    PROXY_DRAINING, // finishes what it has
    PROXY_CLOSING,
};

struct proxy {
    uv_loop_t *loop;
    const struct proxy_config *config; // borrowed
    enum proxy_phase phase;
    uint64_t started_ms;
    int64_t started_wall_s; // `created` of the models listed
    char via[40];           // names this process to the next hops: a request that shows it loops

    struct http_server *server;
    struct http_client *client;
    struct http_router router;
    char *cors_origins, *cors_methods, *cors_headers; // comma-separated, owned

    struct registry registry;
    struct registry_redis *redis; // NULL: none configured
    struct prober prober;

    struct ledger ledger;
    const struct route_policy *policy;
    struct route_state route;
    struct list exchanges; // live ones
    int exchange_count;

    struct relay_gather gather;
    uv_check_t before_sleep; // flushes it

    uv_timer_t tick; // leases, probes, deadlines
    unsigned ticks;
    uint64_t phase_until_ms;
    int closing_parts;
    void (*on_stopped)(void *arg);
    void *on_stopped_arg;
};

/* Open everything and start serving. On failure what was opened is closed again when the loop has
 * run. */
FALLIBLE int proxy_start(struct proxy *p, uv_loop_t *loop, const struct proxy_config *config,
                         struct error *err);
/* Finish running requests, refuse new ones, close; then on_stopped, once. */
void proxy_drain(struct proxy *p, void (*on_stopped)(void *arg), void *arg);
void proxy_deinit(struct proxy *p); // after on_stopped

/* True once the picture of the fleet is as complete as it gets: an agent is up, or the registry has
 * been heard out. */
bool proxy_is_ready(const struct proxy *p);

#endif
