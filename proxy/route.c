/* route.c - hard filters and candidates; whose turn it is among these the policy says.
 *
 * Rules:
 *  1. Eligible: serves the model, didn't fail this request, is up, doesn't drain, its context is
 *     long enough, its breaker is closed and a slot is free.
 *  2. If nobody is eligible the filters give way one after another, as far as that helps: the
 *     context (the estimate may be wrong, and the agent's own 400 says it better), then suspects.
 *     Where only slots are missing the caller waits; it is never sent to a suspect instead.
 *  3. A half-open breaker gets its one probe as soon as a request that may be one comes along.
 *  4. Panic: with more than half of the model's agents behind open breakers, the fault is more
 *     likely in front of them. Breakers are then ignored for soft traffic.
 *  5. The cost doesn't grow with the fleet: agents are looked at in random order until a half of
 *     them, 2 to 32, are found eligible, beside those with affinity.
 *  6. What a share s of the agents has cached of a prompt costs the others only 1 - sqrt(s): it is
 *     worth having wherever many ask for it. Otherwise who got it first does all the work of a system
 *     prompt that half of the traffic begins with, and nobody else has ever a reason to compute it. */
#include "proxy/route.h"

#include "shared/base/check.h"

#include <math.h>
#include <string.h>

#define LOOKED_AT_MAX (ROUTE_CANDIDATES_MAX * 4) // further only while nobody was eligible
#define PANIC_SAMPLE  64 // agents asked about their breakers, if there are more than these
#define PINNED_PROBE  8  // one of so many pinned requests is a probe for somebody else

static const struct route_policy *const policies[] = {
    &route_affinity, &route_least_load,           &route_round_robin,
    &route_random,   &route_min_expected_latency, &route_min_observed_latency,
};

const struct route_policy *route_policy_at(int index)
{
    CHECK(index >= 0 && (size_t)index < ARRAY_LEN(policies));
    return policies[index];
}

const struct route_policy *route_policy_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
        if (strcmp(policies[i]->name, name) == 0) return policies[i];
    }
    return NULL;
}

void route_state_init(struct route_state *s, uint64_t seed)
{
    rng_init(&s->rng, seed);
    s->turn = 0;
    s->weights = route_weights_default;
    s->crowded = 0;
    s->crowded_ms = 0;
}

void route_exclude(struct route_excluded *e, const struct fleet_cell *cell)
{
    CHECK(e->count < ROUTE_EXCLUDED_MAX);
    e->cells[e->count++] = cell;
}

static bool is_excluded(const struct route_excluded *e, const struct fleet_cell *cell)
{
    for (int i = 0; i < e->count; i++) {
        if (e->cells[i] == cell) return true;
    }
    return false;
}

/* ---- filters ---- */

enum fit { FIT_YES, FIT_FULL, FIT_OPEN, FIT_SHORT, FIT_NO };

/* One choice in the making. */
struct choosing {
    struct route_state *s;
    const struct fleet *f;
    const struct fleet_model *model;
    const struct route_request *r;
    /* filters */
    enum fleet_state state;
    bool any_context, any_breaker, any_fill;
    bool panic_asked;
    /* found */
    int count;                     // of s->candidates
    int full, open, too_short;     // not eligible for this reason alone
    struct fleet_agent *half_open; // one that waits for its probe
    double crowd_weight;           // of r->crowd, by rule 6
};

static enum fit fit_of(struct choosing *c, struct fleet_agent *a)
{
    const struct route_request *r = c->r;
    const struct fleet_cell *cell = a->cell;
    if (a->draining || is_excluded(&r->excluded, cell)) return FIT_NO;
    if (r->ours_only && a->foreign) return FIT_NO;
    if (a->state != c->state && cell != r->pinned) return FIT_NO;
    if (a->context_len > 0 && r->prompt_tokens > a->context_len && !c->any_context) {
        return FIT_SHORT;
    }
    bool full = a->capacity > 0 && fleet_cell_load(cell) >= a->capacity && !c->any_fill;
    enum breaker_state breaker = breaker_state(&cell->breaker, r->now_ms);
    if (breaker != BREAKER_CLOSED && !c->any_breaker) {
        if (breaker == BREAKER_HALF_OPEN && !full && !c->half_open) c->half_open = a;
        return FIT_OPEN;
    }
    return full ? FIT_FULL : FIT_YES;
}

