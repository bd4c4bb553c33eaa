/* rope_set.h - which set of rope tables turns a request, where the tables depend on its length.
 *
 * A request gets the set of its prompt's length and keeps it to its end. `plain`, `linear` and their
 * like have one set. Longrope has two: up to the original length L, and beyond. Dynamic NTK has a
 * base for every length n > L; here n is rounded up to the next eighth of an octave,
 *
 *     L < ... < 2^e L (1 + m / 8) < ...      e = 0, 1, ...   m = 1 ... 8
 *
 * so that a conversation that grows changes its tables, and with that loses what was computed, eight
 * times for each doubling, and prompts of about the same length share pages. The reference is within
 * that step itself while it answers: its base grows with every token. The sets are a function of the
 * model alone, so every agent that serves it has the same ones. */
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
