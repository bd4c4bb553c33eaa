/* exchange_state.h - the insides of exchange: one client request, and what its files call of each
 * other. Only exchange*.c include this. An exchange frees itself: whatever may end it is the last
 * thing that its caller does with it. All on its worker's thread. */
#ifndef LM_PROXY_EXCHANGE_STATE_H
#define LM_PROXY_EXCHANGE_STATE_H

#include "proxy/admission.h"
#include "proxy/affinity.h"
#include "proxy/conversation.h"
#include "proxy/exchange.h"
#include "proxy/hop_stream.h"
#include "proxy/ledger.h"
#include "proxy/limits.h"
#include "proxy/model_stats.h"
#include "proxy/peek.h"
#include "proxy/relay.h"
#include "proxy/route.h"
#include "proxy/worker.h"
#include "shared/net/trace.h"

#define EXCHANGE_HOLD_BYTES     ((size_t)256 << 10)
#define EXCHANGE_RESUME_HEAD_MS 10000
#define EXCHANGE_ATTEMPTS       20 // of one request, those that resume it included
#define RETRY_AFTER_S           1

enum exchange_state {
    EXCHANGE_LOCATING,  // where its session is gets found out
    EXCHANGE_QUEUED,    // all agents that could serve it are full
    EXCHANGE_CLAIMING,  // its session becomes the chosen agent's
    EXCHANGE_CALLING,   // connecting, sending, awaiting the head: http_client keeps their deadlines
    EXCHANGE_HOLDING,   // the head is in, nothing has gone to the client
    EXCHANGE_STREAMING, // bytes have gone to the client
    EXCHANGE_RESUMING,  // the agent was lost in between: another one is to go on
    EXCHANGE_DONE,
    EXCHANGE_FAILED,
};

/* What is needed until the answer streams, and again if it must be resumed. Given back in between,
 * so that a stream that waits for tokens is small. */
struct exchange_prelude {
    struct exchange *owner;
    struct exchange_prelude *next_spare;
    struct arena arena;
    struct peek peek;
    struct conversation conversation; // of the interactive route
    char tenant[SESSION_TENANT_BYTES];
    struct http_headers request; // for the agent: `common` of them for every attempt
    int common;
    struct http_headers head; // of the answer
    struct limits_view quota;
    struct admission_ticket ticket;
    struct route_excluded excluded;
    int claims;
    bool full_allowed; // nobody waits: a full agent is better than none
    bool fresh;        // attempts on new connections only (rule 7 of exchange.c)
    int busy_status;   // an agent said 429 or 503; 0: none did
};

/* An attempt that failed, for the access log; in the client's arena. */
struct exchange_failure {
    const struct exchange_failure *next;
    const char *agent, *reason;
};

struct exchange_attempt {
    struct fleet_agent *agent; // one reference; NULL: none
    struct http_call *call;
    struct ledger_entry entry;
    const struct http_failure *failure; // while exchange_advance() runs; else NULL
    int status;
    bool not_started; // the agent says that it has done nothing for this request
    bool has_usage;
    struct hop_usage usage;
};

struct exchange {
    struct list link; // worker->exchanges
    struct worker *worker;
    struct http_exchange *client;
    const struct http_request *request;
    enum exchange_state state;
    enum peek_route route;
    enum admission_class class;
    struct str model;   // in the client's arena
    struct str body;    // what is forwarded
    const char *key_id; // in the client's arena; "": keys are off
    struct trace trace;
    uint64_t number; // names the request to agents, the same for all attempts
    uint64_t started_ns, queued_ns, dispatched_ns, first_byte_ns; // 0: not yet
    uint64_t deadline_ms; // loop time of the next sign of life; 0: none is due
    double prompt_tokens, output_tokens, cached_tokens; // estimates
    uint64_t prompt_bytes;                              // canonical
    struct limits_grant grant;
    struct exchange_prelude *pre; // NULL: given back
    struct affinity *affinity;    // NULL: none, or done with
    struct exchange_attempt at;
    int attempts, retries, resumes;
    const struct exchange_failure *failures; // newest first

