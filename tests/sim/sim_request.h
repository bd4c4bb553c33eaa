/* sim_request.h - a client's request on its way through proxy and agent. Requests live in chunks
 * that never move, since ledger entries inside them are linked; slot 0 is never used. */
#ifndef LM_SIM_REQUEST_H
#define LM_SIM_REQUEST_H

#include "proxy/ledger.h"
#include "proxy/route.h"

#define SIM_CHUNK_SHIFT 10

enum sim_request_state {
    SIM_REQUEST_FREE,
    SIM_REQUEST_QUEUED,     // at the proxy: all agents are full
    SIM_REQUEST_SENT,       // on the wire
    SIM_REQUEST_WAITING,    // at the agent, not in its batch
    SIM_REQUEST_PREFILLING, // in the batch, its prompt is being computed
    SIM_REQUEST_DECODING,
};

struct sim_request {
    enum sim_request_state state;
    uint32_t session;
    uint32_t next; // in the queue it stands in, or in the free list
    uint16_t turn;
    uint16_t agent;
    uint8_t proxy, attempts;
    bool is_counted;   // began within the time that is measured
    bool must_run;     // its stream has begun: it is resumed, not failed
    uint32_t prompt;   // tokens, those of a broken answer among them
    uint32_t answer;   // tokens still to come at this agent
    uint32_t emitted;  // tokens that earlier agents have sent
    uint32_t left;     // prompt tokens not computed yet
    uint32_t cached;   // prompt tokens found when it was admitted
    double expected;   // cached tokens that the proxy expected
    uint64_t begun_us; // the client sent it
    uint64_t sent_us;  // the proxy sent it on, the last time
    uint64_t first_us; // first token; 0: none yet
    uint64_t counter;  // of its dispatch
    struct route_excluded excluded;
    struct ledger_entry entry;
};

struct sim_requests {
    struct sim_request **chunks;
    uint32_t chunk_count, used, free_head, live;
};

static inline struct sim_request *sim_request_at(const struct sim_requests *r, uint32_t slot)
{
    return &r->chunks[slot >> SIM_CHUNK_SHIFT][slot & ((1u << SIM_CHUNK_SHIFT) - 1)];
}

void sim_requests_init(struct sim_requests *r);
void sim_requests_deinit(struct sim_requests *r);
uint32_t sim_request_take(struct sim_requests *r); // zeroed
void sim_request_give(struct sim_requests *r, uint32_t slot);

/* A queue of slots, linked by `next`. */
struct sim_fifo {
    uint32_t first, last, count;
};

void sim_fifo_push(struct sim_fifo *q, struct sim_requests *r, uint32_t slot);
uint32_t sim_fifo_pop(struct sim_fifo *q, struct sim_requests *r); // 0: it is empty

#endif
