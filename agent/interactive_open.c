/* interactive_open.c - a turn whose session is free: which history it goes on from.
 *
 *   WAITING ─┬─ the end, DELETE ──────────────────────────────────────────► CLOSED
 *            ├─► OPENING ─┬─ busy elsewhere: again with the next tick, then 409
 *            │            ├─ lost 410, elsewhere 409; to a hop 503
 *            └─ no Redis ─┴─► the session is open ─┬─► FORKING ─┬─► BUILDING
 *                                                  └────────────┘
 * Rules:
 *  1. Without history there is no answer in its name: a session that was here and is gone is 410,
 *     until its client ends it. x-lm-session-new: 1 marks a first turn.
 *  2. Where Redis has a newer history than we do, it takes the place of ours. Where Redis doesn't
 *     answer, the session goes on with what is here.
 *  3. A fork copies its source between two of the source's turns, holding a ticket there no longer
 *     than that takes.
 *  4. A hop that sends us what Redis knows to be another's hadn't asked Redis: it looks there again,
 *     and decides what is lost, and what never was more than begun. */
#define LOG_MODULE "interactive"
#include "agent/agent_metrics.h"
#include "agent/interactive_turn.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

#include <inttypes.h>

void interactive_end_session(struct interactive *t)
{
    struct session_service *s = t->service;
    session_service_clear(s, t->session);
    session_table_unbury(&s->table, t->session->key);
    if (s->transcript && t->redis_name) {
        session_transcript_end(s->transcript, t->redis_name);
        t->is_opened = false;
    }
}

static void fail_lost(struct interactive *t, const char *why)
{
    // LMDeploy's remedy for a session that went wrong is a turn outside interactive mode.
    if (!t->caller.has_hop && !t->request.interactive_mode) interactive_end_session(t);
    if (t->caller.has_hop) { // the hop decides what its client hears
        api_error_set(&t->error, 404, "session_unknown", "session_id",
                      "This agent does not have the session: %s.", why);
    } else {
        api_error_set(&t->error, 410, "session_lost", "session_id",
                      "The session %" PRId64
                      " is lost: %s. Its history cannot be continued. End it "
                      "(an empty prompt with 'interactive_mode' false) to use the id again.",
                      t->request.session_id, why);
    }
    interactive_fail(t, &t->error);
}

/* Redis may have what isn't here, and can't be asked. */
static void fail_away(struct interactive *t)
{
    api_error_set(&t->error, 503, "session_unreachable", "session_id",
                  "The history of the session %" PRId64 " can't be read now. Please retry shortly.",
                  t->request.session_id);
    t->error.retry_after_s = 1;
    interactive_fail(t, &t->error);
}

static void take_history(struct interactive *t, struct session_history *history)
{
    struct session *session = t->session;
    size_t bytes = session->history.bytes_owned;
    session_history_deinit(&session->history);
    session->history = *history;
    *history = (struct session_history){0};
    session->file.size = 0; // what is there is another history
    session_table_account(&t->service->table, session, bytes);
}

/* ---- forks ---- */

static void fail_no_source(struct interactive *t)
{
    api_error_set(&t->error, 404, "session_not_found", "fork_of",
                  "There is no session %" PRId64 " to fork.", t->request.fork_of);
    interactive_fail(t, &t->error);
}

static void source_is_ours(void *arg)
{
    struct interactive *t = arg;
    struct session_history copy = {0};
    bool is_there = t->source->history.turn_count > 0;
    if (is_there) session_history_copy(&copy, &t->source->history);
    interactive_leave_queue(t, &t->source, &t->source_ticket);
    if (!is_there) {
        fail_no_source(t);
        return;
    }
    take_history(t, &copy);
    interactive_build(t);
}

static void on_source_read(void *arg, enum transcript_state state, struct session_history *history)
{
    struct interactive *t = arg;
    if (!t->exchange) {
        interactive_close(t);
    } else if (state == TRANSCRIPT_HISTORY) {
        take_history(t, history);
        interactive_build(t);
    } else {
        fail_no_source(t);
    }
}

/* A copy of another session's history, when its turns before this one have ended. A fork of what is
 * itself being forked could wait in a circle, and has nothing to copy yet. */
static void fork_session(struct interactive *t)
{
    struct session_service *s = t->service;
    uint64_t key = session_service_key(s, &t->caller, t->request.fork_of);
    struct session *source = session_table_find(&s->table, key);
    t->state = INTERACTIVE_FORKING;
    t->is_new = false;
    bool is_forming = source && source->history.turn_count == 0 &&
                      list_first(&source->queue, struct session_ticket, link)->is_fork;
    if (is_forming) source = NULL;
    if (!source) {
        struct session_caller caller = t->caller;
        caller.has_hop = false; // it names the new session
        uint64_t name = session_service_redis_name(s, &caller, t->request.fork_of);
        if (name && !is_forming) {
            session_transcript_read(s->transcript, name, on_source_read, t);
        } else {
            fail_no_source(t);
        }
        return;
    }
    t->source_ticket = (struct session_ticket){.on_turn = source_is_ours, .arg = t};
    int rc = session_table_enter(&s->table, source, &t->source_ticket);
    if (rc == E_BUSY) {
        api_error_set(&t->error, 429, "session_busy", "fork_of",
                      "%d turns of the session %" PRId64 " wait already.", SESSION_WAITING_MAX,
                      t->request.fork_of);
        t->error.retry_after_s = 1;
        interactive_fail(t, &t->error);
        return;
    }
    t->source = source;
    if (rc == 1) source_is_ours(t);
}

