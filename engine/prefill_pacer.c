#include "engine/prefill_pacer.h"

#define STEP_SHARE    0.8  // of pace * decode_s that a step is planned to take
#define DECODE_WEIGHT 0.25 // of a new sample in the averages;
#define DECODE_LATE   0.5  // beside a long prompt they are few
#define TOKEN_WEIGHT  0.1
#define RISE_MAX      1.5 // an outlier (a step that was descheduled) counts as this much of the average

static void average(double *mean, double sample, double weight)
{
    if (*mean > 0 && sample > RISE_MAX * *mean) sample = RISE_MAX * *mean;
    *mean = *mean > 0 ? *mean + weight * (sample - *mean) : sample;
}

void prefill_pacer_measure(struct prefill_pacer *p, int answers, int prefill, double seconds)
{
    if (seconds <= 0) return;
    if (prefill == 0) {
        if (answers > 0) average(&p->decode_s, seconds, p->mixed > 0 ? DECODE_LATE : DECODE_WEIGHT);
        p->mixed = 0;
        return;
    }
    p->mixed += answers > 0;
    double added = seconds - (answers > 0 ? p->decode_s : 0);
    double least = seconds / (answers + prefill) * 0.25; // an answer costs no more than four tokens
    double token = added / prefill;
    average(&p->token_s, token > least ? token : least, TOKEN_WEIGHT);
}

int prefill_pacer_budget(const struct prefill_pacer *p, int answers, int prompts, int max)
{
    if (answers == 0 || p->pace == 0 || p->token_s <= 0) return max;
    if (p->decode_s <= 0 || p->mixed >= PREFILL_PACE_RUN) return 0;
    double crowd = (double)prompts / (PREFILL_PACE_CROWD * answers);
    double tokens = (crowd > 1 ? crowd : 1) * (STEP_SHARE * p->pace - 1) * p->decode_s / p->token_s;
    if (tokens >= max) return max;
    if (tokens >= PREFILL_PACE_MIN) return (int)tokens;
    return max < PREFILL_PACE_MIN ? max : PREFILL_PACE_MIN;
}
