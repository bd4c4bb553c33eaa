/* limits.c - accounts of keys.
 *
 * Rules:
 *  1. What may be given out is held + room, never more than this proxy's share of a minute plus
 *     what was leased. Both grow and shrink under the lock only.
 *  2. A grant counts in its account's streams and grants from limits_admit to limits_end, once.
 *  3. An account that was settled within SHARED_MS is shared: its debt is paid in Redis. Else its
 *     own growth pays it: with Redis away nothing piles up.
 *  4. An account is active while there is something to settle: a debt, a lease, streams, a request
 *     that was refused. It isn't settled twice at once.
 *  5. An account without a key is freed with its last grant. */
#include "proxy/limits.h"

#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MINUTE_MS   60000.0
#define SHARED_MS   2000 // since the last settlement
#define STREAMS_MS  3000 // what others said about their streams holds so long; as in the script
#define IDLE_MS     1000 // then a lease is given back
#define LEASE_MS    100
#define SMALLEST    1e-6 // below it is noise of the arithmetic
#define RETRY_MAX_S 120  // a debt of a whole minute, and the minute

struct account_bucket {
    double limit; // a minute's worth; 0: no limit
    double held, room;
    double level;  // of all proxies together, as far as known
    double spent;  // given out since the last settlement
    double demand; // smoothed, in LEASE_MS
    double wanted; // what was refused last
};

struct limits_account {
    struct list link; // limits->active, or itself
    char id[API_KEY_ID_BYTES];
    struct account_bucket buckets[LIMITS_RESOURCES];
    int64_t stream_limit;
    int streams, told_streams, other_streams;
    int grants;
    bool is_gone, is_settling, was_refused;
    uint64_t grown_ms, used_ms, told_ms;
    uint64_t settled_ms; // 0: never
};

/* ---- accounts ---- */

void limits_init(struct limits *l)
{
    *l = (struct limits){.proxies = 1};
    CHECK(pthread_mutex_init(&l->lock, NULL) == 0);
    hash_map_init(&l->accounts);
    list_init(&l->active);
}

static void drop(struct limits *l, struct limits_account *a)
{
    CHECK(a->grants == 0 && a->streams == 0);
    list_remove(&a->link);
    hash_map_remove(&l->accounts, str_of(a->id));
    free(a);
}

void limits_deinit(struct limits *l)
{
    size_t pos = 0;
    struct str id;
    void *account;
    while (hash_map_next(&l->accounts, &pos, &id, &account)) {
        CHECK(((struct limits_account *)account)->grants == 0);
        free(account);
    }
    hash_map_deinit(&l->accounts);
    pthread_mutex_destroy(&l->lock);
}

static bool is_shared(const struct limits_account *a, uint64_t now_ms)
{
    return a->settled_ms && now_ms < a->settled_ms + SHARED_MS;
}

static double share_of(const struct limits *l, const struct account_bucket *b)
{
    return b->limit / l->proxies;
}

static double available(const struct account_bucket *b)
{
    return b->held + b->room;
}

/* What time gives: to all together the rate, to this proxy its share of it. */
static void grow(struct limits *l, struct limits_account *a, uint64_t now_ms)
{
    if (now_ms <= a->grown_ms) return;
    double minutes = (double)(now_ms - a->grown_ms) / MINUTE_MS;
    a->grown_ms = now_ms;
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        struct account_bucket *b = &a->buckets[i];
        double share = share_of(l, b);
        b->level = fmin(b->limit, b->level + b->limit * minutes);
        double more = fmin(share * minutes, share - available(b));
        if (!is_shared(a, now_ms)) {
            /* Rule 3; and what came back is no more than an ordinary filling. */
            double paid = fmax(0, fmin(more, -b->held));
            b->held += paid;
            b->held = fmin(b->held, share);
            b->room = fmin(b->room, share - b->held);
            more = fmin(more - paid, share - available(b));
        }
        b->room = fmax(0, b->room + fmax(0, more));
    }
}

static void set_limit(const struct limits *l, struct account_bucket *b, int64_t limit)
{
    if ((double)limit == b->limit) return;
    bool is_new = b->limit <= 0;
    b->limit = (double)limit;
    if (is_new) {
        *b = (struct account_bucket){.limit = b->limit, .level = b->limit, .room = share_of(l, b)};
        return;
    }
    double left = available(b);
    b->level = fmax(-b->limit, fmin(b->level, b->limit));
    b->held = fmax(-b->limit, fmin(0, left));
    b->room = fmax(0, fmin(left, share_of(l, b)));
}

