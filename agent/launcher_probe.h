/* launcher_probe.h - asks a replica for GET /health while it serves: a process can live on and be of no
 * use, since its device has failed or its work stands still. Loop thread only. */
#ifndef LM_AGENT_LAUNCHER_PROBE_H
#define LM_AGENT_LAUNCHER_PROBE_H

#include <stdbool.h>
#include <uv.h>

#include "shared/net/http_client.h"

struct launcher_probe {
    struct http_client *client; // borrowed
    enum http_scheme scheme;
    const char *host; // borrowed
    int port;
    uint64_t period_ms; // from one question to the next, and the deadline of each
    int misses;         // in a row
    uv_timer_t tick;
    struct http_call *call; // NULL: none
    char why[128];          // of the last miss
    void (*on_sick)(void *arg, const char *why);
    void *arg;
};

/* on_sick comes once, about `timeout_ms` after the last good answer, from the loop. The name a server
 * listens on, `host`, may be a wildcard. With TLS any certificate will do: it names what others call
 * the replica. timeout_ms 0: nothing is asked. Close `tick` at the end. */
void launcher_probe_init(struct launcher_probe *p, uv_loop_t *loop, struct http_client *client,
                         bool is_tls, const char *host, int port, uint64_t timeout_ms,
                         void (*on_sick)(void *arg, const char *why), void *arg);
void launcher_probe_start(struct launcher_probe *p);
void launcher_probe_stop(struct launcher_probe *p); // also when it isn't started

#endif
