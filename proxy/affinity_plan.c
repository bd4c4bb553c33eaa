#include "proxy/affinity_plan.h"

#include "shared/base/check.h"

/* ---- what is known ---- */

static void take_known(const struct affinity_facts *f, struct affinity_view *v)
{
    v->owner = f->known.owner;
    v->source = f->known_from;
    v->turn = f->known.turn;
    v->is_proven = !f->known.is_counted;
}

static bool is_same_owner(const struct pin_owner *a, const struct pin_owner *b)
{
    return strcmp(a->agent, b->agent) == 0 && strcmp(a->incarnation, b->incarnation) == 0;
}

static void take_pin(const struct affinity_facts *f, struct affinity_view *v)
{
    const struct pin_answer *seen = &f->seen;
    v->owner = seen->owner;
    v->source = AFFINITY_FROM_REDIS;
    v->turn = seen->turn;
    v->is_proven = true;
    v->is_in_redis = true;
    v->is_fresh = seen->presence == PIN_FRESH;
    /* Turns that the owner had and Redis missed. */
    if (f->is_known && f->known.turn > v->turn && is_same_owner(&f->known.owner, &v->owner)) {
        v->turn = f->known.turn;
        v->is_proven = !f->known.is_counted;
    }
}

void affinity_view_make(const struct affinity_facts *f, struct affinity_view *out)
{
    *out = (struct affinity_view){.is_redis_away = !f->is_seen, .is_settling = f->is_settling};
    if (f->is_allotted) return;
    if (!f->is_seen) {
        out->must_ask = !f->was_asked && (f->is_shared || !f->is_known);
        if (f->is_known) take_known(f, out);
        return;
    }
    const struct pin_answer *seen = &f->seen;
    bool is_absent = seen->presence == PIN_ABSENT;
    bool may_be_elsewhere = f->is_doubtful && !seen->is_noted_end;
    if (!is_absent) {
        take_pin(f, out);
    } else if (f->is_known && (f->known.is_unpublished || may_be_elsewhere)) {
        take_known(f, out);
    } else if (may_be_elsewhere && seen->transcript <= 0) {
        out->must_ask = !f->was_asked;
    }
    if (seen->transcript > 0 && (uint64_t)seen->transcript >= out->turn) {
        out->has_transcript = true;
        out->turn = (uint32_t)seen->transcript;
        out->is_proven = true;
        out->is_fresh = false;
    }
    bool was_found = f->was_asked && f->is_known && f->known_from == AFFINITY_FROM_AGENTS;
    if (f->is_settling && was_found && f->known.turn > out->turn) {
        take_known(f, out);
        out->is_in_redis = out->is_fresh = out->has_transcript = false;
    }
}

/* ---- what is done ---- */

static void stay(const struct affinity_view *v, struct affinity_plan *out)
{
    out->action = AFFINITY_TO_OWNER;
    out->must_write = !v->is_in_redis;
    out->expect = v->turn > 0 && v->is_proven ? SESSION_EXPECT_EXISTING : SESSION_EXPECT_ANY;
}

static void move(const struct affinity_view *v, const struct affinity_asked *asked,
                 struct affinity_plan *out)
{
    bool has_history = v->turn > 0;
    bool is_over = has_history && !v->has_transcript && !v->is_redis_away;
    if (is_over && !asked->is_bare_end) {
        out->action = v->is_settling ? AFFINITY_UNREACHABLE : AFFINITY_LOST;
        return;
    }
    out->action = AFFINITY_CHOOSE;
    out->must_write = true;
    out->expect = has_history && !is_over ? SESSION_EXPECT_ADOPT : SESSION_EXPECT_ANY;
    out->is_fresh = out->expect == SESSION_EXPECT_ANY && !v->is_redis_away;
    out->rendezvous_only = v->is_redis_away;
}

static void begin(const struct affinity_view *v, const struct affinity_asked *asked,
                  struct affinity_plan *out)
{
    out->action = AFFINITY_CHOOSE;
    out->must_write = true;
    if (asked->is_allotted) {
        out->expect = SESSION_EXPECT_NEW;
    } else if (v->has_transcript) {
        out->expect = SESSION_EXPECT_ADOPT;
    } else {
        out->expect = SESSION_EXPECT_ANY;
        out->is_fresh = !v->is_redis_away;
        out->rendezvous_only = v->is_redis_away;
    }
}

void affinity_plan_make(const struct affinity_view *v, enum affinity_owner owner,
                        const struct affinity_asked *asked, struct affinity_plan *out)
{
    *out = (struct affinity_plan){.expect = SESSION_EXPECT_ANY};
    switch (owner) {
    case AFFINITY_OWNER_NONE:
        begin(v, asked, out);
        return;
    case AFFINITY_OWNER_UP:
        stay(v, out);
        return;
    case AFFINITY_OWNER_SUSPECT:
        stay(v, out);
        if (asked->is_patient) out->action = AFFINITY_HOLD;
        return;
    case AFFINITY_OWNER_FAILED:
        if (v->is_fresh) { // nothing has begun there
            move(v, asked, out);
            return;
        }
        out->action = asked->is_patient ? AFFINITY_HOLD : AFFINITY_UNREACHABLE;
        return;
    case AFFINITY_OWNER_RESTARTED:
        out->action = AFFINITY_TO_OWNER;
        out->must_write = true;
        out->is_fresh = v->is_fresh;
        out->expect = v->turn > 0 ? SESSION_EXPECT_EXISTING : SESSION_EXPECT_ANY;
        return;
    case AFFINITY_OWNER_DRAINING:
        if (v->has_transcript) {
            move(v, asked, out);
        } else {
            stay(v, out);
        }
        return;
    case AFFINITY_OWNER_GONE:
        move(v, asked, out);
        return;
    }
    UNREACHABLE();
}
