/* limits.h - what a key may use: requests and tokens a minute, streams at once. One struct limits a
 * process, for all its threads: a mutex inside, held for bookkeeping only. Time comes in.
 *
 * Requests and tokens are token buckets: a minute's worth at most, filled all the time. A request
 * takes its estimate of tokens when it is admitted, and what it really used corrects that at its
 * end, by more than the bucket holds if need be: then the bucket is in debt.
 *
 * Several proxies share a limit through Redis (quota_redis.c), and no request waits for it. What a
 * proxy may give out is
 *
 *     held + room     held  taken in Redis and not given out yet; negative: given out and not
 *                           settled with Redis yet
 *                     room  credit: this proxy's share (1 / proxies) of what Redis had left at the
 *                           last exchange, growing with its share of the rate
 *
 * Every 100 ms accounts in use are settled in one script for all of them: debts are paid, and so
 * much is taken in advance (the lease) as the account needs in 100 ms, or the request needs that was
 * refused last. While Redis is away room grows on with the share of the last known number of
 * proxies: each proxy keeps to its part, no request fails. Without Redis there is one proxy, whose
 * share is all. Overshoot: what others gave out since they were last settled, 100 ms' worth. */
#ifndef LM_PROXY_LIMITS_H
#define LM_PROXY_LIMITS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/hash_map.h"
#include "shared/base/list.h"
#include "shared/net/api_error.h"
#include "shared/net/api_keys.h"

struct limits_account;

struct limits {
    pthread_mutex_t lock;
    struct hash_map accounts; // by key id; of struct limits_account
    struct list active;       // those that may have to be settled, longest unsettled first
    int proxies;              // that share, from 1
};

enum limits_resource { LIMITS_REQUESTS, LIMITS_TOKENS };
#define LIMITS_RESOURCES 2

/* What the x-ratelimit-* headers say; limit 0: none of that kind. */
struct limits_view {
    int64_t limit[LIMITS_RESOURCES], remaining[LIMITS_RESOURCES];
    uint64_t reset_ms[LIMITS_RESOURCES]; // until all of the limit is there again
    bool is_hopeless;                    // asks for more than a minute's worth: never fits
};

/* Embedded in a request; zeroed before limits_admit. */
struct limits_grant {
    struct limits_account *account; // NULL: nothing is held
    double tokens;                  // reserved
    bool is_settled;
};

void limits_init(struct limits *l);
void limits_deinit(struct limits *l); // CHECKs that no grant is held

/* 0: *grant is held until limits_end. -1: *error is a 429, nothing is held. key NULL, or one
 * without limits: 0 at once. *view gets what to tell the client in both cases. */
FALLIBLE int limits_admit(struct limits *l, const struct api_key *key, double tokens,
                          uint64_t now_ms, struct limits_grant *grant, struct limits_view *view,
                          struct api_error *error);
/* What it really used; 0 for a request that no agent began. Only the first call counts. */
void limits_settle(struct limits *l, struct limits_grant *grant, double tokens, uint64_t now_ms);
/* The request is over; unless settled, its estimate stays taken. Again: nothing. */
void limits_end(struct limits *l, struct limits_grant *grant);

/* x-ratelimit-{limit,remaining,reset}-{requests,tokens}, and x-should-retry: false if hopeless. */
void limits_add_headers(struct http_exchange *x, const struct limits_view *view);

/* After a reload: accounts of keys that are gone or have no limits any more are dropped once their
 * grants are over. New limits of the others apply with their next request. */
void limits_retain(struct limits *l, const struct api_keys *keys);

/* ---- sharing; see quota_redis.c ---- */

#define LIMITS_BATCH 64

struct limits_order { // what an account wants of Redis
    char id[API_KEY_ID_BYTES];
    double per_minute[LIMITS_RESOURCES]; // 0: no limit
    double owed[LIMITS_RESOURCES];       // given out already; negative: given back
    double wanted[LIMITS_RESOURCES];     // in advance, if there is as much
    int streams;                         // running here
};
struct limits_answer {
    double taken[LIMITS_RESOURCES]; // owed and what was got in advance
    double level[LIMITS_RESOURCES]; // left there; negative: debt
    int streams;                    // running at the other proxies
};

void limits_set_proxies(struct limits *l, int count);
/* Accounts to be settled now, at most LIMITS_BATCH. */
int limits_collect(struct limits *l, uint64_t now_ms, struct limits_order orders[LIMITS_BATCH]);
/* answers NULL: it isn't known what became of them, and they will be collected again. */
void limits_apply(struct limits *l, uint64_t now_ms, const struct limits_order *orders, int count,
                  const struct limits_answer *answers);

void limits_check(struct limits *l); // CHECKs

#endif
