#include "shared/base/hash.h"

#include "shared/base/check.h"
#include "tests/test.h"

/* Key 00..0f, input 00, 01, ... of the given length: the vectors of the reference implementation
 * (vectors.h of github.com/veorq/SipHash); length 15 is also the worked example of the paper. */
static void test_siphash_reference_vectors(void)
{
    static const struct {
        size_t len;
        uint64_t want;
    } vectors[] = {
        {0, 0x726fdb47dd0e0e31ull},  {1, 0x74f839c593dc67fdull},  {2, 0x0d6c8009d9a94f5aull},
        {3, 0x85676696d7fb7e2dull},  {7, 0xab0200f58b01d137ull},  {8, 0x93f5f5799a932462ull},
        {9, 0x9e0082df0ba9e4b0ull},  {15, 0xa129ca6149be45e5ull}, {16, 0x3f2acc7f57c29bdbull},
        {63, 0x958a324ceb064572ull},
    };
    uint8_t key[16], data[64];
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)i;
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        EXPECT(hash_sip24(key, data, vectors[i].len) == vectors[i].want);
    }
    EXPECT(hash_sip24(key, NULL, 0) == vectors[0].want);
}

static void test_siphash_at_any_alignment(void)
{
    uint8_t key[16] = {1, 2, 3}, room[80], data[64];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    for (size_t shift = 0; shift < 16; shift++) {
        memcpy(room + shift, data, sizeof data);
        for (size_t len = 0; len <= 64; len++) {
            EXPECT(hash_sip24(key, room + shift, len) == hash_sip24(key, data, len));
        }
    }
}

/* Fixed for good: these leave the process (prefix hashes, Redis keys). FNV-1a of "foobar" is the
 * published 85944171f73967e8, before the finalizer. */
static void test_hash_bytes_never_changes(void)
{
    EXPECT(hash_bytes("", 0) == 0xf52a15e9a9b5e89bull);
    EXPECT(hash_bytes("a", 1) == 0x02c0bdbf481420f8ull);
    EXPECT(hash_bytes("foobar", 6) == hash_mix(0x85944171f73967e8ull));
    EXPECT(hash_bytes("foobar", 6) == 0x0404da9e3b74078c2ull);
}

static void test_mix_spreads_single_bits(void)
{
    for (int bit = 0; bit < 64; bit++) {
        uint64_t changed = hash_mix(12345) ^ hash_mix(12345 ^ (uint64_t)1 << bit);
        int count = __builtin_popcountll(changed);
        EXPECT(count >= 16 && count <= 48);
    }
}

/* Fixed for good: proxies of one fleet agree by it on names of prefixes. */
static void test_hash_text_never_changes(void)
{
    char text[100];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)(i * 37);
    EXPECT(hash_text(0, "", 0) == 0xa73cc43770afcd97ull);
    EXPECT(hash_text(1, text, 31) == 0xab7fa1cbab17feb5ull);
    EXPECT(hash_text(1, text, 100) == 0x915ac43e6a2a0d24ull);
}

static void test_hash_text_sees_every_bit(void)
{
    unsigned char room[72], changed[64] = {0};
    for (size_t len = 0; len <= 64; len++) {
        uint64_t want = hash_text(9, changed, len);
        for (size_t shift = 0; shift < 8; shift++) {
            memcpy(room + shift, changed, len);
            EXPECT(hash_text(9, room + shift, len) == want);
        }
        EXPECT(hash_text(10, changed, len) != want);
        if (len < 64) EXPECT(hash_text(9, changed, len + 1) != want); // zeros count too
        for (size_t bit = 0; bit < len * 8; bit++) {
            changed[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            int count = __builtin_popcountll(want ^ hash_text(9, changed, len));
            EXPECT(count >= 10 && count <= 54);
            changed[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
    }
}

int main(void)
{
    RUN(test_siphash_reference_vectors);
    RUN(test_siphash_at_any_alignment);
    RUN(test_hash_bytes_never_changes);
    RUN(test_mix_spreads_single_bits);
    RUN(test_hash_text_never_changes);
    RUN(test_hash_text_sees_every_bit);
    return TEST_END();
}
