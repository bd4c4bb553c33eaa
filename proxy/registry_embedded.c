/* registry_embedded.c - what comes to POST /nodes/add:
 *
 *   {"url", "status": {"models"}, "lm": {...}}  one of our agents: a lease of 3.5 s
 *   {"url", "status": {"models", "speed"}}      a foreign node that lists models: believed, probed
 *   {"url"}                                     a foreign node: asked for its models first
 *
 * Answers are LMDeploy's JSON strings, with true statuses. A url of 0.0.0.0, which LMDeploy's
 * api_server sends, means the address that it came from. */
#define LOG_MODULE "registry"
#include "proxy/registry_embedded.h"

#include "proxy/admin.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"

#include <stdio.h>

#define BODY_MAX ((size_t)256 << 10)

static void respond_text(struct http_exchange *x, int status, const char *text)
{
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_put_text(&w, text);
    http_respond(x, status, "application/json", buf_str(&body));
    buf_deinit(&body);
}

static void refuse(struct http_exchange *x, int status, const char *code, const char *text)
{
    metric_add(&proxy_metrics.beats_refused_total, 1);
    struct api_error error;
    api_error_set(&error, status, code, NULL, "%s", text);
    api_error_respond(x, &error);
}

static int status_of(int rc)
{
    return rc == E_BUSY ? 409 : rc == E_LIMIT ? 503 : 400;
}

/* ---- our agents ---- */

static void add_agent(struct proxy *p, struct http_exchange *x, const struct json *lm)
{
    struct agent_record record;
    struct error err;
    int rc = agent_record_parse(lm, &record, &err);
    if (rc < 0) error_prefix(&err, rc, "'lm'");
    if (rc == 0) {
        registry_lock(&p->registry);
        rc = registry_hear(&p->registry, REGISTRY_HTTP, &record, AGENT_LEASE_MS, 0, clock_ms(),
                           &err);
        registry_unlock(&p->registry);
    }
    if (rc < 0) {
        log_debug("beat refused", "peer=%s reason=\"%s\"", http_exchange_request(x)->peer,
                  err.text);
        refuse(x, status_of(rc), NULL, err.text);
        return;
    }
    metric_add(&proxy_metrics.beats_heard_total, 1);
    respond_text(x, 200, "Added successfully");
}

/* ---- foreign nodes ---- */

struct foreign {
    struct worker *worker;
    struct http_exchange *client;
    struct probe *probe; // NULL: none in flight
    char url[AGENT_URL_BYTES];
    char models[AGENT_MODELS_MAX][128];
    int model_count;
    double speed;
};

static int read_url(struct foreign *f, const struct json *root, struct error *err)
{
    const struct json *v = json_get(root, "url");
    if (!v || json_type(v) != JSON_STRING)
        return error_set(err, E_FORMAT, "'url' must be a string");
    struct http_url url;
    int rc = http_url_parse(json_string(v, NULL), &url, err);
    if (rc < 0) return rc;
    const char *host = url.host;
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0) {
        host = http_exchange_request(f->client)->peer;
    }
    int len = http_url_print_origin(f->url, sizeof f->url, url.scheme, host, url.port);
    bool fits = len >= 0 && (size_t)len + strlen(url.path) < sizeof f->url;
    if (fits) memcpy(f->url + len, url.path, strlen(url.path) + 1);
    if (!fits) {
        return error_set(err, E_INVALID, "'url' is too long");
    }
    return 0;
}

static int read_status(struct foreign *f, const struct json *status, struct error *err)
{
    const struct json *models = json_get_set(status, "models");
    if (models && json_type(models) != JSON_ARRAY) {
        return error_set(err, E_FORMAT, "'status.models' must be an array");
    }
    for (const struct json *m = json_first(models); m; m = json_next(m)) {
        size_t len = 0;
        const char *name = json_type(m) == JSON_STRING ? json_string(m, &len) : NULL;
        if (!name || len == 0 || len >= sizeof f->models[0] || f->model_count == AGENT_MODELS_MAX) {
            return error_set(err, E_INVALID, "'status.models' must be at most %d names",
                             AGENT_MODELS_MAX);
        }
        memcpy(f->models[f->model_count++], name, len + 1);
    }
    const struct json *speed = json_get_set(status, "speed");
    if (!speed) return 0;
    bool ok = json_type(speed) == JSON_NUMBER;
    f->speed = ok ? json_number(speed) : 0;
    if (ok && f->speed > 0 && f->speed < 1e9) return 0;
    return error_set(err, E_INVALID, "'status.speed' must be a number above 0");
}

static void register_foreign(struct foreign *f)
{
    struct error err;
    struct registry *registry = &f->worker->proxy->registry;
    registry_lock(registry);
    int rc = registry_add_foreign(registry, f->url, (const char(*)[128])f->models, f->model_count,
                                  f->speed, clock_ms(), &err);
    registry_unlock(registry);
    if (rc < 0) {
        refuse(f->client, status_of(rc), NULL, err.text);
    } else {
        respond_text(f->client, 200, "Added successfully");
    }
}

