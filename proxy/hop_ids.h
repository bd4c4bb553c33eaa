/* hop_ids.h - the ids of the tokens that a stream has had so far, packed, and the budget that all
 * streams of a process share for what they keep to be resumable.
 *
 * Ids are LEB128 varints: frequent tokens have low ids, so an id takes 2 bytes where differences
 * between neighbours would take 3. The end is open: ids are pushed as they are announced, and only
 * committed once the text that they stand for has gone to the client. */
#ifndef LM_PROXY_HOP_IDS_H
#define LM_PROXY_HOP_IDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

/* Zeroed but for `max`. Any thread. Also for the request bytes that a resumable stream keeps. */
struct hop_budget {
    _Atomic uint64_t used;    // bytes
    _Atomic uint64_t refused; // takes that didn't fit
    uint64_t max;
};

bool hop_budget_take(struct hop_budget *b, uint64_t bytes); // false: not within max; counted
void hop_budget_give(struct hop_budget *b, uint64_t bytes);

struct hop_ids {
    unsigned char *bytes; // owned; its cap is taken from the budget
    uint32_t len, cap;
    uint32_t committed_len, committed_count;
    uint32_t count;
};

void hop_ids_free(struct hop_ids *ids, struct hop_budget *budget); // empty again
/* False: the budget refused, or the ids outgrew 4 GiB. */
bool hop_ids_push(struct hop_ids *ids, struct hop_budget *budget, uint32_t id);
void hop_ids_commit(struct hop_ids *ids);   // all that were pushed
void hop_ids_rollback(struct hop_ids *ids); // to those committed
/* "1,2,3": those committed. */
void hop_ids_print(const struct hop_ids *ids, struct buf *out);

#endif
