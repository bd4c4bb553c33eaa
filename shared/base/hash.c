#include "shared/base/hash.h"

#include <string.h>

static inline uint64_t rotate(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline uint64_t load_le64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline void sip_rounds(uint64_t v[4], int rounds)
{
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[0] = rotate(v[0], 32);
        v[2] += v[3];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

uint64_t hash_sip24(const uint8_t key[16], const void *data, size_t len)
{
    const unsigned char *at = data;
    uint64_t k0 = load_le64(key), k1 = load_le64(key + 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull,
                     k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
    for (size_t left = len; left >= 8; left -= 8, at += 8) {
        uint64_t word = load_le64(at);
        v[3] ^= word;
        sip_rounds(v, 2);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)len << 56;
    for (size_t i = 0; i < (len & 7); i++)
        last |= (uint64_t)at[i] << (8 * i);
    v[3] ^= last;
    sip_rounds(v, 2);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_bytes(const void *data, size_t len)
{
    const unsigned char *at = data;
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ at[i]) * 0x100000001b3ull;
    return hash_mix(hash);
}

/* Odd constants with about as many ones as zeros, from the fractions of square roots (as SHA-512's). */
#define TEXT_A 0x6a09e667f3bcc909ull
#define TEXT_B 0xbb67ae8584caa73bull
#define TEXT_C 0x3c6ef372fe94f82bull
#define TEXT_D 0xa54ff53a5f1d36f1ull

uint64_t hash_text(uint64_t seed, const void *data, size_t len)
{
    const unsigned char *at = data;
    uint64_t low = seed ^ TEXT_A, high = seed ^ TEXT_B;
    size_t left = len;
    for (; left >= 32; left -= 32, at += 32) { // two chains: each multiplication waits for its own
        low = hash_fold(load_le64(at) ^ TEXT_C, load_le64(at + 8) ^ low);
        high = hash_fold(load_le64(at + 16) ^ TEXT_D, load_le64(at + 24) ^ high);
    }
    if (left > 0) {
        unsigned char last[32] = {0};
        memcpy(last, at, left);
        low = hash_fold(load_le64(last) ^ TEXT_C, load_le64(last + 8) ^ low);
        high = hash_fold(load_le64(last + 16) ^ TEXT_D, load_le64(last + 24) ^ high);
    }
    return hash_mix(hash_fold(low ^ TEXT_D, high ^ TEXT_C) ^ (uint64_t)len * TEXT_B);
}
