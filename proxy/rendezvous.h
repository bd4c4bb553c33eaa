/* rendezvous.h - an order of agents for a key that needs no store: weighted rendezvous hashing
 * (Thaler and Ravishankar 1998; weights: Mosharaf et al.), rank = -w / ln(u(key, agent id)), the
 * highest first. All proxies agree, restarts change nothing, and when an agent goes only the keys
 * that it had move. Weights are fleet_agent_slots(): facts, not measurements.
 *
 * Keys are folded to 2^14 buckets, so that a picture of a large fleet can remember the first two
 * agents of each: O(1) instead of a walk over 1,024. Pure; any thread. */
#ifndef LM_PROXY_RENDEZVOUS_H
#define LM_PROXY_RENDEZVOUS_H

#include "proxy/fleet.h"

#define RENDEZVOUS_BUCKETS (1 << 14)
#define RENDEZVOUS_FIRST   2

double rendezvous_rank(uint64_t key, const struct fleet_agent *a); // > 0, higher comes first

/* The first agents (indexes into f->agents) in the key's order among those of the model that are up
 * and don't drain. Returns how many, at most RENDEZVOUS_FIRST. */
int rendezvous_first(const struct fleet *f, const struct fleet_model *m, uint64_t key,
                     uint16_t out[RENDEZVOUS_FIRST]);

#endif
