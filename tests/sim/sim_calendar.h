/* sim_calendar.h - the simulator's events in the order of their time: a wheel of one-millisecond
 * buckets, each a list, and a heap for the bucket that is open. Adding and taking cost the same
 * with ten events as with a million. Events of one microsecond come in the order of their slots, so
 * the same run gives the same order. */
#ifndef LM_SIM_CALENDAR_H
#define LM_SIM_CALENDAR_H

#include "shared/base/min_heap.h"

#include <stdbool.h>
#include <stdint.h>

#define SIM_BUCKET_SHIFT 10                            // a bucket is 1,024 us
#define SIM_BUCKETS      (1u << 20)                    // the wheel: 1,073 s
#define SIM_HORIZON_US   (1000ull * 1000ull * 1000ull) // no event may lie further ahead

struct sim_event {
    uint64_t time_us;
    uint32_t next; // slot of the next one in the bucket or in the free list
    uint32_t subject;
    uint32_t stamp; // the owner's: an event whose stamp is old is nobody's
    uint32_t kind;  // enum of the run
};

struct sim_calendar {
    uint64_t now_us;
    uint64_t bucket; // number of the open one: its events are in `open`
    uint32_t *heads; // SIM_BUCKETS slots, 0: empty
    struct sim_event *events;
    uint32_t used, capacity, free_head; // slot 0 is never used
    struct min_heap open;               // time << 24 | slot
    uint32_t open_capacity;
    uint64_t pending;
};

void sim_calendar_init(struct sim_calendar *c);
void sim_calendar_deinit(struct sim_calendar *c);
/* time_us: not before now, within SIM_HORIZON_US. */
void sim_calendar_add(struct sim_calendar *c, uint64_t time_us, uint32_t kind, uint32_t subject,
                      uint32_t stamp);
/* The next event, and its time becomes now. False: there is none. */
bool sim_calendar_take(struct sim_calendar *c, struct sim_event *out);

#endif
