/* wait_queue.h - which of the waiting requests is next: by class, and within a class fairly over
 * tenants. Only bookkeeping, no clock; engine thread only. Rules at the head of wait_queue.c. */
#ifndef LM_ENGINE_WAIT_QUEUE_H
#define LM_ENGINE_WAIT_QUEUE_H

#include "engine/request.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"

struct wait_queue {
    struct list requests; // of struct request.link: all, by arrival
    struct list classes;  // of struct wait_class, by priority
    struct hash_map tenants;
    struct request *next; // what peek chose; NULL: choose again
    int count;
    uint64_t arrivals, admissions;
};

void wait_queue_init(struct wait_queue *q);
void wait_queue_deinit(struct wait_queue *q); // CHECKs that it is empty

/* Reads r->priority and r->tenant, sets r->arrival. r->link is the queue's until
 * wait_queue_remove. */
void wait_queue_push(struct wait_queue *q, struct request *r);

/* Whose turn it is; NULL: the queue is empty. The same one until it is removed or a request of a
 * lower priority number comes. */
struct request *wait_queue_peek(struct wait_queue *q);

/* The one that peek gave goes before a better class, because others wait too long. */
bool wait_queue_is_overdue(const struct wait_queue *q);

/* The one that peek gave runs now, and its tenant pays `tokens` for it: what of its prompt must be
 * computed. */
void wait_queue_admit(struct wait_queue *q, struct request *r, int64_t tokens);

/* Any of them leaves without having run: cancelled, or its deadline is over. */
void wait_queue_remove(struct wait_queue *q, struct request *r);

/* A tenant pays for what its admitted requests use later: generated tokens. */
void wait_queue_charge(struct wait_queue *q, uint64_t tenant, int64_t tokens);

/* CHECKs that counts and lists agree. O(requests). */
void wait_queue_check(const struct wait_queue *q);

#endif
