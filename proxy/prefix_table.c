/* prefix_table.c - a hash table of buckets, each of which is a small cache of its own.
 *
 *     bucket: 8 hashes | 8 bodies          256 bytes; a miss touches one cache line, a hit two
 *     body:   tokens, holders[4], predicted[2]
 *                        │ a fifth holder comes
 *                        └─► row: bitmap over all columns, from the shard's pool
 *
 *  1. A bucket never overflows into another: who comes when it is full displaces a slot in which
 *     nobody is left, else the first that wasn't asked for since the hand came by (a clock).
 *  2. A holder is a column with that column's generation. prefix_table_clear_column() makes a new
 *     generation, so that the old holders mean nothing at once; bits in rows it clears itself. After
 *     63 generations, before a number is used again, it walks over all buckets.
 *  3. No row is left for a fifth holder: it is forgotten. Nobody asks for more than three.
 *  4. One shard's lock guards its buckets and rows; it is held for one entry. The order of locks is
 *     learned_lock, then a shard's.
 *  5. Hashes come from peers: which bucket one belongs to depends on a random number of this
 *     process. */
#include "proxy/prefix_table.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"

#define WAYS            8
#define HOLDERS         4
#define PREDICTIONS     2
#define SHARDS          64
#define ROW_WORDS       (PREFIX_COLUMNS / 64)
#define ROW_NONE        0xffffu
#define GENERATIONS     63 // so that a holder fits 16 bits and is never 0
#define TICK_SHIFT      6  // predictions are dated in 64 ms
#define TICKS_VALID     (PREFIX_PREDICT_MS >> TICK_SHIFT)
#define ENTRIES_PER_ROW 64
#define ROWS_MIN        4 // of a shard
#define PREFETCH_MAX    32
#define LEARNED_MIN     64
#define LEARNED_MAX     4096

enum { BODY_ROW = 1, BODY_ASKED = 2 };

struct body {
    uint32_t tokens;           // that the mark covers; 0: not known
    uint16_t holders[HOLDERS]; // 0: none; with BODY_ROW the first one is the row
    uint16_t predicted[PREDICTIONS];
    uint16_t tick[PREDICTIONS];
    uint8_t flags;
    uint8_t hand; // the bucket's, in its first body
};

struct bucket {
    uint64_t hash[WAYS]; // 0: free
    struct body body[WAYS];
};

struct row {
    uint64_t bits[ROW_WORDS];
};

struct shard {
    pthread_mutex_t lock;
    struct row *rows;
    uint16_t *row_next; // of the free list
    uint16_t row_free;  // its head
    uint32_t rows_used;
    uint64_t entries, evicted;
} __attribute__((aligned(64)));

struct learned {
    uint32_t size;
    uint64_t hashes[]; // by hash % size: whoever comes displaces who was there
};

struct prefix_table {
    struct bucket *buckets;
    void *buckets_memory; // what was allocated for them
    uint64_t bucket_mask;
    uint64_t key;
    uint32_t rows_per_shard;
    _Atomic uint8_t generation[PREFIX_COLUMNS];
    pthread_mutex_t learned_lock;
    struct learned *learned[PREFIX_COLUMNS];
    struct shard shards[SHARDS];
};

_Static_assert(sizeof(struct bucket) == 256, "a bucket is four cache lines");

/* ---- creating ---- */

static void create_rows(struct shard *s, uint32_t rows)
{
    pthread_mutex_init(&s->lock, NULL);
    s->rows = xcalloc(rows, sizeof *s->rows);
    s->row_next = xcalloc(rows, sizeof *s->row_next);
    for (uint32_t i = 0; i < rows; i++)
        s->row_next[i] = (uint16_t)(i + 1 < rows ? i + 1 : ROW_NONE);
    s->row_free = 0;
}

