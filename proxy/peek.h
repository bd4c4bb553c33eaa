/* peek.h - what a router must know of a request body: found in one pass over the raw bytes, without
 * building a tree. The same pass decides whether the body is JSON at all (RFC 8259, valid UTF-8, no
 * \u0000, at most 64 levels), so that no agent is bothered with what it would refuse anyway. The
 * body itself is forwarded as it came. Any thread. */
#ifndef LM_PROXY_PEEK_H
#define LM_PROXY_PEEK_H

#include <stdbool.h>

#include "shared/base/arena.h"
#include "shared/base/str.h"
#include "shared/net/api_error.h"

struct peek {
    struct str model; // decoded; points into the body, or into the arena if it held escapes
    bool stream;      // "stream" is true; other types are the agent's to refuse
};

/* 0, or -1 with *error: a 4xx that names the fault. `model` is required. */
FALLIBLE int peek_body(struct arena *a, struct str body, struct peek *out, struct api_error *error);

#endif
