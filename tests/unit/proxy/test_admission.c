#include "proxy/admission.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#define LANE STR("m")

static struct admission_shared shared;
static struct admission queue;
static struct admission_ticket *evicted[64];
static int evicted_count;

static void on_evict(void *arg, struct admission_ticket *t)
{
    (void)arg;
    EXPECT(!admission_is_waiting(t));
    NEED(evicted_count < (int)ARRAY_LEN(evicted));
    evicted[evicted_count++] = t;
}

static void open_queue(int64_t count, int64_t bytes)
{
    struct admission_limits limits = {
        .count = count, .bytes = bytes, .timeout_ms = 30000, .ageing_ms = 5000};
    admission_shared_init(&shared, &limits);
    admission_init(&queue, &shared, on_evict, NULL);
    evicted_count = 0;
}

static void close_queue(void)
{
    admission_check(&queue);
    EXPECT_INT(queue.flows.len, 0);
    EXPECT_INT(queue.tenants.len, 0);
    EXPECT_INT(atomic_load(&shared.count), 0);
    EXPECT_INT(atomic_load(&shared.bytes), 0);
    admission_deinit(&queue);
}

static void fill(struct admission_ticket *t, uint64_t tenant, enum admission_class class,
                 int64_t tokens)
{
    *t =
        (struct admission_ticket){.tenant = tenant, .class = class, .tokens = tokens, .bytes = 100};
}

static void enter(struct admission_ticket *t, uint64_t tenant, enum admission_class class,
                  int64_t tokens, uint64_t now_ms)
{
    fill(t, tenant, class, tokens);
    NEED(admission_enter(&queue, LANE, t, now_ms) == 0);
}

static struct admission_ticket *serve(uint64_t now_ms)
{
    struct admission_ticket *t = admission_next(&queue, LANE, now_ms);
    if (t) admission_accept(&queue, t, now_ms);
    return t;
}

static void leave_all(struct admission_ticket *t, size_t count)
{
    for (size_t i = 0; i < count; i++)
        admission_leave(&queue, &t[i]);
}

static void test_one_after_the_other(void)
{
    open_queue(8, 1000);
    struct admission_ticket t[3];
    for (int i = 0; i < 3; i++)
        enter(&t[i], 1, ADMISSION_DEFAULT, 10, 100);
    EXPECT(admission_next(&queue, LANE, 100) == &t[0]);
    EXPECT(admission_next(&queue, LANE, 100) == &t[0]); // looking changes nothing
    EXPECT(admission_next(&queue, STR("other"), 100) == NULL);
    EXPECT(serve(100) == &t[0]);
    EXPECT(!admission_is_waiting(&t[0]));
    admission_leave(&queue, &t[1]);
    admission_leave(&queue, &t[1]);
    admission_check(&queue);
    EXPECT(serve(100) == &t[2]);
    EXPECT(serve(100) == NULL);
    close_queue();
}

static void test_classes_are_strict(void)
{
    open_queue(64, 100000);
    struct admission_ticket t[40];
    for (int i = 0; i < 40; i++)
        enter(&t[i], (uint64_t)i % 3, (enum admission_class)(3 - i % 4), 500, 100);
    int last = 0;
    for (int i = 0; i < 40; i++) {
        struct admission_ticket *got = serve(200); // nobody is overdue
        NEED(got);
        EXPECT((int)got->class >= last);
        last = (int)got->class;
    }
    close_queue();
}

/* Refills what was served, so that all tenants always have some waiting; tokens by tenant. */
static void run_backlogged(const int64_t tokens[], const int waiting[], int tenants, int rounds,
                           double served[])
{
    static struct admission_ticket t[512];
    int count = 0;
    for (int i = 0; i < tenants; i++)
        for (int k = 0; k < waiting[i]; k++)
            enter(&t[count++], (uint64_t)i, ADMISSION_DEFAULT, tokens[i], 100);
    for (int i = 0; i < rounds; i++) {
        struct admission_ticket *got = serve(200);
        NEED(got);
        served[got->tenant] += (double)got->tokens;
        enter(got, got->tenant, ADMISSION_DEFAULT, got->tokens, 200);
        if (i % 1000 == 0) admission_check(&queue);
    }
    leave_all(t, (size_t)count);
}

