#include "engine/prefill_pacer.h"

#define STEP_SHARE    0.8  // of pace * decode_s that a step is planned to take
#define DECODE_WEIGHT 0.25 // of a new sample in the average;
#define DECODE_LATE   0.5  // beside a long prompt they are few
#define TOKEN_WEIGHT  0.1
#define RISE_MAX      1.5 // an outlier (a step that was descheduled) counts as this much
#define GROWTH_MAX    1.1 // of the chunk, in a step

static void average(double *mean, double sample, double weight)
{
    if (*mean > 0 && sample > RISE_MAX * *mean) sample = RISE_MAX * *mean;
    *mean = *mean > 0 ? *mean + weight * (sample - *mean) : sample;
}

/* What prompts may add to a step. */
static double allowance_s(const struct prefill_pacer *p)
{
    return (STEP_SHARE * p->pace - 1) * p->decode_s;
}

static double chunk(const struct prefill_pacer *p)
{
    return p->chunk > 0 ? p->chunk : allowance_s(p) / p->token_s;
}

static void follow(struct prefill_pacer *p, int prefill, double added_s)
{
    double now = chunk(p), share = prefill / now;
    double over = added_s / (allowance_s(p) * (share > 1 ? share : 1));
    if (over > RISE_MAX) over = RISE_MAX;
    if (over < 1 / GROWTH_MAX) over = 1 / GROWTH_MAX;
    if (over < 1 && share < 1 && now - prefill >= 1) return; // the prompt's end says little
    p->chunk = now / over;
    if (p->chunk < 1) p->chunk = 1;
}

void prefill_pacer_measure(struct prefill_pacer *p, int answers, int prefill, double seconds)
{
    if (seconds <= 0 || p->pace == 0) return;
    if (prefill == 0) {
        if (answers > 0) average(&p->decode_s, seconds, p->mixed > 0 ? DECODE_LATE : DECODE_WEIGHT);
        p->mixed = 0;
    } else if (answers == 0) {
        average(&p->token_s, seconds / prefill, TOKEN_WEIGHT);
    } else {
        p->mixed++;
        if (p->decode_s > 0 && p->token_s > 0) follow(p, prefill, seconds - p->decode_s);
    }
}

int prefill_pacer_budget(const struct prefill_pacer *p, int answers, int prompts, int max)
{
    if (answers == 0 || p->pace == 0 || p->token_s <= 0) return max;
    if (p->decode_s <= 0 || p->mixed >= PREFILL_PACE_RUN) return 0;
    double crowd = (double)prompts / (PREFILL_PACE_CROWD * answers);
    double tokens = (crowd > 1 ? crowd : 1) * chunk(p);
    if (tokens >= max) return max;
    if (tokens >= PREFILL_PACE_MIN) return (int)tokens;
    return max < PREFILL_PACE_MIN ? max : PREFILL_PACE_MIN;
}
