#include "proxy/prefix_table.h"

#include <pthread.h>

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static struct prefix_mark mark(uint64_t hash, uint64_t bytes)
{
    return (struct prefix_mark){hash, bytes};
}

static void test_longest_first(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_mark chain[4] = {mark(11, 1000), mark(22, 2000), mark(33, 3000), mark(44, 4000)};
    struct prefix_match out[PREFIX_MATCHES];
    EXPECT_INT(prefix_table_match(t, chain, 4, 0, out), 0);
    EXPECT_INT(prefix_table_match(t, chain, 0, 0, out), 0);
    prefix_table_add(t, 11, 5, 240);
    prefix_table_add(t, 22, 5, 490);
    prefix_table_add(t, 11, 1023, 240);
    prefix_table_add(t, 11, 0, 240);
    prefix_table_add(t, 22, 0, 490);
    prefix_table_add(t, 33, 0, 700);
    prefix_table_add(t, 11, 9, 240);
    EXPECT_INT(prefix_table_match(t, chain, 4, 0, out), 3);
    EXPECT(out[0].column == 0 && out[0].bytes == 3000 && out[0].cached_tokens == 700);
    EXPECT(out[1].column == 5 && out[1].bytes == 2000 && out[1].cached_tokens == 490);
    EXPECT(out[2].column == 9 || out[2].column == 1023);
    EXPECT(out[2].bytes == 1000 && out[2].cached_tokens == 240);
    EXPECT_INT(prefix_table_match(t, chain, 1, 0, out), 3);
    EXPECT_INT(out[0].bytes, 1000);

    struct prefix_match one;
    EXPECT(prefix_table_match_column(t, chain, 4, 5, 0, &one) && one.bytes == 2000);
    EXPECT(prefix_table_match_column(t, chain, 4, 1023, 0, &one) && one.bytes == 1000);
    EXPECT(!prefix_table_match_column(t, chain, 4, 77, 0, &one));

    prefix_table_remove(t, 33, 0);
    prefix_table_remove(t, 33, 0);
    prefix_table_remove(t, 99, 0);
    EXPECT(prefix_table_match_column(t, chain, 4, 0, 0, &one) && one.bytes == 2000);
    prefix_table_clear_column(t, 0);
    EXPECT(!prefix_table_match_column(t, chain, 4, 0, 0, &one));
    EXPECT(prefix_table_match_column(t, chain, 4, 5, 0, &one));
    prefix_table_check(t);
    prefix_table_destroy(t);
}

/* What more than four hold is told of all of them at once. */
static void test_crowd(void)
{
    struct prefix_table *t = prefix_table_create_keyed(1 << 10, 1);
    struct prefix_mark chain[4] = {mark(11, 1000), mark(22, 2000), mark(33, 3000), mark(44, 4000)};
    struct prefix_crowd crowd;
    for (int column = 0; column < 4; column++)
        prefix_table_add(t, 22, column * 300, 490);
    EXPECT(!prefix_table_match_crowd(t, chain, 4, &crowd));
    prefix_table_add(t, 22, 1023, 490);
    prefix_table_add(t, 44, 7, 990);
    for (int column = 0; column < 9; column++)
        prefix_table_add(t, 11, column, 240);
    EXPECT(prefix_table_match_crowd(t, chain, 4, &crowd));
    EXPECT(crowd.cached_tokens == 490); // the longest such beginning
    EXPECT(prefix_crowd_has(&crowd, 0) && prefix_crowd_has(&crowd, 900));
    EXPECT(prefix_crowd_has(&crowd, 1023) && !prefix_crowd_has(&crowd, 7));
    EXPECT(!prefix_crowd_has(&crowd, -1) && !prefix_crowd_has(&crowd, PREFIX_COLUMNS));
    prefix_table_clear_column(t, 900);
    EXPECT(prefix_table_match_crowd(t, chain, 4, &crowd) && !prefix_crowd_has(&crowd, 900));
    EXPECT(prefix_table_match_crowd(t, chain, 1, &crowd) && crowd.cached_tokens == 240);
    EXPECT(!prefix_table_match_crowd(t, chain, 0, &crowd));
    prefix_table_check(t);
    prefix_table_destroy(t);
}

