/* agent_record.h - what an agent says about itself, to Redis and to POST /nodes/add; both sides.
 *
 * Redis (prefix lm:, protocol version 1):
 * - lm:agent:<id>  JSON facts, PX 3500, written every 1 s by one Lua script that is registration
 *   and heartbeat in one; fenced by (start, incarnation): an older process with the same id can't
 *   overwrite a newer one, a live duplicate is refused
 * - lm:load:<id>  JSON load, PX 3500, every 250 ms
 * - lm:agents  sorted set id -> expiry in ms by Redis' own clock
 * - lm:ev  channel: hints "up <id>", "down <id>"; never the only source
 *
 * HTTP: {"url":..., "status":{"models":[...]}, "lm":{facts and load}}: LMDeploy's body plus ours;
 * with `lm` it is a 3.5 s lease, without it a foreign node that stays until removed. Unknown
 * members are ignored, so either side may be newer. */
#ifndef LM_NET_AGENT_RECORD_H
#define LM_NET_AGENT_RECORD_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/json.h"

#define AGENT_LEASE_MS   3500
#define AGENT_BEAT_MS    1000
#define AGENT_LOAD_MS    250
#define AGENT_MODELS_MAX 64
#define AGENT_ID_BYTES   64
#define AGENT_URL_BYTES  256
#define AGENT_SEEN_MAX   64  // proxies in a report
#define AGENT_SEEN_GAPS  32  // gaps of one of them; older ones count as accepted
#define AGENT_GAPS_MAX   256 // gaps in a report; likewise

/* What a report says of one proxy's requests to the agent, which it numbers from 1 for each agent.
 * Accepted is what the report's numbers count, or what is over: 1 .. high without the gaps. Members
 * of the JSON object "proxies", by the proxy's 16 hexadecimal digits:
 * {"high":H,"gaps":[n,...],"active":k}. */
struct agent_seen {
    uint64_t proxy; // random per process, not 0
    uint64_t high;
    int active;               // of its requests, those in running + waiting
    int first_gap, gap_count; // in agent_load.gaps
};

struct agent_load {
    int running, waiting;
    int64_t prefill_tokens_waiting; // uncached prompt tokens not computed yet
    double kv_used_share;           // 0..1, blocks of active sequences
    double prefill_tokens_per_s;    // 0: unknown
    double inter_token_s;           // 0: unknown
    double inter_token_slope_s;     // what one more running sequence adds to it; 0: unknown
    uint64_t prefix_version;        // of GET /lm/prefixes; 0: not offered
    uint64_t sequence;              // grows with every report of an incarnation
    struct agent_seen seen[AGENT_SEEN_MAX];
    int seen_count;
    uint64_t gaps[AGENT_GAPS_MAX]; // of all proxies, one after the other
    int gap_count;
};

struct agent_record {
    char id[AGENT_ID_BYTES];   // stable over restarts: host name and port, or --agent-id
    char incarnation[33];      // random per process
    int64_t start_ms;          // wall clock at start: the fence
    char url[AGENT_URL_BYTES]; // "http://10.0.0.5:23333"
    char models[AGENT_MODELS_MAX][128];
    int model_count;
    int context_len; // tokens; 0: unknown
    int capacity;    // sequences that run at once; 0: unknown
    int queue_max;   // requests that may wait; 0: unknown
    bool draining;   // finishes what it has, takes nothing new
    struct agent_load load;
};

void agent_record_print(struct json_writer *w,
                        const struct agent_record *r); // one object, load inside
void agent_record_print_facts(struct json_writer *w, const struct agent_record *r); // without load
void agent_load_print(struct json_writer *w, const struct agent_load *l);
/* E_FORMAT / E_INVALID with the member's name: ids of [A-Za-z0-9._:-], http URLs, bounds above. */
FALLIBLE int agent_record_parse(const struct json *v, struct agent_record *out, struct error *err);
FALLIBLE int agent_load_parse(const struct json *v, struct agent_load *out, struct error *err);

/* What the load says of one proxy; NULL: it has accepted nothing of it. */
const struct agent_seen *agent_load_seen(const struct agent_load *l, uint64_t proxy);
bool agent_load_has_accepted(const struct agent_load *l, const struct agent_seen *seen, uint64_t n);
/* Another proxy's part, gaps in any order; what is too much for the report is left out: of the gaps
 * those that come last in the array. */
void agent_load_add_seen(struct agent_load *l, const struct agent_seen *seen, const uint64_t *gaps);

/* POST /nodes/add body: {"url","status":{"models"},"lm":{...}}. */
void agent_record_print_node(struct buf *out, const struct agent_record *r);

/* ---- Redis ----
 *
 * Lua for redis_client_eval (struct redis_script .source) and its arguments, keys first.
 *
 * Writers may be the agent or any proxy that heard its beat by HTTP; a beat that is older than what
 * stands there (load.sequence) changes nothing and is answered "ok".
 *
 * - beat: "new" (this process was not there: published "up <id>"), "ok", or refused: "older" (a
 *   newer process holds the id: leave), "duplicate" (another one does at another URL, started
 *   before us and alive or not expired yet: try again with the next beat). Who started earlier at
 *   our own URL is gone, however fresh its record is: we have its port.
 * - load: "ok", or "unknown" (not our record: beat)
 * - leave: "ok" (gone, published "down <id>"), or "other" (not ours: nothing done)
 * - list: array of Redis' time in ms, then for each live agent id, expiry in ms, facts, load (or
 *   nil). Members whose facts are gone are left out. */
extern const char agent_record_beat_lua[];
extern const char agent_record_load_lua[];
extern const char agent_record_leave_lua[];
extern const char agent_record_list_lua[];

#define AGENT_BEAT_KEYS      3
#define AGENT_BEAT_ARGC      (AGENT_BEAT_KEYS + 6)
#define AGENT_LOAD_KEYS      2
#define AGENT_LOAD_ARGC      (AGENT_LOAD_KEYS + 4)
#define AGENT_LEAVE_KEYS     3
#define AGENT_LEAVE_ARGC     (AGENT_LEAVE_KEYS + 2)
#define AGENT_LIST_KEYS      1
#define AGENT_LIST_ARGC      (AGENT_LIST_KEYS)

#define AGENT_EVENTS_CHANNEL "lm:ev"

/* The texts live in the arena. */
void agent_record_beat_args(struct arena *a, const struct agent_record *r, int lease_ms,
                            struct str argv[AGENT_BEAT_ARGC]);
void agent_record_load_args(struct arena *a, const struct agent_record *r, int lease_ms,
                            struct str argv[AGENT_LOAD_ARGC]);
void agent_record_leave_args(struct arena *a, const struct agent_record *r,
                             struct str argv[AGENT_LEAVE_ARGC]);
void agent_record_list_args(struct str argv[AGENT_LIST_ARGC]);

#endif
