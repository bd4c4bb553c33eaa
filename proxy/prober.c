#define LOG_MODULE "prober"
#include "proxy/prober.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <stdio.h>
#include <stdlib.h>

#define PROBE_MS        1000  // connecting, and waiting for the head
#define PROBE_TOTAL_MS  2500  // all of it: a node that sends its list byte by byte is no use
#define TLS_LOG_MS      10000 // an agent that is not trusted is asked again and again
#define PROBES_MAX      256
#define QUESTIONS_MAX   64 // apart from these: whoever asks must not keep the registry from asking
#define STARTS_PER_TICK 64
#define MODELS_BYTES    ((size_t)1 << 20)

struct probe {
    struct list link;
    struct prober *prober;
    struct http_call *call;
    char id[AGENT_URL_BYTES]; // of the member; "": somebody else's question
    probe_callback *callback; // NULL: the registry asks
    void *arg;
    char target[600];
    bool wants_models;
    int status;
    uint64_t deadline_ms;
    struct buf body;
    char models[AGENT_MODELS_MAX][128];
    int model_count;
};

void prober_init(struct prober *p, struct http_client *client, struct registry *registry,
                 const char *authorization)
{
    p->client = client;
    p->registry = registry;
    p->authorization = authorization;
    p->count = p->questions = 0;
    list_init(&p->probes);
}

static int *counter_of(const struct probe *q)
{
    return q->callback ? &q->prober->questions : &q->prober->count;
}

static void forget(struct probe *q)
{
    if (q->call) http_call_cancel(q->call);
    list_remove(&q->link);
    --*counter_of(q);
    buf_deinit(&q->body);
    free(q);
}

static void finish(struct probe *q, enum registry_probe result)
{
    struct probe_answer answer = {
        .result = result,
        .models = (const char(*)[128])q->models,
        .model_count = result == REGISTRY_PROBE_OK && q->wants_models ? q->model_count : -1,
    };
    if (result != REGISTRY_PROBE_OK) metric_add(&proxy_metrics.probes_failed_total, 1);
    if (q->callback) {
        q->callback(q->arg, &answer);
    } else {
        registry_lock(q->prober->registry);
        registry_probed(q->prober->registry, q->id, result, answer.models, answer.model_count,
                        clock_ms());
        registry_unlock(q->prober->registry);
    }
    forget(q);
}

/* Names that are too long or too many are left out: they couldn't be asked for anyway. False: the
 * body isn't a list of models. */
static bool read_models(struct probe *q)
{
    struct error err;
    struct json *root = json_parse(q->body.data ? q->body.data : "", q->body.len, &err);
    const struct json *data = json_get(root, "data");
    bool ok = data && json_type(data) == JSON_ARRAY;
    for (const struct json *m = ok ? json_first(data) : NULL; m; m = json_next(m)) {
        const struct json *id = json_get(m, "id");
        if (!id || json_type(id) != JSON_STRING || q->model_count == AGENT_MODELS_MAX) continue;
        size_t len;
        const char *name = json_string(id, &len);
        if (len == 0 || len >= sizeof q->models[0]) continue;
        memcpy(q->models[q->model_count++], name, len + 1);
    }
    json_destroy(root);
    return ok;
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    (void)headers;
    struct probe *q = arg;
    q->status = status;
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct probe *q = arg;
    if (q->wants_models) buf_append(&q->body, data, len); // overflow is looked at once, at the end
}

static void on_end(void *arg)
{
    struct probe *q = arg;
    q->call = NULL;
    bool ok = q->status == 200;
    if (ok && q->wants_models) ok = !q->body.overflow && read_models(q);
    finish(q, ok ? REGISTRY_PROBE_OK : REGISTRY_PROBE_FAILED);
}

