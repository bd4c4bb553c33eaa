#include "agent/launcher_restart.h"

bool launcher_restart_next(struct launcher_restart *r, uint64_t served_ms, uint64_t *delay_ms)
{
    if (served_ms >= LAUNCHER_STEADY_MS) r->in_a_row = 0;
    if (r->limit > 0 && r->in_a_row >= r->limit) return false;
    uint64_t delay = r->delay_ms;
    for (int i = 0; i < r->in_a_row && delay < LAUNCHER_DELAY_MS_MAX; i++)
        delay *= 2;
    *delay_ms = delay < LAUNCHER_DELAY_MS_MAX ? delay : LAUNCHER_DELAY_MS_MAX;
    r->in_a_row++;
    return true;
}
