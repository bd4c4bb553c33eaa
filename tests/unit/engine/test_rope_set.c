/* Which lengths share a set of rope tables, and what tables a model makes of that. */
#include "engine/rope_set.h"

#include "kernels/backend.h"
#include "tests/test.h"

#include <limits.h>
#include <math.h>

static void test_one_for_all(void)
{
    static const enum rope_scaling fixed[] = {ROPE_SCALING_NONE, ROPE_SCALING_LINEAR,
                                              ROPE_SCALING_LLAMA3, ROPE_SCALING_YARN};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        struct rope_source source = {.scaling = fixed[i], .original_len = 64};
        struct rope_lengths l = rope_lengths_of(&source, 1);
        EXPECT(l.original_len == 0 && !l.is_open);
        EXPECT(rope_set_for(&l, 0) == 0 && rope_set_for(&l, INT_MAX) == 0);
        EXPECT_INT(rope_set_positions(&l, 0), INT_MAX);
    }
}

static void test_longrope(void)
{
    struct rope_source source = {.scaling = ROPE_SCALING_LONGROPE, .original_len = 4096};
    struct rope_lengths l = rope_lengths_of(&source, 1);
    EXPECT(l.original_len == 4096 && !l.is_open);
    EXPECT(rope_set_for(&l, 1) == 0 && rope_set_for(&l, 4096) == 0);
    EXPECT(rope_set_for(&l, 4097) == 1 && rope_set_for(&l, 131072) == 1);
    EXPECT(rope_set_positions(&l, 0) == 4096 && rope_set_positions(&l, 1) == INT_MAX);
}

static void test_dynamic(void)
{
    static const struct {
        int positions, set, up_to;
    } rows[] = {
        {1, 0, 4096},     {4096, 0, 4096},     {4097, 1, 4160},
        {4160, 1, 4160},  {4161, 2, 4224},     {8192, 64, 8192},
        {8193, 65, 8320}, {16384, 128, 16384}, {16385, 129, 16640},
    };
    struct rope_source source = {.scaling = ROPE_SCALING_DYNAMIC, .original_len = 4096};
    struct rope_lengths l = rope_lengths_of(&source, 1);
    EXPECT(l.original_len == 4096 && l.is_open);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        EXPECT_INT(rope_set_for(&l, rows[i].positions), rows[i].set);
        EXPECT_INT(rope_set_positions(&l, rows[i].set), rows[i].up_to);
    }
}

/* Each length is within its set and not within the one before; a set is at most a 64th too long;
 * the longest sequence of the shortest model has one. */
static void test_all_lengths(void)
{
    for (int original = 2; original < 300; original = original * 3 / 2 + 1) {
        struct rope_lengths l = {original, true};
        int before = 0;
        for (int n = 1; n < 5000; n++) {
            int set = rope_set_for(&l, n), up_to = rope_set_positions(&l, set);
            EXPECT(set >= before && n <= up_to);
            EXPECT(set == 0 || (n > rope_set_positions(&l, set - 1) && up_to - n <= n / 64));
            before = set;
        }
    }
    EXPECT(rope_set_for(&(struct rope_lengths){2, true}, 1 << 30) < ROPE_SETS_MAX);
    EXPECT(rope_set_for(&(struct rope_lengths){2, true}, INT_MAX) < ROPE_SETS_MAX);
}

/* Gemma's kind of model: one table is plain, the other decides. */
static void test_two_tables(void)
{
    struct rope_source source[2] = {{.scaling = ROPE_SCALING_NONE, .original_len = 512},
                                    {.scaling = ROPE_SCALING_DYNAMIC, .original_len = 100}};
    struct rope_lengths l = rope_lengths_of(source, 2);
    EXPECT(l.original_len == 100 && l.is_open);
    EXPECT_INT(rope_lengths_of(source, 1).original_len, 0);
}

int main(void)
{
    RUN(test_one_for_all);
    RUN(test_longrope);
    RUN(test_dynamic);
    RUN(test_all_lengths);
    RUN(test_two_tables);
    return TEST_END();
}
