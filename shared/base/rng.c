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

/* Bytes of the kernel's, a page of ids at a time: every request wants an id, and the call costs more
 * than all the rest of it. What was handed out is not kept. */
static unsigned char pooled_byte(void)
{
    static _Thread_local unsigned char pool[1024];
    static _Thread_local size_t left;
    if (left == 0) {
        random_bytes(pool, sizeof pool);
        left = sizeof pool;
    }
    unsigned char byte = pool[--left];
    pool[left] = 0;
    return byte;
}

void random_id(char *out, size_t len)
{
    static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const unsigned fair = 256 - 256 % 62; // bytes from here on would favour the first letters
    for (size_t i = 0; i < len;) {
        unsigned byte = pooled_byte();
        if (byte < fair) out[i++] = alphabet[byte % 62];
    }
    out[len] = 0;
}

void random_hex(char *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = "0123456789abcdef"[pooled_byte() & 15];
    out[len] = 0;
}
