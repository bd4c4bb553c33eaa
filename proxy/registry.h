/* registry.h - who belongs to the fleet, and whether he is believed to be alive. It merges what the
 * sources say (beats by HTTP, records in Redis, operators) with what we see ourselves (probes,
 * refused connects) and publishes the result as a struct fleet.
 *
 * No I/O and no clock in here: time comes in as `now_ms` (monotonic), so tests run days in
 * microseconds. Any thread, but one at a time: with several, whoever calls holds the lock, also
 * while he looks at members. The file registry.c holds the rules. */
#ifndef LM_PROXY_REGISTRY_H
#define LM_PROXY_REGISTRY_H

#include <pthread.h>

#include "proxy/fleet.h"
#include "proxy/prefix_table.h"
#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/net/agent_record.h"

#define REGISTRY_PROBE_MS       1000  // an agent in doubt is asked this often
#define REGISTRY_PROBE_AGAIN_MS 200   // after a refused connect: the second one settles it
#define REGISTRY_FOREIGN_MS     2000  // foreign nodes send no beats: they are asked this often
#define REGISTRY_REFUSED_MAX    2     // refused connects in a row that mean: the process is gone
#define REGISTRY_FAILURES_MAX   3     // failed probes where a single one isn't believed
#define REGISTRY_UNHEARD_MS     30000 // healthy, but it beats no more: it has left for elsewhere
#define REGISTRY_GUARD_MS       5000  // mass-loss guard (rule 6)

enum registry_source { REGISTRY_HTTP, REGISTRY_REDIS, REGISTRY_SOURCES };

enum registry_presence {
    REGISTRY_PRESENT,
    REGISTRY_DEAD,    // proven gone; remembered until its old lease can't be read again
    REGISTRY_REMOVED, // by an operator, until another incarnation comes
};

struct registry_member {
    struct list link;
    struct agent_record record; // a foreign node: id is its URL, no incarnation
    bool foreign;
    double speed; // LMDeploy's; 0: not given
    enum registry_presence presence;
    enum fleet_state state;                    // while present and visible
    bool visible;                              // is in the fleet
    uint64_t lease_until_ms[REGISTRY_SOURCES]; // 0: never heard from there
    uint64_t beat_mark;         // Redis' expiry of the last beat: a re-read is no beat
    uint64_t listed;            // number of the last scan of Redis that showed it
    uint64_t lease_lost_ms;     // when the last lease ran out; 0: leased
    uint64_t verified_until_ms; // by a probe
    uint64_t next_probe_ms;
    bool probing;
    bool probed;        // a probe has succeeded at least once
    int probe_failures; // in a row
    bool doubted;       // a connect failed: probe although leased
    bool is_recalled;   // from the state file, and not seen since
    bool unwritten;     // a lease was heard by HTTP: Redis should know it, too
    int64_t first_seen_wall_s;
    struct fleet_cell *cell;
    struct fleet_agent *published; // NULL: not in the fleet, or facts changed since
};

struct registry {
    struct list members;
    struct hash_map by_id; // id -> member
    int count;
    uint64_t proxy;                          // ours, as load reports name it; 0: none
    uint64_t columns[FLEET_AGENTS_MAX / 64]; // of the prefix table: taken ones
    int next_column;
    bool source_lost[REGISTRY_SOURCES];
    uint64_t guard_until_ms;
    struct prefix_table *prefixes; // borrowed; NULL: none. Columns of those who left are cleared
    struct fleet *fleet;
    atomic_bool changed;             // the fleet must be made anew
    atomic_uint_fast64_t generation; // of the fleet as it would be made now
    pthread_mutex_t lock;
};

void registry_init(struct registry *r);
void registry_deinit(struct registry *r);
void registry_lock(struct registry *r);
void registry_unlock(struct registry *r);

