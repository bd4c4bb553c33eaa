/* agent.h - the process as a whole: what main() builds, what routes look at, how it starts and
 * ends. Loop thread only. */
#ifndef LM_AGENT_AGENT_H
#define LM_AGENT_AGENT_H

#include <uv.h>

#include "agent/agent_config.h"
#include "agent/completion.h"
#include "agent/embedding.h"
#include "agent/engine_bridge.h"
#include "agent/engine_state.h"
#include "agent/guard.h"
#include "agent/prefix_index.h"
#include "agent/registration.h"
#include "agent/request_gate.h"
#include "agent/session_service.h"
#include "agent/text_worker.h"
#include "shared/net/http_router.h"
#include "shared/net/http_server.h"
#include "shared/net/loop.h"

struct agent {
    uv_loop_t *loop;
    const struct agent_config *config;
    struct tls *tls; // owned
    struct http_server *server;
    struct http_router router;
    struct guard guard;
    char *cors_origins, *cors_methods, *cors_headers; // owned; the router's lists
    struct engine_bridge *bridge;
    struct text_worker *worker, *compiler;
    struct registration *registration;
    struct reply_formats formats; // of the model's answers; valid once the service is open
    struct completion_service service;
    struct session_service sessions;
    struct embedding_service embeddings;
    struct request_gate gate;
    struct engine_progress progress;
    struct prefix_index prefixes;
    struct loop_signals signals;
    uv_signal_t reload;     // SIGHUP
    uv_timer_t watch;       // progress and metrics, every AGENT_LOAD_MS
    uv_timer_t drain_timer; // --drain-timeout, then the grace for last bytes
    uv_timer_t news_timer;  // work has come: does it have to be told at once?
    uint64_t load_sequence;
    int64_t tokens_reported; // prompt tokens waiting, by the last report
    int64_t created;         // seconds since 1970: when the model was ready
    char fingerprint[24];
    char url[320]; // for people: "http://0.0.0.0:23333"
    bool is_leaving;
    int last_bytes_ms; // waited for slow readers after the last answer
    int exit_code;
};

/* Listen, begin to load the model, run until told to end, free everything. Returns the exit code.
 */
int agent_run(struct agent *a, const struct agent_config *config);

/* Take what the engine says of marks into `prefixes`. */
void agent_update_prefixes(struct agent *a);

/* POST /terminate: as SIGTERM does. Not while loading. */
void agent_terminate(struct agent *a);

/* Its engine answers: no device has failed, and work moves. Not while loading. */
bool agent_is_healthy(const struct agent *a);

#endif