static void on_models(void *arg, const struct probe_answer *answer)
{
    struct foreign *f = arg;
    f->probe = NULL;
    if (answer->result == REGISTRY_PROBE_OK && answer->model_count > 0) {
        f->model_count = answer->model_count;
        memcpy(f->models, answer->models, (size_t)answer->model_count * sizeof f->models[0]);
        register_foreign(f);
        return;
    }
    metric_add(&proxy_metrics.beats_refused_total, 1);
    static const char text[] = "{\"error_code\":10402,"
                               "\"text\":\"Failed to get response after a period of time\"}";
    http_respond(f->client, 502, "application/json", str_of(text));
}

static void on_gone(void *arg)
{
    struct foreign *f = arg;
    if (f->probe) prober_cancel(f->probe);
}

static void add_foreign(struct worker *w, struct http_exchange *x, const struct json *root)
{
    struct foreign *f = arena_alloc(http_exchange_arena(x), sizeof *f);
    f->worker = w;
    f->client = x;
    struct error err;
    int rc = read_url(f, root, &err);
    if (rc == 0) rc = read_status(f, json_get_set(root, "status"), &err);
    if (rc < 0) {
        refuse(x, 400, NULL, err.text);
        return;
    }
    if (f->model_count) {
        register_foreign(f);
        return;
    }
    f->probe = prober_ask_models(&w->prober, f->url, on_models, f);
    if (f->probe) {
        http_exchange_watch(x, on_gone, NULL, f);
    } else {
        refuse(x, 503, NULL, "Too many registrations at once: please retry, or list the models.");
    }
}

static void refuse_stranger(struct http_exchange *x, const struct proxy *p)
{
    if (p->config->join_key) {
        refuse(x, 401, "invalid_join_key",
               "This proxy wants a join key: start the agent with --join-key.");
    } else {
        refuse(x, 403, "join_key_needed",
               "This proxy has keys to guard, so nodes of other machines can't join "
               "without one: start proxy and agents with --join-key, or add the node with the "
               "admin key or at --admin-port.");
    }
}

static void add(struct worker *w, struct http_exchange *x)
{
    const struct http_request *request = http_exchange_request(x);
    if (request->body.len > BODY_MAX) {
        refuse(x, 413, NULL, "The body of a registration is too large.");
        return;
    }
    struct error err;
    struct json *root = json_parse(request->body.data, request->body.len, &err);
    if (!root || json_type(root) != JSON_OBJECT) {
        refuse(x, 400, NULL, root ? "the body must be a JSON object" : err.text);
    } else if (json_get_set(root, "lm")) {
        add_agent(w->proxy, x, json_get_set(root, "lm"));
    } else {
        add_foreign(w, x, root);
    }
    json_destroy(root);
}

void registry_embedded_add(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    if (admin_may_join(w->proxy, http_exchange_request(x))) {
        add(w, x);
    } else {
        refuse_stranger(x, w->proxy);
    }
}

void registry_embedded_add_admin(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    if (admin_port_may_join(w->proxy, http_exchange_request(x))) {
        add(w, x);
    } else {
        refuse_stranger(x, w->proxy);
    }
}

/* ---- status ---- */

static void put_latency(struct json_writer *w, struct fleet_cell *cell)
{
    double latency_s[FLEET_LATENCY_MAX];
    int count = fleet_cell_latencies(cell, latency_s);
    json_key(w, "latency");
    json_array_begin(w);
    for (int i = 0; i < count; i++)
        json_put_double(w, latency_s[i]);
    json_array_end(w);
}

static void put_member(struct json_writer *w, const struct registry_member *m)
{
    const struct agent_record *r = &m->record;
    json_key(w, r->url);
    json_object_begin(w);
    json_key(w, "models");
    json_array_begin(w);
    for (int i = 0; m->visible && i < r->model_count; i++)
        json_put_text(w, r->models[i]);
    json_array_end(w);
    json_field_int(w, "unfinished", atomic_load(&m->cell->in_flight));
    put_latency(w, m->cell);
    if (m->speed > 0) {
        json_field_double(w, "speed", m->speed);
    } else {
        json_field_null(w, "speed");
    }
    json_field_text(w, "id", r->id);
    json_field_text(w, "state", registry_state_name(m));
    json_field_bool(w, "foreign", m->foreign);
    if (!m->foreign) {
        json_field_int(w, "running", r->load.running);
        json_field_int(w, "waiting", r->load.waiting);
        json_field_int(w, "capacity", r->capacity);
        json_field_int(w, "context_len", r->context_len);
        json_field_double(w, "kv_used_share", r->load.kv_used_share);
        json_field_double(w, "prefill_tokens_per_s", r->load.prefill_tokens_per_s);
        json_field_double(w, "inter_token_s", r->load.inter_token_s);
    }
    json_object_end(w);
}

void registry_embedded_status(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct registry *registry = &((struct worker *)arg)->proxy->registry;
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    registry_lock(registry);
    list_each (m, &registry->members, struct registry_member, link) {
        if (m->visible || (m->foreign && m->presence == REGISTRY_PRESENT)) put_member(&w, m);
    }
    registry_unlock(registry);
    json_object_end(&w);
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}
