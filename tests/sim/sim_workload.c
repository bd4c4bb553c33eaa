#include "tests/sim/sim_workload.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"

#include <math.h>
#include <stdlib.h>

#define DOCUMENT_SHARE  0.06
#define TURN_STOPS      0.22 // chance that a turn is the last
#define CHAIN_BYTES_MIN 256
#define MIXED(a, b)     hash_mix((a) + 0x9e3779b97f4a7c15ull * ((b) + 1))

/* What a draw is for: streams that must not repeat each other. */
enum { DRAW_SYSTEM = 1, DRAW_SESSION, DRAW_TURN, DRAW_LINK };

static double draw_normal(struct rng *r)
{
    double u = 1 - rng_unit(r); // (0, 1]
    return sqrt(-2 * log(u)) * cos(2 * M_PI * rng_unit(r));
}

static double draw_lognormal(struct rng *r, double median, double sigma, double low, double high)
{
    double x = median * exp(sigma * draw_normal(r));
    return x < low ? low : x > high ? high : x;
}

static struct rng stream(const struct sim_workload *w, uint64_t purpose, uint64_t a, uint64_t b)
{
    struct rng r;
    rng_init(&r, MIXED(MIXED(MIXED(w->seed, purpose), a), b));
    return r;
}

struct sim_turn sim_workload_turn(const struct sim_workload *w, uint32_t session, uint32_t turn)
{
    struct rng r = stream(w, DRAW_TURN, session, turn);
    bool is_document = rng_unit(&r) < DOCUMENT_SHARE;
    struct sim_turn t = {
        .message = (uint32_t)(is_document ? draw_lognormal(&r, 2500, 0.7, 200, 12000)
                                          : draw_lognormal(&r, 60, 1.2, 4, 8000)),
        .answer = (uint32_t)draw_lognormal(&r, 150, 0.9, 1, 4096),
        .pause_s = draw_lognormal(&r, 12, 1, 0.5, 600),
    };
    return t;
}

double sim_workload_bytes_per_token(const struct sim_workload *w, uint32_t session)
{
    struct rng r = stream(w, DRAW_SESSION, session, 1);
    return 3.4 + 1.4 * rng_unit(&r);
}

uint64_t sim_workload_system_hash(const struct sim_workload *w, uint32_t system)
{
    return MIXED(MIXED(w->seed, DRAW_SYSTEM), system);
}

int sim_workload_chain(const struct sim_workload *w, uint32_t session, uint32_t turn,
                       struct sim_link out[SIM_CHAIN_MAX])
{
    CHECK(turn < SIM_TURNS_MAX);
    uint32_t system = w->sessions[session].system;
    double ratio = sim_workload_bytes_per_token(w, session);
    uint64_t key = MIXED(MIXED(w->seed, DRAW_LINK), session);
    uint32_t tokens = w->system_tokens[system], closed = 0;
    int count = 0;
    out[count++] = (struct sim_link){.hash = sim_workload_system_hash(w, system),
                                     .tokens = tokens,
                                     .bytes = closed = (uint32_t)(tokens * ratio)};
    for (uint32_t t = 0; t <= turn; t++) {
        struct sim_turn drawn = sim_workload_turn(w, session, t);
        for (uint32_t part = 0; part < (t < turn ? 2 : 1); part++) {
            tokens += part ? drawn.answer : drawn.message;
            uint32_t bytes = (uint32_t)(tokens * ratio);
            if (bytes - closed < CHAIN_BYTES_MIN) continue;
            out[count++] = (struct sim_link){
                .hash = MIXED(key, 2 * t + part), .tokens = tokens, .bytes = bytes};
            closed = bytes;
        }
    }
    return count;
}

static void make_systems(struct sim_workload *w)
{
    w->system_tokens = xcalloc(w->system_count, sizeof *w->system_tokens);
    w->system_cdf = xcalloc(w->system_count, sizeof *w->system_cdf);
    double sum = 0;
    for (uint32_t i = 0; i < w->system_count; i++) {
        struct rng r = stream(w, DRAW_SYSTEM, i, 1);
        w->system_tokens[i] = (uint32_t)draw_lognormal(&r, 500, 1, 64, 8000);
        w->system_cdf[i] = sum += 1 / (double)(i + 1);
    }
    for (uint32_t i = 0; i < w->system_count; i++)
        w->system_cdf[i] /= sum;
    if (w->hot_share > 0) w->system_tokens[0] = 1500;
}

static uint32_t draw_system(const struct sim_workload *w, struct rng *r)
{
    if (rng_unit(r) < w->hot_share) return 0;
    double at = rng_unit(r);
    uint32_t low = 0, high = w->system_count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (w->system_cdf[middle] > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void make_session(struct sim_workload *w, uint32_t index)
{
    struct sim_session *s = &w->sessions[index];
    struct rng r = stream(w, DRAW_SESSION, index, 0);
    s->system = (uint16_t)draw_system(w, &r);
    uint32_t turns = 1 + (uint32_t)(log(1 - rng_unit(&r)) / log(1 - TURN_STOPS));
    if (turns > SIM_TURNS_MAX) turns = SIM_TURNS_MAX;
    uint32_t history = w->system_tokens[s->system];
    for (s->turns = 0; s->turns < turns; s->turns++) {
        struct sim_turn t = sim_workload_turn(w, index, s->turns);
        if (history + t.message + t.answer > SIM_CONTEXT_TOKENS) break;
        w->turns_mean += 1;
        w->prompt_mean += history + t.message;
        w->uncached_mean += t.message + SIM_BLOCK_TOKENS / 2;
        w->answer_mean += t.answer;
        history += t.message + t.answer;
    }
    CHECK(s->turns > 0);
}

void sim_workload_init(struct sim_workload *w, uint64_t seed, uint32_t sessions, uint32_t systems,
                       double hot_share)
{
    CHECK(sessions > 0 && systems > 0 && systems <= UINT16_MAX);
    *w = (struct sim_workload){
        .seed = seed, .session_count = sessions, .system_count = systems, .hot_share = hot_share};
    make_systems(w);
    w->sessions = xcalloc(sessions, sizeof *w->sessions);
    for (uint32_t i = 0; i < sessions; i++)
        make_session(w, i);
    w->prompt_mean /= w->turns_mean;
    w->uncached_mean /= w->turns_mean;
    w->answer_mean /= w->turns_mean;
    w->turns_mean /= sessions;
    sim_workload_reset(w);
}

void sim_workload_reset(struct sim_workload *w)
{
    for (uint32_t i = 0; i < w->session_count; i++) {
        struct sim_session *s = &w->sessions[i];
        *s = (struct sim_session){
            .history = w->system_tokens[s->system], .turns = s->turns, .system = s->system};
    }
}

void sim_workload_deinit(struct sim_workload *w)
{
    free(w->system_tokens);
    free(w->system_cdf);
    free(w->sessions);
    *w = (struct sim_workload){0};
}
