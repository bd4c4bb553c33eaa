/* affinity_plan.h - what is to be done with a turn of a hard session, from what is known of it.
 *
 * What is known, first that says something wins:
 *
 *   Redis answers, pin there        its owner; the turn is proven. While Redis settles after an outage,
 *                                   and the owner isn't there as the process that it was: the agents
 *                                   are asked, too, and one that has more turns is the owner
 *   Redis answers, no pin           ended by a note: it begins anew. Else what this proxy could not
 *                                   publish yet. Else, while absence proves nothing (pin_store.h rule
 *                                   2): cache or token, else the agents are asked. Else a transcript
 *                                   without a pin: nobody's, but there. Else it begins anew
 *   Redis away                      the agents are asked: the session may have moved, and who had it
 *                                   may have a copy; cache or token, if they know of more turns
 *   no Redis at all                 cache or token (more turns win), else the agents are asked
 *
 * What is done:
 *
 *   owner              | turns known to it   | where       | in Redis | the agent is told
 *   -------------------|---------------------|-------------|----------|------------------------------
 *   up, same process   | > 0, proven         | owner       | -        | existing
 *                      | 0, or only counted  | owner       | -        | nothing: it knows best
 *   restarted          | > 0 or transcript   | owner       | move     | existing (its folder, or the
 *                      |                     |             |          | transcript, may have it)
 *                      | 0, no transcript    | owner       | move     | nothing
 *   draining           | transcript has all  | choose      | move     | adopt (if others are there)
 *                      | else                | as if up    |          |
 *   suspect            |                     | wait, then as if up
 *   up, but failed us  | claimed, not opened | as if gone
 *                      | else                | wait until it shows what it is, then 503
 *   gone               | > 0, transcript, or | choose      | move     | adopt
 *                      | Redis is away       |             |          |
 *                      | > 0, no transcript  | lost: 410 (503 while Redis settles); the pin stays, its
 *                      |                     | owner may come back with its folder. Ended with an empty
 *                      |                     | prompt: anywhere
 *                      | 0                   | choose      | move     | nothing, and what it may hold of
 *                      |                     |             | (fresh)  | that id is over
 *   nobody             | transcript          | choose      | claim    | adopt
 *                      | Redis answers       | choose      | claim    | nothing, likewise
 *                      |                     |             | (fresh)  |
 *                      | Redis away          | first of the| -        | nothing
 *                      |                     | rendezvous  |          |
 *                      | allotted here       | choose      | claim    | new: nobody else can know it
 *
 * "new" makes an agent forget; said of an id that others can name it could forget the turn of a
 * client that came through another proxy. The mark `ended` in a fresh claim does what is wanted
 * instead: whoever opens the session first forgets, and only he.
 *
 * Pure; any thread. */
#ifndef LM_PROXY_AFFINITY_PLAN_H
#define LM_PROXY_AFFINITY_PLAN_H

#include "proxy/pin_store.h"

/* How it is known where a session is. */
enum affinity_source {
    AFFINITY_FROM_NOTHING,
    AFFINITY_FROM_CACHE,
    AFFINITY_FROM_TOKEN,
    AFFINITY_FROM_REDIS,
    AFFINITY_FROM_AGENTS, // they were asked
};

struct affinity_facts {
    bool is_seen; // Redis answered:
    struct pin_answer seen;
    bool is_doubtful; // absence in Redis proves nothing
    bool is_settling; // Redis was away until a moment ago: a pin may be old
    bool is_shared;   // there is a Redis, and so there are sessions that move

    bool is_known; // here, by cache, token or asking:
    struct pin known;
    enum affinity_source known_from;

    bool is_allotted; // we made the id up
    bool was_asked;   // the agents were
};

/* The session as far as is known. */
struct affinity_view {
    struct pin_owner owner; // "": nobody
    enum affinity_source source;
    uint32_t turn;
    bool is_proven;      // `turn` is read from Redis or said by an agent
    bool has_transcript; // and it holds at least `turn` turns
    bool is_redis_away;
    bool is_settling;
    bool is_in_redis; // `owner` is what the pin says
    bool is_fresh;    // claimed, not opened yet
    bool must_ask;    // the agents, first
};

void affinity_view_make(const struct affinity_facts *facts, struct affinity_view *out);

enum affinity_owner {
    AFFINITY_OWNER_NONE,
    AFFINITY_OWNER_UP,
    AFFINITY_OWNER_RESTARTED,
    AFFINITY_OWNER_DRAINING, // and somebody else is there
    AFFINITY_OWNER_SUSPECT,
    AFFINITY_OWNER_FAILED, // up, but this request couldn't reach it
    AFFINITY_OWNER_GONE,
};

enum affinity_action {
    AFFINITY_TO_OWNER,
    AFFINITY_CHOOSE,
    AFFINITY_HOLD, // for a moment: then look again
    AFFINITY_LOST,
    AFFINITY_UNREACHABLE,
};

struct affinity_plan {
    enum affinity_action action;
    enum session_expect expect;
    bool must_write;      // claim or move before anything is sent
    bool is_fresh;        // with that claim or move
    bool rendezvous_only; // choose so that all proxies choose alike
};

struct affinity_asked {
    bool is_patient; // there is time to wait
    bool is_allotted;
    bool is_bare_end; // ends the session and wants no answer
};

void affinity_plan_make(const struct affinity_view *view, enum affinity_owner owner,
                        const struct affinity_asked *asked, struct affinity_plan *out);

#endif