struct prefix_table *prefix_table_create_keyed(uint64_t entries, uint64_t key)
{
    CHECK(entries >= 1 << 10 && entries <= 1 << 24);
    uint64_t buckets = SHARDS;
    while (buckets * WAYS < entries)
        buckets *= 2;
    struct prefix_table *t = xaligned(sizeof *t);
    t->bucket_mask = buckets - 1;
    t->buckets_memory =
        xcalloc(buckets * sizeof *t->buckets + 64, 1); // zero pages, not yet resident
    t->buckets = (struct bucket *)(((uintptr_t)t->buckets_memory + 63) & ~(uintptr_t)63);
    t->rows_per_shard = (uint32_t)(buckets * WAYS / ENTRIES_PER_ROW / SHARDS);
    if (t->rows_per_shard < ROWS_MIN) t->rows_per_shard = ROWS_MIN;
    t->key = key;
    pthread_mutex_init(&t->learned_lock, NULL);
    for (int i = 0; i < SHARDS; i++)
        create_rows(&t->shards[i], t->rows_per_shard);
    return t;
}

struct prefix_table *prefix_table_create(uint64_t entries)
{
    uint64_t key;
    random_bytes(&key, sizeof key);
    return prefix_table_create_keyed(entries, key);
}

void prefix_table_destroy(struct prefix_table *t)
{
    if (!t) return;
    for (int i = 0; i < SHARDS; i++) {
        pthread_mutex_destroy(&t->shards[i].lock);
        free(t->shards[i].rows);
        free(t->shards[i].row_next);
    }
    for (int i = 0; i < PREFIX_COLUMNS; i++)
        free(t->learned[i]);
    pthread_mutex_destroy(&t->learned_lock);
    free(t->buckets_memory);
    free(t);
}

/* ---- holders ---- */

static uint16_t holder_of(const struct prefix_table *t, int column)
{
    unsigned generation = atomic_load_explicit(&t->generation[column], memory_order_relaxed);
    return (uint16_t)(1 + (generation << 10 | (unsigned)column));
}

static int holder_column(uint16_t holder)
{
    return (holder - 1) & (PREFIX_COLUMNS - 1);
}

static bool holder_lives(const struct prefix_table *t, uint16_t holder)
{
    return holder != 0 && holder == holder_of(t, holder_column(holder));
}

static struct row *row_of(struct shard *s, const struct body *b)
{
    return &s->rows[b->holders[0]];
}

static void set_bit(struct row *row, int column)
{
    row->bits[column / 64] |= (uint64_t)1 << (column % 64);
}

static bool row_is_empty(const struct row *row)
{
    uint64_t any = 0;
    for (int i = 0; i < ROW_WORDS; i++)
        any |= row->bits[i];
    return any == 0;
}

static void give_row(struct shard *s, struct body *b)
{
    uint16_t index = b->holders[0];
    s->row_next[index] = s->row_free;
    s->row_free = index;
    s->rows_used--;
    memset(b->holders, 0, sizeof b->holders);
    b->flags &= (uint8_t)~BODY_ROW;
}

/* The four holders move to a row; false: there is none left. */
static bool take_row(struct shard *s, struct body *b)
{
    uint16_t index = s->row_free;
    if (index == ROW_NONE) return false;
    s->row_free = s->row_next[index];
    s->rows_used++;
    struct row *row = &s->rows[index];
    memset(row, 0, sizeof *row);
    for (int i = 0; i < HOLDERS; i++)
        set_bit(row, holder_column(b->holders[i]));
    memset(b->holders, 0, sizeof b->holders);
    b->holders[0] = index;
    b->flags |= BODY_ROW;
    return true;
}

static void add_holder(const struct prefix_table *t, struct shard *s, struct body *b, int column)
{
    uint16_t holder = holder_of(t, column);
    int free_at = -1;
    if (!(b->flags & BODY_ROW)) {
        for (int i = HOLDERS - 1; i >= 0; i--) {
            if (b->holders[i] == holder) return;
            if (!holder_lives(t, b->holders[i])) free_at = i;
        }
        if (free_at >= 0) {
            b->holders[free_at] = holder;
            return;
        }
        if (!take_row(s, b)) return; // rule 3
    }
    set_bit(row_of(s, b), column);
}

static void remove_holder(const struct prefix_table *t, struct shard *s, struct body *b, int column)
{
    if (b->flags & BODY_ROW) {
        struct row *row = row_of(s, b);
        row->bits[column / 64] &= ~((uint64_t)1 << (column % 64));
        if (row_is_empty(row)) give_row(s, b);
        return;
    }
    for (int i = 0; i < HOLDERS; i++) {
        if (b->holders[i] &&
            (holder_column(b->holders[i]) == column || !holder_lives(t, b->holders[i]))) {
            b->holders[i] = 0;
        }
    }
}

