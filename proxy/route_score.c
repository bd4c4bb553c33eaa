#include "proxy/route_score.h"

#define LOAD(member) atomic_load_explicit(&(member), memory_order_relaxed)

#define KV_SHARE_MAX 0.99 // beyond it the term would be infinite

const struct route_weights route_weights_default = {
    .decode_share = 0.25,
    .crowding_max = 20,
    .crowding_share = 0.01,
    .crowding_s = 10,
    .kv_s = 0.1,
    .failure_s = 2,
    .slow_start_s = 20,
    .slow_start_factor = 4,
    .stale_s = 0.25,
    .stale_ms = 3000,
    .tie_s = 0.005,
    .tie_share = 0.05,
    .hysteresis_s = 0.02,
    .hysteresis_share = 0.1,
    .explore_share = 0.01,
    .nominal_prefill_per_s = 2000,
    .nominal_slope_s = 0.0001,
};

/* What a report of that age said, less what has been computed since. */
static double waiting_now(double tokens, double prefill_per_s, uint64_t age_ms)
{
    double left = tokens - prefill_per_s * (double)age_ms / 1e3;
    return left > 0 ? left : 0;
}

void route_score_read(const struct route_weights *w, const struct fleet_agent *a, uint64_t now_ms,
                      struct route_reading *out)
{
    const struct fleet_cell *c = a->cell;
    uint64_t reported_ms = LOAD(c->reported_ms), birth_ms = LOAD(c->birth_ms);
    bool stale = reported_ms == 0 || now_ms > reported_ms + w->stale_ms;
    out->is_stale = stale;
    out->prefill_per_s = LOAD(c->prefill_per_s);
    uint64_t age_ms = now_ms > reported_ms ? now_ms - reported_ms : 0;
    out->waiting_tokens =
        stale ? 0 : waiting_now((double)LOAD(c->waiting_tokens), out->prefill_per_s, age_ms);
    out->own_tokens = (double)(stale ? LOAD(c->unstarted_tokens) : LOAD(c->unseen_tokens));
    out->sequences = LOAD(c->in_flight) + (stale ? 0 : LOAD(c->others_in_flight));
    out->slope_s = LOAD(c->slope_s);
    out->kv_share = stale ? 0 : LOAD(c->kv_share);
    out->failure_rate = fleet_cell_failure_rate(c, now_ms);
    out->age_s = now_ms > birth_ms ? (double)(now_ms - birth_ms) / 1e3 : 0;
    if (birth_ms == 0) out->age_s = w->slow_start_s; // nobody saw it come
}

double route_score_seconds(const struct route_weights *w, const struct route_reading *a,
                           double uncached_tokens, double output_tokens)
{
    double prefill_s = (a->waiting_tokens + a->own_tokens + uncached_tokens) / a->prefill_per_s;

    double slope_s = a->slope_s > 0 ? a->slope_s : w->nominal_slope_s;
    double decode_s = slope_s * a->sequences * output_tokens * w->decode_share;

    double k = a->kv_share < KV_SHARE_MAX ? a->kv_share : KV_SHARE_MAX;
    double kv_s = k > 0 ? w->kv_s * k / (1 - k) : 0;

    double slow = 1;
    if (a->age_s < w->slow_start_s) {
        slow += w->slow_start_factor * (1 - a->age_s / w->slow_start_s);
    }
    double seconds = (prefill_s + decode_s + kv_s + w->failure_s * a->failure_rate) * slow;
    return seconds + (a->is_stale ? w->stale_s : 0);
}
