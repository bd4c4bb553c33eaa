/* prober.h - asks agents directly whether they live: GET /health of ours, GET /v1/models of
 * foreign nodes, one second each. Whom and when the registry decides; the answer goes back to it.
 * Loop thread. */
#ifndef LM_PROXY_PROBER_H
#define LM_PROXY_PROBER_H

#include "proxy/registry.h"
#include "shared/net/http_client.h"

struct probe;

struct prober {
    struct http_client *client; // borrowed
    struct registry *registry;  // borrowed
    const char *authorization;  // borrowed: what members are shown; NULL: nothing
    struct list probes;         // in flight
    int count;                  // of these, the registry's
    int questions;              // and those of others
    uint64_t tls_logged_ms;     // when a failure of TLS was last told; 0: never
};

/* What a node said; models: valid during the callback, count -1 where they weren't asked for. */
struct probe_answer {
    enum registry_probe result;
    const char (*models)[128];
    int model_count;
};
typedef void probe_callback(void *arg, const struct probe_answer *answer);

void prober_init(struct prober *p, struct http_client *client, struct registry *registry,
                 const char *authorization);
/* Start the probes that are due, cut those that take too long. Ten times a second or so. */
void prober_tick(struct prober *p, uint64_t now_ms);

/* Ask a URL (valid, see http_url_parse) for its models. The callback comes later, exactly once,
 * unless prober_cancel comes first. NULL: too many such questions are open already. */
struct probe *prober_ask_models(struct prober *p, const char *url, probe_callback *callback,
                                void *arg);
void prober_cancel(struct probe *probe);
void prober_deinit(struct prober *p); // cancels all; before the client is destroyed

#endif