static struct limits_account *find(struct limits *l, const struct api_key *key, uint64_t now_ms)
{
    struct limits_account *a = hash_map_get(&l->accounts, str_of(key->id));
    if (!a) {
        a = xcalloc(1, sizeof *a);
        snprintf(a->id, sizeof a->id, "%s", key->id);
        list_init(&a->link);
        a->grown_ms = now_ms;
        hash_map_put(&l->accounts, str_of(a->id), a);
    }
    a->is_gone = false;
    a->stream_limit = key->streams;
    set_limit(l, &a->buckets[LIMITS_REQUESTS], key->rpm);
    set_limit(l, &a->buckets[LIMITS_TOKENS], key->tpm);
    grow(l, a, now_ms);
    return a;
}

static void activate(struct limits *l, struct limits_account *a)
{
    if (list_is_empty(&a->link)) list_push_back(&l->active, &a->link);
}

/* May be negative: it comes back. A debt is a minute's worth at most. */
static void spend(struct account_bucket *b, double amount)
{
    if (b->limit <= 0) return;
    b->held -= amount;
    b->level = fmax(-b->limit, fmin(b->limit, b->level - amount));
    b->spent = fmax(0, b->spent + amount);
    if (available(b) < -b->limit) b->held = -b->limit - b->room;
}

/* ---- refusing ---- */

static const struct {
    const char *type, *name;
} kinds[LIMITS_RESOURCES] = {
    [LIMITS_REQUESTS] = {"requests", "requests per min (RPM)"},
    [LIMITS_TOKENS] = {"tokens", "tokens per min (TPM)"},
};

/* As Go prints durations: "120ms", "8.64s", "6m0s". */
static void print_duration(char out[32], uint64_t ms)
{
    unsigned minutes = (unsigned)(ms / 60000);
    double seconds = (double)(ms % 60000) / 1e3;
    if (minutes) {
        snprintf(out, 32, "%um%gs", minutes, seconds);
    } else if (ms >= 1000) {
        snprintf(out, 32, "%gs", seconds);
    } else {
        snprintf(out, 32, "%ums", (unsigned)ms);
    }
}

static int refuse(struct limits *l, struct limits_account *a, enum limits_resource resource,
                  double cost, struct limits_view *view, struct api_error *error)
{
    struct account_bucket *b = &a->buckets[resource];
    long long limit = llround(b->limit), requested = llround(ceil(cost));
    const char *name = kinds[resource].name;
    view->is_hopeless = cost > b->limit;
    if (view->is_hopeless) {
        api_error_set(error, 429, "rate_limit_exceeded", NULL,
                      "Request too large for %s: Limit %lld, Requested %lld. It must be made "
                      "smaller to run.",
                      name, limit, requested);
    } else {
        double missing = cost - fmax(b->level, available(b));
        double wait_ms = fmax(1, ceil(missing / b->limit * MINUTE_MS - SMALLEST));
        char wait[32];
        print_duration(wait, (uint64_t)wait_ms);
        api_error_set(error, 429, "rate_limit_exceeded", NULL,
                      "Rate limit reached for %s: Limit %lld, Used %lld, Requested %lld. Please "
                      "try again in %s.",
                      name, limit, llround(fmin(b->limit, b->limit - b->level)), requested, wait);
        error->retry_after_s = (int)fmin(RETRY_MAX_S, ceil(wait_ms / 1e3));
        b->wanted = cost;
        a->was_refused = true;
        activate(l, a);
    }
    error->type = kinds[resource].type;
    return -1;
}

static int check_streams(struct limits *l, struct limits_account *a, uint64_t now_ms,
                         struct api_error *error)
{
    if (a->stream_limit == 0) return 0;
    int64_t limit = a->stream_limit, running = a->streams;
    if (a->settled_ms && now_ms < a->settled_ms + STREAMS_MS) {
        running += a->other_streams;
    } else {
        limit = limit / l->proxies > 0 ? limit / l->proxies : 1;
    }
    if (running < limit) return 0;
    a->was_refused = true; // one of another proxy may have ended
    activate(l, a);
    api_error_set(error, 429, "rate_limit_exceeded", NULL,
                  "Too many requests at once: Limit %" PRId64 ". Please try again when one of them "
                  "has ended.",
                  a->stream_limit);
    error->type = "requests";
    error->retry_after_s = 1;
    return -1;
}

static void view_account(const struct limits_account *a, struct limits_view *view)
{
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        const struct account_bucket *b = &a->buckets[i];
        view->limit[i] = llround(b->limit);
        view->remaining[i] = (int64_t)floor(fmax(0, b->level) + SMALLEST);
        double lacks = b->limit - b->level;
        view->reset_ms[i] = 0;
        if (b->limit <= 0 || lacks <= SMALLEST) continue;
        view->reset_ms[i] = (uint64_t)ceil(lacks / b->limit * MINUTE_MS - SMALLEST);
    }
}

/* ---- requests ---- */

