#include "engine/rope_set.h"

#include "shared/base/check.h"

#include <limits.h>
#include <math.h>

#define SETS_PER_OCTAVE 64

struct rope_lengths rope_lengths_of(const struct rope_source *source, int count)
{
    for (int i = 0; i < count; i++) {
        bool is_open = source[i].scaling == ROPE_SCALING_DYNAMIC;
        if (is_open || source[i].scaling == ROPE_SCALING_LONGROPE)
            return (struct rope_lengths){(int)source[i].original_len, is_open};
    }
    return (struct rope_lengths){0};
}

int rope_set_positions(const struct rope_lengths *lengths, int set)
{
    CHECK(set >= 0);
    if (lengths->original_len == 0) return INT_MAX;
    if (set == 0) return lengths->original_len;
    if (!lengths->is_open) return INT_MAX;
    int octave = (set - 1) / SETS_PER_OCTAVE, step = (set - 1) % SETS_PER_OCTAVE + 1;
    double positions = ldexp(lengths->original_len, octave) * (1 + (double)step / SETS_PER_OCTAVE);
    return positions < INT_MAX ? (int)positions : INT_MAX;
}

int rope_set_for(const struct rope_lengths *lengths, int positions)
{
    int set = 0;
    while (rope_set_positions(lengths, set) < positions)
        set++;
    return set;
}
