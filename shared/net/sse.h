/* sse.h - server-sent events (WHATWG HTML 9.2): writer and incremental parser. */
#ifndef LM_NET_SSE_H
#define LM_NET_SSE_H

#include "shared/base/buf.h"

void sse_write_data(struct buf *out, struct str data);    // "data: ...\n\n"; data has no line break
void sse_write_comment(struct buf *out, struct str text); // ": text\n\n"

/* Feed bytes as they come; on_data gets each event's joined data lines. Other fields are ignored.
 */
struct sse_parser {
    struct buf line, data;
    bool skip_lf; // last byte was a CR
    bool failed;  // an event outgrew the limit
    void (*on_data)(void *arg, struct str data);
    void *arg;
};
void sse_parser_init(struct sse_parser *p, size_t event_max, void (*on_data)(void *, struct str),
                     void *arg);
void sse_parser_deinit(struct sse_parser *p);
FALLIBLE int sse_parser_feed(struct sse_parser *p, const char *data, size_t len); // E_LIMIT

#endif
