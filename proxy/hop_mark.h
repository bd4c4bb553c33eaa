/* hop_mark.h - one mark line, read. Keys that aren't known are passed over. Pure. */
#ifndef LM_PROXY_HOP_MARK_H
#define LM_PROXY_HOP_MARK_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/str.h"

struct hop_mark {
    bool has_seed, has_ids, has_bytes, has_phase, has_usage;
    uint64_t seed, bytes, phase;
    int64_t now_s, created_s;
    uint64_t rope;  // 0: not said
    struct str id;  // borrowed from the line
    struct str ids; // "1,2,3", or empty
    uint64_t prompt, completion, cached;
};

/* line: what stands between ": lm " and "\n". False: not a mark's shape. */
bool hop_mark_parse(struct str line, struct hop_mark *out);

/* The next of mark.ids, cut off its front. False: there is none left, or *is_bad says it is none. */
bool hop_mark_next_id(struct str *ids, uint32_t *id, bool *is_bad);

#endif
