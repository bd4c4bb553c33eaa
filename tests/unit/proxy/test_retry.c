#include "proxy/retry.h"

#include "shared/base/check.h"
#include "tests/test.h"

static void test_after_failures(void)
{
    static const struct {
        struct http_failure failure;
        enum retry_verdict verdict;
    } rows[] = {
        /* no byte was sent: free, whatever it was */
        {{.code = UV_ECONNREFUSED}, RETRY_FREE},
        {{.code = UV_EHOSTUNREACH}, RETRY_FREE},
        {{.code = E_TIMEOUT}, RETRY_FREE},
        {{.code = UV_EAI_NONAME}, RETRY_FREE},
        /* a connection from the pool that was dead already */
        {{.code = UV_ECONNRESET, .connected = true, .reused = true}, RETRY_FRESH},
        {{.code = E_CLOSED, .connected = true, .reused = true}, RETRY_FRESH},
        {{.code = E_CLOSED, .connected = true, .reused = true, .waited_ms = 999}, RETRY_FRESH},
        /* the agent had the request and died, before or after the head */
        {{.code = E_CLOSED, .connected = true, .reused = true, .waited_ms = 1000}, RETRY_COUNTED},
        {{.code = UV_ECONNRESET, .connected = true}, RETRY_COUNTED},
        {{.code = E_CLOSED, .connected = true, .head_received = true}, RETRY_COUNTED},
        {{.code = E_CLOSED, .connected = true, .reused = true, .head_received = true},
         RETRY_COUNTED},
        {{.code = E_PROTOCOL, .connected = true}, RETRY_COUNTED},
        /* it had its time */
        {{.code = E_TIMEOUT, .connected = true}, RETRY_NEVER},
        {{.code = E_TIMEOUT, .connected = true, .reused = true}, RETRY_NEVER},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        EXPECT_INT(retry_after_failure(&rows[i].failure), rows[i].verdict);
}

static void test_after_statuses(void)
{
    EXPECT_INT(retry_after_status(429, false), RETRY_FREE);
    EXPECT_INT(retry_after_status(503, false), RETRY_FREE);
    EXPECT_INT(retry_after_status(502, true), RETRY_FREE);
    EXPECT_INT(retry_after_status(504, true), RETRY_FREE);
    static const int never[] = {200, 204, 301, 400, 401, 403, 404,
                                409, 410, 422, 500, 501, 502, 504};
    for (size_t i = 0; i < ARRAY_LEN(never); i++)
        EXPECT_INT(retry_after_status(never[i], false), RETRY_NEVER);
    EXPECT_INT(retry_after_status(500, true), RETRY_NEVER);
}

int main(void)
{
    RUN(test_after_failures);
    RUN(test_after_statuses);
    return TEST_END();
}
