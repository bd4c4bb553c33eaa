/* hop_stream.h - a stream on its way from an agent of ours to the client: takes the marks out,
 * passes whole events on and remembers what another agent needs to go on with it.
 *
 * Marks are lines `: lm KEY=VALUE ...\n` directly before an event (server-sent events) or a line
 * (NDJSON); docs/api.md has their keys. Exactly those lines are taken out, every other byte
 * passes unchanged. A mark tells how things stand once the next event is out, so it is committed when
 * that event has been passed on whole. An event that came in part is held back; when its agent dies
 * the part is thrown away and the client's stream stands between two events. Beyond HOP_HELD_MAX the
 * part is passed on, and the stream isn't resumable until that event is complete.
 *
 * Pure: no clock, no I/O. One thread at a time. Memory: this struct, 2 to 3 bytes for a token, and the
 * torn event while there is one. */
#ifndef LM_PROXY_HOP_STREAM_H
#define LM_PROXY_HOP_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/hop_ids.h"
#include "shared/base/buf.h"

#define HOP_HELD_MAX ((uint32_t)64 << 10)
#define HOP_ID_MAX   63 // characters of the answer's id

enum hop_framing { HOP_SSE, HOP_NDJSON };

/* What the client has had, as marks number it. */
enum hop_phase { HOP_NOTHING, HOP_BEGUN, HOP_FINISHED, HOP_USAGE, HOP_COMPLETE };

struct hop_usage {
    int64_t prompt, completion, cached; // tokens
};

/* Of one point of the stream, between two events. */
struct hop_point {
    uint64_t bytes; // of the answer's text
    enum hop_phase phase;
};

/* Private: see the functions. */
struct hop_stream {
    struct hop_budget *budget; // borrowed
    enum hop_framing framing;
    uint8_t state;      // enum hop_state
    uint8_t prefix_len; // of ": lm ", seen at the end of a chunk
    bool at_line_start, after_cr, has_field, is_marked;
    bool has_seed, has_usage, is_broken, is_over_budget, has_passed;
    char *held; // owned; NULL when nothing is held
    uint32_t held_len, held_cap;
    struct hop_point committed, announced;
    struct hop_ids ids;
    uint64_t seed;
    int64_t now_s, created_s;
    uint32_t rope; // 0: not said
    struct hop_usage usage;
    char id[HOP_ID_MAX + 1];
};

/* Bytes for the client; borrowed. Must not feed or deinit the stream. */
typedef void hop_stream_on_bytes(void *arg, const char *data, size_t len);

void hop_stream_init(struct hop_stream *h, enum hop_framing framing, struct hop_budget *budget);
void hop_stream_deinit(struct hop_stream *h); // zeroed is fine

/* on_bytes is called with what the client may have now, in order: for most chunks once. */
void hop_stream_feed(struct hop_stream *h, const char *data, size_t len,
                     hop_stream_on_bytes *on_bytes, void *arg);
/* The agent has ended the stream properly: what is held goes out as it is. */
void hop_stream_end(struct hop_stream *h, hop_stream_on_bytes *on_bytes, void *arg);
/* The agent was lost: forget what is held and what isn't committed. The next bytes fed are those of
 * the agent that resumes the stream. */
void hop_stream_restart(struct hop_stream *h);

/* Another agent could go on, if the agent's response head had x-lm-resumable: the stream stands
 * between two events (after hop_stream_restart) and all that was passed on is accounted for. */
bool hop_stream_can_resume(const struct hop_stream *h);
/* Nothing was passed on yet: the request can be sent elsewhere as if it were new (on a new
 * hop_stream). */
bool hop_stream_is_untouched(const struct hop_stream *h);
/* The client has had the last event: an agent lost now doesn't matter. */
bool hop_stream_is_complete(const struct hop_stream *h);
/* Not resumable because the budget was used up. */
bool hop_stream_is_over_budget(const struct hop_stream *h);

/* The record of x-lm-resume, as JSON; only if hop_stream_can_resume(). */
void hop_stream_print_resume(const struct hop_stream *h, struct buf *out);
/* Token counts of the whole answer; NULL until the agent has told them. */
const struct hop_usage *hop_stream_usage(const struct hop_stream *h);
uint32_t hop_stream_token_count(const struct hop_stream *h); // committed ones

#endif
