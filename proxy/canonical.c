#include "proxy/canonical.h"

#include <string.h>

#include "shared/base/check.h"
#include "shared/base/hash.h"

#define MARKS_DENSE   128 // from here on the gaps grow
#define MARKS_PER_GAP 4
#define MESSAGE_MIN   PREFIX_BYTES_MIN
#define START         0x9b05688c2b3e6c1full // any number that isn't likely elsewhere
#define SALT_INSIDE   0x1f83d9abfb41bd6bull // a mark inside a message
#define SALT_SEAL     0x5be0cd19137e2179ull
#define SALT_MEMBER   0x510e527fade682d1ull

/* ---- digests ---- */

void text_digest_init(struct text_digest *d)
{
    d->state = START;
    d->bytes = 0;
    d->fill = 0; // the unit stays as it is: nobody reads beyond fill
}

static void close_unit(struct text_digest *d)
{
    d->state = hash_text(d->state, d->unit, d->fill);
    d->fill = 0;
}

/* Writes up to the end of the unit; how much that was. A full unit is closed: *closed. */
static size_t fill_unit(struct text_digest *d, const unsigned char *data, size_t len, bool *closed)
{
    size_t room = CANONICAL_UNIT - d->fill;
    size_t n = len < room ? len : room;
    d->bytes += n;
    if (n == CANONICAL_UNIT) { // no need to copy it first
        d->state = hash_text(d->state, data, n);
        *closed = true;
        return n;
    }
    memcpy(d->unit + d->fill, data, n);
    d->fill += n;
    *closed = d->fill == CANONICAL_UNIT;
    if (*closed) close_unit(d);
    return n;
}

void text_digest_write(struct text_digest *d, const void *data, size_t len)
{
    const unsigned char *at = data;
    bool closed;
    while (len > 0) {
        size_t n = fill_unit(d, at, len, &closed);
        at += n;
        len -= n;
    }
}

uint64_t text_digest_value(const struct text_digest *d)
{
    return hash_text(d->state, d->unit, d->fill);
}

/* ---- marks ---- */

void canonical_init(struct canonical *c)
{
    text_digest_init(&c->text);
    c->bytes = c->closed_at = c->options = c->front_bytes = 0;
    c->members = c->member_bytes = c->role_hash = 0;
    c->fingerprint = c->system_bytes = 0;
    c->system = text_digest_value(&c->text);
    c->role = CANONICAL_ROLE_OTHER;
    c->messages = c->mark_count = 0;
    c->marks_wanted = true;
}

/* Bytes between the last mark and the next: at the end of a message, or inside one. */
static uint64_t gap(int marks, bool inside)
{
    if (marks < MARKS_DENSE) return PREFIX_BYTES_MIN; // which every close but odd ones has
    uint64_t full = (uint64_t)CANONICAL_UNIT << (1 + (marks - MARKS_DENSE) / MARKS_PER_GAP);
    return inside ? full : full / 4;
}

/* A unit was closed. */
static void mark(struct canonical *c, bool inside)
{
    c->closed_at = c->bytes;
    int n = c->mark_count;
    if (!c->marks_wanted || n == PREFIX_MARKS_MAX) return;
    if (c->bytes - (n ? c->marks[n - 1].bytes : 0) < gap(n, inside)) return;
    uint64_t hash = c->text.state;
    if (inside && c->role_hash) hash = hash_fold(hash ^ SALT_INSIDE, c->role_hash);
    c->marks[c->mark_count++] = (struct prefix_mark){hash, c->bytes};
}

/* counted: these bytes are text. */
static void feed(struct canonical *c, const unsigned char *at, size_t len, bool counted)
{
    bool closed;
    while (len > 0) {
        size_t n = fill_unit(&c->text, at, len, &closed);
        if (counted) c->bytes += n;
        if (closed) mark(c, true);
        at += n;
        len -= n;
    }
}

void canonical_write(struct canonical *c, const void *data, size_t len)
{
    feed(c, data, len, true);
}

void canonical_write_digest(struct canonical *c, uint64_t digest)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(digest >> (8 * i));
    feed(c, bytes, sizeof bytes, false);
}

/* ---- messages ---- */

static uint64_t term(unsigned id, uint64_t digest)
{
    return hash_fold(digest ^ SALT_MEMBER, hash_mix(id + START));
}

void canonical_add_role(struct canonical *c, struct str role)
{
    c->role_hash = hash_text(START, role.data, role.len);
    c->members += term(0, c->role_hash);
    if (str_equal(role, STR("user"))) {
        c->role = CANONICAL_ROLE_USER;
    } else if (str_equal(role, STR("system")) || str_equal(role, STR("developer"))) {
        c->role = CANONICAL_ROLE_SYSTEM;
    }
}

void canonical_add_member(struct canonical *c, unsigned id, uint64_t digest, uint64_t bytes)
{
    c->members += term(id, digest);
    c->member_bytes += bytes;
}

void canonical_end_message(struct canonical *c)
{
    canonical_write_digest(c, c->members);
    c->bytes += c->member_bytes;
    uint64_t state = text_digest_value(&c->text);
    if (c->role == CANONICAL_ROLE_USER && c->fingerprint == 0) c->fingerprint = state;
    if (c->role == CANONICAL_ROLE_SYSTEM && c->messages == 0) {
        c->system = state;
        c->system_bytes = c->bytes;
    }
    if (c->bytes - c->closed_at >= MESSAGE_MIN) {
        close_unit(&c->text);
        mark(c, false);
    }
    c->members = c->member_bytes = c->role_hash = 0;
    c->role = CANONICAL_ROLE_OTHER;
    c->messages++;
}

/* ---- the end ---- */

void canonical_add_option(struct canonical *c, unsigned id, uint64_t digest, uint64_t bytes)
{
    c->options += term(id, digest);
    c->front_bytes += bytes;
}

static uint64_t seal(uint64_t hash, uint64_t seed)
{
    hash = hash_fold(hash ^ SALT_SEAL, seed);
    return hash ? hash : 1;
}

/* Tools are shared by conversations that have little else in common: the end of the system message,
 * in which templates put them, is a mark then, however short that message is. */
static bool wants_front_mark(const struct canonical *c)
{
    if (!c->marks_wanted || c->messages == 0 || c->front_bytes == 0) return false;
    if (c->front_bytes + c->system_bytes < PREFIX_BYTES_MIN) return false;
    return c->mark_count == 0 || c->marks[0].bytes > c->system_bytes;
}

void canonical_finish(struct canonical *c, struct str model, struct str tenant, struct arena *a,
                      struct canonical_result *out)
{
    uint64_t model_hash = hash_text(START, model.data, model.len);
    uint64_t seed = hash_mix(hash_text(model_hash, tenant.data, tenant.len) + c->options);
    bool front = wants_front_mark(c);
    struct prefix_mark *marks = NULL;
    int count = 0;
    if (front || c->mark_count > 0) {
        marks = arena_alloc(a, ((size_t)c->mark_count + front) * sizeof *marks);
    }
    if (front) {
        marks[count++] =
            (struct prefix_mark){seal(c->system, seed), c->front_bytes + c->system_bytes};
    }
    for (int i = 0; i < c->mark_count && count < PREFIX_MARKS_MAX; i++) {
        marks[count++] =
            (struct prefix_mark){seal(c->marks[i].hash, seed), c->front_bytes + c->marks[i].bytes};
    }
    out->marks = marks;
    out->mark_count = count;
    out->bytes = c->front_bytes + c->bytes;
    out->fingerprint = c->fingerprint ? seal(c->fingerprint, model_hash) : 0;
}
