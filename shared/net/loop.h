/* loop.h - small helpers over libuv: signals that end a program, timers that own nothing, closing
 * everything at exit. One loop per thread; everything here belongs to its loop's thread. */
#ifndef LM_NET_LOOP_H
#define LM_NET_LOOP_H

#include <stdbool.h>
#include <uv.h>

#include "shared/base/error.h"

/* Call on_signal(signo) for SIGTERM and SIGINT, ignore SIGPIPE. A second signal while the first is
 * being handled exits at once with 128 + signo, unless ignores_repeats was set since. Waiting for a
 * signal alone doesn't keep the loop. */
struct loop_signals {
    uv_signal_t term, interrupt;
    void (*on_signal)(void *arg, int signo);
    void *arg;
    int received;
    bool ignores_repeats;
};
FALLIBLE int loop_signals_start(struct loop_signals *s, uv_loop_t *loop,
                                void (*on_signal)(void *arg, int signo), void *arg);
void loop_signals_stop(struct loop_signals *s);

/* Close every handle that is still open and run the loop until it is empty. For the end of a
 * program. */
void loop_close_all(uv_loop_t *loop);

/* Raise RLIMIT_NOFILE to its hard limit; returns the limit. */
uint64_t loop_raise_nofile(void);

#endif
