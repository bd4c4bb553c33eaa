#include "shared/base/error.h"

#include "tests/test.h"

#include <errno.h>

static void test_set_fills_and_returns(void)
{
    struct error err = {0};
    EXPECT_INT(error_set(&err, E_FORMAT, "tensor '%s' ends beyond the file", "wq"), E_FORMAT);
    EXPECT_INT(err.code, E_FORMAT);
    EXPECT_STR(err.text, "tensor 'wq' ends beyond the file");
    EXPECT_INT(error_set(NULL, -ENOENT, "unseen"), -ENOENT);
}

static void test_set_may_quote_its_own_text(void)
{
    struct error err;
    error_set(&err, E_FORMAT, "inner");
    error_set(&err, E_LIMIT, "outer: %s", err.text);
    EXPECT_STR(err.text, "outer: inner");
}

static void test_prefix_keeps_code(void)
{
    struct error err;
    error_set(&err, E_FORMAT, "bad magic");
    EXPECT_INT(error_prefix(&err, E_DEVICE, "loading '%s'", "x.gguf"), E_FORMAT);
    EXPECT_STR(err.text, "loading 'x.gguf': bad magic");
    EXPECT_INT(error_prefix(NULL, E_DEVICE, "context"), E_DEVICE);

    struct error unset = {0};
    EXPECT_INT(error_prefix(&unset, E_TIMEOUT, "asking '%s'", "redis"), E_TIMEOUT);
    EXPECT_STR(unset.text, "asking 'redis': timed out");
}

static void test_long_texts_are_cut_not_overrun(void)
{
    char big[2000];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    struct error err;
    error_set(&err, E_INVALID, "%s", big);
    EXPECT_INT(strlen(err.text), sizeof err.text - 1);
    error_prefix(&err, E_INVALID, "ctx");
    EXPECT_INT(strlen(err.text), sizeof err.text - 1);
    EXPECT(strncmp(err.text, "ctx: aaa", 8) == 0);
    error_prefix(&err, E_INVALID, "%s", big);
    EXPECT_INT(strlen(err.text), sizeof err.text - 1);
}

static void test_names_of_all_three_ranges(void)
{
    EXPECT_STR(error_name(E_CONTEXT_LENGTH), "E_CONTEXT_LENGTH");
    EXPECT_STR(error_text(E_UPSTREAM), "upstream failure");
    EXPECT_STR(error_name(-ENOENT), "ENOENT");
    EXPECT_STR(error_text(-ECONNREFUSED), "Connection refused");
    EXPECT_STR(error_name(-4095), "EOF"); // libuv's UV_EOF
    EXPECT_STR(error_name(-3008), "EAI_NONAME");
    EXPECT_STR(error_name(0), "OK");
    EXPECT_STR(error_name(-999999), "UNKNOWN");
    EXPECT_STR(error_text(12345), "unknown error");
}

int main(void)
{
    RUN(test_set_fills_and_returns);
    RUN(test_set_may_quote_its_own_text);
    RUN(test_prefix_keeps_code);
    RUN(test_long_texts_are_cut_not_overrun);
    RUN(test_names_of_all_three_ranges);
    return TEST_END();
}
