#include "proxy/route.h"

#include "shared/base/check.h"

static const struct route_policy *const policies[] = {
    &route_least_load,
    &route_round_robin,
    &route_random,
};

const struct route_policy *route_policy_at(int index)
{
    CHECK(index >= 0 && (size_t)index < ARRAY_LEN(policies));
    return policies[index];
}

void route_state_init(struct route_state *s, uint64_t seed)
{
    rng_init(&s->rng, seed);
    s->turn = 0;
}

void route_exclude(struct route_excluded *e, const struct fleet_cell *cell)
{
    CHECK(e->count < ROUTE_EXCLUDED_MAX);
    e->cells[e->count++] = cell;
}

static bool is_excluded(const struct route_excluded *e, const struct fleet_cell *cell)
{
    for (int i = 0; i < e->count; i++) {
        if (e->cells[i] == cell) return true;
    }
    return false;
}

static int collect(struct route_state *s, const struct fleet *f, const struct fleet_model *model,
                   const struct route_excluded *excluded, enum fleet_state state)
{
    int count = 0;
    for (int i = 0; i < model->count; i++) {
        const struct fleet_agent *a = f->agents[model->agents[i]];
        if (a->state != state || a->draining || is_excluded(excluded, a->cell)) continue;
        s->candidates[count++] = model->agents[i];
    }
    return count;
}

struct fleet_agent *route_choose(const struct route_policy *policy, struct route_state *s,
                                 const struct fleet *f, const struct fleet_model *model,
                                 const struct route_excluded *excluded)
{
    int count = collect(s, f, model, excluded, FLEET_UP);
    if (count == 0) count = collect(s, f, model, excluded, FLEET_SUSPECT);
    if (count == 0) return NULL;
    int picked = count == 1 ? 0 : policy->pick(s, f, s->candidates, count);
    CHECK(picked >= 0 && picked < count);
    return f->agents[s->candidates[picked]];
}