static void test_predictions_last_five_seconds(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_mark chain[2] = {mark(11, 1000), mark(22, 2000)};
    struct prefix_match out[PREFIX_MATCHES];
    uint64_t now = UINT64_C(1) << 40;
    prefix_table_predict(t, chain, 2, 0.25, 7, now);
    EXPECT_INT(prefix_table_match(t, chain, 2, now, out), 1);
    EXPECT(out[0].column == 7 && out[0].cached_tokens == 500 && out[0].bytes == 2000);
    EXPECT_INT(prefix_table_match(t, chain, 2, now + 4900, out), 1);
    EXPECT_INT(prefix_table_match(t, chain, 2, now + 5200, out), 0);
    prefix_table_predict(t, chain, 1, 0.25, 8, now + 100);
    prefix_table_predict(t, chain, 1, 0.25, 9, now + 200); // the oldest of three goes
    EXPECT_INT(prefix_table_match(t, chain, 1, now + 200, out), 2);
    EXPECT(out[0].column + out[1].column == 17);
    prefix_table_predict(t, chain, 1, 0.25, 8, now + 3000);
    EXPECT_INT(prefix_table_match(t, chain, 1, now + 7000, out), 1);
    EXPECT_INT(out[0].column, 8);
    prefix_table_add(t, 11, 8, 270); // what is reported is better than what was guessed, and stays
    EXPECT_INT(prefix_table_match(t, chain, 1, now + 99000, out), 1);
    EXPECT(out[0].cached_tokens == 270);
    prefix_table_predict(t, chain, 1, 9.0, 8, now + 99000);
    EXPECT_INT(prefix_table_match(t, chain, 1, now + 99000, out), 1);
    EXPECT(out[0].cached_tokens == 270);
    prefix_table_clear_column(t, 8);
    EXPECT_INT(prefix_table_match(t, chain, 1, now + 99000, out), 0);
    prefix_table_check(t);
    prefix_table_destroy(t);
}

/* One system prompt, all agents: more than an entry lists itself. */
static void test_many_holders(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_match out[PREFIX_MATCHES], one;
    struct prefix_mark chain[2] = {mark(7, 1000), mark(1, 2000)};
    for (int column = 0; column < PREFIX_COLUMNS; column++)
        prefix_table_add(t, 7, column, 250);
    prefix_table_check(t);
    struct prefix_table_stats stats;
    prefix_table_get_stats(t, &stats);
    EXPECT_INT(stats.entries, 1);
    EXPECT_INT(stats.bitmaps, 1);

    /* Who is named depends on the rest of the chain, and everybody is. */
    static int named[PREFIX_COLUMNS];
    for (uint64_t i = 0; i < 100000; i++) {
        chain[1].hash = hash_mix(i + 1) | 1;
        EXPECT_INT(prefix_table_match(t, chain, 2, 0, out), 3);
        EXPECT(out[0].column != out[1].column && out[1].column != out[2].column);
        for (int k = 0; k < 3; k++)
            named[out[k].column]++;
    }
    for (int column = 0; column < PREFIX_COLUMNS; column++)
        EXPECT(named[column] > 100 && named[column] < 1000);

    for (int column = 0; column < PREFIX_COLUMNS; column++) {
        EXPECT(prefix_table_match_column(t, chain, 2, column, 0, &one));
        if (column % 2) {
            prefix_table_remove(t, 7, column);
        } else {
            prefix_table_clear_column(t, column);
        }
        EXPECT(!prefix_table_match_column(t, chain, 2, column, 0, &one));
        if (column == 1000) {
            EXPECT_INT(prefix_table_match(t, chain, 2, 0, out), 3);
            EXPECT(out[0].column > 1000 && out[1].column > 1000 && out[2].column > 1000);
        }
    }
    EXPECT_INT(prefix_table_match(t, chain, 2, 0, out), 0);
    prefix_table_get_stats(t, &stats);
    EXPECT_INT(stats.bitmaps, 0);
    EXPECT_INT(stats.entries, 0);
    prefix_table_check(t);
    prefix_table_destroy(t);
}

static void test_bitmaps_run_out(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_match out[PREFIX_MATCHES];
    for (uint64_t hash = 1; hash <= 700; hash++) {
        for (int column = 0; column < 9; column++)
            prefix_table_add(t, hash_mix(hash), column, 10);
    }
    prefix_table_check(t);
    struct prefix_table_stats stats;
    prefix_table_get_stats(t, &stats);
    EXPECT(stats.bitmaps > 200 && stats.bitmaps <= 256);
    for (uint64_t hash = 1; hash <= 700; hash++) {
        struct prefix_mark m = mark(hash_mix(hash), 1000);
        int n = prefix_table_match(t, &m, 1, 0, out);
        EXPECT(n == 3 || n == 0); // 0: its bucket was full
    }
    for (int column = 0; column < 9; column++)
        prefix_table_clear_column(t, column);
    for (uint64_t hash = 1001; hash <= 9000; hash++)
        prefix_table_add(t, hash_mix(hash), 3, 10);
    prefix_table_check(t);
    prefix_table_get_stats(t, &stats);
    EXPECT(stats.bitmaps <= 256);
    prefix_table_destroy(t);
}

