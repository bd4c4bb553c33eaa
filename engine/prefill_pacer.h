/* prefill_pacer.h - how many prompt tokens a step may have beside running answers, so that these
 * keep at most `pace` times the time between tokens that they have without. Pure arithmetic on
 * measured steps; engine thread only.
 *
 * A step of nothing but answers takes `decode`. How much longer a step takes with prompt tokens in
 * it depends on their number, on what stands before them (a chunk reads all keys and values of its
 * prompt, however short it is) and on the machine, so it isn't computed but followed: the chunk
 * grows while steps take less than four fifths of pace * decode, and shrinks when they take more.
 * The rest is for what varies. The first chunk is guessed from prompts that ran alone.
 *
 * So that `decode` is known, and follows what runs, a step without prompts comes before the first
 * and after every PREFILL_PACE_RUN others. When a crowd waits for few answers, it weighs more:
 * beyond PREFILL_PACE_CROWD prompts for each answer, the chunk grows with their number. */
#ifndef LM_ENGINE_PREFILL_PACER_H
#define LM_ENGINE_PREFILL_PACER_H

struct prefill_pacer {
    double pace;     // more than 1; 0: no bound
    double decode_s; // step of answers alone, averaged; 0: not seen yet
    double token_s;  // of a prompt token with no answers beside it, averaged; 0: not seen yet
    double chunk;    // prompt tokens a step, followed; 0: not begun
    int mixed;       // steps since the last one of answers alone
};

/* A step of `answers` sequences that only decoded and `prefill` prompt tokens took `seconds`. */
void prefill_pacer_measure(struct prefill_pacer *p, int answers, int prefill, double seconds);

/* Prompt tokens, for `prompts` in all, in a step beside `answers`; at most `max`, which it is when
 * nobody is answered or nothing was measured yet. 0: a step without prompts is due; else at least
 * PREFILL_PACE_MIN (or max), so that prompts do get on. */
int prefill_pacer_budget(const struct prefill_pacer *p, int answers, int prompts, int max);

#define PREFILL_PACE_MIN   4
#define PREFILL_PACE_RUN   24
#define PREFILL_PACE_CROWD 4

#endif
