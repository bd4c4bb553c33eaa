#include "agent/advertise.h"

#include "tests/test.h"

static const char *url_of(const struct advertise *a)
{
    static char url[AGENT_URL_BYTES];
    advertise_url(a, url);
    return url;
}

static void test_told(void)
{
    static const struct {
        const char *text, *url;
    } rows[] = {
        {"10.0.0.5", "http://10.0.0.5:9"},
        {"10.0.0.5:8080", "http://10.0.0.5:8080"},
        {"agent-1.lm_net", "http://agent-1.lm_net:9"},
        {"agent-1:1", "http://agent-1:1"},
        {"fd00::1", "http://[fd00::1]:9"},
        {"[fd00::1]", "http://[fd00::1]:9"},
        {"[fd00::1]:7", "http://[fd00::1]:7"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct advertise a;
        NEED(advertise_init(&a, rows[i].text, "0.0.0.0", 9, NULL) == 0);
        EXPECT(advertise_is_known(&a));
        EXPECT_STR(url_of(&a), rows[i].url);
        EXPECT(!advertise_learn(&a, "10.9.9.9"));
    }
}

static void test_refused(void)
{
    static const char *const bad[] = {"",    "0.0.0.0",  "0.0.0.0:80", "::",   "[::]:80",  ":80",
                                      "a:",  "a:0",      "a:65536",    "a:x",  "[fd00::1", "[x]:1",
                                      "a b", "http://a", "a/b",        "a:1:2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct advertise a;
        struct error err = {0};
        EXPECT_INT(advertise_init(&a, bad[i], "0.0.0.0", 9, &err), E_INVALID);
        EXPECT(strstr(err.text, "--advertise"));
    }
}

static void test_learned(void)
{
    struct advertise a;
    NEED(advertise_init(&a, NULL, "0.0.0.0", 9, NULL) == 0);
    EXPECT(!advertise_is_known(&a));
    EXPECT(!advertise_learn(&a, ""));
    EXPECT(!advertise_learn(&a, "0.0.0.0"));
    EXPECT(advertise_learn(&a, "127.0.0.1"));
    EXPECT_STR(url_of(&a), "http://127.0.0.1:9");
    EXPECT(advertise_learn(&a, "10.0.0.5")); // reachable by more than loopback
    EXPECT(!advertise_learn(&a, "10.0.0.6"));
    EXPECT(!advertise_learn(&a, "127.0.0.1"));
    EXPECT_STR(url_of(&a), "http://10.0.0.5:9");
}

static void test_listen_address(void)
{
    struct advertise a;
    NEED(advertise_init(&a, NULL, "127.0.0.1", 9, NULL) == 0);
    EXPECT_STR(url_of(&a), "http://127.0.0.1:9");
    EXPECT(!advertise_learn(&a, "10.0.0.5")); // it listens nowhere else
    NEED(advertise_init(&a, NULL, "::1", 9, NULL) == 0);
    EXPECT_STR(url_of(&a), "http://[::1]:9");
    NEED(advertise_init(&a, NULL, "::", 9, NULL) == 0);
    EXPECT(!advertise_is_known(&a));
}

int main(void)
{
    RUN(test_told);
    RUN(test_refused);
    RUN(test_learned);
    RUN(test_listen_address);
    return TEST_END();
}
