#include "proxy/proxy_status.h"

#include "proxy/prefix_table.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *proxy_phase_name(enum proxy_phase phase)
{
    static const char *const names[] = {
        [PROXY_STARTING] = "starting", [PROXY_READY] = "ready",      [PROXY_LEAVING] = "draining",
        [PROXY_DRAINING] = "draining", [PROXY_CLOSING] = "draining",
    };
    return names[phase];
}

/* steps: of one unit that are told apart. */
static void put_rounded(struct json_writer *w, const char *name, double value, double steps)
{
    json_field_double(w, name, round(value * steps) / steps);
}

static void put_metric(struct json_writer *w, const char *name, const struct metric *m)
{
    json_field_int(w, name, metric_get(m));
}

/* ---- the proxy ---- */

static void put_proxy(struct json_writer *w, const struct proxy *p, uint64_t now_ms)
{
    json_field_text(w, "id", p->id);
    json_field_text(w, "version", LM_VERSION);
    json_field_text(w, "phase", proxy_phase_name(proxy_phase(p)));
    put_rounded(w, "uptime_s", (double)(now_ms - p->started_ms) / 1e3, 1e3);
    json_field_int(w, "threads", p->worker_count);
    json_field_text(w, "routing", p->policy->name);
    const char *redis = !p->config->redis_url                        ? "none"
                        : metric_get(&proxy_metrics.redis_connected) ? "connected"
                                                                     : "away";
    json_field_text(w, "redis", redis);
}

static void put_classes(struct json_writer *w, const char *name,
                        const int64_t counts[ADMISSION_CLASSES])
{
    json_key(w, name);
    json_object_begin(w);
    for (int i = 0; i < ADMISSION_CLASSES; i++)
        json_field_int(w, admission_class_names[i], counts[i]);
    json_object_end(w);
}

/* Those that wait are not among those that run. Both are counted at different moments. */
static void put_requests(struct json_writer *w, struct proxy *p)
{
    int64_t running[ADMISSION_CLASSES], waiting[ADMISSION_CLASSES];
    for (int i = 0; i < ADMISSION_CLASSES; i++) {
        waiting[i] = atomic_load(&p->queue.class_counts[i]);
        running[i] = atomic_load(&p->running[i]) - waiting[i];
        if (running[i] < 0) running[i] = 0;
    }
    json_key(w, "requests");
    json_object_begin(w);
    put_metric(w, "total", &proxy_metrics.requests_total);
    put_metric(w, "passed", &proxy_metrics.responses_passed_total);
    put_metric(w, "failed", &proxy_metrics.upstream_failures_total);
    put_metric(w, "lost", &proxy_metrics.upstream_lost_total);
    put_classes(w, "running", running);
    put_classes(w, "waiting", waiting);
    json_field_int(w, "waiting_bytes", atomic_load(&p->queue.bytes));
    json_object_end(w);
}

static void put_tokens(struct json_writer *w)
{
    json_key(w, "tokens");
    json_object_begin(w);
    put_metric(w, "prompt", &proxy_metrics.prompt_tokens_total);
    put_metric(w, "completion", &proxy_metrics.completion_tokens_total);
    put_metric(w, "cached", &proxy_metrics.cached_tokens_total);
    put_metric(w, "cached_expected", &proxy_metrics.cached_tokens_expected_total);
    double prompt = (double)metric_get(&proxy_metrics.prompt_tokens_total);
    double cached = (double)metric_get(&proxy_metrics.cached_tokens_total);
    put_rounded(w, "hit_rate", prompt > 0 ? cached / prompt : 0, 1e4);
    json_object_end(w);
}

static void put_repairs(struct json_writer *w)
{
    json_key(w, "retries");
    json_object_begin(w);
    put_metric(w, "connect", &proxy_metrics.retries_connect_total);
    put_metric(w, "stale", &proxy_metrics.retries_stale_total);
    put_metric(w, "busy", &proxy_metrics.retries_busy_total);
    put_metric(w, "lost", &proxy_metrics.retries_lost_total);
    put_metric(w, "denied", &proxy_metrics.retries_denied_total);
    json_object_end(w);
    put_metric(w, "resumes", &proxy_metrics.resumes_total);
    json_key(w, "sessions");
    json_object_begin(w);
    put_metric(w, "hit", &proxy_metrics.session_hits_total);
    put_metric(w, "moved", &proxy_metrics.session_moves_total);
    put_metric(w, "lost", &proxy_metrics.session_lost_total);
    json_object_end(w);
}

static void put_prefixes(struct json_writer *w, const struct proxy *p)
{
    struct prefix_table_stats stats;
    prefix_table_get_stats(p->prefix_table, &stats);
    json_key(w, "prefix_table");
    json_object_begin(w);
    json_field_int(w, "entries", (int64_t)stats.entries);
    json_field_int(w, "entries_max", (int64_t)stats.entries_max);
    json_field_int(w, "evicted", (int64_t)stats.evicted);
    json_object_end(w);
}

/* ---- the fleet ---- */

