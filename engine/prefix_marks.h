/* prefix_marks.h - which marks of prompts (struct engine_mark) can be found in the prefix cache, as
 * events from the engine thread to one consumer. Bounded: what doesn't fit is counted as lost, and
 * the consumer then forgets all that it knows. */
#ifndef LM_ENGINE_PREFIX_MARKS_H
#define LM_ENGINE_PREFIX_MARKS_H

#include "engine/engine.h"
#include "shared/base/ring.h"

#define PREFIX_MARK_EVENTS 16384

struct prefix_marks {
    struct ring events;
    atomic_ullong lost;
};

void prefix_marks_init(struct prefix_marks *m, size_t events);
void prefix_marks_deinit(struct prefix_marks *m);

/* Engine thread: the blocks up to `block`, its identity, hold what the mark covers; then: that block
 * can't be found any more. */
void prefix_marks_live(struct prefix_marks *m, const struct engine_mark *mark, uint64_t block);
void prefix_marks_gone(struct prefix_marks *m, uint64_t block);

/* The consumer: see engine_next_mark_event and engine_lost_mark_events. */
bool prefix_marks_take(struct prefix_marks *m, struct engine_mark_event *event);
uint64_t prefix_marks_lost(const struct prefix_marks *m);

#endif
