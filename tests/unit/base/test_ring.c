#include "shared/base/ring.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>

static void test_order_full_empty(void)
{
    struct ring r;
    ring_init(&r, 4, sizeof(int));
    int out = -1;
    EXPECT(!ring_pop(&r, &out));
    for (int lap = 0; lap < 100; lap++) {
        for (int i = 0; i < 4; i++) {
            int value = lap * 4 + i;
            EXPECT(ring_push(&r, &value));
            EXPECT_INT(ring_len(&r), i + 1);
        }
        int extra = 99;
        EXPECT(!ring_push(&r, &extra));
        for (int i = 0; i < 4; i++) {
            EXPECT(ring_pop(&r, &out));
            EXPECT_INT(out, lap * 4 + i);
        }
        EXPECT(!ring_pop(&r, &out));
        EXPECT_INT(ring_len(&r), 0);
    }
    ring_deinit(&r);
    ring_deinit(&r);
}

static void test_capacity_rounds_up_and_sizes_vary(void)
{
    for (size_t capacity = 1; capacity <= 9; capacity++) {
        for (size_t size = 1; size <= 40; size += 13) {
            struct ring r;
            unsigned char element[64], out[64];
            ring_init(&r, capacity, size);
            size_t pushed = 0;
            for (; pushed < 99; pushed++) {
                memset(element, (int)pushed + 1, size);
                if (!ring_push(&r, element)) break;
            }
            size_t want = 2;
            while (want < capacity)
                want *= 2;
            EXPECT_INT(pushed, want);
            for (size_t i = 0; i < pushed; i++) {
                memset(element, (int)i + 1, size);
                EXPECT(ring_pop(&r, out) && memcmp(out, element, size) == 0);
            }
            ring_deinit(&r);
        }
    }
}

enum { PRODUCERS = 4, PER_PRODUCER = 40000 };

struct message {
    uint32_t producer;
    uint32_t number;
    uint64_t check; // a torn element would not carry it
};

struct producer {
    pthread_t thread;
    struct ring *ring;
    uint32_t id;
};

static uint64_t check_of(uint32_t producer, uint32_t number)
{
    return ((uint64_t)producer << 32 | number) * 0x9e3779b97f4a7c15ull;
}

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (uint32_t i = 0; i < PER_PRODUCER; i++) {
        struct message m = {p->id, i, check_of(p->id, i)};
        while (!ring_push(p->ring, &m))
            sched_yield();
    }
    return NULL;
}

/* Everything arrives once, and each producer's elements in its order. */
static void test_many_producers(void)
{
    struct ring ring;
    struct producer producers[PRODUCERS];
    uint32_t next[PRODUCERS] = {0};
    ring_init(&ring, 64, sizeof(struct message));
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.ring = &ring, .id = i};
        NEED(pthread_create(&producers[i].thread, NULL, produce, &producers[i]) == 0);
    }
    for (size_t received = 0; received < (size_t)PRODUCERS * PER_PRODUCER;) {
        struct message m;
        if (!ring_pop(&ring, &m)) {
            sched_yield();
            continue;
        }
        NEED(m.producer < PRODUCERS);
        NEED(m.check == check_of(m.producer, m.number));
        NEED(m.number == next[m.producer]);
        next[m.producer]++;
        received++;
        NEED(ring_len(&ring) <= 64);
    }
    struct message none;
    EXPECT(!ring_pop(&ring, &none));
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
        EXPECT_INT(next[i], PER_PRODUCER);
    }
    ring_deinit(&ring);
}

int main(void)
{
    RUN(test_order_full_empty);
    RUN(test_capacity_rounds_up_and_sizes_vary);
    RUN(test_many_producers);
    return TEST_END();
}
