#include "tests/sim/sim_request.h"

#include "shared/base/check.h"

#include <stdlib.h>

void sim_requests_init(struct sim_requests *r)
{
    *r = (struct sim_requests){.used = 1};
}

void sim_requests_deinit(struct sim_requests *r)
{
    for (uint32_t i = 0; i < r->chunk_count; i++)
        free(r->chunks[i]);
    free(r->chunks);
    *r = (struct sim_requests){0};
}

uint32_t sim_request_take(struct sim_requests *r)
{
    uint32_t slot = r->free_head;
    if (slot) {
        r->free_head = sim_request_at(r, slot)->next;
    } else {
        slot = r->used++;
        if (slot >> SIM_CHUNK_SHIFT >= r->chunk_count) {
            r->chunks = xrealloc_array(r->chunks, r->chunk_count + 1, sizeof *r->chunks);
            r->chunks[r->chunk_count++] = xmalloc(sizeof(struct sim_request) << SIM_CHUNK_SHIFT);
        }
    }
    *sim_request_at(r, slot) = (struct sim_request){.state = SIM_REQUEST_FREE};
    r->live++;
    return slot;
}

void sim_request_give(struct sim_requests *r, uint32_t slot)
{
    struct sim_request *q = sim_request_at(r, slot);
    CHECK(!q->entry.cell && r->live > 0);
    q->state = SIM_REQUEST_FREE;
    q->next = r->free_head;
    r->free_head = slot;
    r->live--;
}

void sim_fifo_push(struct sim_fifo *q, struct sim_requests *r, uint32_t slot)
{
    sim_request_at(r, slot)->next = 0;
    if (q->last) {
        sim_request_at(r, q->last)->next = slot;
    } else {
        q->first = slot;
    }
    q->last = slot;
    q->count++;
}

uint32_t sim_fifo_pop(struct sim_fifo *q, struct sim_requests *r)
{
    uint32_t slot = q->first;
    if (!slot) return 0;
    q->first = sim_request_at(r, slot)->next;
    if (!q->first) q->last = 0;
    q->count--;
    return slot;
}
