/* fleet.h - who can be asked: an immutable, reference-counted picture of the agents, each with its
 * live cell (fleet_cell.h).
 *
 * The registry publishes a new struct fleet whenever a fact changes (an agent came, went, drains,
 * is suspect); readers take a reference and see a picture that never changes under them.
 * References are atomic: a picture may be read on several threads. Making and publishing belongs to
 * the registry's thread. */
#ifndef LM_PROXY_FLEET_H
#define LM_PROXY_FLEET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/fleet_cell.h"
#include "shared/base/str.h"
#include "shared/net/http_message.h"

#define FLEET_AGENTS_MAX 1024

/* ---- facts ---- */

enum fleet_state {
    FLEET_UP,
    FLEET_SUSPECT, // its lease ran out or its connects fail: only if nobody else is left
};

struct fleet_agent {
    atomic_int refs;
    enum fleet_state state;
    bool draining;
    bool foreign;            // not one of ours: no lease, no load reports
    int capacity;            // sequences that run at once; 0: unknown
    int context_len;         // tokens; 0: unknown
    double speed;            // LMDeploy's relative speed; 0: not given
    uint64_t stable_hash;    // of its id: the same at every proxy and after restarts
    struct fleet_cell *cell; // one reference
    const char *id;          // all strings are owned by the struct
    const char *url;         // as registered
    enum http_scheme scheme; // for http_call_start
    const char *host;
    const char *incarnation; // of the process; "" for foreign nodes (NULL is "" for create)
    const char *path;        // "" or "/prefix": stands before the request's own target
    int port;
    int model_count;
    const char *models[];
};

/* Copies the strings; takes a reference of `cell`; stable_hash is computed. One reference, the
 * caller's. */
struct fleet_agent *fleet_agent_create(const struct fleet_agent *facts, const char *const *models);
struct fleet_agent *fleet_agent_ref(struct fleet_agent *a);
void fleet_agent_unref(struct fleet_agent *a); // NULL is fine
/* Sequences that it runs at once: its capacity, else a nominal number times its speed. */
double fleet_agent_slots(const struct fleet_agent *a);

/* ---- the picture ---- */

struct fleet_model {
    struct str name;
    const uint16_t *agents; // indexes into fleet.agents, ascending
    int count;
    _Atomic uint32_t *first; // for rendezvous.c, filled as keys come; NULL: few agents
};

struct fleet {
    atomic_int refs;
    int count;
    struct fleet_agent **agents; // by id, ascending
    int model_count;
    struct fleet_model *models; // by name, ascending
    uint16_t *slots;            // what models[].agents point into
    uint16_t *by_column;        // FLEET_AGENTS_MAX: cell's column -> index + 1; 0: none
};

/* The picture of these agents; takes their references over (the array stays the caller's). */
struct fleet *fleet_create_take(struct fleet_agent **agents, int count);
struct fleet *fleet_ref(struct fleet *f);
void fleet_unref(struct fleet *f); // NULL is fine

const struct fleet_model *fleet_find_model(const struct fleet *f, struct str name); // NULL: none
/* Index of the agent with this cell, or of the one in this column of the prefix table; -1: none. */
int fleet_find_cell(const struct fleet *f, const struct fleet_cell *cell);
int fleet_find_column(const struct fleet *f, int column);
bool fleet_model_has(const struct fleet_model *m, int agent); // is that index among its agents?
bool fleet_is_empty(const struct fleet *f);
/* CHECKs order, indexes and references; for tests and debug builds. */
void fleet_check(const struct fleet *f);

#endif