static void test_tenants_share_tokens(void)
{
    /* A greedy tenant with 300 waiting, one with huge prompts, small ones with tiny prompts. */
    static const int64_t tokens[] = {900, 60000, 20, 333, 4096};
    static const int waiting[] = {300, 4, 3, 8, 2};
    double served[5] = {0}, total = 0;
    open_queue(512, 1 << 20);
    run_backlogged(tokens, waiting, 5, 400000, served);
    for (int i = 0; i < 5; i++)
        total += served[i];
    for (int i = 0; i < 5; i++) {
        double share = served[i] / total;
        if (share < 0.195 || share > 0.205) printf("tenant %d has %.4f of the tokens\n", i, share);
        EXPECT(share > 0.195 && share < 0.205);
    }
    close_queue();
}

/* 300 requests of one tenant are there when somebody comes with one. */
static void test_newcomer_waits_a_round_only(void)
{
    static struct admission_ticket t[300];
    open_queue(512, 1 << 20);
    for (int i = 0; i < 300; i++)
        enter(&t[i], 1, ADMISSION_DEFAULT, 1000, 100);
    for (int i = 0; i < 10; i++)
        serve(100);
    struct admission_ticket small;
    enter(&small, 2, ADMISSION_DEFAULT, 1000, 100);
    int before = 0;
    while (serve(100) != &small)
        before++;
    EXPECT(before <= 2); // what the quantum of the other one still pays for
    leave_all(t, 300);
    close_queue();
}

/* A tenant without tickets saves nothing up. */
static void test_nobody_saves(void)
{
    struct admission_ticket t[64], late[8];
    open_queue(512, 1 << 20);
    for (int i = 0; i < 64; i++)
        enter(&t[i], 1, ADMISSION_DEFAULT, 2048, 100);
    for (int i = 0; i < 40; i++)
        serve(100);
    for (int i = 0; i < 8; i++)
        enter(&late[i], 2, ADMISSION_DEFAULT, 2048, 100);
    int of_late = 0;
    for (int i = 0; i < 8; i++)
        of_late += serve(100)->tenant == 2;
    EXPECT_INT(of_late, 4);
    leave_all(t, 64);
    leave_all(late, 8);
    close_queue();
}

static void test_bulk_does_not_starve(void)
{
    static struct admission_ticket bulk[20], flood[4];
    open_queue(512, 1 << 20);
    for (int i = 0; i < 20; i++)
        enter(&bulk[i], 9, ADMISSION_BULK, 4000, 1000);
    for (int i = 0; i < 4; i++)
        enter(&flood[i], (uint64_t)i, ADMISSION_INTERACTIVE, 500, 1000);
    double tokens[ADMISSION_CLASSES] = {0};
    uint64_t now_ms = 1000, first_ms = 0;
    int left = 20;
    while (left > 5) {
        now_ms += 10;
        struct admission_ticket *got = serve(now_ms);
        NEED(got);
        if (got->class == ADMISSION_BULK) {
            left--;
            if (!first_ms) first_ms = now_ms;
        } else {
            enter(got, got->tenant, got->class, got->tokens, now_ms);
        }
        if (first_ms) tokens[got->class] += (double)got->tokens;
        EXPECT(now_ms < 60000);
        if (now_ms >= 60000) break;
    }
    /* Overdue at 6000; then 4000 * 8 tokens of the others come first, 64 of them. */
    EXPECT(first_ms > 6000 && first_ms <= 6000 + 66 * 10);
    double share = tokens[ADMISSION_BULK] / tokens[ADMISSION_INTERACTIVE];
    EXPECT(share > 1.0 / 8 && share < 1.1 / 7); // 15 of 4000, and 14 intervals between
    leave_all(bulk, 20);
    leave_all(flood, 4);
    close_queue();
}

/* Both lower classes are overdue: the one that has waited longer goes first, none is left out. */
static void test_all_lower_classes_get_on(void)
{
    static struct admission_ticket low[60], flood;
    open_queue(512, 1 << 20);
    for (int i = 0; i < 60; i++)
        enter(&low[i], (uint64_t)i % 4, i % 2 ? ADMISSION_BULK : ADMISSION_DEFAULT, 100, 1000);
    enter(&flood, 7, ADMISSION_SYSTEM, 100, 1000);
    int served[ADMISSION_CLASSES] = {0};
    for (int i = 0; i < 9 * 60; i++) {
        uint64_t now_ms = 7000 + (uint64_t)i;
        struct admission_ticket *got = serve(now_ms);
        NEED(got);
        served[got->class]++;
        if (got == &flood) enter(&flood, 7, ADMISSION_SYSTEM, 100, now_ms);
    }
    EXPECT_INT(served[ADMISSION_DEFAULT], 30);
    EXPECT_INT(served[ADMISSION_BULK], 30);
    EXPECT_INT(served[ADMISSION_SYSTEM], 480);
    leave_all(&flood, 1);
    close_queue();
}

