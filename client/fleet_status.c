#include "client/fleet_status.h"

#include "client/fleet_view.h"
#include "client/models.h"
#include "client/text_table.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <stdio.h>
#include <string.h>

/* ---- a proxy: url -> {"models":[..],"unfinished":n,"latency":[s..],"speed":n} ----
 *
 * So LMDeploy has it; lm-proxy adds what its agents report ("state", "running", ...). */

static void add_names(struct text_table *t, const struct json *models)
{
    struct buf names;
    buf_init(&names, BUF_MAX_INTERNAL);
    for (const struct json *m = json_first(models); m; m = json_next(m)) {
        if (json_type(m) != JSON_STRING) continue;
        if (names.len > 0) buf_append_str(&names, ", ");
        buf_append_str(&names, json_string(m, NULL));
    }
    text_table_add(t, "%s", names.len > 0 ? names.data : "-");
    buf_deinit(&names);
}

static void add_number(struct text_table *t, const struct json *v)
{
    if (v && json_type(v) == JSON_NUMBER) {
        text_table_add(t, "%.10g", json_number(v));
    } else {
        text_table_add(t, "-");
    }
}

static void add_text(struct text_table *t, const struct json *v)
{
    text_table_add(t, "%s", v && json_type(v) == JSON_STRING ? json_string(v, NULL) : "-");
}

static void add_share(struct text_table *t, const struct json *v)
{
    if (v && json_type(v) == JSON_NUMBER) {
        text_table_add(t, "%.0f %%", json_number(v) * 100);
    } else {
        text_table_add(t, "-");
    }
}

/* Mean of the latencies that the proxy remembers, in seconds. */
static void add_latency(struct text_table *t, const struct json *list)
{
    double sum = 0;
    size_t count = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (json_type(v) != JSON_NUMBER) continue;
        sum += json_number(v);
        count++;
    }
    if (count > 0) {
        text_table_add(t, "%.3f s", sum / (double)count);
    } else {
        text_table_add(t, "-");
    }
}

int fleet_status_print(const char *text, size_t len, struct buf *out, struct error *err)
{
    static const struct text_column columns[] = {
        {"AGENT", false},  {"STATE", false},  {"UNFINISHED", true},
        {"RUNNING", true}, {"WAITING", true}, {"KV", true},
        {"LATENCY", true}, {"SPEED", true},   {"MODELS", false},
    };
    struct error why;
    struct json *nodes = json_parse(text, len, &why);
    if (!nodes) return error_set(err, E_PROTOCOL, "the status is not JSON: %s", why.text);
    if (json_type(nodes) != JSON_OBJECT) {
        json_destroy(nodes);
        return error_set(err, E_PROTOCOL, "the status is not an object of agents");
    }
    struct text_table t;
    text_table_init(&t, columns, ARRAY_LEN(columns));
    for (const struct json *node = json_first(nodes); node; node = json_next(node)) {
        text_table_add(&t, "%s", json_name(node));
        add_text(&t, json_get(node, "state"));
        add_number(&t, json_get(node, "unfinished"));
        add_number(&t, json_get(node, "running"));
        add_number(&t, json_get(node, "waiting"));
        add_share(&t, json_get(node, "kv_used_share"));
        add_latency(&t, json_get(node, "latency"));
        add_number(&t, json_get(node, "speed"));
        add_names(&t, json_get(node, "models"));
    }
    text_table_print(&t, out);
    size_t agents = json_len(nodes);
    buf_printf(out, "%zu agent%s\n", agents, agents == 1 ? "" : "s");
    text_table_deinit(&t);
    json_destroy(nodes);
    return 0;
}

/* ---- an agent ---- */

/* "yes", "no", or the status code that says neither. */
static int ask_probe(struct api_client *api, const char *path, char out[32], struct error *err)
{
    struct api_call call = {.path = path};
    struct api_reply reply;
    int rc = api_client_call(api, &call, &reply, err);
    int status = reply.status;
    api_reply_deinit(&reply);
    if (rc < 0 && rc != E_UPSTREAM) return rc;
    if (rc == 0 || status == 503) {
        snprintf(out, 32, "%s", rc == 0 ? "yes" : "no");
    } else {
        snprintf(out, 32, "status %d", status);
    }
    return 0;
}

