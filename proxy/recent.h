/* recent.h - what the proxy counted in the last ten minutes, a sample every two seconds: for who
 * opens /dashboard when something has happened already. The main thread samples, any thread reads. */
#ifndef LM_PROXY_RECENT_H
#define LM_PROXY_RECENT_H

#include "shared/base/buf.h"
#include "shared/base/metrics.h"
#include "shared/net/http_server.h"

struct proxy;

#define RECENT_STEP_MS 2000
#define RECENT_SAMPLES 300

struct recent_sample {
    uint64_t at_ms; // monotonic
    /* since the process began */
    int64_t requests, failed, prompt_tokens, completion_tokens, cached_tokens;
    uint64_t first_byte[METRIC_BUCKETS]; // requests by their time to the first byte
    /* now */
    int running, waiting;
    double inter_token_s; // of agents that are up, by what they run; 0: none has said
};

struct recent; // opaque

struct recent *recent_create(void);
void recent_destroy(struct recent *r); // NULL is fine

/* Drives out the oldest one when there are RECENT_SAMPLES. */
void recent_add(struct recent *r, const struct recent_sample *sample);
/* One object: {"step_s", "first_byte_le": [upper bounds, null for none], "samples": [oldest ..]}. */
void recent_print(struct recent *r, const char *id, uint64_t now_ms, struct buf *out);

/* Main thread, every tick, with the registry's lock: samples when it is time. */
void recent_tick(struct recent *r, struct proxy *p, uint64_t now_ms);
void recent_handle(struct http_exchange *x, struct str param, void *worker); // GET /lm/recent

#endif
