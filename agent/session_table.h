/* session_table.h - the conversations that this agent holds: found by owner and id, one turn at a
 * time, dropped when idle too long. Knows no HTTP, no engine, no Redis. Loop thread only, and time
 * is the caller's. */
#ifndef LM_AGENT_SESSION_TABLE_H
#define LM_AGENT_SESSION_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/session_file.h"
#include "agent/session_history.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"

#define SESSION_WAITING_MAX 8 // turns behind the one that runs

/* A place in a session's queue, embedded in whoever waits. */
struct session_ticket {
    struct list link;
    void (*on_turn)(void *arg); // it is this one's turn now; never called from inside enter
    void *arg;
    bool is_fork; // waits for another session's turn in turn
};

struct session {
    uint64_t key; // hash of owner, unique here: what the engine knows it by, and its file's name
    struct session_owner owner;
    struct session_history history;
    struct session_file file; // the front ticket's while it has the turn
    uint64_t redis_name;      // of its transcript; 0: none
    bool is_safe;             // Redis has all of it: it may be dropped from memory
    unsigned repair_round;    // session_repair.c: when it was looked at
    bool is_ours;   // Redis said so, or a client has had the last turn: no other agent has gone on
    bool was_tried; // a turn of it began here: what Redis knew was looked at
    uint64_t used_ms;  // monotonic; the last turn's end
    int64_t used_s;    // the same since 1970
    struct list queue; // of tickets; the front one has the turn
    int queue_count;
    struct list link; // session_table.sessions, least recently used first
};

/* Why a session that was there isn't: remembered, so that it isn't begun anew in silence. */
enum session_loss { SESSION_NOT_LOST, SESSION_EXPIRED, SESSION_DAMAGED, SESSION_FOREIGN };

struct session_table_options {
    uint64_t ttl_ms;
    size_t count_max;
    size_t bytes_max; // of histories
    size_t graves_max;
    /* An idle session goes, because its time is up or to make room. It is freed afterwards. */
    void (*on_drop)(void *arg, struct session *s, bool expired);
    void *arg;
};

struct session_table {
    struct session_table_options options;
    struct hash_map by_key;
    struct list sessions;
    size_t count, bytes;
    struct hash_map graves_by_key;
    struct list graves; // oldest first
    size_t grave_count;
};

void session_table_init(struct session_table *t, const struct session_table_options *options);
void session_table_deinit(struct session_table *t); // no ticket may wait

/* The key of an owner; model: the served name. */
uint64_t session_table_key(const struct session_owner *owner, const char *model);
struct session *session_table_find(const struct session_table *t, uint64_t key);
/* Finds or makes. *s is new when it has neither turns nor tickets. */
struct session *session_table_take(struct session_table *t, uint64_t key,
                                   const struct session_owner *owner);

/* Wait for the turn. 1: it is yours now; 0: on_turn will be called; E_BUSY: too many wait. */
int session_table_enter(struct session_table *t, struct session *s, struct session_ticket *ticket);
/* Give the turn back, or leave the queue. The next one's on_turn is called from inside. A session
 * that nobody waits for and that has no turns is freed: s is dead when this returns. */
void session_table_leave(struct session_table *t, struct session *s, struct session_ticket *ticket,
                         uint64_t now_ms, int64_t now_s);
bool session_has_turn(const struct session *s, const struct session_ticket *ticket);

/* The history has changed: counts what it takes now. */
void session_table_account(struct session_table *t, struct session *s, size_t bytes_before);
/* Sessions were put in out of the order of their last use: put them in order. */
void session_table_sort(struct session_table *t);
/* False: the bounds are reached by sessions that exist nowhere else. Drops safe ones before. */
bool session_table_make_room(struct session_table *t);
/* Drop what has been idle for the TTL, leaving a grave. */
void session_table_sweep(struct session_table *t, uint64_t now_ms);

/* Graves: bounded, the oldest is forgotten first. */
void session_table_bury(struct session_table *t, uint64_t key, enum session_loss why,
                        uint64_t now_ms);
enum session_loss session_table_grave(const struct session_table *t, uint64_t key);
bool session_table_unbury(struct session_table *t, uint64_t key); // false: there was none

void session_table_check(const struct session_table *t);

#endif
