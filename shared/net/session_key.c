#include "shared/net/session_key.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Public constants: they make hashes of ours differ from those of others, nothing more. */
static const uint8_t secret_low[16] = "lm session sec 0";
static const uint8_t secret_high[16] = "lm session sec 1";
static const uint8_t tenant_key[16] = "lm session tenan";

void session_secret_of(struct str text, struct session_secret *out)
{
    uint64_t low = hash_sip24(secret_low, text.data, text.len);
    uint64_t high = hash_sip24(secret_high, text.data, text.len);
    for (int i = 0; i < 8; i++) {
        out->bytes[i] = (uint8_t)(low >> (8 * i));
        out->bytes[8 + i] = (uint8_t)(high >> (8 * i));
    }
}

#define STACK_BYTES 512 // longer texts are built on the heap

static char *put_part(char *at, struct str part)
{
    at = str_put_uint(at, part.len);
    *at++ = ':';
    return str_put(at, part);
}

uint64_t session_key_named(const struct session_secret *secret, struct str tenant, struct str model,
                           struct str kind, struct str id)
{
    char stack[STACK_BYTES];
    size_t most = tenant.len + model.len + kind.len + id.len + 3 * 21;
    char *text = most <= sizeof stack ? stack : xmalloc(most);
    char *at = put_part(put_part(put_part(text, tenant), model), kind);
    at = str_put(at, id);
    uint64_t key = hash_sip24(secret->bytes, text, (size_t)(at - text));
    if (text != stack) free(text);
    return key;
}

uint64_t session_key(const struct session_secret *secret, struct str tenant, struct str model,
                     struct str kind, int64_t id)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRId64, id);
    return session_key_named(secret, tenant, model, kind, str_of(digits));
}

void session_key_text(uint64_t key, char out[SESSION_KEY_DIGITS + 1])
{
    snprintf(out, SESSION_KEY_DIGITS + 1, "%016" PRIx64, key);
}

static bool is_plain(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] <= ' ' || s.data[i] == 0x7f) return false;
    }
    return s.len > 0 && s.len < SESSION_TENANT_BYTES;
}

void session_tenant(struct str named, struct str token, char out[SESSION_TENANT_BYTES])
{
    out[0] = 0;
    if (named.data && is_plain(named)) {
        *str_put(out, named) = 0;
        return;
    }
    struct str source = named.data ? str_trim(named) : token;
    if (source.len == 0) return;
    uint64_t hash = hash_sip24(tenant_key, source.data, source.len);
    *str_put_hex64(str_put(out, STR("token:")), hash) = 0;
}

static int parse_expect(struct str value, enum session_expect *out)
{
    static const struct {
        const char *name;
        enum session_expect expect;
    } rows[] = {{"new", SESSION_EXPECT_NEW},
                {"existing", SESSION_EXPECT_EXISTING},
                {"adopt", SESSION_EXPECT_ADOPT}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!str_equal(value, str_of(rows[i].name))) continue;
        *out = rows[i].expect;
        return 0;
    }
    return E_FORMAT;
}

int session_hop_parse(struct str header, struct session_hop *out)
{
    *out = (struct session_hop){0};
    struct str part, rest = header;
    if (!str_split(&rest, ';', &part) || str_to_hex64(str_trim(part), &out->key) != 0)
        return E_FORMAT;
    while (str_split(&rest, ';', &part)) {
        struct str name, value = str_trim(part);
        if (!str_split(&value, '=', &name)) continue;
        if (str_equal(name, STR("expect"))) {
            if (parse_expect(value, &out->expect) != 0) return E_FORMAT;
        } else if (str_equal(name, STR("turn"))) {
            if (str_to_int(value, &out->turn) != 0 || out->turn < 1) return E_FORMAT;
        } else if (str_equal(name, STR("has"))) {
            if (str_to_int(value, &out->has) != 0 || out->has < 0) return E_FORMAT;
        }
    }
    return 0;
}
