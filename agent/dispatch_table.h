/* dispatch_table.h - what proxies have sent here: which of their numbered requests the load report
 * counts, and which client requests run, so that none runs twice. Rules at the head of
 * dispatch_table.c. Pure: time is the caller's. Loop thread only. */
#ifndef LM_AGENT_DISPATCH_TABLE_H
#define LM_AGENT_DISPATCH_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/base/str.h"
#include "shared/net/agent_record.h"

#define DISPATCH_KEPT_MS 60000 // a proxy that is silent, the id of a request that is over
#define DISPATCH_IDS_MAX 16384

/* x-lm-dispatch: <proxy 16 hex>;<number>;<request 16 hex>;<attempt> */
struct dispatch {
    uint64_t proxy;   // random per process, not 0
    uint64_t number;  // of what this proxy has sent to this agent, from 1; 0: no dispatch at all
    uint64_t request; // the client's request: the same for each attempt
    int attempt;      // from 1
};
/* E_FORMAT. */
FALLIBLE int dispatch_parse(struct str header, struct dispatch *out);

struct dispatch_request;

/* A proxy's requests. */
struct dispatch_proxy {
    struct agent_seen seen;         // first_gap is 0
    uint64_t gaps[AGENT_SEEN_GAPS]; // ascending
    int tickets;                    // that point here
    uint64_t heard_ms;
};

struct dispatch_table {
    struct dispatch_proxy proxies[AGENT_SEEN_MAX];
    struct hash_map requests; // of struct dispatch_request, by id
    struct list ended;        // of those that are over, oldest first
    size_t request_count;
};

/* One request being worked on, embedded in whatever works on it. Zeroed: no proxy sent it, and what is
 * called for it counts nothing. */
struct dispatch_ticket {
    struct dispatch_table *table; // NULL: zeroed, or over
    struct dispatch dispatch;
    struct dispatch_proxy *proxy;     // NULL: too many proxies
    struct dispatch_request *request; // NULL: too many requests
    int active;                       // what it has in the engine
    bool is_accepted;
};

void dispatch_table_init(struct dispatch_table *t);
void dispatch_table_deinit(struct dispatch_table *t);

/* A request begins; dispatch_end in every case. E_BUSY: an attempt of it runs, or a later one was
 * here; its number is then accepted, since it is over. */
FALLIBLE int dispatch_begin(struct dispatch_table *t, const struct dispatch *d, uint64_t now_ms,
                            struct dispatch_ticket *ticket);
/* The engine's numbers count one more sequence of it, or one less. */
void dispatch_enter_engine(struct dispatch_ticket *ticket);
void dispatch_leave_engine(struct dispatch_ticket *ticket);
/* It is over. Fine for one that is, and for a zeroed one. */
void dispatch_end(struct dispatch_ticket *ticket, uint64_t now_ms);

/* What the load report says of proxies. */
void dispatch_table_report(struct dispatch_table *t, uint64_t now_ms, struct agent_load *out);

void dispatch_table_check(const struct dispatch_table *t);

#endif
