/* interactive_turn.h - the insides of interactive: one turn, and what its three files call of each
 * other. Only interactive.c, interactive_open.c and interactive_run.c include this. A turn frees
 * itself: whatever may close it is the last thing that its caller does with it. Loop thread only,
 * but for what a worker has. */
#ifndef LM_AGENT_INTERACTIVE_TURN_H
#define LM_AGENT_INTERACTIVE_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/interactive_request.h"
#include "agent/interactive_response.h"
#include "agent/session_service.h"
#include "agent/stream_marks.h"
#include "agent/text_log.h"

enum interactive_state {
    INTERACTIVE_PARSING,
    INTERACTIVE_WAITING,
    INTERACTIVE_OPENING,
    INTERACTIVE_FORKING,
    INTERACTIVE_BUILDING,
    INTERACTIVE_RUNNING,
    INTERACTIVE_SAVING,
    INTERACTIVE_CLOSED,
};

struct interactive {
    struct text_job job;
    struct session_service *service;
    struct list link; // service->turns
    enum interactive_state state;
    struct http_exchange *exchange; // NULL: answered, or gone
    struct session_caller caller;
    struct dispatch_ticket dispatch;
    bool was_begun; // the engine has seen it
    uint64_t started_ms, first_token_ms;
    bool is_delete; // not a turn: DELETE /v1/sessions/{id}

    // The job's while a worker has it
    bool job_pending;
    struct buf body;
    struct interactive_request request;
    struct session_prompt prompt;
    int job_status;
    struct api_error error;

    struct session *session; // NULL: not in its queue
    struct session_ticket ticket;
    struct session *source; // of a fork, while in its queue
    struct session_ticket source_ticket;
    uint64_t redis_name;    // 0: none
    uint64_t busy_until_ms; // what another agent has is waited for; 0: not asked yet
    bool wants_retry;       // of OPENING and SAVING, with the next tick
    bool is_opened;         // Redis counts the session as running here
    bool is_auto, is_new, is_moved, is_cancelled, is_undurable;

    uint64_t engine_id;       // 0: not with the engine
    struct buf text;          // plain: all of it; stream: what wasn't written yet
    struct buf answer;        // all of it, for templates that are rendered whole
    struct token_list tokens; // sampled
    int cached_tokens;        // of the prompt
    enum finish_reason finish;
    struct text_log log; // of the answer

    struct buf written; // the turn, as it is written down
    int saves_pending;
    bool was_taken; // by another agent, meanwhile

    struct buf out;
    bool is_stream, is_blocked;

    /* Streams that may change their agent */
    struct resume_headers hop;
    struct resume_record record; // the job's; with hop.is_resume
    int64_t now_s;               // for the template
    struct stream_marks marks;
    size_t skip_bytes; // of text to come, what the client has had
    bool replaces;     // the session's last turn is what another agent wrote down of this one
    bool is_away;      // Redis couldn't be asked
    uint64_t number;   // of this turn in its session, from 1; 0: it is none
};

/* interactive.c */
void interactive_close(struct interactive *t); // frees it; the exchange must be answered or gone
/* Answer with an error, in whatever way the answer's state still allows; closes. */
void interactive_fail(struct interactive *t, const struct api_error *e);
void interactive_respond_json(struct interactive *t);    // what is in t->out; closes
void interactive_respond_nothing(struct interactive *t); // zeros: cancel and end; closes
struct interactive_reply interactive_reply_of(const struct interactive *t); // but text and finish
/* Of the session or of a fork's source; *session is NULL then. Another's turn may begin in here. */
void interactive_leave_queue(struct interactive *t, struct session **session,
                             struct session_ticket *ticket);

/* interactive_open.c */
/* WAITING is over: arg is the turn, its ticket is the front one. */
void interactive_on_turn(void *arg);
/* Another agent has the session. True: ask again with the next tick; false: for long enough. */
bool interactive_wait_for_other(struct interactive *t);
/* Ask Redis whose the session is; again, if it was busy. */
void interactive_open(struct interactive *t);
void interactive_end_session(struct interactive *t); // forgets it, here and in Redis

/* interactive_run.c */
void interactive_build(struct interactive *t);         // the history is the one to go on from
void interactive_respond_piece(struct interactive *t); // of a stream: what can go out now
bool interactive_is_resumable(const struct interactive *t);
void interactive_save_again(struct interactive *t);  // to Redis, which said that it is held
void interactive_stop_saving(struct interactive *t); // likewise; may close it

#endif
