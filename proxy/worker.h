/* worker.h - one thread of the proxy: a loop, a listening socket, connections to agents, and the
 * requests that the kernel gave to it (SO_REUSEPORT). Workers meet in what struct proxy shares, and
 * nowhere else. Worker 0 runs on the main thread. A struct worker belongs to its thread; only what
 * is atomic is for others, and `wake`. */
#ifndef LM_PROXY_WORKER_H
#define LM_PROXY_WORKER_H

#include <stdatomic.h>
#include <uv.h>

#include "proxy/admission.h"
#include "proxy/affinity.h"
#include "proxy/api_key_ring.h"
#include "proxy/fleet.h"
#include "proxy/ledger.h"
#include "proxy/prober.h"
#include "proxy/relay.h"
#include "proxy/route.h"
#include "shared/base/list.h"
#include "shared/net/http_client.h"
#include "shared/net/http_router.h"

struct proxy;

enum worker_state {
    WORKER_SERVING,
    WORKER_DRAINING, // its listener is closed
    WORKER_CUTTING,  // last words are on their way
    WORKER_CLOSING,  // handles close
    WORKER_CLOSED,
};

struct worker {
    struct proxy *proxy;
    int index;
    uv_loop_t *loop;
    enum worker_state state;

    struct http_server *server;
    struct http_client *client;
    struct http_router router;
    struct prober prober; // asks for handlers of this thread; worker 0's for the registry, too

    struct fleet *fleet; // its reference of the current picture; see worker_fleet()
    uint64_t fleet_generation;
    struct ledger ledger;
    struct route_state route;
    struct admission admission;
    struct api_key_view keys;
    struct affinity_service *affinity;
    struct exchange_spares *spares; // memory of requests that have ended
    struct list exchanges;          // live ones
    int exchange_count;
    bool slot_is_free; // since the queue was last looked at
    uv_async_t wake;   // another thread has freed a slot: look at the queue

    struct relay_gather gather;
    uv_check_t before_sleep; // flushes it
    uv_timer_t tick;         // deadlines of exchanges; follows the proxy's phase
    unsigned ticks;
    uint64_t cut_until_ms;
    int closing_parts;
    void (*on_closed)(void *arg); // worker 0 only
    void *on_closed_arg;

    uv_loop_t own_loop; // of all but worker 0
    uv_thread_t thread;
    bool has_thread, is_open;

    atomic_int connections, entries; // as of the last tick; entries: of the ledger
    atomic_bool is_closed;           // nothing of it is left but memory
};

/* Everything but its thread: what fails is reported here. On failure worker_close() it. */
FALLIBLE int worker_open(struct worker *w, struct proxy *p, int index, uv_loop_t *loop, int port,
                         struct error *err);
void worker_start_thread(struct worker *w); // not for worker 0, whose loop the caller runs
/* Close all handles; requests must have ended, or end now. `on_closed` may be NULL. */
void worker_close(struct worker *w, void (*on_closed)(void *arg), void *arg);
void worker_deinit(struct worker *w); // joins its thread

/* A request has left an agent: before the loop sleeps somebody who waits may have its place. */
void worker_note_slot_free(struct worker *w);
void worker_publish(struct worker *w); // `connections` and `entries`

/* The current picture of the fleet; valid until the next call, fleet_ref() to keep it. */
struct fleet *worker_fleet(struct worker *w);

#endif
