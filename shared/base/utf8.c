/* utf8.c - one table-free decoder that everything else is written with. A lead byte fixes the
 * length and the range of the second byte (Unicode 15, table 3-7); further bytes are 80..BF. */
#include "shared/base/utf8.h"

#include <string.h>

struct lead {
    unsigned len;      // 0: no character begins with this byte
    unsigned char low; // second byte's range
    unsigned char high;
};

static struct lead lead_of(unsigned char byte)
{
    if (byte < 0x80) return (struct lead){1, 0, 0};
    if (byte < 0xc2) return (struct lead){0, 0, 0}; // continuation, or overlong
    if (byte < 0xe0) return (struct lead){2, 0x80, 0xbf};
    if (byte == 0xe0) return (struct lead){3, 0xa0, 0xbf}; // below: overlong
    if (byte == 0xed) return (struct lead){3, 0x80, 0x9f}; // above: surrogates
    if (byte < 0xf0) return (struct lead){3, 0x80, 0xbf};
    if (byte == 0xf0) return (struct lead){4, 0x90, 0xbf}; // below: overlong
    if (byte < 0xf4) return (struct lead){4, 0x80, 0xbf};
    if (byte == 0xf4) return (struct lead){4, 0x80, 0x8f}; // above: beyond U+10FFFF
    return (struct lead){0, 0, 0};
}

/* How many of the `len` bytes at `at` agree with one character; *want is its whole length. */
static size_t match(const unsigned char *at, size_t len, size_t *want)
{
    struct lead lead = lead_of(at[0]);
    *want = lead.len;
    if (lead.len == 0) return 0;
    size_t n = 1;
    while (n < lead.len && n < len) {
        unsigned char low = n == 1 ? lead.low : 0x80, high = n == 1 ? lead.high : 0xbf;
        if (at[n] < low || at[n] > high) break;
        n++;
    }
    return n;
}

size_t utf8_decode(const void *data, size_t len, uint32_t *code_point)
{
    const unsigned char *at = data;
    size_t want;
    if (len == 0 || match(at, len, &want) != want || want == 0) return 0;
    static const unsigned char lead_bits[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t value = at[0] & lead_bits[want];
    for (size_t i = 1; i < want; i++)
        value = value << 6 | (at[i] & 0x3f);
    *code_point = value;
    return want;
}

size_t utf8_invalid_len(const void *data, size_t len)
{
    if (len == 0) return 0;
    size_t want;
    size_t got = match(data, len, &want);
    return got ? got : 1;
}

size_t utf8_valid_prefix(const void *data, size_t len)
{
    const unsigned char *at = data;
    size_t done = 0;
    while (done < len) {
        uint64_t word;
        if (len - done >= sizeof word) { // eight ASCII bytes at once
            memcpy(&word, at + done, sizeof word);
            if (!(word & 0x8080808080808080ull)) {
                done += sizeof word;
                continue;
            }
        }
        size_t want;
        if (match(at + done, len - done, &want) != want || want == 0) break;
        done += want;
    }
    return done;
}

bool utf8_is_valid(const void *data, size_t len)
{
    return utf8_valid_prefix(data, len) == len;
}

size_t utf8_incomplete_tail(const void *data, size_t len)
{
    const unsigned char *end = (const unsigned char *)data + len;
    for (size_t tail = 1; tail <= 3 && tail <= len; tail++) {
        if ((end[-(ptrdiff_t)tail] & 0xc0) == 0x80) continue; // not a lead byte
        size_t want;
        size_t got = match(end - tail, tail, &want);
        return got == tail && got < want ? tail : 0;
    }
    return 0;
}

size_t utf8_encode(uint32_t code_point, char out[4])
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xc0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        if (code_point >= 0xd800 && code_point <= 0xdfff) return 0;
        out[0] = (char)(0xe0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    if (code_point > 0x10ffff) return 0;
    out[0] = (char)(0xf0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code_point & 0x3f));
    return 4;
}
