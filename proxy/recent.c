#include "proxy/recent.h"

#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

struct recent {
    pthread_mutex_t lock;
    struct recent_sample samples[RECENT_SAMPLES]; // a ring
    size_t count, next;                           // next: where the next one goes
    uint64_t due_ms;                              // the main thread's
};

struct recent *recent_create(void)
{
    struct recent *r = xcalloc(1, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void recent_destroy(struct recent *r)
{
    if (!r) return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void recent_add(struct recent *r, const struct recent_sample *sample)
{
    pthread_mutex_lock(&r->lock);
    r->samples[r->next] = *sample;
    r->next = (r->next + 1) % RECENT_SAMPLES;
    if (r->count < RECENT_SAMPLES) r->count++;
    pthread_mutex_unlock(&r->lock);
}

/* ---- sampling ---- */

/* Busy agents say it all; where none is busy, the last rates stay in view. */
static double inter_token_of(const struct registry *registry)
{
    double sum = 0, weights = 0;
    list_each (m, &registry->members, struct registry_member, link) {
        const struct agent_load *load = &m->record.load;
        if (!m->visible || m->state != FLEET_UP || load->inter_token_s <= 0) continue;
        double weight = load->running > 0 ? load->running : 1e-3;
        sum += weight * load->inter_token_s;
        weights += weight;
    }
    return weights > 0 ? sum / weights : 0;
}

void recent_tick(struct recent *r, struct proxy *p, uint64_t now_ms)
{
    if (now_ms < r->due_ms) return;
    r->due_ms = now_ms + RECENT_STEP_MS;
    struct recent_sample s = {
        .at_ms = now_ms,
        .requests = metric_get(&proxy_metrics.requests_total),
        .failed = metric_get(&proxy_metrics.upstream_failures_total) +
                  metric_get(&proxy_metrics.upstream_lost_total),
        .prompt_tokens = metric_get(&proxy_metrics.prompt_tokens_total),
        .completion_tokens = metric_get(&proxy_metrics.completion_tokens_total),
        .cached_tokens = metric_get(&proxy_metrics.cached_tokens_total),
        .waiting = admission_shared_count(&p->queue),
        .inter_token_s = inter_token_of(&p->registry),
    };
    for (int i = 0; i < METRIC_BUCKETS; i++)
        s.first_byte[i] = atomic_load(&proxy_metrics.first_byte_seconds.buckets[i]);
    for (int i = 0; i < ADMISSION_CLASSES; i++)
        s.running += atomic_load(&p->running[i]);
    s.running = s.running > s.waiting ? s.running - s.waiting : 0; // counted at different moments
    recent_add(r, &s);
}

/* ---- the answer ---- */

static void put_sample(struct json_writer *w, const struct recent_sample *s, uint64_t now_ms)
{
    json_object_begin(w);
    json_field_double(w, "age_s", (double)(now_ms > s->at_ms ? now_ms - s->at_ms : 0) / 1e3);
    json_field_int(w, "requests", s->requests);
    json_field_int(w, "failed", s->failed);
    json_field_int(w, "prompt", s->prompt_tokens);
    json_field_int(w, "completion", s->completion_tokens);
    json_field_int(w, "cached", s->cached_tokens);
    json_field_int(w, "running", s->running);
    json_field_int(w, "waiting", s->waiting);
    if (s->inter_token_s > 0) json_field_double(w, "inter_token_s", s->inter_token_s);
    json_key(w, "first_byte");
    json_array_begin(w);
    for (int i = 0; i < METRIC_BUCKETS; i++)
        json_put_uint(w, s->first_byte[i]);
    json_array_end(w);
    json_object_end(w);
}

static void put_bounds(struct json_writer *w)
{
    json_key(w, "first_byte_le");
    json_array_begin(w);
    for (int i = 0; i < METRIC_BUCKETS; i++) {
        double bound = metric_bound_s(i);
        if (isinf(bound)) {
            json_put_null(w);
        } else {
            json_put_double(w, bound);
        }
    }
    json_array_end(w);
}

void recent_print(struct recent *r, const char *id, uint64_t now_ms, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "id", id);
    json_field_double(&w, "step_s", RECENT_STEP_MS / 1e3);
    put_bounds(&w);
    json_key(&w, "samples");
    json_array_begin(&w);
    pthread_mutex_lock(&r->lock);
    size_t oldest = (r->next + RECENT_SAMPLES - r->count) % RECENT_SAMPLES;
    for (size_t i = 0; i < r->count; i++)
        put_sample(&w, &r->samples[(oldest + i) % RECENT_SAMPLES], now_ms);
    pthread_mutex_unlock(&r->lock);
    json_array_end(&w);
    json_object_end(&w);
}

void recent_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    recent_print(w->proxy->recent, w->proxy->id, clock_ms(), &body);
    http_exchange_add_header(x, STR("cache-control"), STR("no-store"));
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}
