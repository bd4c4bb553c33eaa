/* rope_set.h - which set of rope tables turns a request, where the tables depend on its length.
 *
 * A request gets the set of its prompt's length and keeps it to its end. `plain`, `linear` and their
 * like have one set. Longrope has two: up to the original length L, and beyond. Dynamic NTK has a
 * base for every length n > L; here n is rounded up to the next 64th of an octave,
 *
 *     L < ... < 2^e L (1 + m / 64) < ...      e = 0, 1, ...   m = 1 ... 64
 *
 * so there is a bounded number of tables, made when the model is loaded; prompts of about the same
 * length share pages; and a conversation that grows by less than that finds its history. Rounded is
 * at most 1 / 64 more than n, which the reference is beyond after as many tokens of an answer: its
 * base grows with each. Finer steps would be recomputed more often, coarser ones are seen in the
 * logits. The sets are a function of the model alone, so every agent that serves it has the same. */
#ifndef LM_ENGINE_ROPE_SET_H
#define LM_ENGINE_ROPE_SET_H

#include "engine/rope.h"

struct rope_lengths {
    int original_len; // L, the longest prompt of set 0; 0: there is one set for all
    bool is_open;     // dynamic NTK; else one more set for all that is longer
};

/* Of tables that are used together; the first one that depends on length decides. */
struct rope_lengths rope_lengths_of(const struct rope_source *source, int count);

/* The set for a prompt of that many positions. Ascending with them; positions >= 0. */
int rope_set_for(const struct rope_lengths *lengths, int positions);

/* The longest prompt that gets this set, for which its tables are built; INT_MAX: any. */
int rope_set_positions(const struct rope_lengths *lengths, int set);

#endif
