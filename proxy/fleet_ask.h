/* fleet_ask.h - one small request to several agents at once, and what they said within a time.
 * Bounded: FLEET_ASK_MAX agents, FLEET_ASK_BYTES an answer. Loop thread only. */
#ifndef LM_PROXY_FLEET_ASK_H
#define LM_PROXY_FLEET_ASK_H

#include "proxy/fleet.h"
#include "shared/base/buf.h"
#include "shared/net/http_client.h"

#define FLEET_ASK_MAX   64
#define FLEET_ASK_BYTES ((size_t)1 << 20)

struct fleet_ask;

struct fleet_answer {
    struct fleet_agent *agent; // borrowed
    int status;                // 0: no whole answer
    struct str body;
};

struct fleet_ask_options {
    struct http_client *client;
    struct fleet_agent *const *agents; // references are taken
    int agent_count;                   // those beyond FLEET_ASK_MAX aren't asked
    const char *method;
    struct str target; // "/v1/sessions/77"; behind each agent's own path
    const struct http_header *headers;
    int header_count;
    struct str body; // copied
    int timeout_ms;
    /* Once, never from inside the start; the ask is gone when it returns. */
    void (*on_done)(void *arg, const struct fleet_answer *answers, int count);
    void *arg;
};

/* With no agents, too: on_done comes on the loop's next turn. */
struct fleet_ask *fleet_ask_start(uv_loop_t *loop, const struct fleet_ask_options *options);
void fleet_ask_cancel(struct fleet_ask *ask); // no callback follows

#endif