static double weight_of_crowd(const struct fleet_model *model, const struct prefix_crowd *crowd)
{
    int holders = 0;
    if (!crowd) return 0;
    for (size_t i = 0; i < ARRAY_LEN(crowd->columns); i++)
        holders += __builtin_popcountll(crowd->columns[i]);
    return holders < model->count ? sqrt((double)holders / model->count) : 1;
}

static double cached_tokens_of(const struct route_request *r, const struct fleet_cell *cell)
{
    double most = cell == r->pinned ? r->pinned_cached_tokens : 0;
    for (int i = 0; i < r->hit_count; i++) {
        if (r->hits[i].cell == cell && r->hits[i].cached_tokens > most) {
            most = r->hits[i].cached_tokens;
        }
    }
    if (r->crowd && r->crowd->cached_tokens > most && prefix_crowd_has(r->crowd, cell->column)) {
        most = r->crowd->cached_tokens;
    }
    if (!(most > 0)) return 0;
    return most < r->prompt_tokens ? most : r->prompt_tokens;
}

static struct route_candidate candidate_of(const struct choosing *c, struct fleet_agent *a)
{
    struct route_candidate one = {.agent = a, .cached_tokens = cached_tokens_of(c->r, a->cell)};
    double lacks = c->r->crowd ? c->r->crowd->cached_tokens - one.cached_tokens : 0;
    if (lacks > 0) one.spread_tokens = c->crowd_weight * lacks;
    return one;
}

/* True: it is a candidate. */
static bool consider(struct choosing *c, struct fleet_agent *a)
{
    switch (fit_of(c, a)) {
    case FIT_YES:
        c->s->candidates[c->count++] = candidate_of(c, a);
        return true;
    case FIT_FULL:
        c->full++;
        return false;
    case FIT_OPEN:
        c->open++;
        return false;
    case FIT_SHORT:
        c->too_short++;
        return false;
    case FIT_NO:
        return false;
    }
    UNREACHABLE();
}

/* ---- candidates ---- */

static bool is_candidate(const struct choosing *c, int count, const struct fleet_agent *a)
{
    for (int i = 0; i < count; i++) {
        if (c->s->candidates[i].agent == a) return true;
    }
    return false;
}

static void consider_cell(struct choosing *c, const struct fleet_cell *cell)
{
    int at = fleet_find_cell(c->f, cell);
    if (at < 0 || !fleet_model_has(c->model, at)) return;
    if (!is_candidate(c, c->count, c->f->agents[at])) consider(c, c->f->agents[at]);
}

static void consider_affine(struct choosing *c)
{
    const struct route_request *r = c->r;
    if (r->pinned) consider_cell(c, r->pinned);
    for (int i = 0; i < r->hit_count; i++)
        consider_cell(c, r->hits[i].cell);
    if (!r->key || c->state != FLEET_UP) return;
    uint16_t first[RENDEZVOUS_FIRST];
    int count = rendezvous_first(c->f, c->model, r->key, first);
    for (int i = 0; i < count; i++) {
        struct fleet_agent *a = c->f->agents[first[i]];
        if (!is_candidate(c, c->count, a)) consider(c, a);
    }
}