static int print_agent(struct api_client *api, struct buf *out, struct error *err)
{
    static const struct text_column columns[] = {
        {"AGENT", false}, {"HEALTHY", false}, {"READY", false}, {"MODELS", false}};
    char healthy[32], ready[32];
    struct model_list models;
    int rc = models_fetch(api, &models, err);
    if (rc == 0) rc = ask_probe(api, "/health", healthy, err);
    if (rc == 0) rc = ask_probe(api, "/ready", ready, err);
    if (rc == 0) {
        struct text_table t;
        struct buf names;
        buf_init(&names, BUF_MAX_INTERNAL);
        for (size_t i = 0; i < models.count; i++)
            buf_printf(&names, "%s%s", i > 0 ? ", " : "", models.names[i]);
        text_table_init(&t, columns, ARRAY_LEN(columns));
        text_table_add(&t, "%s", api_client_url(api));
        text_table_add(&t, "%s", healthy);
        text_table_add(&t, "%s", ready);
        text_table_add(&t, "%s", names.len > 0 ? names.data : "-");
        text_table_print(&t, out);
        text_table_deinit(&t);
        buf_deinit(&names);
    }
    models_deinit(&models);
    return rc;
}

/* ---- looking ---- */

/* E_UPSTREAM with *status 404: the server doesn't know such a route. */
static int ask(struct api_client *api, const char *path, struct buf *body, int *status,
               struct error *err)
{
    struct api_call call = {.path = path};
    struct api_reply reply;
    int rc = api_client_call(api, &call, &reply, err);
    *status = reply.status;
    *body = reply.body;
    return rc;
}

static int look_at_proxy(struct api_client *api, struct fleet_look *out, int *status,
                         struct error *err)
{
    struct buf body;
    struct error why;
    int rc = ask(api, "/lm/status", &body, status, err);
    if (rc == 0) {
        out->status = json_parse(body.data, body.len, &why);
        if (!out->status) {
            rc = error_set(err, E_PROTOCOL, "the status is not JSON: %s", why.text);
        } else if (!fleet_view_fits(out->status)) {
            rc = error_set(err, E_PROTOCOL, "the status is not that of an lm-proxy");
        }
    }
    buf_deinit(&body);
    return rc;
}

static int look_at_nodes(struct api_client *api, struct fleet_look *out, int *status,
                         struct error *err)
{
    struct buf body;
    int rc = ask(api, "/nodes/status", &body, status, err);
    if (rc == 0) rc = fleet_status_print(body.data, body.len, &out->text, err);
    buf_deinit(&body);
    return rc;
}

int fleet_look_take(struct api_client *api, struct fleet_look *out, struct error *err)
{
    *out = (struct fleet_look){.status = NULL};
    buf_init(&out->text, BUF_MAX_INTERNAL);
    int status;
    int rc = look_at_proxy(api, out, &status, err);
    if (rc < 0 && status == 404) rc = look_at_nodes(api, out, &status, err);
    if (rc < 0 && status == 404) rc = print_agent(api, &out->text, err);
    if (rc < 0) fleet_look_deinit(out);
    return rc;
}

void fleet_look_deinit(struct fleet_look *look)
{
    json_destroy(look->status);
    buf_deinit(&look->text);
    *look = (struct fleet_look){.status = NULL};
}

int fleet_status_command(struct api_client *api, struct error *err)
{
    struct fleet_look look;
    int rc = fleet_look_take(api, &look, err);
    if (rc < 0) return rc;
    if (look.status) {
        struct fleet_view view = {
            .now = look.status,
            .has_urls = true,
            .url = api_client_url(api),
        };
        fleet_view_print(&view, &look.text);
    }
    fwrite(look.text.data, 1, look.text.len, stdout);
    fleet_look_deinit(&look);
    return 0;
}
