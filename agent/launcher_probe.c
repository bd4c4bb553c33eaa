#define LOG_MODULE "launcher"
#include "agent/launcher_probe.h"

#include "shared/base/log.h"
#include "shared/base/str.h"

#include <stdio.h>
#include <string.h>

/* In a row. More than one: a launcher that stood still itself must not blame a replica for it. */
#define MISSES_MAX 3

static void miss(struct launcher_probe *p, const char *why)
{
    snprintf(p->why, sizeof p->why, "%s", why);
    if (++p->misses < MISSES_MAX) return;
    launcher_probe_stop(p);
    p->on_sick(p->arg, p->why);
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct launcher_probe *p = arg;
    (void)headers;
    if (status == 200) {
        p->misses = 0;
        log_debug("replica is well", "port=%d", p->port);
        return;
    }
    char why[64];
    snprintf(why, sizeof why, "GET /health says %d", status);
    miss(p, why);
}

static void on_end(void *arg)
{
    struct launcher_probe *p = arg;
    p->call = NULL;
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct launcher_probe *p = arg;
    p->call = NULL;
    miss(p, failure->text);
}

static void on_tick(uv_timer_t *timer)
{
    struct launcher_probe *p = timer->data;
    if (p->call) return; // its deadline is near
    struct http_call_options options = {
        .scheme = p->scheme,
        .host = p->host,
        .port = p->port,
        .method = "GET",
        .target = STR("/health"),
        .connect_timeout_ms = (int)p->period_ms,
        .head_timeout_ms = (int)p->period_ms,
        .idle_timeout_ms = (int)p->period_ms,
        .fresh = true,
        .on_head = on_head,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = p,
    };
    p->call = http_call_start(p->client, &options);
}

/* Where a server that listens on all addresses is reached from its own machine. */
static const char *reachable(const char *host)
{
    if (strcmp(host, "0.0.0.0") == 0) return "127.0.0.1";
    return strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0 ? "::1" : host;
}

void launcher_probe_init(struct launcher_probe *p, uv_loop_t *loop, struct http_client *client,
                         bool is_tls, const char *host, int port, uint64_t timeout_ms,
                         void (*on_sick)(void *arg, const char *why), void *arg)
{
    *p = (struct launcher_probe){
        .client = client,
        .scheme = is_tls ? HTTP_TLS_UNVERIFIED : HTTP_PLAIN,
        .host = reachable(host),
        .port = port,
        .period_ms = timeout_ms > 0 && timeout_ms < MISSES_MAX ? 1 : timeout_ms / MISSES_MAX,
        .on_sick = on_sick,
        .arg = arg,
    };
    uv_timer_init(loop, &p->tick);
    p->tick.data = p;
}

void launcher_probe_start(struct launcher_probe *p)
{
    if (p->period_ms == 0) return;
    p->misses = 0;
    uv_timer_start(&p->tick, on_tick, p->period_ms, p->period_ms);
}

void launcher_probe_stop(struct launcher_probe *p)
{
    uv_timer_stop(&p->tick);
    if (p->call) http_call_cancel(p->call);
    p->call = NULL;
}