    /* the answer */
    int status;        // as the client sees it
    const char *error; // code of our own refusal; NULL: none, or it has none. Static
    bool wants_stream; // by its body
    bool client_left;
    bool is_events;    // text/event-stream
    bool hold;         // the whole answer fits
    bool is_hop;       // an agent of ours marks it
    bool is_resumable; // and says that another one could go on
    enum route_affinity routed;
    struct buf held;
    struct relay relay;    // from STREAMING on
    struct hop_stream hop; // with is_hop
    uint64_t sent_bytes;
    uint64_t resume_charged;  // bytes counted against --resume-bytes
    struct buf resume_body;   // while an agent resumes
    uint64_t resume_until_ms; // loop time
};

/* ---- exchange.c: states, ends ---- */

void exchange_set_state(struct exchange *e, enum exchange_state state);
/* All is known of the request: find it an agent. */
void exchange_start(struct exchange *e);
/* From what callbacks recorded. May end e. */
void exchange_advance(struct exchange *e);
/* Answer with an error; nothing has gone to the client. Ends e. */
void exchange_fail(struct exchange *e, const struct api_error *error);
void exchange_fail_without_agent(struct exchange *e);
/* Ledger entry, call and agent of the attempt; idempotent. */
void exchange_end_attempt(struct exchange *e, enum ledger_outcome outcome);
void exchange_end_affinity(struct exchange *e, bool is_served);
/* What the current attempt says of its agent when nothing of it was passed on, or it was cut. */
enum ledger_outcome exchange_outcome_of_failure(const struct exchange *e);
/* Everything but the http_exchange: the answer is over, or its client gone. */
void exchange_release(struct exchange *e, enum ledger_outcome outcome);
void exchange_expect_life(struct exchange *e);
/* Token counts of the answer; NULL: not known (yet). */
const struct hop_usage *exchange_usage(const struct exchange *e);
/* For the access log: the current attempt didn't work. */
void exchange_record_failure(struct exchange *e, const char *reason);

/* ---- exchange_spares.c: memory that goes from one request to the next ---- */

struct exchange_prelude *exchange_spares_take_prelude(struct exchange_spares *s); // zeroed
void exchange_spares_give_prelude(struct exchange_spares *s, struct exchange_prelude *pre);
struct affinity *exchange_spares_take_affinity(struct exchange_spares *s); // zeroed
void exchange_spares_give_affinity(struct exchange_spares *s, struct affinity *a);

/* ---- exchange_arrive.c: who asks, and what for ---- */

/* Reads the body (again), prepares what agents are sent. -1 and *error. */
FALLIBLE int exchange_open_prelude(struct exchange *e, struct api_error *error);
void exchange_close_prelude(struct exchange *e);

/* ---- exchange_place.c: which agent, and when ---- */

void exchange_locate(struct exchange *e);
void exchange_place(struct exchange *e); // its session is located
void exchange_on_claimed(struct exchange *e);
/* A hard session's owner failed the request, without a byte of an answer, or has left. */
void exchange_locate_again(struct exchange *e, bool may_have_begun);
/* The best agent now, nobody waits; NULL: none. */
struct fleet_agent *exchange_choose_now(struct exchange *e, bool *is_probe);

/* ---- exchange_call.c: one attempt at one agent ---- */

void exchange_call(struct exchange *e, struct fleet_agent *agent, bool is_probe);
/* The attempt failed while nothing had gone to the client. */
void exchange_retry_or_fail(struct exchange *e);
void exchange_take_head(struct exchange *e);
void exchange_on_failure(struct exchange *e, const struct http_failure *failure);
void exchange_note_failure(struct exchange *e, const struct http_failure *failure);

/* ---- exchange_answer.c: to the client ---- */

void exchange_on_body(struct exchange *e, const char *data, size_t len);
void exchange_finish_whole(struct exchange *e);
void exchange_end_stream(struct exchange *e);
/* Ends a stream that can't go on: the client is told, as far as possible. */
void exchange_cut_stream(struct exchange *e, const char *reason);

/* ---- exchange_resume.c: the agent of a stream is lost ---- */

bool exchange_can_resume(const struct exchange *e);
void exchange_charge_resume(struct exchange *e); // its request's bytes are kept for that
void exchange_uncharge_resume(struct exchange *e);
void exchange_begin_resume(struct exchange *e, const struct http_failure *failure);
void exchange_try_resume(struct exchange *e);    // from the sweep, or when a session is located
void exchange_resume_failed(struct exchange *e); // the attempt's failure is in e->at
void exchange_take_resumed_head(struct exchange *e);

#endif
