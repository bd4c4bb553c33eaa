/* pin_store.h - sessions in Redis: one connection per worker. The scripts keep what the agents' own
 * (agent/session_transcript.c) keep:
 *
 *     lm:s:<key>  {"agent","incarnation","kind","turn","time"}; "ended": true beside them: claimed,
 *                 and nothing there yet (what the agent may still hold of it is over);
 *                 alone: ended by its client
 *     lm:h:<key>  the transcript: `turns` says that there is one
 *
 * Every change is one script that checks what stands there: the first writer wins, whoever comes
 * second is told who did. Callbacks come once, never from inside, also after the deadline (with
 * E_TIMEOUT: it may still be carried out); E_CLOSED at once while Redis is away. Loop thread only. */
#ifndef LM_PROXY_PIN_STORE_H
#define LM_PROXY_PIN_STORE_H

#include <uv.h>

#include "proxy/pin_cache.h"

#define PIN_SOFT_TTL_MS UINT64_C(1800000)

struct pin_store;

struct pin_store_options {
    const char *url;
    const char *secret; // --session-secret; NULL: the one that Redis holds
    uint64_t hard_ttl_ms;
    /* The secret is known (again), and Redis answers. May be NULL. */
    void (*on_ready)(void *arg);
    void *arg;
};

/* E_INVALID: the URL. */
FALLIBLE int pin_store_create(uv_loop_t *loop, const struct pin_store_options *options,
                              struct pin_store **out, struct error *err);
/* Callbacks that are due come with E_CLOSED. */
void pin_store_destroy(struct pin_store *s, void (*on_closed)(void *arg), void *arg);

/* Redis is connected and the secret known: asking makes sense. */
bool pin_store_is_up(const struct pin_store *s);
bool pin_store_secret(const struct pin_store *s, struct session_secret *out); // false: not known

/* True while a missing pin proves nothing: this Redis, or our view of it, is younger than a hard
 * session's TTL. Redis may have been flushed or restarted, or was away while others opened
 * sessions. */
bool pin_store_is_doubtful(const struct pin_store *s, uint64_t now_ms);

/* True for some seconds after an outage: other proxies and agents, which connect in their own time,
 * may not have written down yet what went on meanwhile. What Redis holds is true, but may be old. */
bool pin_store_is_settling(const struct pin_store *s, uint64_t now_ms);

enum pin_presence {
    PIN_ABSENT, // nobody's: never, expired or ended
    PIN_FRESH,  // claimed, not opened yet
    PIN_PRESENT,
};

struct pin_answer {
    enum pin_presence presence;
    bool is_won; // of a claim or move: it is as asked for
    struct pin_owner owner;
    bool is_alive; // by its record in Redis the owner lives: newer than what we may know
    uint32_t turn;
    int64_t transcript; // turns written down; -1: no transcript
    bool is_noted_end;  // ABSENT, and known to have been ended: proof even while in doubt
};

/* answer NULL unless status is 0. */
typedef void pin_callback(void *arg, int status, const struct pin_answer *answer);

struct pin_request {
    uint64_t key;
    enum session_kind kind;
    struct pin_owner owner; // whom it shall belong to
    struct pin_owner from;  // move: whom it belongs to now
    uint32_t turn;
    bool is_fresh; // nothing of the session exists: what the agent may hold is over
    int deadline_ms;
};

/* Who has it? */
void pin_store_look(struct pin_store *s, uint64_t key, int deadline_ms, pin_callback *callback,
                    void *arg);
/* Ours if nobody has it. */
void pin_store_claim(struct pin_store *s, const struct pin_request *request, pin_callback *callback,
                     void *arg);
/* From `from` to `owner`, if `from` has it (or nobody any more). */
void pin_store_move(struct pin_store *s, const struct pin_request *request, pin_callback *callback,
                    void *arg);
/* Claimed while Redis was away: stands unless what Redis has knows at least as many turns. */
void pin_store_publish(struct pin_store *s, const struct pin_request *request,
                       pin_callback *callback, void *arg);
/* Still in use, if it is still `owner`'s. Nobody waits where there is no callback; failures are counted. */
void pin_store_refresh(struct pin_store *s, const struct pin_request *request);
/* The same, of a turn that went out. */
void pin_store_note_turn(struct pin_store *s, const struct pin_request *request,
                         pin_callback *callback, void *arg);
/* Over, if it is still `owner`'s. is_fresh: the claim was fresh, and the agent may not have opened it. */
void pin_store_end(struct pin_store *s, const struct pin_request *request);
/* A fresh claim came to nothing: nobody's again, unless it was opened. */
void pin_store_withdraw(struct pin_store *s, const struct pin_request *request);

#endif