/* A certificate stays wrong until somebody has read that it is. */
static void note_failure(const struct probe *q, const struct http_failure *failure)
{
    struct prober *p = q->prober;
    uint64_t now_ms = clock_ms();
    if (failure->code != UV_EPROTO || now_ms < p->tls_logged_ms + TLS_LOG_MS) {
        log_debug("probe failed", "agent=%s reason=\"%s\"", q->id, failure->text);
        return;
    }
    p->tls_logged_ms = now_ms;
    log_warn("no TLS with an agent", "agent=%s reason=\"%s\"", q->id, failure->text);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct probe *q = arg;
    q->call = NULL;
    note_failure(q, failure);
    bool refused = !failure->connected && failure->code == UV_ECONNREFUSED;
    enum registry_probe result = refused ? REGISTRY_PROBE_REFUSED : REGISTRY_PROBE_FAILED;
    finish(q, http_failure_is_ours(failure) ? REGISTRY_PROBE_NOT_MADE : result);
}

static struct probe *start(struct prober *p, const char *url_text, bool wants_models,
                           probe_callback *callback, void *arg)
{
    struct http_url url;
    CHECK(http_url_parse(url_text, &url, NULL) == 0);
    struct probe *q = xcalloc(1, sizeof *q);
    q->prober = p;
    q->wants_models = wants_models;
    q->callback = callback;
    q->arg = arg;
    q->deadline_ms = clock_ms() + PROBE_TOTAL_MS;
    buf_init(&q->body, MODELS_BYTES);
    list_push_back(&p->probes, &q->link);
    ++*counter_of(q);
    snprintf(q->target, sizeof q->target, "%s%s", url.path,
             wants_models ? "/v1/models" : "/health");
    /* Not to whoever only asks to be let in. */
    bool shows_key = p->authorization && !callback;
    struct http_header key = {STR("authorization"), str_of(p->authorization)};
    struct http_call_options options = {
        .scheme = url.scheme,
        .host = url.host,
        .port = url.port,
        .method = "GET",
        .target = str_of(q->target),
        .headers = &key,
        .header_count = shows_key ? 1 : 0,
        .connect_timeout_ms = PROBE_MS,
        .head_timeout_ms = PROBE_MS,
        .idle_timeout_ms = PROBE_MS,
        .fresh = true, // a pooled connection says little about whether new ones are accepted
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = q,
    };
    metric_add(&proxy_metrics.probes_total, 1);
    q->call = http_call_start(p->client, &options);
    return q;
}

struct next_probe {
    char url[AGENT_URL_BYTES], id[AGENT_ID_BYTES];
    bool is_foreign;
};

static bool take_next(struct prober *p, uint64_t now_ms, struct next_probe *out)
{
    registry_lock(p->registry);
    struct registry_member *m = registry_next_probe(p->registry, now_ms);
    if (m) {
        snprintf(out->url, sizeof out->url, "%s", m->record.url);
        snprintf(out->id, sizeof out->id, "%s", m->record.id);
        out->is_foreign = m->foreign;
    }
    registry_unlock(p->registry);
    return m != NULL;
}

void prober_tick(struct prober *p, uint64_t now_ms)
{
    list_each_safe (q, &p->probes, struct probe, link) {
        if (now_ms >= q->deadline_ms) finish(q, REGISTRY_PROBE_FAILED);
    }
    for (int started = 0; started < STARTS_PER_TICK && p->count < PROBES_MAX; started++) {
        struct next_probe next;
        if (!take_next(p, now_ms, &next)) break;
        struct probe *q = start(p, next.url, next.is_foreign, NULL, NULL);
        snprintf(q->id, sizeof q->id, "%s", next.id);
    }
}

struct probe *prober_ask_models(struct prober *p, const char *url, probe_callback *callback,
                                void *arg)
{
    return p->questions < QUESTIONS_MAX ? start(p, url, true, callback, arg) : NULL;
}

void prober_cancel(struct probe *probe)
{
    forget(probe);
}

void prober_deinit(struct prober *p)
{
    list_each_safe (q, &p->probes, struct probe, link)
        forget(q);
}
