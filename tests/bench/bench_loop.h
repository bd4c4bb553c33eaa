/* bench_loop.h - an engine and a caller that waits for its events. One thread. */
#ifndef LM_BENCH_BENCH_LOOP_H
#define LM_BENCH_BENCH_LOOP_H

#include <pthread.h>

#include "engine/engine.h"
#include "shared/base/rng.h"

struct bench_loop {
    struct engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool pending;
    struct rng rng;
    uint64_t next_id;
};

/* The loop takes on_events. */
FALLIBLE int bench_loop_open(struct bench_loop *l, const struct engine_options *options,
                             struct error *err);
void bench_loop_close(struct bench_loop *l);

void bench_loop_tokens(struct bench_loop *l, int32_t *ids, int count); // at random
/* Greedy, to the last of `generate` tokens. Its id is l->next_id. */
FALLIBLE int bench_loop_submit(struct bench_loop *l, const int32_t *ids, int count, int generate,
                               struct error *err);
void bench_loop_wait(struct bench_loop *l, struct engine_event *event); // until there is one

#endif
