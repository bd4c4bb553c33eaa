/* The pace of compiling, on a clock of its own. */
#include "engine/grammar_pace.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define MS        1000000ull
#define STEP      (20 * MS)
#define REST      (STEP / GRAMMAR_PACE_PART)
#define CREDIT    ((uint64_t)GRAMMAR_PACE_CREDIT_NS)
#define LOOK      50000u // between two checks
#define LONG_REST (1000 * MS)

static struct grammar_pace pace;

static struct {
    uint64_t now, cpu, waits;
    uint64_t quiet_at; // when the crowd goes
    uint64_t step;     // how long the engine's are; 0: there are none
    bool is_crowded;
} world;

static uint64_t now_ns(void *arg)
{
    (void)arg;
    return world.now;
}

static uint64_t cpu_ns(void *arg)
{
    (void)arg;
    return world.cpu;
}

/* While a thread is blocked the engine takes a step and rests behind it. */
static void wait_ns(void *arg, pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
    (void)arg;
    EXPECT(cond == &pace.opened && grammar_pace_is_wanted(&pace));
    world.waits++;
    if (world.step == 0 || world.now >= world.quiet_at) {
        world.now += ns;
        return;
    }
    world.now += world.step;
    pthread_mutex_unlock(lock);
    grammar_pace_open(&pace, world.step);
    pthread_mutex_lock(lock);
}

static bool is_crowded(void *arg)
{
    (void)arg;
    return world.is_crowded && world.now < world.quiet_at;
}

static void begin(bool crowded)
{
    static const struct grammar_pace_clock clock = {now_ns, cpu_ns, wait_ns, NULL};
    memset(&world, 0, sizeof world);
    world.now = LONG_REST;
    world.is_crowded = crowded;
    world.quiet_at = UINT64_MAX;
    world.step = STEP;
    grammar_pace_init(&pace, &clock, is_crowded, NULL);
}

static uint64_t now_ms(void)
{
    return world.now / MS;
}

/* Work of so much processor time, looked at every `look`, on a core that others have as long each time. */
static void work(uint64_t ns, uint64_t look, uint64_t others)
{
    for (uint64_t done = 0; done < ns; done += look) {
        world.cpu += look;
        world.now += look + others;
        grammar_pace_check();
    }
}

/* How long it takes. */
static uint64_t compile(uint64_t ns, uint64_t since_ms)
{
    struct grammar_pace_turn turn;
    uint64_t begun = world.now;
    grammar_pace_enter(&turn, &pace, since_ms);
    work(ns, LOOK, 0);
    grammar_pace_leave();
    EXPECT(!grammar_pace_is_wanted(&pace));
    pace.rest_end_ns = 0; // as give() ends a rest that nobody needs any more
    return world.now - begun;
}

static void test_full_speed_where_nobody_is_answered(void)
{
    begin(false);
    EXPECT(compile(500 * MS, now_ms()) == 500 * MS && world.waits == 0);
    grammar_pace_check(); // of a thread that compiles nothing
}

/* Work is done in the rests, but for the credit; what goes on until a check is little. */
static void test_works_in_rests(void)
{
    begin(true);
    uint64_t took = compile(500 * MS, now_ms());
    uint64_t rests = (500 * MS - CREDIT) / REST;
    EXPECT(world.waits >= rests * REST / (REST + LOOK) - 1 && world.waits <= rests + 1);
    EXPECT(took >= world.waits * (STEP + REST) && took <= 500 * MS * (GRAMMAR_PACE_PART + 1));
}

static void test_small_ones_dont_wait(void)
{
    begin(true);
    compile(CREDIT * 9 / 10, now_ms());
    EXPECT(world.waits == 0);
    world.now += LONG_REST;
    compile(CREDIT * 9 / 10, now_ms()); // credit comes back,
    EXPECT(world.waits == 0);
    world.now += LONG_REST;
    compile(CREDIT * 3, now_ms()); // but isn't saved up
    EXPECT(world.waits >= 1 && world.waits <= 2);
}

/* Many small ones are a large one. */
static void test_credit_is_for_all_together(void)
{
    begin(true);
    uint64_t begun = world.now, free = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t waits = world.waits;
        compile(CREDIT / 2, now_ms());
        free += world.waits == waits;
    }
    uint64_t refills = (world.now - begun) / GRAMMAR_PACE_REFILL_NS + 1;
    EXPECT(free <= refills * 2 + 2);
    EXPECT(world.waits >= 200 - free);
}

