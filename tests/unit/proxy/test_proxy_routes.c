/* What the proxy serves is what the API's tables say. */
#include "proxy/proxy_routes.h"

#include "proxy/proxy.h"
#include "proxy/worker.h"
#include "shared/base/check.h"
#include "tests/route_table.h"

static void test_routes_are_described(void)
{
    static char origins[] = "*";
    struct proxy_config config = {0};
    struct proxy *p = xcalloc(1, sizeof *p);
    struct worker *w = xcalloc(1, sizeof *w);
    struct http_router router = {0};
    p->config = &config;
    p->cors_origins = origins;
    w->proxy = p;
    proxy_routes_init(&router, w);
    expect_described(&router, API_PROXY);

    int all = router.count;
    config.disable_fastapi_docs = true;
    proxy_routes_init(&router, w);
    EXPECT(router.count < all);
    for (int i = 0; i < router.count; i++) {
        EXPECT(strcmp(router.routes[i].pattern, "/") != 0);
        EXPECT(strcmp(router.routes[i].pattern, "/redoc") != 0);
        EXPECT(strcmp(router.routes[i].pattern, "/openapi.json") != 0);
    }
    free(w);
    free(p);
}

int main(void)
{
    RUN(test_routes_are_described);
    return TEST_END();
}