/* Seconds of all agents of the picture, in its order; in the arena. */
static struct route_candidate *score(struct worker *w, struct arena *arena,
                                     const struct fleet *fleet, uint64_t now_ms)
{
    struct route_request request = {
        .prompt_tokens = PROXY_STATUS_PROMPT_TOKENS,
        .output_tokens = PROXY_STATUS_OUTPUT_TOKENS,
        .now_ms = now_ms,
    };
    size_t count = (size_t)fleet->count;
    struct route_candidate *c = arena_alloc(arena, (count + 1) * sizeof *c);
    for (size_t i = 0; i < count; i++)
        c[i].agent = fleet->agents[i];
    (void)route_score_candidates(&w->route.weights, 1, &request, c, fleet->count);
    return c;
}

/* What it says of itself. */
static void put_report(struct json_writer *w, const struct agent_record *r)
{
    json_field_int(w, "running", r->load.running);
    json_field_int(w, "waiting", r->load.waiting);
    json_field_int(w, "waiting_tokens", r->load.prefill_tokens_waiting);
    json_field_int(w, "capacity", r->capacity);
    json_field_int(w, "context_len", r->context_len);
    json_field_double(w, "kv_used_share", r->load.kv_used_share);
    double prefill_per_s = r->load.prefill_tokens_per_s, step_s = r->load.inter_token_s;
    if (prefill_per_s > 0) json_field_double(w, "prefill_tokens_per_s", prefill_per_s);
    if (step_s > 0) json_field_double(w, "inter_token_s", step_s);
}

static void put_member(struct json_writer *w, const struct registry_member *m, double score_s,
                       uint64_t now_ms)
{
    const struct agent_record *r = &m->record;
    struct fleet_cell *cell = m->cell;
    uint64_t reported_ms = atomic_load(&cell->reported_ms);
    json_object_begin(w);
    json_field_text(w, "id", r->id);
    json_field_text(w, "url", r->url);
    json_field_bool(w, "foreign", m->foreign);
    json_field_text(w, "state", registry_state_name(m));
    json_field_text(w, "breaker", breaker_state_name(breaker_state(&cell->breaker, now_ms)));
    if (score_s >= 0) put_rounded(w, "score_s", score_s, 1e5);
    json_field_int(w, "in_flight", atomic_load(&cell->in_flight));
    json_field_int(w, "others_in_flight", atomic_load(&cell->others_in_flight));
    json_field_int(w, "dispatches", (int64_t)atomic_load(&cell->dispatched_total));
    json_field_int(w, "failures", (int64_t)atomic_load(&cell->failed_total));
    put_rounded(w, "failure_rate", fleet_cell_failure_rate(cell, now_ms), 1e4);
    if (!m->foreign) put_report(w, r);
    if (reported_ms) put_rounded(w, "report_age_s", (double)(now_ms - reported_ms) / 1e3, 1e3);
    json_key(w, "models");
    json_array_begin(w);
    for (int i = 0; i < r->model_count; i++)
        json_put_text(w, r->models[i]);
    json_array_end(w);
    json_object_end(w);
}

static int compare_ids(const void *a, const void *b)
{
    const struct registry_member *const *left = a, *const *right = b;
    return strcmp((*left)->record.id, (*right)->record.id);
}

/* Those that GET /nodes/status shows, by id; in the arena. */
static const struct registry_member **list_members(struct registry *registry, struct arena *arena,
                                                   int *count)
{
    const struct registry_member **all =
        arena_alloc(arena, ((size_t)registry->count + 1) * sizeof(struct registry_member *));
    *count = 0;
    list_each (m, &registry->members, struct registry_member, link) {
        if (m->visible || (m->foreign && m->presence == REGISTRY_PRESENT)) all[(*count)++] = m;
    }
    qsort(all, (size_t)*count, sizeof(struct registry_member *), compare_ids);
    return all;
}

static void put_agents(struct json_writer *w, struct worker *worker, struct arena *arena)
{
    struct registry *registry = &worker->proxy->registry;
    const struct fleet *fleet = worker_fleet(worker);
    struct route_candidate *scores = score(worker, arena, fleet, clock_ms());
    json_key(w, "score_for");
    json_object_begin(w);
    json_field_int(w, "prompt_tokens", PROXY_STATUS_PROMPT_TOKENS);
    json_field_int(w, "output_tokens", PROXY_STATUS_OUTPUT_TOKENS);
    json_object_end(w);
    json_key(w, "agents");
    json_array_begin(w);
    registry_lock(registry);
    uint64_t now_ms = clock_ms(); // behind all reports
    int count = 0;
    const struct registry_member **members = list_members(registry, arena, &count);
    for (int i = 0; i < count; i++) {
        int at = fleet_find_cell(fleet, members[i]->cell);
        put_member(w, members[i], at >= 0 ? scores[at].seconds : -1, now_ms);
    }
    registry_unlock(registry);
    json_array_end(w);
}

void proxy_status_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *worker = arg;
    struct proxy *p = worker->proxy;
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    put_proxy(&w, p, clock_ms());
    put_requests(&w, p);
    put_tokens(&w);
    put_repairs(&w);
    put_prefixes(&w, p);
    put_agents(&w, worker, http_exchange_arena(x));
    json_object_end(&w);
    http_exchange_add_header(x, STR("cache-control"), STR("no-store"));
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}
