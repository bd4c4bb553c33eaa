/* session_token.c - the bytes before base64url:
 *
 *     version 1 | kind 1 | expiry 8 | key 8 | turn 4 | id length 1, id | incarnation length 1,
 *     incarnation | MAC 16                                                  all little-endian */
#include "proxy/session_token.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#define VERSION   1
#define MAC_BYTES 16
#define RAW_MAX   (1 + 1 + 8 + 8 + 4 + 1 + AGENT_ID_BYTES + 1 + 33 + MAC_BYTES)

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* ---- base64url, without padding ---- */

static size_t encode(const uint8_t *raw, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)raw[i] << 16;
        if (i + 1 < len) bits |= (uint32_t)raw[i + 1] << 8;
        if (i + 2 < len) bits |= raw[i + 2];
        out[n++] = digits[bits >> 18 & 63];
        out[n++] = digits[bits >> 12 & 63];
        if (i + 1 < len) out[n++] = digits[bits >> 6 & 63];
        if (i + 2 < len) out[n++] = digits[bits & 63];
    }
    out[n] = 0;
    return n;
}

static int digit_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Only what encode() writes: each token has one spelling. Bytes, or E_FORMAT. */
static int decode(struct str text, uint8_t *out, size_t max)
{
    size_t n = 0;
    uint32_t bits = 0;
    int held = 0;
    if (text.len % 4 == 1) return E_FORMAT;
    for (size_t i = 0; i < text.len; i++) {
        int digit = digit_of(text.data[i]);
        if (digit < 0) return E_FORMAT;
        bits = bits << 6 | (uint32_t)digit;
        held += 6;
        if (held < 8) continue;
        held -= 8;
        if (n == max) return E_FORMAT;
        out[n++] = (uint8_t)(bits >> held);
    }
    return bits & ((1u << held) - 1) ? E_FORMAT : (int)n;
}

/* ---- fields ---- */

static uint8_t *put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static uint8_t *put_text(uint8_t *at, const char *text)
{
    size_t len = strlen(text);
    *at++ = (uint8_t)len;
    memcpy(at, text, len);
    return at + len;
}

static uint64_t get(const uint8_t **at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t) * (*at)++ << (8 * i);
    return value;
}

static bool get_text(const uint8_t **at, const uint8_t *end, char *out, size_t size)
{
    if (*at == end) return false;
    size_t len = *(*at)++;
    if (len >= size || len > (size_t)(end - *at) || memchr(*at, 0, len)) return false;
    memcpy(out, *at, len);
    out[len] = 0;
    *at += len;
    return true;
}

/* ---- the MAC ---- */

void session_token_key_of(const struct session_secret *secret, struct session_token_key *out)
{
    static const char *const labels[] = {"lm token low 0", "lm token low 1", "lm token high 0",
                                         "lm token high 1"};
    for (int i = 0; i < 4; i++) {
        uint64_t half = hash_sip24(secret->bytes, labels[i], strlen(labels[i]));
        put((i < 2 ? out->low : out->high) + 8 * (i & 1), half, 8);
    }
}

static void sign(const struct session_token_key *key, const uint8_t *raw, size_t len,
                 struct str tenant, struct str model, uint8_t out[MAC_BYTES])
{
    struct buf text;
    uint8_t lengths[16];
    put(put(lengths, len, 8), tenant.len, 8);
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append(&text, lengths, sizeof lengths);
    buf_append(&text, raw, len);
    buf_append(&text, tenant.data, tenant.len);
    buf_append(&text, model.data, model.len);
    put(put(out, hash_sip24(key->low, text.data, text.len), 8),
        hash_sip24(key->high, text.data, text.len), 8);
    buf_deinit(&text);
}

static bool is_equal(const uint8_t *a, const uint8_t *b, size_t len)
{
    uint8_t difference = 0;
    for (size_t i = 0; i < len; i++)
        difference |= (uint8_t)(a[i] ^ b[i]);
    return difference == 0;
}

/* ---- the token ---- */

void session_token_print(const struct session_token_key *key, const struct session_token *token,
                         struct str tenant, struct str model, char out[SESSION_TOKEN_BYTES])
{
    uint8_t raw[RAW_MAX], *at = raw;
    at = put(at, VERSION, 1);
    at = put(at, token->kind, 1);
    at = put(at, (uint64_t)token->expires_s, 8);
    at = put(at, token->key, 8);
    at = put(at, token->turn, 4);
    at = put_text(at, token->agent);
    at = put_text(at, token->incarnation);
    sign(key, raw, (size_t)(at - raw), tenant, model, at);
    size_t len = encode(raw, (size_t)(at - raw) + MAC_BYTES, out);
    CHECK(len < SESSION_TOKEN_BYTES);
}

static bool read_fields(const uint8_t *at, const uint8_t *end, struct session_token *out)
{
    if (end - at < 22) return false;
    uint64_t version = get(&at, 1), kind = get(&at, 1);
    out->kind = (enum session_kind)kind;
    out->expires_s = (int64_t)get(&at, 8);
    out->key = get(&at, 8);
    out->turn = (uint32_t)get(&at, 4);
    return version == VERSION && (kind == SESSION_SOFT || kind == SESSION_HARD) &&
           get_text(&at, end, out->agent, sizeof out->agent) &&
           get_text(&at, end, out->incarnation, sizeof out->incarnation) && at == end;
}

int session_token_parse(const struct session_token_key *key, struct str text, struct str tenant,
                        struct str model, int64_t now_s, struct session_token *out)
{
    uint8_t raw[RAW_MAX], mac[MAC_BYTES];
    *out = (struct session_token){.kind = SESSION_NONE};
    if (text.len == 0 || text.len >= SESSION_TOKEN_BYTES) return E_FORMAT;
    int len = decode(text, raw, sizeof raw);
    if (len <= MAC_BYTES) return E_FORMAT;
    const uint8_t *end = raw + len - MAC_BYTES;
    sign(key, raw, (size_t)(end - raw), tenant, model, mac);
    struct session_token token = {.kind = SESSION_NONE};
    if (!is_equal(mac, end, MAC_BYTES) || !read_fields(raw, end, &token)) return E_FORMAT;
    if (token.expires_s <= now_s) return E_TIMEOUT;
    *out = token;
    return 0;
}