/* The current picture; valid until the next call, fleet_ref() to keep it. */
struct fleet *registry_fleet(struct registry *r);
/* Another number means that registry_fleet() gives another picture. Without the lock. */
static inline uint64_t registry_generation(const struct registry *r)
{
    return atomic_load_explicit(&r->generation, memory_order_acquire);
}

/* ---- what sources say ---- */

/* A beat of one of our agents: valid for lease_ms. mark: another one with every beat (Redis'
 * expiry), so that reading a record twice isn't two beats; 0 for sources where each call is a beat.
 * E_BUSY: an older incarnation, or a duplicate id while the first one lives. E_LIMIT: table full.
 * E_INVALID: its URL can't be used. */
FALLIBLE int registry_hear(struct registry *r, enum registry_source source,
                           const struct agent_record *record, uint64_t lease_ms, uint64_t mark,
                           uint64_t now_ms, struct error *err);
/* An agent that was known before this process began (snapshot.c): in doubt until a probe of ours
 * succeeds. Nothing if it has been heard meanwhile. E_LIMIT, E_INVALID. */
FALLIBLE int registry_recall(struct registry *r, enum registry_source source,
                             const struct agent_record *record, uint64_t now_ms, struct error *err);
void registry_report_load(struct registry *r, const char *id, const struct agent_load *load,
                          uint64_t now_ms);
/* The next member whose lease was heard by HTTP and is not with other sources yet, NULL: none. Each
 * lease comes once. */
struct registry_member *registry_next_unwritten(struct registry *r);
/* A source no longer knows this agent. */
void registry_lease_ended(struct registry *r, enum registry_source source, const char *id,
                          uint64_t now_ms);
/* A source can't be asked (or can again): the leases it gave are neither renewed nor missed. */
void registry_set_source_lost(struct registry *r, enum registry_source source, bool lost,
                              uint64_t now_ms);

/* A node that isn't ours, known by its URL; models may be empty until a probe fills them. An agent
 * of ours at that URL stays what it is. E_LIMIT, E_INVALID. */
FALLIBLE int registry_add_foreign(struct registry *r, const char *url, const char (*models)[128],
                                  int model_count, double speed, uint64_t now_ms,
                                  struct error *err);
/* By an operator. False: no such URL. */
bool registry_remove(struct registry *r, const char *url);

/* ---- what we see ---- */

/* A connect for a request was refused, or failed otherwise. */
void registry_note_refused(struct registry *r, const struct fleet_agent *a, uint64_t now_ms);
void registry_note_unreachable(struct registry *r, const struct fleet_agent *a, uint64_t now_ms);
static inline void registry_note_reached(const struct fleet_agent *a)
{
    atomic_store_explicit(&a->cell->refused, 0, memory_order_relaxed);
}

/* Let time pass: leases run out, suspects appear, what is proven gone leaves. */
void registry_tick(struct registry *r, uint64_t now_ms);

/* The next member to probe now, marked as being probed; NULL: none. */
struct registry_member *registry_next_probe(struct registry *r, uint64_t now_ms);

enum registry_probe {
    REGISTRY_PROBE_OK,
    REGISTRY_PROBE_REFUSED,
    REGISTRY_PROBE_FAILED,
    REGISTRY_PROBE_NOT_MADE, // for want of descriptors or the like: says nothing about the member
};
/* Result of a probe. models: what a foreign node lists (count < 0: not asked, keep). The member may
 * have left meanwhile: it is looked up by id. */
void registry_probed(struct registry *r, const char *id, enum registry_probe result,
                     const char (*models)[128], int model_count, uint64_t now_ms);

/* True while an agent that served this model is remembered as lost: it may come back. */
bool registry_misses_model(const struct registry *r, struct str model);
struct registry_member *registry_find(const struct registry *r, const char *id);
struct registry_member *registry_find_url(const struct registry *r, const char *url);
const char *registry_state_name(const struct registry_member *m); // "up", "suspect", "down", ...
void registry_check(const struct registry *r);

#endif