static int take(struct limits *l, struct limits_account *a, double tokens, uint64_t now_ms,
                struct limits_view *view, struct api_error *error)
{
    const double costs[LIMITS_RESOURCES] = {1, tokens};
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        struct account_bucket *b = &a->buckets[i];
        if (b->limit <= 0 || costs[i] <= available(b) + SMALLEST) continue;
        return refuse(l, a, (enum limits_resource)i, costs[i], view, error);
    }
    if (check_streams(l, a, now_ms, error) < 0) return -1;
    for (int i = 0; i < LIMITS_RESOURCES; i++)
        spend(&a->buckets[i], costs[i]);
    a->streams++;
    a->grants++;
    a->used_ms = now_ms;
    activate(l, a);
    return 0;
}

int limits_admit(struct limits *l, const struct api_key *key, double tokens, uint64_t now_ms,
                 struct limits_grant *grant, struct limits_view *view, struct api_error *error)
{
    *view = (struct limits_view){.is_hopeless = false};
    CHECK(!grant->account);
    if (!key || (key->rpm == 0 && key->tpm == 0 && key->streams == 0)) return 0;
    if (!(tokens >= 1)) tokens = 1;
    pthread_mutex_lock(&l->lock);
    struct limits_account *a = find(l, key, now_ms);
    int rc = take(l, a, tokens, now_ms, view, error);
    view_account(a, view);
    pthread_mutex_unlock(&l->lock);
    if (rc < 0) metric_add(&proxy_metrics.requests_limited_total, 1);
    if (rc == 0) *grant = (struct limits_grant){.account = a, .tokens = tokens};
    return rc;
}

void limits_settle(struct limits *l, struct limits_grant *grant, double tokens, uint64_t now_ms)
{
    struct limits_account *a = grant->account;
    if (!a || grant->is_settled) return;
    grant->is_settled = true;
    if (!(tokens >= 0)) tokens = 0;
    pthread_mutex_lock(&l->lock);
    grow(l, a, now_ms);
    spend(&a->buckets[LIMITS_TOKENS], tokens - grant->tokens);
    activate(l, a);
    pthread_mutex_unlock(&l->lock);
}

void limits_end(struct limits *l, struct limits_grant *grant)
{
    struct limits_account *a = grant->account;
    if (!a) return;
    grant->account = NULL;
    pthread_mutex_lock(&l->lock);
    CHECK(a->streams > 0 && a->grants > 0);
    a->streams--;
    a->grants--;
    activate(l, a);
    if (a->is_gone && a->grants == 0) drop(l, a);
    pthread_mutex_unlock(&l->lock);
}

static void add_number(struct http_exchange *x, const char *what, const char *kind, int64_t value)
{
    char name[64], text[32];
    snprintf(name, sizeof name, "x-ratelimit-%s-%s", what, kind);
    snprintf(text, sizeof text, "%" PRId64, value);
    http_exchange_add_header(x, str_of(name), str_of(text));
}

void limits_add_headers(struct http_exchange *x, const struct limits_view *view)
{
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        if (view->limit[i] == 0) continue;
        char name[64], text[32];
        add_number(x, "limit", kinds[i].type, view->limit[i]);
        add_number(x, "remaining", kinds[i].type, view->remaining[i]);
        snprintf(name, sizeof name, "x-ratelimit-reset-%s", kinds[i].type);
        print_duration(text, view->reset_ms[i]);
        http_exchange_add_header(x, str_of(name), str_of(text));
    }
    if (view->is_hopeless) http_exchange_add_header(x, STR("x-should-retry"), STR("false"));
}

void limits_retain(struct limits *l, const struct api_keys *keys)
{
    struct hash_map kept;
    hash_map_init(&kept);
    for (int i = 0; i < keys->count; i++) {
        const struct api_key *key = &keys->items[i];
        if (key->disabled || key->rpm + key->tpm + key->streams == 0) continue;
        hash_map_put(&kept, str_of(key->id), l);
    }
    pthread_mutex_lock(&l->lock);
    struct list gone;
    list_init(&gone);
    size_t pos = 0;
    struct str id;
    void *value;
    while (hash_map_next(&l->accounts, &pos, &id, &value)) {
        struct limits_account *a = value;
        a->is_gone = !hash_map_get(&kept, id);
        if (!a->is_gone || a->grants > 0) continue;
        list_remove(&a->link);
        list_push_back(&gone, &a->link);
    }
    while (!list_is_empty(&gone))
        drop(l, list_first(&gone, struct limits_account, link));
    pthread_mutex_unlock(&l->lock);
    hash_map_deinit(&kept);
}

/* ---- sharing ---- */

