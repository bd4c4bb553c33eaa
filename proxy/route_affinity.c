/* route_affinity.c - the default: fewest predicted seconds (route_score.h), where cached tokens are
 * seconds saved.
 *
 * - A token that must be computed costs everybody, the more the busier the fleet is: c of
 *   route_score.h, learned from the agents that are looked at.
 * - A session stays where it is pinned while no other agent is better by max(20 ms, 10 %).
 * - Agents within max(5 ms, 5 %) of the best are tied: numbers aren't truer than that. Of these the
 *   ones with the most cached tokens, and of these the first in the key's rendezvous order, so that
 *   proxies agree without a word. Without a key: any, so that proxies don't agree on one agent.
 * - One in a hundred requests without a pin goes to any of the tied: caches of a group spread. */
#include "proxy/route.h"

#define CACHED_ALIKE 64.0 // tokens: a block of KV

static double margin(double seconds, double least, double share)
{
    return seconds * share > least ? seconds * share : least;
}

/* Any of the tied, each as likely. */
static int pick_any(struct route_state *s, const struct route_candidate *c, int count, double limit)
{
    int picked = 0;
    uint32_t tied = 0;
    for (int i = 0; i < count; i++) {
        if (c[i].seconds > limit) continue;
        if (rng_below(&s->rng, ++tied) == 0) picked = i;
    }
    return picked;
}

static int pick_first(const struct route_request *r, const struct route_candidate *c, int count,
                      double limit)
{
    double most = 0;
    for (int i = 0; i < count; i++) {
        if (c[i].seconds <= limit && c[i].cached_tokens > most) most = c[i].cached_tokens;
    }
    int picked = -1;
    double picked_rank = 0;
    for (int i = 0; i < count; i++) {
        if (c[i].seconds > limit || c[i].cached_tokens < most - CACHED_ALIKE) continue;
        double rank = rendezvous_rank(r->key, c[i].agent);
        if (picked >= 0 && rank <= picked_rank) continue;
        picked = i;
        picked_rank = rank;
    }
    return picked;
}

static int pick(struct route_state *s, const struct route_request *r, struct route_candidate *c,
                int count)
{
    const struct route_weights *w = &s->weights;
    int busy = route_score_candidates(w, route_crowding(s), r, c, count);
    route_learn_crowding(s, busy, count, r->now_ms);
    int best = 0, pinned = -1;
    for (int i = 0; i < count; i++) {
        if (c[i].seconds < c[best].seconds) best = i;
        if (r->pinned && c[i].agent->cell == r->pinned) pinned = i;
    }
    double least = c[best].seconds;
    if (pinned >= 0) {
        double stay = least + margin(least, w->hysteresis_s, w->hysteresis_share);
        if (c[pinned].seconds <= stay) return pinned;
    }
    double limit = least + margin(least, w->tie_s, w->tie_share);
    bool explores = !r->pinned && rng_unit(&s->rng) < w->explore_share;
    if (!r->key || explores) return pick_any(s, c, count, limit);
    return pick_first(r, c, count, limit);
}

const struct route_policy route_affinity = {.name = "affinity", .pick = pick};
