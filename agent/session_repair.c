/* session_repair.c - rules:
 *  1. What is written down is what was before the turn that runs, if one does: that writes itself
 *     down when it ends.
 *  2. A last turn whose client left isn't: it may have been a proxy that took us for dead, and another
 *     agent has gone on with it.
 *  3. Each is tried once for every time that Redis came back or was flushed, and again for TRANSCRIPT_HELD_MS
 *     while the lease runs of who had it before; what fails waits for the session's next turn, which
 *     writes all.
 *  4. What another agent wrote down, at least as many turns, stands (session_transcript.h). */
#define LOG_MODULE "session"
#include "agent/session_repair.h"

#include "agent/agent_metrics.h"
#include "agent/session_service.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

#include <stdlib.h>

#define UNDER_WAY_MAX 16
#define TURNS_MAX     4096 // of them together: what one tick may print

struct repair {
    struct session_service *service;
    uint64_t key, serial;
};

void session_repair_begin(struct session_service *s, bool is_flushed)
{
    s->repair_round++;
    s->repair_is_due = true;
    s->repair_until_ms = clock_ms() + TRANSCRIPT_HELD_MS;
    if (!is_flushed) return;
    int count = 0;
    list_each (session, &s->table.sessions, struct session, link) {
        session->is_safe = false;
        count += session->history.turn_count > 0;
    }
    log_info("redis has no transcripts any more: writing them again", "sessions=%d", count);
}

static void on_repaired(void *arg, enum transcript_saved saved)
{
    struct repair *r = arg;
    struct session_service *s = r->service;
    s->repairs_under_way--;
    /* The last ones may come back when the agent ends. */
    struct session *session = s->completions ? session_table_find(&s->table, r->key) : NULL;
    bool is_same =
        session && list_is_empty(&session->queue) && session->history.serial == r->serial;
    if (is_same && saved == TRANSCRIPT_SAVED) {
        session->is_safe = true;
        metric_add(&agent_metrics.sessions_repaired_total, 1);
    } else if (session && saved == TRANSCRIPT_HELD && clock_ms() < s->repair_until_ms) {
        session->repair_round = s->repair_round - 1;
        s->repair_is_due = true;
    }
    free(r);
}

static void repair(struct session_service *s, struct session *session)
{
    struct repair *r = xcalloc(1, sizeof *r);
    *r = (struct repair){s, session->key, session->history.serial};
    s->repairs_under_way++;
    bool is_running = !list_is_empty(&session->queue);
    session_transcript_restore(s->transcript, session->redis_name, &session->history, is_running,
                               on_repaired, r);
}

void session_repair_tick(struct session_service *s)
{
    int turns = 0;
    if (!s->repair_is_due) return;
    list_each (session, &s->table.sessions, struct session, link) {
        if (s->repairs_under_way >= UNDER_WAY_MAX || turns >= TURNS_MAX) return; // the next tick
        if (session->repair_round == s->repair_round) continue;
        session->repair_round = s->repair_round;
        if (session->is_safe || !session->is_ours || session->redis_name == 0 ||
            session->history.turn_count == 0)
            continue;
        turns += session->history.turn_count;
        repair(s, session);
    }
    s->repair_is_due = false;
}