static void test_bounds(void)
{
    struct admission_ticket t[5], more, large;
    open_queue(4, 1000);
    for (int i = 0; i < 4; i++)
        enter(&t[i], (uint64_t)i, ADMISSION_DEFAULT, 10, 100);
    fill(&more, 9, ADMISSION_DEFAULT, 10);
    EXPECT_INT(admission_enter(&queue, LANE, &more, 100), E_LIMIT); // nobody has two more
    EXPECT(!admission_is_waiting(&more));
    fill(&more, 9, ADMISSION_BULK, 10);
    EXPECT_INT(admission_enter(&queue, LANE, &more, 100), E_LIMIT);
    EXPECT_INT(evicted_count, 0);
    EXPECT_INT(atomic_load(&shared.count), 4);
    EXPECT_INT(atomic_load(&shared.bytes), 400);
    admission_leave(&queue, &t[3]);
    fill(&large, 9, ADMISSION_DEFAULT, 10);
    large.bytes = 701;
    EXPECT_INT(admission_enter(&queue, LANE, &large, 100), E_LIMIT);
    large.bytes = 700;
    EXPECT_INT(admission_enter(&queue, LANE, &large, 100), 0);
    leave_all(t, 3);
    leave_all(&large, 1);
    close_queue();

    open_queue(0, 1000); // no queue at all
    EXPECT_INT(admission_enter(&queue, LANE, &more, 100), E_LIMIT);
    close_queue();
}

static void test_bounds_are_shared(void)
{
    struct admission other;
    struct admission_ticket t[3];
    open_queue(2, 1000);
    admission_init(&other, &shared, on_evict, NULL);
    enter(&t[0], 1, ADMISSION_DEFAULT, 10, 100);
    for (int i = 1; i < 3; i++)
        fill(&t[i], 1, ADMISSION_DEFAULT, 10);
    EXPECT_INT(admission_enter(&other, LANE, &t[1], 100), 0);
    EXPECT_INT(admission_enter(&other, LANE, &t[2], 100), E_LIMIT);
    EXPECT_INT(admission_shared_count(&shared), 2);
    admission_leave(&queue, &t[0]);
    EXPECT_INT(admission_enter(&other, LANE, &t[2], 100), 0);
    admission_check(&other);
    admission_leave(&other, &t[1]);
    admission_leave(&other, &t[2]);
    admission_deinit(&other);
    close_queue();
}

static void test_full_queue_is_shared_out(void)
{
    struct admission_ticket t[8], small[4], urgent, bulk;
    open_queue(8, 10000);
    for (int i = 0; i < 7; i++)
        enter(&t[i], 1, ADMISSION_DEFAULT, 10, 100 + (uint64_t)i);
    enter(&bulk, 5, ADMISSION_BULK, 10, 110);
    fill(&small[0], 2, ADMISSION_DEFAULT, 10);
    EXPECT_INT(admission_enter(&queue, LANE, &small[0], 120), 0);
    EXPECT_INT(evicted_count, 1); // the lower class first
    EXPECT(evicted[0] == &bulk);
    for (int i = 1; i < 4; i++) {
        fill(&small[i], 2, ADMISSION_DEFAULT, 10);
        int rc = admission_enter(&queue, LANE, &small[i], 120);
        EXPECT_INT(rc, 0);
        EXPECT_INT(evicted_count, 1 + i);
        if (rc == 0 && i < 4) EXPECT(evicted[i] == &t[7 - i]); // the greedy one's newest
    }
    struct admission_ticket one_more; // 4 and 4
    fill(&one_more, 2, ADMISSION_DEFAULT, 10);
    EXPECT_INT(admission_enter(&queue, LANE, &one_more, 120), E_LIMIT);
    fill(&urgent, 1, ADMISSION_SYSTEM, 10);
    EXPECT_INT(admission_enter(&queue, LANE, &urgent, 130), 0);
    EXPECT_INT(evicted_count, 5);
    EXPECT_INT(queue.evicted_total, 5);
    admission_check(&queue);
    EXPECT_INT(queue.count, 8);
    leave_all(t, 7);
    leave_all(small, 4);
    leave_all(&urgent, 1);
    close_queue();
}

