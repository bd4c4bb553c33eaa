/* grammar_pace.c - a thread looks at the clock in every check, and at the rest where look_ns says so:
 *
 *     free:     nobody is answered, it has waited too long, or it has credit   ─► look again in a while
 *     resting:  the engine rests until rest_end                                ─► look again then
 *     wanting:  neither: it blocks until the engine rests
 *
 * A thread that isn't done when a rest is over notices in its next check; the engine doesn't wait for that. */
#include "engine/grammar_pace.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <stddef.h>
#include <time.h>

#define FREE_NS  1000000u  // between two looks of a thread that nothing holds up
#define NAP_NS   50000000u // likewise of one that is blocked
#define LEAST_NS 20000u    // credit that is worth going on for

static _Thread_local struct grammar_pace_turn *current;

/* ---- the system's clock ---- */

static uint64_t system_now_ns(void *arg)
{
    (void)arg;
    return clock_ns();
}

static uint64_t system_cpu_ns(void *arg)
{
    struct timespec t;
    (void)arg;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void system_wait(void *arg, pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    (void)arg;
    uint64_t end = clock_ns() + ns;
    struct timespec t = {(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
    pthread_cond_timedwait(cond, lock, &t);
}

/* ---- rests ---- */

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

void grammar_pace_init(struct grammar_pace *p, const struct grammar_pace_clock *clock,
                       bool (*is_crowded)(void *arg), void *arg)
{
    static const struct grammar_pace_clock system = {system_now_ns, system_cpu_ns, system_wait,
                                                     NULL};
    *p = (struct grammar_pace){.clock = clock ? *clock : system,
                               .is_crowded = is_crowded,
                               .arg = arg,
                               .credit_ns = GRAMMAR_PACE_CREDIT_NS};
    pthread_mutex_init(&p->lock, NULL);
    init_cond(&p->opened);
    init_cond(&p->unwanted);
}

void grammar_pace_deinit(struct grammar_pace *p)
{
    pthread_cond_destroy(&p->opened);
    pthread_cond_destroy(&p->unwanted);
    pthread_mutex_destroy(&p->lock);
}

static uint64_t now_ns(const struct grammar_pace *p)
{
    return p->clock.now_ns(p->clock.arg);
}

void grammar_pace_open(struct grammar_pace *p, uint64_t step_ns)
{
    pthread_mutex_lock(&p->lock);
    p->rest_end_ns = now_ns(p) + (step_ns << p->doublings) / GRAMMAR_PACE_PART;
    p->doublings = 0;
    pthread_cond_broadcast(&p->opened);
    pthread_mutex_unlock(&p->lock);
}

void grammar_pace_give(struct grammar_pace *p, uint64_t step_ns)
{
    grammar_pace_open(p, step_ns);
    pthread_mutex_lock(&p->lock);
    for (uint64_t now; p->wanted > 0 && (now = now_ns(p)) < p->rest_end_ns;)
        p->clock.wait(p->clock.arg, &p->unwanted, &p->lock, p->rest_end_ns - now);
    p->rest_end_ns = 0;
    pthread_mutex_unlock(&p->lock);
}

/* ---- turns; under the lock ---- */

static void set_wanting(struct grammar_pace_turn *t, bool is_wanting)
{
    if (t->is_wanting == is_wanting) return;
    t->is_wanting = is_wanting;
    atomic_fetch_add(&t->pace->wanted, is_wanting ? 1 : -1);
    if (t->pace->wanted == 0) pthread_cond_signal(&t->pace->unwanted);
}

/* Takes what the thread has had from its credit, and from that of all. */
static void spend_credit(struct grammar_pace_turn *t, uint64_t now)
{
    struct grammar_pace *p = t->pace;
    uint64_t cpu = p->clock.cpu_ns(p->clock.arg), had = cpu - t->cpu_ns;
    uint64_t more = (now - p->credited_ns) / (GRAMMAR_PACE_REFILL_NS / GRAMMAR_PACE_CREDIT_NS);
    t->cpu_ns = cpu;
    p->credited_ns = now;
    p->credit_ns += more;
    if (p->credit_ns > GRAMMAR_PACE_CREDIT_NS) p->credit_ns = GRAMMAR_PACE_CREDIT_NS;
    if (t->is_wanting) return; // it had a rest
    p->credit_ns -= had < p->credit_ns ? had : p->credit_ns;
    t->credit_ns -= had < t->credit_ns ? had : t->credit_ns;
}

/* How often the rests are to double for who waits so long; more than DOUBLINGS: it goes on without. */
static int doublings_of(const struct grammar_pace_turn *t, uint64_t now)
{
    uint64_t end_ms = t->since_ms + GRAMMAR_PACE_PATIENCE_MS, now_ms = now / 1000000u;
    if (now_ms < end_ms) return 0;
    uint64_t doublings = 1 + (now_ms - end_ms) / GRAMMAR_PACE_DOUBLING_MS;
    return doublings > GRAMMAR_PACE_DOUBLINGS ? GRAMMAR_PACE_DOUBLINGS + 1 : (int)doublings;
}

/* When the thread is to look again; 0: it may not go on. */
static uint64_t find_look(struct grammar_pace_turn *t, uint64_t now)
{
    struct grammar_pace *p = t->pace;
    int doublings = doublings_of(t, now);
    bool is_free = doublings > GRAMMAR_PACE_DOUBLINGS || !p->is_crowded(p->arg);
    spend_credit(t, now);
    if (is_free) {
        set_wanting(t, false);
        return now + FREE_NS;
    }
    if (now < p->rest_end_ns) return p->rest_end_ns;
    uint64_t credit = t->credit_ns < p->credit_ns ? t->credit_ns : p->credit_ns;
    if (!t->is_wanting && credit >= LEAST_NS) return now + credit;
    set_wanting(t, true);
    if (doublings > p->doublings) p->doublings = doublings;
    return 0;
}

static void look(struct grammar_pace_turn *t)
{
    struct grammar_pace *p = t->pace;
    pthread_mutex_lock(&p->lock);
    while ((t->look_ns = find_look(t, now_ns(p))) == 0)
        p->clock.wait(p->clock.arg, &p->opened, &p->lock, NAP_NS);
    pthread_mutex_unlock(&p->lock);
}

void grammar_pace_enter(struct grammar_pace_turn *turn, struct grammar_pace *p, uint64_t since_ms)
{
    CHECK(!current);
    *turn = (struct grammar_pace_turn){.pace = p,
                                       .since_ms = since_ms,
                                       .cpu_ns = p->clock.cpu_ns(p->clock.arg),
                                       .credit_ns = GRAMMAR_PACE_CREDIT_NS};
    current = turn;
    look(turn);
}

void grammar_pace_leave(void)
{
    struct grammar_pace_turn *t = current;
    pthread_mutex_lock(&t->pace->lock);
    spend_credit(t, now_ns(t->pace));
    set_wanting(t, false);
    pthread_mutex_unlock(&t->pace->lock);
    current = NULL;
}

void grammar_pace_check(void)
{
    struct grammar_pace_turn *t = current;
    if (t && now_ns(t->pace) >= t->look_ns) look(t);
}