/* ---- opening ---- */

/* A turn that goes on from another agent, or was asked there before: has that one written it down,
 * whole or as far as it came? */
static bool is_written_down(const struct interactive *t)
{
    const struct session_history *h = &t->session->history;
    bool is_again = t->hop.is_resume || t->dispatch.dispatch.attempt > 1;
    return is_again && t->caller.has_hop && t->caller.hop.turn > 0 && h->turn_count > 0 &&
           h->serial == (uint64_t)t->caller.hop.turn;
}

/* The hop knows of turns that aren't here, or of fewer than it was told by who answered so far. */
static bool is_other_history(const struct interactive *t)
{
    const struct session_hop *hop = &t->caller.hop;
    uint64_t serial = t->session->history.serial;
    bool is_other_turn = hop->turn > 0 && serial + 1 != (uint64_t)hop->turn;
    bool must_exist = hop->expect != SESSION_EXPECT_ANY && hop->expect != SESSION_EXPECT_NEW;
    if (t->hop.is_resume && hop->turn > 0) return is_other_turn;
    bool lacks_turns = serial < (uint64_t)hop->has;
    return must_exist && (t->session->history.turn_count == 0 || is_other_turn || lacks_turns);
}

/* The session is ours, with the newest history there is. */
static void session_is_open(struct interactive *t)
{
    struct session_service *s = t->service;
    struct session *session = t->session;
    bool is_empty = session->history.turn_count == 0;
    if (is_written_down(t)) {
        t->replaces = true;
        t->request.fork_of = -1; // the history has it
        interactive_build(t);
        return;
    }
    if (t->caller.has_hop && is_other_history(t)) {
        if (t->is_away) {
            fail_away(t);
        } else {
            fail_lost(t, "it is not here, or lacks turns");
        }
        return;
    }
    t->is_new = is_empty;
    if (!is_empty && t->request.fork_of >= 0) {
        api_error_set(&t->error, 400, "invalid_value", "session_id",
                      "Invalid 'session_id': a fork needs a session without history.");
        interactive_fail(t, &t->error);
    } else if (is_empty && t->request.interactive_mode && !session_table_make_room(&s->table)) {
        api_error_set(&t->error, 429, "session_limit", NULL,
                      "This server holds as many sessions as it can. Please end some.");
        t->error.retry_after_s = 30;
        interactive_fail(t, &t->error);
    } else if (t->request.fork_of >= 0) {
        fork_session(t);
    } else {
        interactive_build(t);
    }
}

static void on_opened(void *arg, enum transcript_state state, struct session_history *history);

void interactive_open(struct interactive *t)
{
    struct session *session = t->session;
    int64_t held = session->history.turn_count > 0 ? (int64_t)session->history.serial : -1;
    enum session_expect expect = t->caller.has_hop ? t->caller.hop.expect : SESSION_EXPECT_ANY;
    t->wants_retry = false;
    t->state = INTERACTIVE_OPENING;
    session_transcript_open(t->service->transcript, t->redis_name, held, expect, on_opened, t);
}

bool interactive_wait_for_other(struct interactive *t)
{
    uint64_t now_ms = clock_ms();
    if (t->busy_until_ms == 0) t->busy_until_ms = now_ms + TRANSCRIPT_HELD_MS;
    t->wants_retry = now_ms < t->busy_until_ms;
    return t->wants_retry;
}

/* Another agent runs a turn of it: its next one comes when that has ended, or that agent's lease. */
static void on_busy(struct interactive *t)
{
    if (interactive_wait_for_other(t)) return;
    if (t->caller.has_hop && t->caller.hop.expect == SESSION_EXPECT_EXISTING) {
        fail_away(t); // the hop finds out whose it is now
        return;
    }
    api_error_set(&t->error, 409, "session_busy", "session_id",
                  "A turn of the session %" PRId64 " runs at another agent.",
                  t->request.session_id);
    t->error.retry_after_s = 1;
    interactive_fail(t, &t->error);
}