/* Where the core is taken away credit isn't spent. */
static void test_time_of_others_isnt_paid(void)
{
    begin(true);
    struct grammar_pace_turn turn;
    grammar_pace_enter(&turn, &pace, now_ms());
    work(CREDIT * 9 / 10, LOOK, 3 * MS);
    EXPECT(world.waits == 0);
    work(CREDIT, LOOK, 0);
    EXPECT(world.waits > 0);
    grammar_pace_leave();
}

static void test_the_crowd_goes(void)
{
    begin(true);
    struct grammar_pace_turn turn;
    world.step = 0; // nothing but the thread's own naps wakes it
    world.quiet_at = world.now + 20 * MS;
    uint64_t begun = world.now;
    grammar_pace_enter(&turn, &pace, now_ms());
    work(100 * MS, LOOK, 0);
    EXPECT(!grammar_pace_is_wanted(&pace)); // nor does the engine rest for it
    grammar_pace_leave();
    EXPECT(world.now - begun <= (20 + 50 + 100) * MS);
}

/* How long who asked waits, at most, whatever the steps take. */
static void test_the_wait_is_bounded(void)
{
    static const uint64_t works_ms[] = {100, 500, 1000, 5000, 60000}, steps_ms[] = {1, 20, 5000};
    uint64_t bound =
        GRAMMAR_PACE_PATIENCE_MS + GRAMMAR_PACE_DOUBLINGS * GRAMMAR_PACE_DOUBLING_MS + 5000;
    EXPECT(bound <= 30000);
    for (size_t i = 0; i < ARRAY_LEN(works_ms); i++)
        for (size_t s = 0; s < ARRAY_LEN(steps_ms); s++) {
            begin(true);
            world.step = steps_ms[s] * MS;
            EXPECT(compile(works_ms[i] * MS, now_ms()) <= (bound + works_ms[i]) * MS);
        }
    begin(true); // it waited long before its turn came
    uint64_t since = now_ms();
    world.now += 60000 * MS;
    EXPECT(compile(1000 * MS, since) == 1000 * MS && world.waits == 0);
    begin(true); // between: rests of twice the length
    since = now_ms();
    world.now += GRAMMAR_PACE_PATIENCE_MS * MS;
    compile(100 * MS, since);
    EXPECT(world.waits <= 1 + 100 * MS / (2 * REST) && world.waits >= 90 * MS / (2 * REST) - 1);
}

/* ---- on the system's clock, by threads; only what can't fail on a busy machine ---- */

static bool always(void *arg)
{
    (void)arg;
    return true;
}

static atomic_int compiling;

static void *burn(void *arg)
{
    struct grammar_pace_turn turn;
    const struct grammar_pace_clock *c = &pace.clock;
    (void)arg;
    grammar_pace_enter(&turn, &pace, clock_ms());
    for (uint64_t begun = c->cpu_ns(c->arg); c->cpu_ns(c->arg) - begun < 5 * MS;)
        grammar_pace_check();
    grammar_pace_leave();
    atomic_fetch_sub(&compiling, 1);
    return NULL;
}

/* The engine's side: rests are given while they are wanted, and they end. */
static void test_threads(void)
{
    pthread_t thread[2];
    grammar_pace_init(&pace, NULL, always, NULL);
    atomic_store(&compiling, 2);
    for (int i = 0; i < 2; i++)
        NEED(pthread_create(&thread[i], NULL, burn, NULL) == 0);
    int rests = 0;
    while (atomic_load(&compiling) > 0) {
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        if (!grammar_pace_is_wanted(&pace)) continue;
        grammar_pace_give(&pace, 5 * MS);
        rests++;
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    EXPECT(rests > 0 && !grammar_pace_is_wanted(&pace));
    uint64_t begun = clock_ns();
    grammar_pace_give(&pace, 3600 * 1000 * MS); // nobody is there for it
    EXPECT(clock_ns() - begun < 60 * 1000 * MS);
    grammar_pace_deinit(&pace);
}

int main(void)
{
    RUN(test_full_speed_where_nobody_is_answered);
    RUN(test_works_in_rests);
    RUN(test_small_ones_dont_wait);
    RUN(test_credit_is_for_all_together);
    RUN(test_time_of_others_isnt_paid);
    RUN(test_the_crowd_goes);
    RUN(test_the_wait_is_bounded);
    RUN(test_threads);
    return TEST_END();
}
