/* session_transcript.h - conversations in Redis, so that they outlive their agent: who owns one,
 * and the records of its turns.
 *
 *     lm:s:<name>  the pin: {"agent", "incarnation", "kind", "turn", "time"}, or {"ended": true}
 *     lm:sessions:<agent>  its incarnation: while it is there, nothing was flushed
 *     lm:h:<name>  hash: turns (ever recorded), records (stored), r1..rN, bytes, model, running
 *
 * <name> is the session's key under the fleet's secret: --session-secret, else lm:session-secret,
 * made by whoever comes first. Every change is one Lua script that checks the owner, so an agent
 * that was stopped and wakes can't write to what another one has taken. Callbacks come once, never
 * from inside. Loop thread only. */
#ifndef LM_AGENT_SESSION_TRANSCRIPT_H
#define LM_AGENT_SESSION_TRANSCRIPT_H

#include <uv.h>

#include "agent/session_history.h"
#include "shared/base/error.h"
#include "shared/net/session_key.h"

#define TRANSCRIPT_OPEN_MS   500  // to find out whose a session is
#define TRANSCRIPT_APPEND_MS 50   // to write a turn down, a rewrite included
#define TRANSCRIPT_HELD_MS   6000 // what a dead owner's lease takes, and some
#define TRANSCRIPT_BYTES_MAX ((size_t)8 << 20)

struct session_transcript;

struct session_transcript_options {
    const char *url;
    const char *agent_id, *incarnation; // as in the agent's record; borrowed
    const char *secret;                 // NULL: the one that Redis holds
    uint64_t ttl_ms;
    size_t bytes_max; // of the records of one session; 0: TRANSCRIPT_BYTES_MAX
    /* Redis can be written to again: it was away, or it is_flushed. NULL: nobody cares. */
    void (*on_back)(void *arg, bool is_flushed);
    void *arg;
};

FALLIBLE int session_transcript_create(uv_loop_t *loop,
                                       const struct session_transcript_options *options,
                                       struct session_transcript **out, struct error *err);
/* Callbacks that are due come with TRANSCRIPT_AWAY. */
void session_transcript_destroy(struct session_transcript *t, void (*on_closed)(void *arg),
                                void *arg);
/* What records are checked against, once the model is there; `model` is copied. */
void session_transcript_set_model(struct session_transcript *t, const char *model,
                                  const struct session_limits *limits);

/* False: the secret isn't known yet. */
bool session_transcript_name(const struct session_transcript *t, struct str tenant,
                             struct str model, int64_t id, uint64_t *name);

enum transcript_state {
    TRANSCRIPT_OWN,       // ours, and what we hold is the newest
    TRANSCRIPT_NEW,       // nobody has it; it is ours now
    TRANSCRIPT_HISTORY,   // it is ours now: this is its history
    TRANSCRIPT_ENDED,     // ended at another agent: what we hold is over; it is ours, and new
    TRANSCRIPT_BUSY,      // a turn of it runs at an agent that lives, or one may live that had it
    TRANSCRIPT_ELSEWHERE, // an agent that lives holds it, and has not written it down
    TRANSCRIPT_LOST,      // its agent is gone and has not written it down
    TRANSCRIPT_UNKNOWN,   // it had to exist (session_expect) and doesn't
    TRANSCRIPT_UNCLAIMED, // it had to exist here, and is another one's, with turns that we lack
    TRANSCRIPT_DAMAGED,
    TRANSCRIPT_FOREIGN, // written by another model
    TRANSCRIPT_AWAY,    // Redis doesn't answer
};

/* history: only with TRANSCRIPT_HISTORY, and the callee's then: it takes what is in it. */
typedef void session_transcript_on_open(void *arg, enum transcript_state state,
                                        struct session_history *history);

/* A turn is about to run. held: the serial of the history that we hold, -1: none. */
void session_transcript_open(struct session_transcript *t, uint64_t name, int64_t held,
                             enum session_expect expect, session_transcript_on_open *on_open,
                             void *arg);
/* The history as it is written down, whoever owns it: TRANSCRIPT_HISTORY, _UNKNOWN, ... */
void session_transcript_read(struct session_transcript *t, uint64_t name,
                             session_transcript_on_open *on_open, void *arg);

enum transcript_saved {
    TRANSCRIPT_SAVED,
    TRANSCRIPT_MISSED, // not, or not in time, or it is too large
    TRANSCRIPT_MOVED,  // somebody else has it now: the turn must not stand
    TRANSCRIPT_HELD,   // who had it before may be gone, and its lease runs: ask again
};
typedef void session_transcript_on_saved(void *arg, enum transcript_saved saved);

/* The turn has ended; `h` is the history with it, `record` the turn, `base` the serial before.
 * Both are borrowed until on_saved. Writes all of it where Redis lacks earlier turns.
 * was_opened: Redis knew that the turn began; else it may still name an owner that is gone, and
 * TRANSCRIPT_HELD comes while that one's lease runs. */
void session_transcript_append(struct session_transcript *t, uint64_t name, bool was_opened,
                               uint64_t base, const struct session_history *h, struct str record,
                               session_transcript_on_saved *on_saved, void *arg);
/* Write down what we hold, unless as many turns are there already, or another agent has it that lives
 * (TRANSCRIPT_HELD) or had as many. is_running: a turn of it runs. `h` is the caller's. */
void session_transcript_restore(struct session_transcript *t, uint64_t name,
                                const struct session_history *h, bool is_running,
                                session_transcript_on_saved *on_saved, void *arg);
/* Regularly: looks whether Redis was flushed. */
void session_transcript_tick(struct session_transcript *t);
/* The turn has ended and changed nothing. is_empty: there is no history at all. */
void session_transcript_release(struct session_transcript *t, uint64_t name, bool is_empty);
/* The client has ended the session. */
void session_transcript_end(struct session_transcript *t, uint64_t name);

#endif