static void on_opened(void *arg, enum transcript_state state, struct session_history *history)
{
    struct interactive *t = arg;
    struct session_service *s = t->service;
    t->is_opened = state == TRANSCRIPT_OWN || state == TRANSCRIPT_NEW ||
                   state == TRANSCRIPT_ENDED || state == TRANSCRIPT_HISTORY;
    t->session->is_ours |= t->is_opened;
    if (!t->exchange) {
        interactive_close(t);
        return;
    }
    switch (state) {
    case TRANSCRIPT_HISTORY:
        take_history(t, history);
        session_table_unbury(&s->table, t->session->key);
        t->is_moved = true;
        metric_add(&agent_metrics.sessions_adopted_total, 1);
        session_is_open(t);
        return;
    case TRANSCRIPT_ENDED:
        session_service_clear(s, t->session);
        session_is_open(t);
        return;
    case TRANSCRIPT_OWN:
    case TRANSCRIPT_NEW:
    case TRANSCRIPT_AWAY:
        t->is_away = state == TRANSCRIPT_AWAY;
        session_is_open(t);
        return;
    case TRANSCRIPT_BUSY:
        on_busy(t);
        return;
    case TRANSCRIPT_ELSEWHERE:
        if (t->caller.has_hop) {
            fail_away(t); // rule 4
            return;
        }
        api_error_set(&t->error, 409, "session_elsewhere", "session_id",
                      "The session %" PRId64 " is at another agent, which could not write it down. "
                      "It goes on there.",
                      t->request.session_id);
        interactive_fail(t, &t->error);
        return;
    case TRANSCRIPT_LOST:
        if (t->caller.has_hop) {
            fail_away(t); // rule 4
            return;
        }
        fail_lost(t, "its agent is gone, and it was not written down");
        return;
    case TRANSCRIPT_UNKNOWN:
        fail_lost(t, "it is not here");
        return;
    case TRANSCRIPT_UNCLAIMED: // sent here while Redis was away; the hop will look there now
        fail_away(t);
        return;
    case TRANSCRIPT_DAMAGED:
        fail_lost(t, "its transcript is damaged");
        return;
    case TRANSCRIPT_FOREIGN:
        fail_lost(t, "its transcript was written by another model");
        return;
    }
    UNREACHABLE();
}

/* ---- ending ---- */

static void respond_deleted(struct interactive *t, bool was_there)
{
    if (!was_there) {
        api_error_set(&t->error, 404, "session_not_found", "session_id",
                      "There is no session %" PRId64 ".", t->request.session_id);
        interactive_fail(t, &t->error);
        return;
    }
    struct json_writer w;
    interactive_end_session(t);
    json_writer_init(&w, &t->out);
    json_object_begin(&w);
    json_field_int(&w, "session_id", t->request.session_id);
    json_field_text(&w, "object", "session.deleted");
    json_field_bool(&w, "deleted", true);
    json_object_end(&w);
    interactive_respond_json(t);
}

static void on_read_to_delete(void *arg, enum transcript_state state,
                              struct session_history *history)
{
    struct interactive *t = arg;
    (void)history;
    respond_deleted(t, state != TRANSCRIPT_UNKNOWN && state != TRANSCRIPT_AWAY);
}

static void delete_session(struct interactive *t)
{
    struct session_service *s = t->service;
    bool was_there = t->session->history.turn_count > 0 ||
                     session_table_grave(&s->table, t->session->key) != SESSION_NOT_LOST;
    if (!was_there && t->redis_name) {
        t->state = INTERACTIVE_OPENING;
        session_transcript_read(s->transcript, t->redis_name, on_read_to_delete, t);
        return;
    }
    respond_deleted(t, was_there);
}

/* ---- the turn ---- */

static const char *loss_text(enum session_loss why)
{
    switch (why) {
    case SESSION_EXPIRED:
        return "it was idle for longer than sessions are kept";
    case SESSION_DAMAGED:
        return "its file is damaged";
    case SESSION_FOREIGN:
        return "its file was written by another model";
    case SESSION_NOT_LOST:
        break;
    }
    UNREACHABLE();
}

/* Our turn on the session. */
void interactive_on_turn(void *arg)
{
    struct interactive *t = arg;
    struct session_service *s = t->service;
    bool is_fresh = t->caller.has_hop && t->caller.hop.expect == SESSION_EXPECT_NEW;
    enum session_loss why = session_table_grave(&s->table, t->session->key);
    t->redis_name =
        t->is_auto ? 0 : session_service_redis_name(s, &t->caller, t->request.session_id);
    t->session->redis_name = t->redis_name;
    if (t->is_delete) {
        delete_session(t);
    } else if (interactive_request_is_end(&t->request)) {
        interactive_end_session(t);
        interactive_respond_nothing(t);
    } else if (why != SESSION_NOT_LOST && !is_fresh) {
        fail_lost(t, loss_text(why));
    } else if (t->redis_name) {
        if (is_fresh) session_service_clear(s, t->session);
        interactive_open(t);
    } else {
        if (is_fresh) {
            session_service_clear(s, t->session);
            session_table_unbury(&s->table, t->session->key);
        }
        // An id that we made up is nobody else's; its transcript begins with the first append.
        if (t->is_auto && t->request.interactive_mode) {
            t->redis_name = session_service_redis_name(s, &t->caller, t->request.session_id);
        }
        session_is_open(t);
    }
}
