/* clock.h - time. Durations and deadlines use the monotonic clock; only what leaves the process
 * (created, log lines) uses the wall clock. */
#ifndef LM_BASE_CLOCK_H
#define LM_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);     // monotonic
uint64_t clock_ms(void);     // monotonic
int64_t clock_wall_ms(void); // since 1970, UTC

#endif
