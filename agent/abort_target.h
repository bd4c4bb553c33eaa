/* abort_target.h - which of the requests that live POST /abort_request means:
 *
 *     {"request_id": "chatcmpl-..."}   the id of an answer, or its x-request-id
 *     {"session_id": 7}                LMDeploy's: what was sent with that session_id
 *     {"abort_all": true}
 */
#ifndef LM_AGENT_ABORT_TARGET_H
#define LM_AGENT_ABORT_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/arena.h"
#include "shared/net/api_error.h"

struct abort_target {
    bool all;
    int64_t session_id; // -1: none
    struct str id;      // data NULL: none
    bool is_bound;      // to the requests of `tenant`
    uint64_t tenant;    // as of peer_tenant()
};

/* What is known of a request that lives. */
struct abort_candidate {
    uint64_t tenant;
    int64_t session_id; // -1: none, or not read yet
    struct str id;      // of the answer
    struct str request_id;
};

bool abort_target_matches(const struct abort_target *target,
                          const struct abort_candidate *candidate);
/* Reads a body; 0, or -1 and *e. target->id points into the arena. */
FALLIBLE int abort_target_parse(struct str body, struct arena *arena, struct abort_target *target,
                                struct api_error *e);

#endif
