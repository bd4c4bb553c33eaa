/* proxy.h - one proxy: what its threads share. No globals beside log and metrics, so that several
 * proxies can run in one process, each on loops of its own.
 *
 * Who may do what: what stands under "constant" never changes while threads run, what stands under
 * "shared" has its own locks or is atomic. The rest belongs to the main thread, which is worker
 * 0's. */
#ifndef LM_PROXY_PROXY_H
#define LM_PROXY_PROXY_H

#include <stdatomic.h>
#include <uv.h>

#include "proxy/admission.h"
#include "proxy/affinity.h"
#include "proxy/api_key_ring.h"
#include "proxy/hop_ids.h"
#include "proxy/limits.h"
#include "proxy/model_stats.h"
#include "proxy/prefix_sync.h"
#include "proxy/prefix_table.h"
#include "proxy/proxy_config.h"
#include "proxy/registry.h"
#include "proxy/retry_budget.h"
#include "proxy/route.h"
#include "proxy/worker.h"

struct access_log;
struct quota_redis;
struct registry_redis;
struct recent;
struct snapshot;

enum proxy_phase {
    PROXY_STARTING, // serves, but its picture of the fleet may be incomplete: /ready says 503
    PROXY_READY,
    PROXY_LEAVING,  // SIGTERM came, still takes requests (--drain-delay): /ready says 503
    PROXY_DRAINING, // finishes what it has
    PROXY_CLOSING,
};

struct proxy {
    /* constant */
    const struct proxy_config *config; // borrowed
    uint64_t started_ms;
    char id[17];               // names this process to agents (x-lm-dispatch) and in Redis
    uint64_t number_base;      // of requests
    char *agent_authorization; // "Bearer <--agent-key>", or NULL
    struct affinity_options affinity_options;
    int64_t started_wall_s;                           // `created` of the models listed
    char via[40];                                     // names this process to the next hops: a
                                                      // request that shows it loops
    char *cors_origins, *cors_methods, *cors_headers; // comma-separated, owned
    const struct route_policy *policy;
    struct tls *tls;

    /* shared */
    atomic_int phase;         // enum proxy_phase; the main thread writes
    struct registry registry; // behind its lock
    atomic_uint_fast64_t requests_numbered;
    struct prefix_table *prefix_table;
    struct recent *recent;
    struct model_stats model_stats;
    struct retry_budget retry_budget;
    struct hop_budget resume_budget;
    struct admission_shared queue;
    atomic_int running[ADMISSION_CLASSES]; // requests, those that wait included
    struct api_key_ring keys;
    struct limits limits;
    struct affinity_shared *affinity;
    struct access_log *access_log; // NULL: none

    /* the main thread's */
    struct registry_redis *redis; // NULL: none configured
    struct quota_redis *quota;    // likewise
    struct prefix_sync prefix_sync;
    struct snapshot *snapshot; // NULL: none
    struct http_server *admin; // of --admin-port; NULL: none
    struct http_router admin_router;
    uv_timer_t tick; // leases, probes, phases
    uint64_t phase_until_ms;
    int closing_parts;
    bool is_closing, has_prefix_sync;
    void (*on_stopped)(void *arg);
    void *on_stopped_arg;

    struct worker *workers; // owned
    int worker_count;       // of those that were opened
};

/* Open everything and start serving. On failure what was opened is closed again when the loop has
 * run. */
FALLIBLE int proxy_start(struct proxy *p, uv_loop_t *loop, const struct proxy_config *config,
                         struct error *err);
/* Finish running requests, refuse new ones, close; then on_stopped, once. */
void proxy_drain(struct proxy *p, void (*on_stopped)(void *arg), void *arg);
void proxy_deinit(struct proxy *p); // after on_stopped

/* SIGHUP: API keys and their limits as `fresh` has them, the files of TLS, the access log in a new
 * file. On failure all stays as it was. */
FALLIBLE int proxy_reload(struct proxy *p, const struct proxy_config *fresh, struct error *err);
/* SIGUSR2: see upgrade.h. */
FALLIBLE int proxy_upgrade(struct proxy *p, struct error *err);

static inline enum proxy_phase proxy_phase(const struct proxy *p)
{
    return (enum proxy_phase)atomic_load_explicit(&p->phase, memory_order_relaxed);
}

#endif
