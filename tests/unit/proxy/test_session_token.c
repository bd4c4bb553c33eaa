#include "proxy/session_token.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

static struct session_token_key key;

static struct session_token sample(void)
{
    struct session_token t = {
        .kind = SESSION_HARD, .key = UINT64_C(0x0123456789abcdef), .turn = 41, .expires_s = 5000};
    snprintf(t.agent, sizeof t.agent, "host-1:23333");
    snprintf(t.incarnation, sizeof t.incarnation, "0123456789abcdef0123456789abcdef");
    return t;
}

static int parse(const char *text, int64_t now_s, struct session_token *out)
{
    return session_token_parse(&key, str_of(text), STR("team"), STR("m"), now_s, out);
}

static void test_round_trip(void)
{
    char text[SESSION_TOKEN_BYTES];
    struct session_token t = sample(), got;
    memset(t.agent, 'a', sizeof t.agent - 1); // the longest that there is
    session_token_print(&key, &t, STR("team"), STR("m"), text);
    for (const char *c = text; *c; c++)
        EXPECT(strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", *c));
    EXPECT_INT(parse(text, 4999, &got), 0);
    EXPECT(got.kind == t.kind && got.key == t.key && got.turn == 41 && got.expires_s == 5000);
    EXPECT_STR(got.agent, t.agent);
    EXPECT_STR(got.incarnation, t.incarnation);
    EXPECT_INT(parse(text, 5000, &got), E_TIMEOUT);
    EXPECT(got.kind == SESSION_NONE && got.agent[0] == 0);
    t.agent[0] = t.incarnation[0] = 0; // a foreign node has no incarnation
    session_token_print(&key, &t, STR("team"), STR("m"), text);
    EXPECT_INT(parse(text, 0, &got), 0);
}

/* No byte may be another one, none may be missing or added. */
static void test_forgery(void)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char text[SESSION_TOKEN_BYTES], changed[SESSION_TOKEN_BYTES + 4];
    struct session_token t = sample(), got;
    session_token_print(&key, &t, STR("team"), STR("m"), text);
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        for (int d = 0; d < 64; d++) {
            memcpy(changed, text, len + 1);
            if (changed[i] == digits[d]) continue;
            changed[i] = digits[d];
            EXPECT_INT(parse(changed, 0, &got), E_FORMAT);
        }
        memcpy(changed, text, len + 1);
        changed[i] = 0;
        EXPECT_INT(parse(changed, 0, &got), E_FORMAT);
        memcpy(changed, text, len + 1);
        changed[i] = "=+/ \x80\n"[i % 6];
        EXPECT_INT(parse(changed, 0, &got), E_FORMAT);
    }
    snprintf(changed, sizeof changed, "%sA", text);
    EXPECT_INT(parse(changed, 0, &got), E_FORMAT);
    snprintf(changed, sizeof changed, "%s=", text);
    EXPECT_INT(parse(changed, 0, &got), E_FORMAT);
    EXPECT_INT(parse("", 0, &got), E_FORMAT);
}

static void test_other_owners(void)
{
    char text[SESSION_TOKEN_BYTES];
    struct session_token t = sample(), got;
    session_token_print(&key, &t, STR("team"), STR("m"), text);
    struct str s = str_of(text);
    EXPECT_INT(session_token_parse(&key, s, STR("maet"), STR("m"), 0, &got), E_FORMAT);
    EXPECT_INT(session_token_parse(&key, s, STR("team"), STR("n"), 0, &got), E_FORMAT);
    EXPECT_INT(session_token_parse(&key, s, STR("tea"), STR("mm"), 0, &got), E_FORMAT);
    struct session_secret other;
    struct session_token_key other_key;
    session_secret_of(STR("other"), &other);
    session_token_key_of(&other, &other_key);
    EXPECT_INT(session_token_parse(&other_key, s, STR("team"), STR("m"), 0, &got), E_FORMAT);
    EXPECT(memcmp(other_key.low, other_key.high, 16) != 0);
}

/* Bytes of anybody's; under the sanitizers. */
static void test_noise(void)
{
    struct rng rng;
    rng_init(&rng, 1);
    char text[300];
    struct session_token got;
    for (int i = 0; i < 20000; i++) {
        uint32_t len = rng_below(&rng, sizeof text);
        for (uint32_t k = 0; k < len; k++)
            text[k] = i & 1 ? (char)rng_u64(&rng) : (char)('A' + rng_below(&rng, 26));
        int rc = session_token_parse(&key, (struct str){text, len}, STR(""), STR(""), 0, &got);
        EXPECT_INT(rc, E_FORMAT);
    }
}

int main(void)
{
    struct session_secret secret;
    session_secret_of(STR("secret"), &secret);
    session_token_key_of(&secret, &key);
    RUN(test_round_trip);
    RUN(test_forgery);
    RUN(test_other_owners);
    RUN(test_noise);
    return TEST_END();
}
