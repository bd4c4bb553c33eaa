/* rng.c - splitmix64 (Steele, Lea, Flood 2014): 64 bits of state, any seed is a good seed. */
#include "shared/base/rng.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <errno.h>
#include <sys/random.h>

void rng_init(struct rng *r, uint64_t seed)
{
    r->state = seed;
}

uint64_t rng_u64(struct rng *r)
{
    r->state += 0x9e3779b97f4a7c15ull;
    return hash_mix(r->state);
}

/* Lemire 2019: the high half of a 32x32 product is the result, its low half says whether the draw
 * fell into the part of the range that would make some results likelier. */
uint32_t rng_below(struct rng *r, uint32_t bound)
{
    CHECK(bound > 0);
    uint64_t product = (rng_u64(r) >> 32) * bound;
    if ((uint32_t)product < bound) {
        uint32_t threshold = -bound % bound;
        while ((uint32_t)product < threshold)
            product = (rng_u64(r) >> 32) * bound;
    }
    return (uint32_t)(product >> 32);
}

double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

void random_bytes(void *out, size_t len)
{
    char *at = out;
    while (len > 0) {
        ssize_t got = getrandom(at, len, 0);
        if (got < 0 && errno == EINTR) continue;
        CHECK(got > 0);
        at += got;
        len -= (size_t)got;
    }
}

void random_id(char *out, size_t len)
{
    static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const unsigned fair = 256 - 256 % 62; // bytes from here on would favour the first letters
    unsigned char pool[64];
    size_t at = sizeof pool;
    for (size_t i = 0; i < len;) {
        if (at == sizeof pool) {
            random_bytes(pool, sizeof pool);
            at = 0;
        }
        unsigned byte = pool[at++];
        if (byte < fair) out[i++] = alphabet[byte % 62];
    }
    out[len] = 0;
}