/* Room by count, but not by bytes, and the one to push out is too small: nobody is pushed out. */
static void test_nobody_is_pushed_out_in_vain(void)
{
    struct admission_ticket t[4], large;
    open_queue(4, 1000);
    for (int i = 0; i < 4; i++)
        enter(&t[i], 1, ADMISSION_BULK, 10, 100);
    fill(&large, 2, ADMISSION_DEFAULT, 10);
    large.bytes = 800;
    EXPECT_INT(admission_enter(&queue, LANE, &large, 100), E_LIMIT);
    EXPECT_INT(evicted_count, 0);
    large.bytes = 700;
    EXPECT_INT(admission_enter(&queue, LANE, &large, 100), 0);
    EXPECT_INT(evicted_count, 1);
    leave_all(t, 4);
    leave_all(&large, 1);
    close_queue();
}

static int expired_count;

static void on_expired(void *arg, struct admission_ticket *t)
{
    (void)arg;
    EXPECT(!admission_is_waiting(t));
    expired_count++;
}

static void test_time(void)
{
    struct admission_ticket t[3];
    open_queue(8, 1000);
    EXPECT_INT(admission_deadline_ms(&queue), 0);
    enter(&t[0], 1, ADMISSION_BULK, 10, 1000);
    enter(&t[1], 2, ADMISSION_SYSTEM, 10, 2000);
    EXPECT_INT(admission_deadline_ms(&queue), 31000);
    EXPECT_INT(admission_expire(&queue, 30999, on_expired, NULL), 0);
    EXPECT_INT(admission_expire(&queue, 31000, on_expired, NULL), 1);
    EXPECT(!admission_is_waiting(&t[0]));
    EXPECT_INT(admission_deadline_ms(&queue), 32000);
    /* One that ran and comes back keeps its time, and its place. */
    enter(&t[2], 2, ADMISSION_SYSTEM, 10, 20000);
    EXPECT(serve(20000) == &t[1]);
    EXPECT_INT(admission_enter(&queue, LANE, &t[1], 21000), 0);
    EXPECT_INT(admission_deadline_ms(&queue), 32000);
    EXPECT(admission_next(&queue, LANE, 21000) == &t[1]);
    admission_check(&queue);
    EXPECT_INT(admission_expire(&queue, 60000, on_expired, NULL), 2);
    EXPECT_INT(expired_count, 3);
    EXPECT_INT(queue.expired_total, 3);
    close_queue();
}

static void test_retry_after(void)
{
    static struct admission_ticket t[200], fresh;
    open_queue(512, 1 << 20);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_BULK, 0), 1);
    for (int i = 0; i < 200; i++)
        enter(&t[i], 1, i < 100 ? ADMISSION_INTERACTIVE : ADMISSION_BULK, 10, 1000);
    uint64_t now_ms = 1000;
    for (int i = 0; i < 50; i++)
        serve(now_ms += 80);
    /* 50 of the better class are left, 100 of the lower one; 0.08 s each. */
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_INTERACTIVE, now_ms), 4);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_BULK, now_ms), 12);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_SYSTEM, now_ms), 1);
    /* A stall is longer than the pace. */
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_INTERACTIVE, now_ms + 1000), 50);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_BULK, now_ms + 2000), 60);
    leave_all(t, 200);
    /* The pace survives an empty lane, and the time in which nobody waited isn't counted. */
    enter(&fresh, 1, ADMISSION_DEFAULT, 10, now_ms += 100000);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_BULK, now_ms), 1);
    serve(now_ms + 80);
    for (int i = 0; i < 20; i++)
        enter(&t[i], 1, ADMISSION_DEFAULT, 10, now_ms + 300);
    EXPECT_INT(admission_retry_after_s(&queue, LANE, ADMISSION_BULK, now_ms + 300), 2);
    leave_all(t, 20);
    close_queue();

    struct api_error error;
    admission_set_full(&error, 7);
    EXPECT_INT(error.status, 429);
    EXPECT_INT(error.retry_after_s, 7);
    EXPECT_STR(error.code, "rate_limit_exceeded");
    admission_set_expired(&error, 8);
    EXPECT_INT(error.status, 503);
    EXPECT_INT(error.retry_after_s, 8);
    EXPECT_STR(error.code, "queue_timeout");
}

static void test_class_names(void)
{
    enum admission_class class = ADMISSION_DEFAULT;
    EXPECT_INT(admission_class_parse(STR("bulk"), &class), 0);
    EXPECT_INT(class, ADMISSION_BULK);
    EXPECT_INT(admission_class_parse(STR("System"), &class), 0);
    EXPECT_INT(class, ADMISSION_SYSTEM);
    EXPECT_INT(admission_class_parse(STR("interactiv"), &class), E_INVALID);
    EXPECT_INT(admission_class_parse(STR(""), &class), E_INVALID);
}

