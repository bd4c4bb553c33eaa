/* rng.h - randomness. rng_* is a seedable stream for tests, jitter and routing; random_* comes from
 * the kernel, for ids and secrets. Sampling of tokens uses neither: see engine/sampler.h. */
#ifndef LM_BASE_RNG_H
#define LM_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rng {
    uint64_t state;
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t bound); // unbiased; bound > 0
double rng_unit(struct rng *r);                    // [0, 1)

void random_bytes(void *out, size_t len); // getrandom(2); aborts if the kernel has none
/* `len` characters of [0-9A-Za-z] and a 0. out holds len + 1. */
void random_id(char *out, size_t len);
void random_hex(char *out, size_t len); // likewise, of [0-9a-f]

#ifdef __cplusplus
}
#endif

#endif
