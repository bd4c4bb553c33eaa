#include "shared/net/session_key.h"

#include "shared/base/check.h"
#include "tests/test.h"

static void test_key(void)
{
    struct session_secret a, b;
    session_secret_of(STR("one"), &a);
    session_secret_of(STR("two"), &b);
    EXPECT(memcmp(&a, &b, sizeof a) != 0);
    uint64_t key = session_key(&a, STR("t"), STR("m"), STR("interactive"), 77);
    EXPECT(key == session_key(&a, STR("t"), STR("m"), STR("interactive"), 77));
    EXPECT(key != session_key(&b, STR("t"), STR("m"), STR("interactive"), 77));
    EXPECT(key != session_key(&a, STR("u"), STR("m"), STR("interactive"), 77));
    EXPECT(key != session_key(&a, STR("t"), STR("n"), STR("interactive"), 77));
    EXPECT(key != session_key(&a, STR("t"), STR("m"), STR("other"), 77));
    EXPECT(key != session_key(&a, STR("t"), STR("m"), STR("interactive"), 78));
    // parts don't run into each other
    EXPECT(session_key(&a, STR("1:a"), STR("b"), STR(""), 1) !=
           session_key(&a, STR("1"), STR("a1:b"), STR(""), 1));
    // a number is its digits, and texts are told apart like numbers
    EXPECT(key == session_key_named(&a, STR("t"), STR("m"), STR("interactive"), STR("77")));
    EXPECT(key != session_key_named(&a, STR("t"), STR("m"), STR("interactive"), STR("077")));
    EXPECT(session_key_named(&a, STR("t"), STR("m"), STR("soft"), STR("")) !=
           session_key_named(&a, STR("t"), STR("m"), STR("soft"), STR("x")));
    char text[SESSION_KEY_DIGITS + 1];
    session_key_text(UINT64_C(0xab), text);
    EXPECT_STR(text, "00000000000000ab");
}

static void test_tenant(void)
{
    static const struct {
        const char *named, *token, *want; // want "*": a hash
    } rows[] = {
        {NULL, NULL, ""},
        {NULL, "", ""},
        {NULL, "k1", "*"},
        {"team-a", "k1", "team-a"},
        {"", "k1", ""},
        {"with space", NULL, "*"},
        {"a-name-that-is-longer-than-what-a-tenant-may-have-in-its-name-here!", NULL, "*"},
    };
    char first[SESSION_TENANT_BYTES], out[SESSION_TENANT_BYTES];
    session_tenant((struct str){0}, STR("k1"), first);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        session_tenant(str_of(rows[i].named), str_of(rows[i].token), out);
        if (rows[i].want[0] == '*') {
            EXPECT(strncmp(out, "token:", 6) == 0 && strlen(out) == 22);
            if (!rows[i].named) EXPECT_STR(out, first);
        } else {
            EXPECT_STR(out, rows[i].want);
        }
    }
    session_tenant((struct str){0}, STR("k2"), out);
    EXPECT(strcmp(out, first) != 0);
}

static void test_hop(void)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t key;
        enum session_expect expect;
        int turn, has;
    } rows[] = {
        {"00000000000000ff", 0, 255, SESSION_EXPECT_ANY, 0, 0},
        {"00000000000000FF; expect=new", 0, 255, SESSION_EXPECT_NEW, 0, 0},
        {"0123456789abcdef;expect=existing;turn=4", 0, UINT64_C(0x0123456789abcdef),
         SESSION_EXPECT_EXISTING, 4, 0},
        {"0123456789abcdef; expect=adopt; has=3", 0, UINT64_C(0x0123456789abcdef),
         SESSION_EXPECT_ADOPT, 0, 3},
        {" 0123456789abcdef ; turn=1; expect=adopt; later=x; y", 0, UINT64_C(0x0123456789abcdef),
         SESSION_EXPECT_ADOPT, 1, 0},
        {"", E_FORMAT, 0, 0, 0, 0},
        {"123", E_FORMAT, 0, 0, 0, 0},
        {"0123456789abcdeg", E_FORMAT, 0, 0, 0, 0},
        {"0123456789abcdef; expect=maybe", E_FORMAT, 0, 0, 0, 0},
        {"0123456789abcdef; turn=0", E_FORMAT, 0, 0, 0, 0},
        {"0123456789abcdef; turn=x", E_FORMAT, 0, 0, 0, 0},
        {"0123456789abcdef; has=-1", E_FORMAT, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct session_hop hop;
        EXPECT_INT(session_hop_parse(str_of(rows[i].text), &hop), rows[i].rc);
        if (rows[i].rc != 0) continue;
        EXPECT(hop.key == rows[i].key);
        EXPECT_INT(hop.expect, rows[i].expect);
        EXPECT_INT(hop.turn, rows[i].turn);
        EXPECT_INT(hop.has, rows[i].has);
    }
}

int main(void)
{
    RUN(test_key);
    RUN(test_tenant);
    RUN(test_hop);
    return TEST_END();
}
