/* hash.h - SipHash-2-4 (Aumasson and Bernstein, 2012) for keys that peers choose, and a fast 64-bit
 * mixer for values that they don't. */
#ifndef LM_BASE_HASH_H
#define LM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_sip24(const uint8_t key[16], const void *data, size_t len);

/* FNV-1a followed by a finalizer; stable across processes and machines. */
uint64_t hash_bytes(const void *data, size_t len);

static inline uint64_t hash_mix(uint64_t x) // splitmix64's finalizer
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

#endif
