/* trace.h - the trace that a request belongs to (W3C Trace Context, level 1): the header
 * traceparent, 00-<trace, 32 hex>-<parent, 16 hex>-<flags, 2 hex>.
 *
 * The proxy records no spans of its own, so it passes a client's header on as it came and doesn't
 * stand in between. Where there is none, or one that the standard tells to discard, it begins a
 * trace, whose id agents and the access log then share. */
#ifndef LM_NET_TRACE_H
#define LM_NET_TRACE_H

#include <stdbool.h>

#include "shared/base/arena.h"
#include "shared/net/http_message.h"

struct trace {
    struct str id;     // 32 hexadecimal digits; data NULL: no trace
    struct str parent; // traceparent of our own make; data NULL: the client's passes
    bool is_discarded; // the client's traceparent and tracestate don't
};

/* From a request's headers; begins: make one where the client has none. Texts are the header's, or
 * the arena's. */
struct trace trace_of(struct arena *arena, const struct http_headers *headers, bool begins);

/* The trace id inside a traceparent; data NULL: the header is malformed. Versions above 00 may have
 * more behind the flags. */
struct str trace_parse(struct str traceparent);

#endif