static void consider_half(struct choosing *c)
{
    uint16_t *order = c->s->order;
    int count = c->model->count, affine = c->count;
    int want = (count + 1) / 2;
    if (want < ROUTE_CANDIDATES_MIN) want = ROUTE_CANDIDATES_MIN;
    if (want > ROUTE_CANDIDATES_MAX) want = ROUTE_CANDIDATES_MAX;
    memcpy(order, c->model->agents, (size_t)count * sizeof *order);
    for (int i = 0; i < count && want > 0; i++) {
        if (i >= LOOKED_AT_MAX && c->count > 0) break;
        int other = i + (int)rng_below(&c->s->rng, (uint32_t)(count - i));
        uint16_t drawn = order[other];
        order[other] = order[i];
        order[i] = drawn;
        struct fleet_agent *a = c->f->agents[drawn];
        if (is_candidate(c, affine, a) || consider(c, a)) want--;
    }
}

static void collect(struct choosing *c, bool sees_all)
{
    c->count = c->full = c->open = c->too_short = 0;
    c->half_open = NULL;
    if (!sees_all) {
        consider_affine(c);
        consider_half(c);
        return;
    }
    for (int i = 0; i < c->model->count; i++)
        consider(c, c->f->agents[c->model->agents[i]]);
}

/* ---- when it isn't that simple ---- */

/* Rule 4. In large fleets by a sample. Agents that have failed this request don't count: where the
 * others are all behind open breakers it would fail for certain. */
static bool is_panic(struct choosing *c)
{
    int count = c->model->count, open = 0, closed = 0;
    int asked = count < PANIC_SAMPLE ? count : PANIC_SAMPLE;
    for (int i = 0; i < asked; i++) {
        int at = asked == count ? i : (int)rng_below(&c->s->rng, (uint32_t)count);
        const struct fleet_cell *cell = c->f->agents[c->model->agents[at]]->cell;
        if (is_excluded(&c->r->excluded, cell)) continue;
        bool is_closed = breaker_state(&cell->breaker, c->r->now_ms) == BREAKER_CLOSED;
        closed += is_closed;
        open += !is_closed;
    }
    return open > closed;
}

/* Drop a filter. False: none is left to drop. */
static bool relax(struct choosing *c)
{
    if (c->open && c->r->probing_allowed && !c->panic_asked) {
        c->panic_asked = true;
        c->any_breaker = is_panic(c);
        if (c->any_breaker) return true;
    }
    if (c->count > 0) return false;
    if (c->full > 0) {
        bool may = c->r->full_allowed && !c->any_fill;
        c->any_fill = true;
        return may;
    }
    if (c->too_short > 0 && !c->any_context) {
        c->any_context = true;
        return true;
    }
    if (c->state != FLEET_UP) return false;
    c->state = FLEET_SUSPECT;
    c->panic_asked = false;
    return true;
}

/* Rule 3. A session's cache weighs more than a probe, unless all traffic is sessions. */
static bool takes_probe(struct choosing *c)
{
    const struct route_request *r = c->r;
    if (!c->half_open || !r->probing_allowed) return false;
    bool elsewhere = r->pinned && r->pinned != c->half_open->cell;
    if (elsewhere && rng_below(&c->s->rng, PINNED_PROBE) != 0) return false;
    return breaker_admit(&c->half_open->cell->breaker, r->now_ms);
}

static void tell(const struct choosing *c, struct route_candidate *picked, bool is_scored,
                 struct route_choice *out)
{
    const struct route_request *r = c->r;
    if (!is_scored) (void)route_score_candidates(&c->s->weights, 1, r, picked, 1);
    out->agent = picked->agent;
    out->seconds = picked->seconds;
    out->cached_tokens = picked->cached_tokens;
    if (r->pinned) {
        bool stays = picked->agent->cell == r->pinned;
        out->affinity = stays ? ROUTE_AFFINITY_HIT : ROUTE_AFFINITY_MOVED;
    } else if (picked->cached_tokens > 0) {
        out->affinity = ROUTE_AFFINITY_HIT;
    }
}