static bool has_holder(const struct prefix_table *t, struct shard *s, const struct body *b)
{
    if (b->flags & BODY_ROW) return !row_is_empty(row_of(s, b));
    for (int i = 0; i < HOLDERS; i++) {
        if (holder_lives(t, b->holders[i])) return true;
    }
    return false;
}

/* ---- slots ---- */

static struct bucket *bucket_of(const struct prefix_table *t, uint64_t hash, struct shard **s)
{
    uint64_t index = hash_mix(hash ^ t->key) & t->bucket_mask;
    *s = (struct shard *)&t->shards[index % SHARDS];
    return &t->buckets[index];
}

static struct body *find(struct bucket *bucket, uint64_t hash)
{
    for (int i = 0; i < WAYS; i++) {
        if (bucket->hash[i] == hash) return &bucket->body[i];
    }
    return NULL;
}

static void clear_slot(struct shard *s, struct bucket *bucket, int i)
{
    struct body *b = &bucket->body[i];
    if (b->flags & BODY_ROW) give_row(s, b);
    uint8_t hand = b->hand;
    memset(b, 0, sizeof *b);
    b->hand = hand;
    bucket->hash[i] = 0;
    s->entries--;
}

/* Rule 1. */
static int make_room(const struct prefix_table *t, struct shard *s, struct bucket *bucket)
{
    for (int i = 0; i < WAYS; i++) {
        if (bucket->hash[i] == 0) return i;
    }
    int victim = -1;
    for (int i = 0; i < WAYS && victim < 0; i++) {
        struct body *b = &bucket->body[i];
        if (b->predicted[0] == 0 && b->predicted[1] == 0 && !has_holder(t, s, b)) victim = i;
    }
    uint8_t *hand = &bucket->body[0].hand;
    while (victim < 0) {
        struct body *b = &bucket->body[*hand];
        if (b->flags & BODY_ASKED) {
            b->flags &= (uint8_t)~BODY_ASKED;
        } else {
            victim = *hand;
        }
        *hand = (uint8_t)((*hand + 1) % WAYS);
    }
    clear_slot(s, bucket, victim);
    s->evicted++;
    return victim;
}

static struct body *find_or_add(const struct prefix_table *t, struct shard *s,
                                struct bucket *bucket, uint64_t hash)
{
    struct body *b = find(bucket, hash);
    if (b) return b;
    int i = make_room(t, s, bucket);
    bucket->hash[i] = hash;
    s->entries++;
    return &bucket->body[i];
}

/* ---- what agents say ---- */

static uint32_t tokens_of(uint64_t bytes, double tokens_per_byte)
{
    double tokens = (double)bytes * tokens_per_byte;
    return tokens >= 1 && tokens <= UINT32_MAX ? (uint32_t)tokens : 1;
}

/* reported: the agent counted its tokens, which is better than what was guessed. */
static void set(struct prefix_table *t, uint64_t hash, int column, uint32_t tokens, bool reported)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS && hash != 0);
    struct shard *s;
    struct bucket *bucket = bucket_of(t, hash, &s);
    pthread_mutex_lock(&s->lock);
    struct body *b = find_or_add(t, s, bucket, hash);
    if (reported || b->tokens == 0) b->tokens = tokens;
    add_holder(t, s, b, column);
    pthread_mutex_unlock(&s->lock);
}

void prefix_table_add(struct prefix_table *t, uint64_t hash, int column, uint32_t tokens)
{
    set(t, hash, column, tokens, true);
}

void prefix_table_remove(struct prefix_table *t, uint64_t hash, int column)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS && hash != 0);
    struct shard *s;
    struct bucket *bucket = bucket_of(t, hash, &s);
    pthread_mutex_lock(&s->lock);
    struct body *b = find(bucket, hash);
    if (b) {
        remove_holder(t, s, b, column);
        for (int i = 0; i < PREDICTIONS; i++) {
            if (b->predicted[i] && holder_column(b->predicted[i]) == column) b->predicted[i] = 0;
        }
        bool empty = b->predicted[0] == 0 && b->predicted[1] == 0 && !has_holder(t, s, b);
        if (empty) clear_slot(s, bucket, (int)(b - bucket->body));
    }
    pthread_mutex_unlock(&s->lock);
}

