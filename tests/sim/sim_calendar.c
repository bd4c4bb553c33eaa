#include "tests/sim/sim_calendar.h"

#include "shared/base/check.h"

#include <stdlib.h>

#define SLOT_BITS 24

void sim_calendar_init(struct sim_calendar *c)
{
    *c = (struct sim_calendar){.heads = xcalloc(SIM_BUCKETS, sizeof *c->heads),
                               .used = 1,
                               .capacity = 4096,
                               .open_capacity = 4096};
    c->events = xmalloc(c->capacity * sizeof *c->events);
    c->open.keys = xmalloc(c->open_capacity * sizeof *c->open.keys);
}

void sim_calendar_deinit(struct sim_calendar *c)
{
    free(c->heads);
    free(c->events);
    free(c->open.keys);
    *c = (struct sim_calendar){0};
}

static uint32_t slot_take(struct sim_calendar *c)
{
    uint32_t slot = c->free_head;
    if (slot) {
        c->free_head = c->events[slot].next;
        return slot;
    }
    if (c->used == c->capacity) {
        c->capacity *= 2;
        CHECK(c->capacity <= 1u << SLOT_BITS);
        c->events = xrealloc_array(c->events, c->capacity, sizeof *c->events);
    }
    return c->used++;
}

static void open_push(struct sim_calendar *c, uint32_t slot)
{
    if (c->open.count == c->open_capacity) {
        c->open_capacity *= 2;
        c->open.keys = xrealloc_array(c->open.keys, c->open_capacity, sizeof *c->open.keys);
    }
    min_heap_push(&c->open, c->events[slot].time_us << SLOT_BITS | slot);
}

void sim_calendar_add(struct sim_calendar *c, uint64_t time_us, uint32_t kind, uint32_t subject,
                      uint32_t stamp)
{
    CHECK(time_us >= c->now_us && time_us - c->now_us <= SIM_HORIZON_US);
    uint32_t slot = slot_take(c);
    c->events[slot] =
        (struct sim_event){.time_us = time_us, .kind = kind, .subject = subject, .stamp = stamp};
    c->pending++;
    uint64_t bucket = time_us >> SIM_BUCKET_SHIFT;
    if (bucket <= c->bucket) {
        open_push(c, slot);
        return;
    }
    uint32_t *head = &c->heads[bucket & (SIM_BUCKETS - 1)];
    c->events[slot].next = *head;
    *head = slot;
}

bool sim_calendar_take(struct sim_calendar *c, struct sim_event *out)
{
    if (c->pending == 0) return false;
    while (c->open.count == 0) {
        uint32_t *head = &c->heads[++c->bucket & (SIM_BUCKETS - 1)];
        for (uint32_t slot = *head; slot; slot = c->events[slot].next)
            open_push(c, slot);
        *head = 0;
    }
    uint32_t slot = (uint32_t)min_heap_pop(&c->open) & ((1u << SLOT_BITS) - 1);
    *out = c->events[slot];
    c->events[slot].next = c->free_head;
    c->free_head = slot;
    c->pending--;
    c->now_us = out->time_us;
    return true;
}
