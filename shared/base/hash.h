/* hash.h - SipHash-2-4 (Aumasson and Bernstein, 2012) for keys that peers choose, and a fast 64-bit
 * mixer for values that they don't. */
#ifndef LM_BASE_HASH_H
#define LM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_sip24(const uint8_t key[16], const void *data, size_t len);

/* FNV-1a followed by a finalizer; stable across processes and machines. */
uint64_t hash_bytes(const void *data, size_t len);

/* For long texts, at the speed of memory: two 64 x 64 multiplications for 32 bytes. Chained through
 * `seed`; stable across processes and machines; keyed by nothing, so not for tables of peers' keys. */
uint64_t hash_text(uint64_t seed, const void *data, size_t len);

/* Both halves of the product: small changes of either spread over the whole. */
static inline uint64_t hash_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t hash_mix(uint64_t x) // splitmix64's finalizer
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

#endif
