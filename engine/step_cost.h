/* step_cost.h - what steps cost, learned from those that were run: the numbers that others plan with
 * (struct engine_stats). Pure arithmetic; engine thread only.
 *
 * - prefill_tokens_per_s: tokens over seconds of the steps with prompts, both of which fade as busy
 *   time passes: what a prompt that comes now can count on, beside the answers that run and at their
 *   pace. Remnants of prompts that were found in the cache say little: a step has a price of its own.
 * - inter_token_s: an average of steps without prompts, newest most.
 * - inter_token_slope_s: the slope of the least squares line through (answers, seconds) of these
 *   steps, older ones fading; while their number varies too little, the last one known. */
#ifndef LM_ENGINE_STEP_COST_H
#define LM_ENGINE_STEP_COST_H

struct step_cost {
    double prefill_tokens_per_s; // 0: unknown, like the others
    double inter_token_s;
    double inter_token_slope_s;
    double prefill_tokens, prefill_s;         // faded sums
    double steps, answers, squares, s, cross; // likewise: 1, x, x * x, y, x * y
};

/* A step of `answers` sequences that only decoded and `prefill` prompt tokens took `seconds`. */
void step_cost_measure(struct step_cost *c, int answers, int prefill, double seconds);

#endif