/* ---- pumping ---- */

struct slots {
    int free;
    struct admission_ticket *blocked[2];
    struct admission_ticket *order[256];
    int count, tries;
};

static enum admission_try try_slot(void *arg, struct admission_ticket *t)
{
    struct slots *s = arg;
    s->tries++;
    if (s->free == 0) return ADMISSION_FULL;
    for (size_t i = 0; i < ARRAY_LEN(s->blocked); i++)
        if (s->blocked[i] == t) return ADMISSION_SKIP;
    admission_accept(&queue, t, 200);
    s->free--;
    s->order[s->count++] = t;
    memset(&t->link, 0xee, sizeof t->link); // as if its memory were gone
    return ADMISSION_STARTED;
}

static void test_pump(void)
{
    struct admission_ticket a[6], b[6];
    open_queue(64, 100000);
    struct slots s = {.free = 1};
    EXPECT_INT(admission_pump(&queue, 200, try_slot, &s), 0);
    for (int i = 0; i < 6; i++) {
        fill(&a[i], 1, ADMISSION_DEFAULT, 10);
        fill(&b[i], 1, ADMISSION_DEFAULT, 10);
        EXPECT_INT(admission_enter(&queue, STR("a"), &a[i], 100), 0);
        EXPECT_INT(admission_enter(&queue, STR("b"), &b[i], 100), 0);
    }
    /* One slot at a time: lanes take turns. */
    for (int i = 0; i < 4; i++) {
        s.free = 1;
        EXPECT_INT(admission_pump(&queue, 200, try_slot, &s), 1);
    }
    EXPECT(s.order[0] == &a[0] && s.order[1] == &b[0] && s.order[2] == &a[1] &&
           s.order[3] == &b[1]);
    /* Skipped ones keep their places. */
    s = (struct slots){.free = 2, .blocked = {&a[2], &b[2]}};
    EXPECT_INT(admission_pump(&queue, 200, try_slot, &s), 2);
    admission_check(&queue);
    EXPECT(admission_next(&queue, STR("a"), 200) == &a[2]);
    EXPECT(admission_next(&queue, STR("b"), 200) == &b[2]);
    s = (struct slots){.free = 100};
    EXPECT_INT(admission_pump(&queue, 200, try_slot, &s), 6);
    EXPECT_INT(s.tries, 6);
    EXPECT_INT(queue.busy_count, 0);
    close_queue();
}

static enum admission_try skip(void *arg, struct admission_ticket *t)
{
    (void)t;
    ++*(int *)arg;
    return ADMISSION_SKIP;
}

static void test_skipping_is_bounded(void)
{
    struct admission_ticket t[100];
    open_queue(128, 100000);
    for (int i = 0; i < 100; i++)
        enter(&t[i], (uint64_t)i % 7, (enum admission_class)(i % 4), 3000, 100);
    struct admission_ticket *head = admission_next(&queue, LANE, 100);
    int tries = 0;
    EXPECT_INT(admission_pump(&queue, 100, skip, &tries), 0);
    EXPECT_INT(tries, ADMISSION_SKIPS_MAX);
    admission_check(&queue);
    EXPECT(admission_next(&queue, LANE, 100)->tenant == head->tenant);
    leave_all(t, 100);
    close_queue();
}

/* Names come from requests: empty lanes are bounded. */
static void test_lanes_are_bounded(void)
{
    open_queue(8, 1000);
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%d", i);
        struct admission_ticket t;
        fill(&t, 1, ADMISSION_DEFAULT, 10);
        EXPECT_INT(admission_enter(&queue, str_of(name), &t, 100), 0);
        admission_leave(&queue, &t);
        admission_check(&queue);
    }
    EXPECT_INT(queue.lanes.len, ADMISSION_IDLE_LANES);
    close_queue();
}

/* ---- against a model that keeps a plain list ---- */

#define MODEL_MAX 48

struct model {
    struct admission_ticket t[MODEL_MAX];
    bool waits[MODEL_MAX];
    uint64_t arrival[MODEL_MAX];
    int lane[MODEL_MAX];
    int64_t count, bytes;
};

static const struct str lane_names[] = {{"a", 1}, {"b", 1}, {"", 0}};

/* The head must be the first arrival of its tenant, class and lane; and of the best class that
 * waits unless its own is overdue. */
