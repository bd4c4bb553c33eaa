#include "engine/step_cost.h"

#include <math.h>

#define PREFILL_FADE_S 10.0 // busy seconds after which a sample weighs a third
#define PREFILL_MIN    16   // tokens of a step that says something, once anything is known
#define AVERAGE_SHARE  0.1  // of the newest sample
#define OUTLIER        4.0  // a step that was descheduled counts as that many average ones
#define STEPS_FADE     0.995
#define STEPS_MIN      16.0 // before a slope is believed
#define VARIANCE_MIN   0.5  // of the number of answers

static void measure_prefill(struct step_cost *c, int prefill, double seconds)
{
    if (prefill < PREFILL_MIN && c->prefill_s > 0) return;
    double fade = exp(-seconds / PREFILL_FADE_S);
    c->prefill_tokens = fade * c->prefill_tokens + prefill;
    c->prefill_s = fade * c->prefill_s + seconds;
    c->prefill_tokens_per_s = c->prefill_tokens / c->prefill_s;
}

static void measure_decode(struct step_cost *c, int answers, double seconds)
{
    if (c->inter_token_s > 0 && seconds > OUTLIER * c->inter_token_s)
        seconds = OUTLIER * c->inter_token_s;
    c->inter_token_s = c->inter_token_s > 0
                           ? c->inter_token_s + AVERAGE_SHARE * (seconds - c->inter_token_s)
                           : seconds;
    double x = answers;
    c->steps = STEPS_FADE * c->steps + 1;
    c->answers = STEPS_FADE * c->answers + x;
    c->squares = STEPS_FADE * c->squares + x * x;
    c->s = STEPS_FADE * c->s + seconds;
    c->cross = STEPS_FADE * c->cross + x * seconds;
    double mean = c->answers / c->steps, variance = c->squares / c->steps - mean * mean;
    if (c->steps < STEPS_MIN || variance < VARIANCE_MIN) return;
    double slope = (c->cross / c->steps - mean * (c->s / c->steps)) / variance;
    c->inter_token_slope_s = slope > 0 ? slope : 0;
}

void step_cost_measure(struct step_cost *c, int answers, int prefill, double seconds)
{
    if (!(seconds > 0)) return;
    if (prefill > 0)
        measure_prefill(c, prefill, seconds);
    else if (answers > 0)
        measure_decode(c, answers, seconds);
}