static void clear_rows(struct prefix_table *t, int column)
{
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &t->shards[i];
        pthread_mutex_lock(&s->lock);
        if (s->rows_used > 0) { // rows that become empty are given back with their slot
            for (uint32_t r = 0; r < t->rows_per_shard; r++)
                s->rows[r].bits[column / 64] &= ~((uint64_t)1 << (column % 64));
        }
        pthread_mutex_unlock(&s->lock);
    }
}

/* The column's next generation has had its turn before: whatever bears its number must go. */
static void clear_holders(struct prefix_table *t, int column)
{
    for (uint64_t index = 0; index <= t->bucket_mask; index++) {
        struct shard *s = &t->shards[index % SHARDS];
        struct bucket *bucket = &t->buckets[index];
        pthread_mutex_lock(&s->lock);
        for (int i = 0; i < WAYS; i++) {
            struct body *b = &bucket->body[i];
            if (bucket->hash[i] == 0) continue;
            if (!(b->flags & BODY_ROW)) remove_holder(t, s, b, column);
            for (int k = 0; k < PREDICTIONS; k++) {
                if (b->predicted[k] && holder_column(b->predicted[k]) == column)
                    b->predicted[k] = 0;
            }
        }
        pthread_mutex_unlock(&s->lock);
    }
}

void prefix_table_clear_column(struct prefix_table *t, int column)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    pthread_mutex_lock(&t->learned_lock);
    free(t->learned[column]);
    t->learned[column] = NULL;
    uint8_t generation = (uint8_t)((t->generation[column] + 1) % GENERATIONS);
    if (generation == 0) clear_holders(t, column);
    atomic_store(&t->generation[column], generation);
    clear_rows(t, column);
    pthread_mutex_unlock(&t->learned_lock);
}

/* ---- what dispatches let expect ---- */

static bool prediction_lives(const struct prefix_table *t, const struct body *b, int i,
                             uint16_t tick)
{
    return holder_lives(t, b->predicted[i]) && (uint16_t)(tick - b->tick[i]) <= TICKS_VALID;
}

static void predict(const struct prefix_table *t, struct body *b, int column, uint16_t tick)
{
    uint16_t holder = holder_of(t, column);
    int at = 0;
    for (int i = 0; i < PREDICTIONS; i++) {
        if (b->predicted[i] == holder) {
            b->tick[i] = tick;
            return;
        }
        if (!prediction_lives(t, b, i, tick)) { // else the older of the two goes
            at = i;
        } else if (prediction_lives(t, b, at, tick) &&
                   (uint16_t)(tick - b->tick[i]) > (uint16_t)(tick - b->tick[at])) {
            at = i;
        }
    }
    b->predicted[at] = holder;
    b->tick[at] = tick;
}

void prefix_table_predict(struct prefix_table *t, const struct prefix_mark *marks, int count,
                          double tokens_per_byte, int column, uint64_t now_ms)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    for (int i = 0; i < count; i++) {
        struct shard *s;
        struct bucket *bucket = bucket_of(t, marks[i].hash, &s);
        pthread_mutex_lock(&s->lock);
        struct body *b = find_or_add(t, s, bucket, marks[i].hash);
        if (b->tokens == 0) b->tokens = tokens_of(marks[i].bytes, tokens_per_byte);
        predict(t, b, column, (uint16_t)(now_ms >> TICK_SHIFT));
        pthread_mutex_unlock(&s->lock);
    }
}

static struct learned *learned_of(struct prefix_table *t, int column, double tokens_per_byte,
                                  double kv_tokens)
{
    if (t->learned[column]) return t->learned[column];
    double marks = kv_tokens / (1024 * (tokens_per_byte > 0 ? tokens_per_byte : 0.25));
    uint32_t size = marks < LEARNED_MIN   ? LEARNED_MIN
                    : marks > LEARNED_MAX ? LEARNED_MAX
                                          : (uint32_t)marks;
    struct learned *l = xcalloc(1, sizeof *l + size * sizeof l->hashes[0]);
    l->size = size;
    t->learned[column] = l;
    return l;
}