enum route_verdict route_choose(const struct route_policy *policy, struct route_state *s,
                                const struct fleet *f, const struct fleet_model *model,
                                const struct route_request *r, struct route_choice *out)
{
    memset(out, 0, sizeof *out);
    struct choosing c = {.s = s, .f = f, .model = model, .r = r, .state = FLEET_UP};
    c.crowd_weight = weight_of_crowd(model, r->crowd);
    do {
        collect(&c, policy->sees_all);
        if (takes_probe(&c)) {
            struct fleet_agent *a = c.half_open;
            struct route_candidate probe = candidate_of(&c, a);
            tell(&c, &probe, false, out);
            out->is_probe = true;
            return ROUTE_PICKED;
        }
    } while (relax(&c));
    if (c.count == 0) return c.full ? ROUTE_FULL : ROUTE_NOBODY;
    int picked = policy->pick(s, r, s->candidates, c.count);
    CHECK(picked >= 0 && picked < c.count);
    tell(&c, &s->candidates[picked], s->candidates[picked].seconds > 0, out);
    return ROUTE_PICKED;
}

void route_give_back(const struct route_choice *choice)
{
    if (choice->agent) breaker_neutral(&choice->agent->cell->breaker, choice->is_probe);
}

/* ---- seconds ---- */

struct averages {
    double prefill_per_s, speed; // of the candidates that have one
};

static struct averages average(const struct route_weights *w, const struct route_candidate *c,
                               int count)
{
    double prefill_sum = 0, speed_sum = 0;
    int prefill_count = 0, speed_count = 0;
    for (int i = 0; i < count; i++) {
        const struct fleet_agent *a = c[i].agent;
        double rate = atomic_load_explicit(&a->cell->prefill_per_s, memory_order_relaxed);
        if (rate > 0) {
            prefill_sum += rate;
            prefill_count++;
        }
        if (a->speed > 0) {
            speed_sum += a->speed;
            speed_count++;
        }
    }
    return (struct averages){
        .prefill_per_s = prefill_count ? prefill_sum / prefill_count : w->nominal_prefill_per_s,
        .speed = speed_count ? speed_sum / speed_count : 1,
    };
}

/* One agent says nothing: it was chosen. In little traffic each sample weighs more, lest a morning
 * begin with last night's. */
void route_learn_crowding(struct route_state *s, int busy, int count, uint64_t now_ms)
{
    if (count < ROUTE_CANDIDATES_MIN) return;
    double age_s = now_ms > s->crowded_ms ? (double)(now_ms - s->crowded_ms) / 1e3 : 0;
    double weight = s->weights.crowding_share + age_s / s->weights.crowding_s;
    s->crowded_ms = now_ms;
    s->crowded += (weight < 1 ? weight : 1) * ((double)busy / count - s->crowded);
}

double route_crowding(const struct route_state *s)
{
    double idle = 1 - s->crowded, max = s->weights.crowding_max;
    return idle * max > 1 ? 1 / idle : max;
}

int route_score_candidates(const struct route_weights *w, double cost,
                           const struct route_request *r, struct route_candidate *c, int count)
{
    int busy = 0;
    struct averages mean = average(w, c, count);
    for (int i = 0; i < count; i++) {
        const struct fleet_agent *a = c[i].agent;
        struct route_reading reading;
        route_score_read(w, a, r->now_ms, &reading);
        if (!(reading.prefill_per_s > 0)) {
            double speed = a->speed > 0 ? a->speed / mean.speed : 1;
            reading.prefill_per_s = mean.prefill_per_s * speed;
        }
        double uncached = r->prompt_tokens - c[i].cached_tokens - c[i].spread_tokens;
        if (uncached < 1) uncached = 1;
        c[i].seconds = route_score_seconds(w, &reading, cost * uncached, r->output_tokens);
        busy += reading.waiting_tokens + reading.own_tokens > 0;
    }
    return busy;
}