/* What is asked for survives what isn't. */
static void test_eviction(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_match out[PREFIX_MATCHES];
    struct prefix_table_stats stats;
    enum { HOT = 64 };
    for (uint64_t hash = 1; hash <= HOT; hash++)
        prefix_table_add(t, hash_mix(hash), 1, 10);
    for (uint64_t i = 0; i < 200000; i++) {
        prefix_table_add(t, hash_mix(i + 1000), 2, 10);
        struct prefix_mark m = mark(hash_mix(1 + i % HOT), 1000);
        prefix_table_match(t, &m, 1, 0, out);
    }
    int alive = 0;
    for (uint64_t hash = 1; hash <= HOT; hash++) {
        struct prefix_mark m = mark(hash_mix(hash), 1000);
        alive += prefix_table_match(t, &m, 1, 0, out);
    }
    EXPECT(alive > HOT * 8 / 10);
    prefix_table_get_stats(t, &stats);
    EXPECT_INT(stats.entries, stats.entries_max);
    EXPECT(stats.evicted > 190000);
    EXPECT(stats.memory_bytes < 200 << 10);
    prefix_table_check(t);

    /* Those of an agent that is gone go first. */
    prefix_table_clear_column(t, 2);
    for (uint64_t i = 0; i < 500; i++)
        prefix_table_add(t, hash_mix(i + (1 << 20)), 3, 10);
    int after = 0;
    for (uint64_t hash = 1; hash <= HOT; hash++) {
        struct prefix_mark m = mark(hash_mix(hash), 1000);
        after += prefix_table_match(t, &m, 1, 0, out);
    }
    EXPECT(after >= alive - 2);
    prefix_table_check(t);
    prefix_table_destroy(t);
}

/* A number of a generation that comes again must not bring back who held in its first turn. */
static void test_generations_come_again(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    struct prefix_match out[PREFIX_MATCHES];
    for (int turn = 0; turn < 300; turn++) {
        uint64_t own = hash_mix((uint64_t)turn + 1);
        struct prefix_mark m = mark(own, 1000), p = mark(own + 1, 1000);
        prefix_table_add(t, own, 1023, 10);
        prefix_table_predict(t, &p, 1, 0.25, 1023, 1000);
        EXPECT_INT(prefix_table_match(t, &m, 1, 1000, out), 1);
        for (int before = 0; before < turn; before++) {
            m.hash = hash_mix((uint64_t)before + 1);
            EXPECT_INT(prefix_table_match(t, &m, 1, 1000, out), 0);
            p.hash = m.hash + 1;
            EXPECT_INT(prefix_table_match(t, &p, 1, 1000, out), 0);
        }
        prefix_table_clear_column(t, 1023);
    }
    prefix_table_check(t);
    prefix_table_destroy(t);
}

static void test_learning(void)
{
    struct prefix_table *t = prefix_table_create(1 << 14);
    struct prefix_match out[PREFIX_MATCHES];
    enum { TOKENS = 100 * 256 }; // a hundred marks of 1 KiB
    for (uint64_t i = 1; i <= 2000; i++) {
        struct prefix_mark m = mark(hash_mix(i), 1024);
        prefix_table_learn(t, &m, 1, 0.25, 6, TOKENS);
        EXPECT_INT(prefix_table_match(t, &m, 1, 0, out), 1);
        EXPECT(out[0].column == 6 && out[0].cached_tokens == 256);
    }
    int alive = 0, recent = 0;
    for (uint64_t i = 1; i <= 2000; i++) {
        struct prefix_mark m = mark(hash_mix(i), 1024);
        int n = prefix_table_match(t, &m, 1, 0, out);
        alive += n;
        recent += i > 1960 ? n : 0;
    }
    EXPECT(alive > 80 && alive <= 100);
    EXPECT(recent > 25);
    prefix_table_clear_column(t, 6);
    for (uint64_t i = 1; i <= 2000; i++) {
        struct prefix_mark m = mark(hash_mix(i), 1024);
        EXPECT_INT(prefix_table_match(t, &m, 1, 0, out), 0);
    }
    prefix_table_check(t);
    prefix_table_destroy(t);
}

/* ---- against a model ---- */

enum { M_HASHES = 40, M_COLUMNS = 12 };

struct model {
    bool holds[M_HASHES][M_COLUMNS];
};

/* The longest mark that `column` holds; -1: none. */
static int model_longest(const struct model *m, const int *chain, int count, int column)
{
    for (int i = count - 1; i >= 0; i--) {
        if (m->holds[chain[i]][column]) return i;
    }
    return -1;
}