void prefix_table_learn(struct prefix_table *t, const struct prefix_mark *marks, int count,
                        double tokens_per_byte, int column, double kv_tokens)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    if (count <= 0) return;
    pthread_mutex_lock(&t->learned_lock);
    struct learned *l = learned_of(t, column, tokens_per_byte, kv_tokens);
    for (int i = 0; i < count; i++) {
        uint64_t *place = &l->hashes[hash_mix(marks[i].hash ^ t->key) % l->size];
        if (*place && *place != marks[i].hash) prefix_table_remove(t, *place, column);
        *place = marks[i].hash;
        set(t, marks[i].hash, column, tokens_of(marks[i].bytes, tokens_per_byte), false);
    }
    pthread_mutex_unlock(&t->learned_lock);
}

/* ---- looking up ---- */

struct matches {
    struct prefix_match *out;
    int count, max;
    int only; // column that is asked for; -1: any
};

static void put_match(struct matches *m, int column, const struct prefix_mark *mark,
                      const struct body *b)
{
    if (m->count == m->max || (m->only >= 0 && column != m->only)) return;
    for (int i = 0; i < m->count; i++) {
        if (m->out[i].column == column) return;
    }
    m->out[m->count++] = (struct prefix_match){column, b->tokens, mark->bytes};
}

/* All columns of a row, beginning with one that depends on the request. */
static void put_row(struct matches *m, const struct row *row, uint64_t from,
                    const struct prefix_mark *mark, const struct body *b)
{
    if (m->only >= 0) {
        if (row->bits[m->only / 64] >> (m->only % 64) & 1) put_match(m, m->only, mark, b);
        return;
    }
    unsigned start = from % PREFIX_COLUMNS;
    for (unsigned i = 0; i <= ROW_WORDS && m->count < m->max; i++) {
        unsigned word = (start / 64 + i) % ROW_WORDS;
        uint64_t bits = row->bits[word], behind = ~(uint64_t)0 << (start % 64);
        if (i == 0) bits &= behind;
        if (i == ROW_WORDS) bits &= ~behind; // the first word's beginning comes last
        for (; bits && m->count < m->max; bits &= bits - 1)
            put_match(m, (int)(word * 64) + __builtin_ctzll(bits), mark, b);
    }
}

static void put_holders(const struct prefix_table *t, struct shard *s, struct body *b,
                        struct matches *m, uint64_t from, const struct prefix_mark *mark,
                        uint16_t tick)
{
    int before = m->count;
    if (b->flags & BODY_ROW) {
        put_row(m, row_of(s, b), from, mark, b);
    } else {
        for (int i = 0; i < HOLDERS; i++) {
            uint16_t holder = b->holders[(from + (unsigned)i) % HOLDERS];
            if (holder_lives(t, holder)) put_match(m, holder_column(holder), mark, b);
        }
    }
    for (int i = 0; i < PREDICTIONS; i++) {
        if (prediction_lives(t, b, i, tick)) put_match(m, holder_column(b->predicted[i]), mark, b);
    }
    if (m->count > before) b->flags |= BODY_ASKED;
}

/* From the longest beginning to the shortest: an agent's blocks are freed from the end, so who holds a
 * mark holds all before it, and a mark in the middle that the table has lost doesn't matter. */
static void walk(struct prefix_table *t, const struct prefix_mark *marks, int count,
                 uint64_t now_ms, struct matches *m)
{
    struct shard *s;
    if (count <= 0) return;
    for (int i = count - 1; i >= 0 && i >= count - PREFETCH_MAX; i--)
        __builtin_prefetch(bucket_of(t, marks[i].hash, &s));
    uint64_t from = marks[count - 1].hash;
    uint16_t tick = (uint16_t)(now_ms >> TICK_SHIFT);
    for (int i = count - 1; i >= 0 && m->count < m->max; i--) {
        struct bucket *bucket = bucket_of(t, marks[i].hash, &s);
        pthread_mutex_lock(&s->lock);
        struct body *b = find(bucket, marks[i].hash);
        if (b) put_holders(t, s, b, m, from, &marks[i], tick);
        pthread_mutex_unlock(&s->lock);
    }
}

int prefix_table_match(struct prefix_table *t, const struct prefix_mark *marks, int count,
                       uint64_t now_ms, struct prefix_match out[PREFIX_MATCHES])
{
    struct matches m = {.out = out, .max = PREFIX_MATCHES, .only = -1};
    walk(t, marks, count, now_ms, &m);
    return m.count;
}