void limits_set_proxies(struct limits *l, int count)
{
    pthread_mutex_lock(&l->lock);
    l->proxies = count < 1 ? 1 : count;
    pthread_mutex_unlock(&l->lock);
}

/* What to hold in advance. */
static double lease_of(const struct limits *l, const struct limits_account *a,
                       const struct account_bucket *b, uint64_t now_ms)
{
    bool idle = now_ms >= a->used_ms + IDLE_MS;
    double lease = idle ? 0 : fmax(b->limit * LEASE_MS / MINUTE_MS, b->demand);
    lease = fmin(lease, share_of(l, b));
    return fmax(lease, b->wanted);
}

/* True: there is something to settle. */
static bool order_account(struct limits *l, struct limits_account *a, uint64_t now_ms,
                          struct limits_order *out)
{
    /* While streams run those of the others matter as well. */
    int streams = a->stream_limit > 0 ? a->streams : 0;
    bool is_due = a->was_refused || streams > 0 || streams != a->told_streams;
    *out = (struct limits_order){.streams = streams};
    snprintf(out->id, sizeof out->id, "%s", a->id);
    double elapsed_ms = fmax(LEASE_MS, (double)(now_ms - a->told_ms));
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        struct account_bucket *b = &a->buckets[i];
        double demand = b->spent * LEASE_MS / elapsed_ms;
        b->demand = b->demand > demand ? (b->demand + demand) / 2 : demand;
        b->spent = 0;
        double lease = lease_of(l, a, b, now_ms);
        out->per_minute[i] = b->limit;
        out->owed[i] = b->held < 0 ? -b->held : b->held > lease ? lease - b->held : 0;
        out->wanted[i] = fmax(0, lease - fmax(0, b->held));
        b->wanted = 0;
        is_due = is_due || fabs(out->owed[i]) > SMALLEST;
    }
    return is_due;
}

int limits_collect(struct limits *l, uint64_t now_ms, struct limits_order orders[LIMITS_BATCH])
{
    int count = 0;
    pthread_mutex_lock(&l->lock);
    list_each_safe (a, &l->active, struct limits_account, link) {
        if (count == LIMITS_BATCH) break;
        if (a->is_settling) continue;
        grow(l, a, now_ms);
        if (!order_account(l, a, now_ms, &orders[count])) {
            bool holds =
                a->streams > 0 || a->buckets[0].held > SMALLEST || a->buckets[1].held > SMALLEST;
            if (!holds) list_remove(&a->link);
            continue;
        }
        a->is_settling = true;
        a->was_refused = false;
        a->told_ms = now_ms;
        list_remove(&a->link);
        list_push_back(&l->active, &a->link);
        count++;
    }
    pthread_mutex_unlock(&l->lock);
    return count;
}

static void apply_answer(struct limits *l, struct limits_account *a,
                         const struct limits_order *order, const struct limits_answer *answer,
                         uint64_t now_ms)
{
    grow(l, a, now_ms);
    for (int i = 0; i < LIMITS_RESOURCES; i++) {
        struct account_bucket *b = &a->buckets[i];
        if (b->limit <= 0 || order->per_minute[i] <= 0) continue;
        b->held += answer->taken[i];
        b->room = fmax(0, fmin(b->limit, answer->level[i])) / l->proxies;
        b->level = fmax(-b->limit, fmin(b->limit, answer->level[i] + b->held));
    }
    a->told_streams = order->streams;
    a->other_streams = answer->streams;
    a->settled_ms = now_ms;
}

void limits_apply(struct limits *l, uint64_t now_ms, const struct limits_order *orders, int count,
                  const struct limits_answer *answers)
{
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < count; i++) {
        struct limits_account *a = hash_map_get(&l->accounts, str_of(orders[i].id));
        if (!a) continue;
        a->is_settling = false;
        if (answers) apply_answer(l, a, &orders[i], &answers[i], now_ms);
    }
    pthread_mutex_unlock(&l->lock);
}

void limits_check(struct limits *l)
{
    pthread_mutex_lock(&l->lock);
    size_t pos = 0;
    struct str id;
    void *value;
    while (hash_map_next(&l->accounts, &pos, &id, &value)) {
        const struct limits_account *a = value;
        CHECK(str_equal(id, str_of(a->id)) && a->streams == a->grants && a->grants >= 0);
        CHECK(!a->is_gone || a->grants > 0);
        for (int i = 0; i < LIMITS_RESOURCES; i++) {
            const struct account_bucket *b = &a->buckets[i];
            CHECK(b->room >= 0 && b->room <= b->limit + SMALLEST);
            CHECK(b->level <= b->limit + SMALLEST && b->level >= -b->limit - SMALLEST);
            CHECK(available(b) >= -b->limit - SMALLEST);
        }
    }
    pthread_mutex_unlock(&l->lock);
}