static void check_head(const struct model *m, const struct admission_ticket *head, int lane,
                       uint64_t now_ms)
{
    int at = (int)(head - m->t);
    EXPECT(m->waits[at] && m->lane[at] == lane);
    bool overdue = false, better = false;
    for (int i = 0; i < MODEL_MAX; i++) {
        if (!m->waits[i] || m->lane[i] != lane) continue;
        if (m->t[i].class < head->class) better = true;
        if (m->t[i].class != head->class) continue;
        if (m->t[i].since_ms + 5000 <= now_ms) overdue = true;
        if (m->t[i].tenant == head->tenant) EXPECT(m->arrival[i] >= m->arrival[at]);
    }
    EXPECT(!better || overdue);
}

static void model_enter(struct model *m, struct rng *rng, int i, uint64_t now_ms)
{
    static uint64_t arrivals;
    struct admission_ticket *t = &m->t[i];
    fill(t, rng_below(rng, 4), (enum admission_class)rng_below(rng, 4), rng_below(rng, 9000));
    t->bytes = rng_below(rng, 300);
    int lane = (int)rng_below(rng, 3);
    evicted_count = 0;
    int rc = admission_enter(&queue, lane_names[lane], t, now_ms);
    if (evicted_count > 0) {
        EXPECT_INT(evicted_count, 1);
        int out = (int)(evicted[0] - m->t);
        EXPECT(m->waits[out] && m->t[out].class >= t->class);
        m->waits[out] = false;
        m->count--;
        m->bytes -= m->t[out].bytes;
        EXPECT_INT(rc, 0);
    }
    if (rc == 0) {
        m->waits[i] = true;
        m->lane[i] = lane;
        m->arrival[i] = ++arrivals;
        m->count++;
        m->bytes += t->bytes;
        EXPECT(m->count <= 32 && m->bytes <= 4000);
    } else {
        EXPECT_INT(rc, E_LIMIT);
        EXPECT(m->count == 32 || m->bytes + t->bytes > 4000);
    }
}

static void model_drop(struct model *m, int i)
{
    EXPECT(m->waits[i]);
    m->waits[i] = false;
    m->count--;
    m->bytes -= m->t[i].bytes;
}

static void on_model_expired(void *arg, struct admission_ticket *t)
{
    model_drop(arg, (int)(t - ((struct model *)arg)->t));
}

static void test_random_walks(void)
{
    static struct model m;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct rng rng;
        rng_init(&rng, seed);
        open_queue(32, 4000);
        m = (struct model){.count = 0};
        uint64_t now_ms = 1000;
        for (int step = 0; step < 5000; step++) {
            int i = (int)rng_below(&rng, MODEL_MAX);
            now_ms += rng_below(&rng, 400);
            switch (rng_below(&rng, 5)) {
            case 0:
            case 1:
                if (!m.waits[i]) model_enter(&m, &rng, i, now_ms);
                break;
            case 2:
                admission_leave(&queue, &m.t[i]);
                if (m.waits[i]) model_drop(&m, i);
                break;
            case 3: {
                int lane = (int)rng_below(&rng, 3);
                struct admission_ticket *t = admission_next(&queue, lane_names[lane], now_ms);
                if (!t) break;
                check_head(&m, t, lane, now_ms);
                admission_accept(&queue, t, now_ms);
                model_drop(&m, (int)(t - m.t));
                break;
            }
            case 4:
                admission_expire(&queue, now_ms, on_model_expired, &m);
                break;
            }
            admission_check(&queue);
            EXPECT_INT(queue.count, m.count);
            EXPECT_INT(atomic_load(&shared.bytes), m.bytes);
        }
        leave_all(m.t, MODEL_MAX);
        close_queue();
    }
}

int main(void)
{
    RUN(test_one_after_the_other);
    RUN(test_classes_are_strict);
    RUN(test_tenants_share_tokens);
    RUN(test_newcomer_waits_a_round_only);
    RUN(test_nobody_saves);
    RUN(test_bulk_does_not_starve);
    RUN(test_all_lower_classes_get_on);
    RUN(test_bounds);
    RUN(test_bounds_are_shared);
    RUN(test_full_queue_is_shared_out);
    RUN(test_nobody_is_pushed_out_in_vain);
    RUN(test_time);
    RUN(test_retry_after);
    RUN(test_class_names);
    RUN(test_pump);
    RUN(test_skipping_is_bounded);
    RUN(test_lanes_are_bounded);
    RUN(test_random_walks);
    return TEST_END();
}
