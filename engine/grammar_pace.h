/* grammar_pace.h - when grammars are compiled while answers are being written.
 *
 * Compute threads meet many times in a step. Where they have all cores, whatever else gets one of them in
 * the middle of a step makes all of them wait, for as long as it runs and until they have their cores
 * back. Neither a low priority nor short turns helped enough (docs/benchmarks.md). Between two steps nobody
 * waits at a barrier. So there the engine rests, while somebody compiles, for a tenth of what the step
 * took, and whoever compiles works only then: answers take that tenth longer, whatever the length of steps.
 * Where cores are free, or nobody is answered, compiling isn't held up at all.
 *
 * Whoever asked for the grammar waits eleven times as long as it takes, or more where others are on the
 * machine: behind PATIENCE the rests double with every DOUBLING, and from the fourth on it goes on as it can.
 * So nothing is held up for more than 30 s. The longest single schemas, half a second of processor
 * time, took 8 to 9 s. Most grammars take less than CREDIT, which needs no rest to be had.
 *
 * Threads: enter, check and leave are called by the thread that compiles, open and give by the engine's. */
#ifndef LM_ENGINE_GRAMMAR_PACE_H
#define LM_ENGINE_GRAMMAR_PACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GRAMMAR_PACE_PART        10         // a rest is one in that many of its step
#define GRAMMAR_PACE_CREDIT_NS   1000000u   // of processor time that a grammar has at once,
#define GRAMMAR_PACE_REFILL_NS   100000000u // and all of them together in that time
#define GRAMMAR_PACE_PATIENCE_MS 10000u
#define GRAMMAR_PACE_DOUBLING_MS 5000u
#define GRAMMAR_PACE_DOUBLINGS   3

struct grammar_pace_clock {
    uint64_t (*now_ns)(void *arg); // monotonic
    uint64_t (*cpu_ns)(void *arg); // of the calling thread
    void (*wait)(void *arg, pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns); // at most
    void *arg;
};

/* What all that compile share with the engine. */
struct grammar_pace {
    struct grammar_pace_clock clock;
    bool (*is_crowded)(void *arg); // answers are being written
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t opened, unwanted; // both on the monotonic clock
    atomic_int wanted;    // grammars that need rests; written under lock, as all that follows
    int doublings;        // of whoever has waited longest for a rest
    uint64_t rest_end_ns; // of the last one
    uint64_t credit_ns, credited_ns; // what is left of it, and when that was so
};

/* `clock` NULL: the system's. is_crowded may be called by any thread. */
void grammar_pace_init(struct grammar_pace *p, const struct grammar_pace_clock *clock,
                       bool (*is_crowded)(void *arg), void *arg);
void grammar_pace_deinit(struct grammar_pace *p);

/* One grammar in the making. */
struct grammar_pace_turn {
    struct grammar_pace *pace;
    uint64_t since_ms;
    uint64_t look_ns;   // when the next check has something to do
    uint64_t cpu_ns;    // of the thread, when it was looked at last
    uint64_t credit_ns; // of its own, left
    bool is_wanting;    // counted in `wanted`
};

/* From here on the calling thread's checks count, for who waits since then (clock_ms()); the turn stays
 * the caller's and lives until leave. */
void grammar_pace_enter(struct grammar_pace_turn *turn, struct grammar_pace *p, uint64_t since_ms);
void grammar_pace_leave(void);

/* For loops: as often as every 50 us, with no lock held that others take. Blocks until it is time to go on;
 * nothing on a thread that compiles nothing. Takes some 30 ns where it has nothing to do. */
void grammar_pace_check(void);

/* Whether a rest would be of use to anybody. */
static inline bool grammar_pace_is_wanted(struct grammar_pace *p)
{
    return atomic_load_explicit(&p->wanted, memory_order_relaxed) > 0;
}
/* Rest behind a step of that length. Returns when it is over, or sooner if nobody needs it any more. */
void grammar_pace_give(struct grammar_pace *p, uint64_t step_ns);
/* The beginning of that: the rest has begun. */
void grammar_pace_open(struct grammar_pace *p, uint64_t step_ns);

#endif
