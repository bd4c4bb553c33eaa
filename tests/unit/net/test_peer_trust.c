#include "shared/net/peer_trust.h"

#include "tests/test.h"

static struct http_header items[4];

static struct http_request request_of(bool is_loopback, const char *name, const char *value)
{
    struct http_request r = {.peer_is_loopback = is_loopback, .headers = {items, 0}};
    if (name) items[r.headers.count++] = (struct http_header){str_of(name), str_of(value)};
    return r;
}

static void test_secrets(void)
{
    EXPECT(peer_secret_equals(STR("abc"), STR("abc")) && peer_secret_equals(STR(""), STR("")));
    EXPECT(!peer_secret_equals(STR("abd"), STR("abc")) &&
           !peer_secret_equals(STR("ab"), STR("abc")));
}

static void test_fleet(void)
{
    static const struct {
        const char *key, *header, *value;
        bool is_loopback, is_fleet;
    } rows[] = {
        {NULL, NULL, NULL, true, true},
        {NULL, NULL, NULL, false, false},
        {NULL, "x-lm-join-key", "k", false, false},
        {"k", NULL, NULL, true, false}, // where a key is set, an address proves nothing
        {"k", "X-LM-Join-Key", "k", false, true},
        {"k", "x-lm-join-key", "kk", true, false},
        {"k", "x-lm-join-key", "", true, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_request r = request_of(rows[i].is_loopback, rows[i].header, rows[i].value);
        EXPECT(peer_is_fleet(&r, rows[i].key) == rows[i].is_fleet);
    }
}

static void test_bearer(void)
{
    static const struct {
        const char *value, *token; // NULL: none
    } rows[] = {
        {"Bearer abc", "abc"}, {"bearer  abc ", "abc"}, {"Bearer ", ""},
        {"Basic abc", NULL},   {"Bearer", NULL},        {"", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_request r = request_of(true, "authorization", rows[i].value);
        struct str token = peer_bearer_token(&r);
        EXPECT((token.data != NULL) == (rows[i].token != NULL));
        if (rows[i].token) EXPECT(str_equal(token, str_of(rows[i].token)));
    }
}

static void test_keys(void)
{
    struct http_request r = request_of(true, "X-Api-Key", " abc ");
    EXPECT(str_equal(peer_api_key(&r), STR("abc")) && !peer_bearer_token(&r).data);
    items[r.headers.count++] = (struct http_header){STR("Authorization"), STR("Bearer d")};
    EXPECT(str_equal(peer_api_key(&r), STR("d"))); // what is said first in OpenAI's world
    items[1].value = STR("Basic d");
    EXPECT(str_equal(peer_api_key(&r), STR("abc")));
    r = request_of(true, NULL, NULL);
    EXPECT(!peer_api_key(&r).data);
}

static void test_tenants(void)
{
    struct http_request none = request_of(true, NULL, NULL);
    EXPECT_INT(peer_tenant(&none, NULL), 0);
    struct http_request a = request_of(false, "authorization", "Bearer a");
    uint64_t tenant_a = peer_tenant(&a, NULL);
    struct http_request b = request_of(false, "authorization", "Bearer b");
    EXPECT(tenant_a != 0 && peer_tenant(&b, NULL) != tenant_a);
    /* The fleet speaks for others; a stranger only for itself. */
    struct http_request c = request_of(true, "authorization", "Bearer b");
    items[c.headers.count++] = (struct http_header){STR("x-lm-tenant"), STR("a")};
    EXPECT(peer_tenant(&c, NULL) == tenant_a);
    c.peer_is_loopback = false;
    EXPECT(peer_tenant(&c, NULL) == peer_tenant(&b, NULL));
}

int main(void)
{
    RUN(test_secrets);
    RUN(test_fleet);
    RUN(test_bearer);
    RUN(test_keys);
    RUN(test_tenants);
    return TEST_END();
}
