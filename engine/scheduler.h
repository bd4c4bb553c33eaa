/* scheduler.h - who computes what in the next step. A pure state machine: no I/O, no threads, no
 * clock; the same calls give the same plans. Engine thread only. */
#ifndef LM_ENGINE_SCHEDULER_H
#define LM_ENGINE_SCHEDULER_H

#include "engine/batch.h"
#include "engine/kv_cache.h"
#include "engine/request.h"
#include "shared/base/list.h"

struct scheduler_limits {
    int running_max; // sequences that run at once
    int prefill_max; // tokens of a step that prompts may take
    int queue_max;   // requests that wait while running_max others run
};

struct scheduler {
    struct scheduler_limits limits;
    struct kv_cache *kv; // borrowed
    struct list running; // by arrival
    struct list waiting; // by arrival; all of them arrived later than any that runs
    struct list failed;  // can never fit; taken by scheduler_take_failed
    int running_count, waiting_count;
    uint64_t next_arrival;
    uint64_t preemptions;
};

void scheduler_init(struct scheduler *s, const struct scheduler_limits *limits,
                    struct kv_cache *kv);

/* Tokens that one step can have under these limits: what the backend must be sized for. */
int scheduler_tokens_max(const struct scheduler_limits *limits);

/* Requests that can be here, running or waiting. What a burst brings to an idle engine waits a
 * moment before it runs, so neither number is bounded by itself. */
int scheduler_open_max(const struct scheduler_limits *limits);

/* E_BUSY: scheduler_open_max are here; the request stays the caller's. */
FALLIBLE int scheduler_submit(struct scheduler *s, struct request *r, struct error *err);

/* Fill `b`, a cleared batch, with the next step and seal it. False: there is nothing to run now. */
bool scheduler_plan(struct scheduler *s, struct batch *b);

/* A step is done: per entry, in order, for all entries of the batch. True: the request lives and
 * has one more token, tokens[count - 1]. A finished one's token is dropped. A row without a token
 * (b->row_info[row].status < 0) gives false: the caller fails the request. */
bool scheduler_complete_entry(struct batch *b, int index);

/* Leave the lists and give the blocks back. The caller frees it once r->in_flight is 0. */
void scheduler_finish(struct scheduler *s, struct request *r);

/* A request that no amount of yielding can make room for, already finished, or NULL. */
struct request *scheduler_take_failed(struct scheduler *s);

/* Prompt tokens that are not computed yet, of all requests. */
int64_t scheduler_prefill_waiting(const struct scheduler *s);

/* CHECKs the rules of scheduler.c and kv_cache.c. O(requests x blocks). */
void scheduler_check(const struct scheduler *s);

#endif
