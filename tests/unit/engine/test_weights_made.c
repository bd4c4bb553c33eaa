/* Memory that a loader made, given back as matrices are packed: rows of it that share a mapping don't take
 * each other along (q, k and v of a packed, quantised tensor). */
#include "engine/weights.h"

#include "tests/test.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool is_resident(const void *at)
{
    unsigned char resident = 0;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    NEED(mincore((void *)((uintptr_t)at / page * page), 1, &resident) == 0);
    return resident & 1;
}

static void test_rows_go_one_after_the_other(void)
{
    enum { ROWS = 3000, COLS = 10, CUT = 1001 };
    struct weights *w = weights_create();
    float *data = weights_make(w, ROWS * COLS * sizeof *data);
    for (int i = 0; i < ROWS * COLS; i++)
        data[i] = (float)i;
    struct matrix first = {.type = DTYPE_F32, .rows = CUT, .cols = COLS, .data = data};
    struct matrix rest = {
        .type = DTYPE_F32, .rows = ROWS - CUT, .cols = COLS, .data = data + CUT * COLS};
    w->params.on_source_done(w->params.on_source_done_arg, &first);
    EXPECT(!is_resident(data));
    for (int i = CUT * COLS; i < ROWS * COLS; i++)
        EXPECT(data[i] == (float)i);
    w->params.on_source_done(w->params.on_source_done_arg, &rest);
    EXPECT(!is_resident(data + ROWS * COLS - 1));
    weights_close(w);
}

static void test_a_whole_matrix_goes_whole(void)
{
    struct weights *w = weights_create();
    uint16_t *data = weights_make(w, 3 * 5 * sizeof *data);
    struct matrix m = {.type = DTYPE_F16, .rows = 3, .cols = 5, .data = data};
    data[0] = 1;
    w->params.on_source_done(w->params.on_source_done_arg, &m);
    EXPECT(!is_resident(data));
    weights_close(w);
}

int main(void)
{
    RUN(test_rows_go_one_after_the_other);
    RUN(test_a_whole_matrix_goes_whole);
    return TEST_END();
}
