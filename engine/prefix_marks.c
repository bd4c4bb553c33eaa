#include "engine/prefix_marks.h"

void prefix_marks_init(struct prefix_marks *m, size_t events)
{
    ring_init(&m->events, events, sizeof(struct engine_mark_event));
    atomic_init(&m->lost, 0);
}

void prefix_marks_deinit(struct prefix_marks *m)
{
    ring_deinit(&m->events);
}

static void push(struct prefix_marks *m, const struct engine_mark_event *event)
{
    if (!ring_push(&m->events, event)) atomic_fetch_add(&m->lost, 1);
}

void prefix_marks_live(struct prefix_marks *m, const struct engine_mark *mark, uint64_t block)
{
    push(m, &(struct engine_mark_event){.mark = *mark, .block = block, .is_live = true});
}

void prefix_marks_gone(struct prefix_marks *m, uint64_t block)
{
    push(m, &(struct engine_mark_event){.block = block});
}

bool prefix_marks_take(struct prefix_marks *m, struct engine_mark_event *event)
{
    return ring_pop(&m->events, event);
}

uint64_t prefix_marks_lost(const struct prefix_marks *m)
{
    return atomic_load(&m->lost);
}