bool prefix_table_match_column(struct prefix_table *t, const struct prefix_mark *marks, int count,
                               int column, uint64_t now_ms, struct prefix_match *out)
{
    CHECK(column >= 0 && column < PREFIX_COLUMNS);
    struct matches m = {.out = out, .max = 1, .only = column};
    walk(t, marks, count, now_ms, &m);
    return m.count > 0;
}

bool prefix_table_match_crowd(struct prefix_table *t, const struct prefix_mark *marks, int count,
                              struct prefix_crowd *out)
{
    bool found = false;
    for (int i = count - 1; i >= 0 && !found; i--) {
        struct shard *s;
        struct bucket *bucket = bucket_of(t, marks[i].hash, &s);
        pthread_mutex_lock(&s->lock);
        struct body *b = find(bucket, marks[i].hash);
        if (b && b->flags & BODY_ROW) {
            memcpy(out->columns, row_of(s, b)->bits, sizeof out->columns);
            out->cached_tokens = b->tokens;
            b->flags |= BODY_ASKED;
            found = true;
        }
        pthread_mutex_unlock(&s->lock);
    }
    return found;
}

/* ---- looking at it ---- */

void prefix_table_get_stats(struct prefix_table *t, struct prefix_table_stats *out)
{
    uint64_t buckets = t->bucket_mask + 1;
    *out = (struct prefix_table_stats){.entries_max = buckets * WAYS};
    out->memory_bytes = sizeof *t + buckets * sizeof *t->buckets +
                        SHARDS * t->rows_per_shard * (sizeof(struct row) + sizeof(uint16_t));
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &t->shards[i];
        pthread_mutex_lock(&s->lock);
        out->entries += s->entries;
        out->bitmaps += s->rows_used;
        out->evicted += s->evicted;
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_lock(&t->learned_lock);
    for (int i = 0; i < PREFIX_COLUMNS; i++) {
        if (t->learned[i]) {
            out->memory_bytes += sizeof **t->learned + t->learned[i]->size * sizeof(uint64_t);
        }
    }
    pthread_mutex_unlock(&t->learned_lock);
}

static void check_slot(const struct prefix_table *t, const struct bucket *bucket, int i,
                       uint8_t *row_owned)
{
    const struct body *b = &bucket->body[i];
    if (bucket->hash[i] == 0) {
        CHECK(b->tokens == 0 && b->flags == 0 && b->holders[0] == 0);
        CHECK(b->predicted[0] == 0 && b->predicted[1] == 0);
        return;
    }
    for (int k = 0; k < i; k++)
        CHECK(bucket->hash[k] != bucket->hash[i]);
    if (b->flags & BODY_ROW) {
        CHECK(b->holders[0] < t->rows_per_shard && !row_owned[b->holders[0]]);
        row_owned[b->holders[0]] = 1;
        return;
    }
    for (int k = 0; k < HOLDERS; k++) {
        for (int j = 0; j < k; j++)
            CHECK(b->holders[k] == 0 || b->holders[k] != b->holders[j]);
    }
}

void prefix_table_check(struct prefix_table *t)
{
    uint8_t *owned = xcalloc(t->rows_per_shard, 1);
    for (uint64_t shard = 0; shard < SHARDS; shard++) {
        struct shard *s = &t->shards[shard];
        uint64_t entries = 0, rows = 0;
        memset(owned, 0, t->rows_per_shard);
        pthread_mutex_lock(&s->lock);
        for (uint64_t index = shard; index <= t->bucket_mask; index += SHARDS) {
            const struct bucket *bucket = &t->buckets[index];
            CHECK(bucket->body[0].hand < WAYS);
            for (int i = 0; i < WAYS; i++) {
                check_slot(t, bucket, i, owned);
                entries += bucket->hash[i] != 0;
                rows += bucket->hash[i] != 0 && (bucket->body[i].flags & BODY_ROW);
                CHECK(bucket->hash[i] == 0 ||
                      (hash_mix(bucket->hash[i] ^ t->key) & t->bucket_mask) == index);
            }
        }
        CHECK(entries == s->entries && rows == s->rows_used);
        for (uint16_t r = s->row_free; r != ROW_NONE; r = s->row_next[r]) {
            CHECK(!owned[r]);
            owned[r] = 1;
            rows++;
        }
        CHECK(rows == t->rows_per_shard);
        pthread_mutex_unlock(&s->lock);
    }
    free(owned);
}
