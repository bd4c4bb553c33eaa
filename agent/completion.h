/* completion.h - one HTTP request for text and the engine requests behind it (one or more for each prompt),
 * from the body to the last byte of the answer. Loop thread only. */
#ifndef LM_AGENT_COMPLETION_H
#define LM_AGENT_COMPLETION_H

#include <uv.h>

#include "agent/chat_request.h"
#include "agent/dispatch_table.h"
#include "agent/engine_bridge.h"
#include "agent/prompt_build.h"
#include "agent/response.h"
#include "agent/stream_marks.h"
#include "agent/text_worker.h"
#include "shared/base/list.h"
#include "shared/net/http_server.h"

enum service_phase {
    SERVICE_LOADING,  // the engine opens: 503
    SERVICE_OPEN,     // requests are taken
    SERVICE_DRAINING, // what runs is finished, what comes gets 503
};

/* A route: how its bodies are read and its answers printed. */
struct completion_route {
    enum completion_kind kind;
    const char *id_prefix; // of answers' ids
    /* As chat_request_parse. On a worker's thread. */
    int (*parse)(struct str body, const struct request_limits *limits, struct chat_request *out,
                 struct api_error *e);
    const struct response_printer *printer;
};
extern const struct completion_route completion_chat; // /v1/chat/completions
extern const struct completion_route completion_text; // /v1/completions
/* agent/completion_dialects.c */
extern const struct completion_route completion_responses; // /v1/responses
extern const struct completion_route completion_messages;  // /v1/messages

/* What all completions share; the agent owns it. */
struct completion_service {
    struct engine_bridge *bridge;
    struct text_worker *worker, *compiler; // of prompts; of grammars, which may take seconds
    size_t compiling_bytes;                // of the bodies of requests that the compiler has
    enum service_phase phase;
    int max_batch_size;           // for Retry-After
    int request_timeout_s;        // 0: no bound
    int64_t max_log_len;          // characters of prompts and outputs in the log; -1: all
    struct request_limits limits; // from here on: valid once open
    struct prompt_context prompts;
    bool rope_by_length; // as in struct engine_info
    const char *fingerprint;
    const char *join_key; // NULL: none; see shared/net/peer_trust.h
    uint64_t groups;      // prompts that were submitted; names those with several answers
    struct dispatch_table dispatches;

    struct list live;           // of struct completion
    int live_count;             // of those and of turns of conversations
    void (*on_idle)(void *arg); // the last live completion ended; NULL: nobody cares
    void *arg;
    void (*on_leave)(void *arg); // any ended; NULL: nobody cares. It may not begin another
    void *leave_arg;
    /* Whether a conversation has that id, which a stateless request must not use; NULL: none has. */
    bool (*session_is_held)(void *arg, const struct http_request *request, int64_t id);
    void *session_arg;
};

void completion_service_init(struct completion_service *s);
void completion_service_deinit(struct completion_service *s); // no completion lives

/* Takes the exchange over: answers it now or later, or notices that the client left. */
void completion_start(struct completion_service *s, struct http_exchange *x,
                      const struct completion_route *route);
/* 503 with Retry-After, as completion_start answers while `phase` isn't SERVICE_OPEN. */
void completion_refuse(const struct completion_service *s, struct http_exchange *x);

struct abort_target; // agent/abort_target.h
/* End those that are meant with what they have: finish_reason "abort", or 499 for those that have not
 * begun. The number of them. */
int completion_service_stop(struct completion_service *s, const struct abort_target *target);
/* End all that live with a server error; the service is draining. */
void completion_service_abort(struct completion_service *s);

/* ---- shared with turns of conversations (agent/interactive.h) ---- */

/* A request begins that may come from a proxy of ours (x-lm-dispatch). False: an attempt of it runs
 * here, and this one was answered with 409. Else dispatch_end when it is over. */
bool completion_dispatch(struct completion_service *s, struct http_exchange *x,
                         struct dispatch_ticket *ticket);
/* Or it is refused before it comes to that. */
void completion_dispatch_refused(struct completion_service *s, struct http_exchange *x);
/* Answer an error; was_begun: the engine has seen the request, so that it must not be sent elsewhere
 * without a thought. */
void completion_respond_error(struct http_exchange *x, const struct api_error *e, bool was_begun);
/* For a proxy, what an answer that isn't a stream took. Not for others. */
void completion_add_usage(struct http_exchange *x, const struct dispatch_ticket *ticket,
                          int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens);

/* One more, or less, HTTP request that draining waits for. Leaving may call on_idle. */
void completion_service_enter(struct completion_service *s);
void completion_service_leave(struct completion_service *s);

/* 503 by phase; 429 with the time to wait; whatever engine_submit's code means. */
void completion_error_unavailable(const struct completion_service *s, struct api_error *e);
/* Of an event that says FAILED, or DONE and FINISH_CANCELLED though nobody here had it cancelled. */
void completion_error_event(const struct completion_service *s, const struct engine_event *event,
                            struct api_error *e);
/* clock_ms() at which a request that is submitted now is over; 0: never. */
uint64_t completion_deadline(const struct completion_service *s);
/* True: the error is this agent's, and the proxy will have the stream resumed by another one once it
 * is cut; the client needn't hear of it. */
bool completion_is_left_to_hop(const struct stream_marks *marks, const struct api_error *e);
void completion_error_aborted(struct api_error *e); // 499, of what has not begun
void completion_error_queue_full(const struct completion_service *s, struct api_error *e);
void completion_error_submit(const struct completion_service *s, int code, const struct error *err,
                             struct api_error *e);
void completion_count_refusal(int status);
/* Debug log: by which names clients and proxies know it. */
void completion_log_begin(const struct http_exchange *x, const char *id);

#endif
