/* request_gate.h - --max-concurrent-requests: how many requests for text are answered at once. Those
 * beyond wait here, unread, in the order in which they came, and count against --queue-max like those
 * that the engine lets wait. Loop thread only.
 *
 * A request is answered from when it is let in until its last byte is out, whatever it takes of the
 * batch: one with several choices takes several of --max-batch-size. */
#ifndef LM_AGENT_REQUEST_GATE_H
#define LM_AGENT_REQUEST_GATE_H

#include <uv.h>

#include "agent/abort_target.h"
#include "agent/completion.h"

typedef void request_gate_start(void *arg, struct http_exchange *x);

struct request_gate {
    struct completion_service *service; // counts what is answered
    int max;                            // 0: no bound, nobody waits here
    int waiting_max;
    struct list waiting; // of struct request_gate_ticket
    int waiting_count;
    uv_timer_t pump; // somebody has left: in the loop's next turn the next one begins
};

/* Takes over the service's on_leave. */
void request_gate_init(struct request_gate *g, uv_loop_t *loop, struct completion_service *s,
                       int max, int waiting_max);
void request_gate_close(struct request_gate *g); // nobody waits any more; closes its handle

/* Calls start(arg, x), now or later; or answers 429, 503 (--request-timeout), or nothing if the client
 * leaves while it waits. */
void request_gate_enter(struct request_gate *g, struct http_exchange *x, request_gate_start *start,
                        void *arg);
/* Regularly: whoever has waited for --request-timeout is answered. */
void request_gate_tick(struct request_gate *g);
/* The service drains: those who wait are sent to another agent. */
void request_gate_refuse_all(struct request_gate *g);
/* The number of those that wait and are meant: answered with 499. */
int request_gate_abort(struct request_gate *g, const struct abort_target *target);

#endif