static void compare(struct prefix_table *t, const struct model *m, struct rng *rng, uint64_t now)
{
    int chain[6], count = 1 + (int)rng_below(rng, 6);
    struct prefix_mark marks[6];
    for (int i = 0; i < count; i++) {
        chain[i] = (int)rng_below(rng, M_HASHES / 6) * 6 + i;
        marks[i] = mark(hash_mix((uint64_t)chain[i] + 1), (uint64_t)(i + 1) * 1000);
    }
    struct prefix_match out[PREFIX_MATCHES];
    int n = prefix_table_match(t, marks, count, now, out);
    int lengths[M_COLUMNS], holders = 0;
    for (int c = 0; c < M_COLUMNS; c++) {
        lengths[c] = model_longest(m, chain, count, c);
        holders += lengths[c] >= 0;
    }
    EXPECT_INT(n, holders < PREFIX_MATCHES ? holders : PREFIX_MATCHES);
    for (int i = 0; i < n; i++) {
        EXPECT_INT(out[i].bytes, (lengths[out[i].column] + 1) * 1000);
        lengths[out[i].column] = -1;
        if (i > 0) EXPECT(out[i].bytes <= out[i - 1].bytes);
    }
    for (int c = 0; c < M_COLUMNS && n > 0; c++)
        EXPECT((uint64_t)(lengths[c] + 1) * 1000 <= out[n - 1].bytes);
}

static void test_against_a_model(void)
{
    // with so many bitmaps that all of the hashes may have one, whatever shard they are in
    struct prefix_table *t = prefix_table_create(1 << 18);
    static struct model m;
    struct rng rng;
    rng_init(&rng, 21);
    uint64_t now = 100000;
    for (int round = 0; round < 200000; round++) {
        int hash = (int)rng_below(&rng, M_HASHES), column = (int)rng_below(&rng, M_COLUMNS);
        uint64_t name = hash_mix((uint64_t)hash + 1);
        switch (rng_below(&rng, 8)) {
        case 0:
        case 1:
        case 2:
            prefix_table_add(t, name, column, 10);
            m.holds[hash][column] = true;
            break;
        case 3:
        case 4:
            prefix_table_remove(t, name, column);
            m.holds[hash][column] = false;
            break;
        case 5:
            if (rng_below(&rng, 50)) break;
            prefix_table_clear_column(t, column);
            for (int i = 0; i < M_HASHES; i++)
                m.holds[i][column] = false;
            break;
        default:
            compare(t, &m, &rng, now);
        }
        now += rng_below(&rng, 20);
    }
    prefix_table_check(t);
    prefix_table_destroy(t);
}

/* ---- threads ---- */

struct worker_arg {
    struct prefix_table *table;
    uint64_t seed;
};

static void *hammer(void *arg)
{
    const struct worker_arg *w = arg;
    struct rng rng;
    rng_init(&rng, w->seed);
    struct prefix_mark chain[8];
    struct prefix_match out[PREFIX_MATCHES];
    for (int round = 0; round < 20000; round++) {
        for (uint64_t i = 0; i < 8; i++)
            chain[i] = mark(hash_mix(1 + rng_below(&rng, 3000)), 1024 * (i + 1));
        int column = (int)rng_below(&rng, 40);
        int n = prefix_table_match(w->table, chain, 8, (uint64_t)round, out);
        for (int i = 0; i < n; i++)
            CHECK(out[i].column < PREFIX_COLUMNS && out[i].bytes <= 8192);
        if (w->seed == 1) { // reports come on one thread
            prefix_table_add(w->table, chain[0].hash, column, 10);
            prefix_table_add(w->table, chain[1].hash, column, 20);
            prefix_table_remove(w->table, chain[2].hash, column);
            if (round % 100 == 0) prefix_table_clear_column(w->table, column);
        }
        prefix_table_predict(w->table, chain, 4, 0.25, column, (uint64_t)round);
        prefix_table_learn(w->table, chain, 2, 0.25, 40 + column, 50000);
        if (round % 5000 == 0) prefix_table_check(w->table);
    }
    return NULL;
}

static void test_threads(void)
{
    struct prefix_table *t = prefix_table_create(1 << 10);
    pthread_t threads[4];
    struct worker_arg args[4];
    for (uint64_t i = 0; i < 4; i++) {
        args[i] = (struct worker_arg){t, i + 1};
        NEED(pthread_create(&threads[i], NULL, hammer, &args[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    prefix_table_check(t);
    prefix_table_destroy(t);
}

int main(void)
{
    RUN(test_longest_first);
    RUN(test_crowd);
    RUN(test_predictions_last_five_seconds);
    RUN(test_many_holders);
    RUN(test_bitmaps_run_out);
    RUN(test_eviction);
    RUN(test_generations_come_again);
    RUN(test_learning);
    RUN(test_against_a_model);
    RUN(test_threads);
    return TEST_END();
}
