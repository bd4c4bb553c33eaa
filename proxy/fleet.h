/* fleet.h - who can be asked: an immutable, reference-counted picture of the agents, and one live
 * load cell for each of them.
 *
 * The registry publishes a new struct fleet whenever a fact changes (an agent came, went, drains,
 * is suspect); readers take a reference and see a picture that never changes under them. What
 * changes with every request lives in the cell: it outlives pictures and incarnations, so that
 * requests in flight stay counted when facts change. References and cells' counters are atomic:
 * a picture may be read on several threads. Making and publishing belongs to the registry's
 * thread. */
#ifndef LM_PROXY_FLEET_H
#define LM_PROXY_FLEET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/str.h"

#define FLEET_AGENTS_MAX  1024
#define FLEET_LATENCY_MAX 15 // whole-request durations kept, as LMDeploy shows them

/* ---- the live part ---- */

struct fleet_cell {
    atomic_int refs;
    atomic_int in_flight;        // requests of ours at this agent; only the ledger writes
    atomic_int others_in_flight; // of other proxies and clients, by the last report
    atomic_int refused;          // connects refused in a row
    atomic_bool gone; // answers no probe: requests that wait there needn't wait any longer
    atomic_uint_fast64_t dispatched_total, failed_total;

    /* Written by the registry's thread only. */
    int peak, peak_before; // highest in_flight since the last report, and in the interval before it
    double latency_s[FLEET_LATENCY_MAX];
    unsigned latency_count; // ever
};

struct fleet_cell *fleet_cell_create(void); // one reference, the caller's
struct fleet_cell *fleet_cell_ref(struct fleet_cell *c);
void fleet_cell_unref(struct fleet_cell *c); // NULL is fine

/* A load report came in: `active` sequences run or wait there, ours among them. A report is some
 * hundred milliseconds old, so what it says about our own requests is worse than what we know: only
 * what exceeds the most we had there in that time is laid to others. */
void fleet_cell_report(struct fleet_cell *c, int active);
int fleet_cell_load(const struct fleet_cell *c); // requests there, by all we know
void fleet_cell_add_latency(struct fleet_cell *c, double seconds);

/* ---- facts ---- */

enum fleet_state {
    FLEET_UP,
    FLEET_SUSPECT, // its lease ran out or its connects fail: only if nobody else is left
};

struct fleet_agent {
    atomic_int refs;
    const char *id;   // all strings are owned by the struct
    const char *url;  // as registered
    const char *host; // for http_call_start
    const char *path; // "" or "/prefix": stands before the request's own target
    int port;
    int capacity; // sequences that run at once; 0: unknown
    double speed; // LMDeploy's relative speed; 0: not given
    bool foreign; // not one of ours: no lease, no load reports
    bool draining;
    enum fleet_state state;
    struct fleet_cell *cell; // one reference
    int model_count;
    const char *models[];
};

/* Copies the strings; takes a reference of `cell`. One reference, the caller's. */
struct fleet_agent *fleet_agent_create(const struct fleet_agent *facts, const char *const *models);
struct fleet_agent *fleet_agent_ref(struct fleet_agent *a);
void fleet_agent_unref(struct fleet_agent *a); // NULL is fine

/* ---- the picture ---- */

struct fleet_model {
    struct str name;
    const uint16_t *agents; // indexes into fleet.agents, ascending
    int count;
};

struct fleet {
    atomic_int refs;
    int count;
    struct fleet_agent **agents; // by id, ascending
    int model_count;
    struct fleet_model *models; // by name, ascending
    uint16_t *slots;            // what models[].agents point into
};

/* The picture of these agents; takes their references over (the array stays the caller's). */
struct fleet *fleet_create_take(struct fleet_agent **agents, int count);
struct fleet *fleet_ref(struct fleet *f);
void fleet_unref(struct fleet *f); // NULL is fine

const struct fleet_model *fleet_find_model(const struct fleet *f, struct str name); // NULL: none
bool fleet_is_empty(const struct fleet *f);
/* CHECKs order, indexes and references; for tests and debug builds. */
void fleet_check(const struct fleet *f);

#endif
