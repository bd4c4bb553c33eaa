#include "proxy/rendezvous.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <math.h>

#define NOBODY 0xffffu

static uint64_t bucket_of(uint64_t key)
{
    return hash_mix(key) & (RENDEZVOUS_BUCKETS - 1);
}

static double rank_in(uint64_t bucket, const struct fleet_agent *a)
{
    uint64_t mixed = hash_mix(a->stable_hash ^ (bucket + 1) * 0x9e3779b97f4a7c15ull);
    double u = ((double)(mixed >> 12) + 0.5) * 0x1p-52; // in (0, 1)
    return -fleet_agent_slots(a) / log(u);
}

double rendezvous_rank(uint64_t key, const struct fleet_agent *a)
{
    return rank_in(bucket_of(key), a);
}

/* The first two as two 16-bit numbers, each index + 1, 0xffff for nobody; never 0. */
static uint32_t find_first(const struct fleet *f, const struct fleet_model *m, uint64_t bucket)
{
    uint32_t best = NOBODY, second = NOBODY;
    double best_rank = 0, second_rank = 0;
    for (int i = 0; i < m->count; i++) {
        const struct fleet_agent *a = f->agents[m->agents[i]];
        if (a->state != FLEET_UP || a->draining) continue;
        double rank = rank_in(bucket, a);
        uint32_t index = m->agents[i] + 1u;
        if (rank > best_rank) {
            second = best;
            second_rank = best_rank;
            best = index;
            best_rank = rank;
        } else if (rank > second_rank) {
            second = index;
            second_rank = rank;
        }
    }
    return best | second << 16;
}

int rendezvous_first(const struct fleet *f, const struct fleet_model *m, uint64_t key,
                     uint16_t out[RENDEZVOUS_FIRST])
{
    uint64_t bucket = bucket_of(key);
    uint32_t first = m->first ? atomic_load_explicit(&m->first[bucket], memory_order_relaxed) : 0;
    if (first == 0) {
        first = find_first(f, m, bucket);
        if (m->first) atomic_store_explicit(&m->first[bucket], first, memory_order_relaxed);
    }
    int count = 0;
    for (int i = 0; i < RENDEZVOUS_FIRST; i++) {
        uint32_t index = first >> (16 * i) & 0xffff;
        if (index != NOBODY) out[count++] = (uint16_t)(index - 1);
    }
    return count;
}
