/* scheduler.h - who computes what in the next step. A pure state machine: no I/O, no threads, no
 * clock; the same calls give the same plans. Engine thread only. */
#ifndef LM_ENGINE_SCHEDULER_H
#define LM_ENGINE_SCHEDULER_H

#include "engine/batch.h"
#include "engine/kv_memory.h"
#include "engine/prefill_pacer.h"
#include "engine/request.h"
#include "engine/wait_queue.h"
#include "shared/base/list.h"

struct scheduler_limits {
    int running_max;     // sequences that run at once
    int prefill_max;     // tokens of a step that prompts may take
    int queue_max;       // requests that wait while running_max others run
    double prefill_pace; // steps with prompts take at most this times one without; 0: no bound
};

struct scheduler {
    struct scheduler_limits limits;
    struct kv_memory *memory; // borrowed
    struct list running;      // by rank and order
    struct list preempted;    // likewise; they go before those in the queue
    struct list failed;       // can never fit; taken by scheduler_take_failed
    struct wait_queue queue;  // not admitted yet
    struct prefill_pacer pacer;
    int running_count, preempted_count;
    uint64_t admissions; // first ones: request.order
    uint64_t plans, preemptions;
};

void scheduler_init(struct scheduler *s, const struct scheduler_limits *limits,
                    struct kv_memory *memory);
void scheduler_deinit(struct scheduler *s); // all requests have left

/* Tokens that one step can have under these limits: what the backend must be sized for. */
int scheduler_tokens_max(const struct scheduler_limits *limits);

/* Requests that can be here, running or waiting. What a burst brings to an idle engine waits a
 * moment before it runs, so neither number is bounded by itself. */
int scheduler_open_max(const struct scheduler_limits *limits);

/* E_BUSY: scheduler_open_max are here; the request stays the caller's. */
FALLIBLE int scheduler_submit(struct scheduler *s, struct request *r, struct error *err);

/* Fill `b`, a cleared batch, with the next step and seal it; it must be submitted before the next
 * plan. False: there is nothing to run now. */
bool scheduler_plan(struct scheduler *s, struct batch *b);

/* A step is done: per entry, in order, for all entries of the batch. True: the request lives and
 * has one more token, tokens[count - 1]. A finished one's token is dropped. A row without a token
 * (b->row_info[row].status < 0) gives false: the caller fails the request. */
bool scheduler_complete_entry(struct scheduler *s, struct batch *b, int index);

/* A step took that long: what the pace of prompts beside answers is taken from. */
void scheduler_measure(struct scheduler *s, const struct batch *b, double seconds);

/* Leave the lists and give the blocks back; what was computed stays in the prefix cache. The caller
 * frees it once r->in_flight is 0. */
void scheduler_finish(struct scheduler *s, struct request *r);
/* The same for one whose logits were no numbers: nobody is to find what it computed. */
void scheduler_finish_distrusted(struct scheduler *s, struct request *r);

/* A request that no amount of yielding can make room for, already finished, or NULL. */
struct request *scheduler_take_failed(struct scheduler *s);
/* One whose deadline has come, already finished, or NULL. */
struct request *scheduler_take_expired(struct scheduler *s, uint64_t now_ms);

struct request *scheduler_find(struct scheduler *s, uint64_t id); // NULL: none that lives
struct request *scheduler_any(struct scheduler *s);               // NULL: none lives

int scheduler_waiting(const struct scheduler *s); // requests that don't run
/* Prompt tokens that are not computed yet, of all requests, but those that were in the cache when
 * their request came. */
int64_t scheduler_prefill_waiting(const struct scheduler *s);

/* CHECKs the rules of scheduler.c and those of the memory. O(requests x blocks). */
void scheduler_check(const struct scheduler *s);

#endif
