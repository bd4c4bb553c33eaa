/* route_table.h - the routes of a program against the table that describes them: the same ones. */
#ifndef LM_TESTS_ROUTE_TABLE_H
#define LM_TESTS_ROUTE_TABLE_H

#include "shared/api/api_routes.h"
#include "shared/net/http_router.h"
#include "tests/test.h"

static void expect_described(const struct http_router *router, enum api_daemon daemon)
{
    int described = 0;
    for (size_t k = 0; k < api_route_count; k++)
        described += (api_routes[k].daemons & daemon) != 0;
    EXPECT_INT(router->count, described);
    for (int i = 0; i < router->count; i++) {
        const struct http_route *r = &router->routes[i];
        bool found = false;
        for (size_t k = 0; k < api_route_count && !found; k++) {
            found = (api_routes[k].daemons & daemon) &&
                    strcmp(api_routes[k].path, r->pattern) == 0 &&
                    strcmp(api_routes[k].method, r->method) == 0;
        }
        if (!found) printf("shared/api/api_routes.c lacks %s %s\n", r->method, r->pattern);
        EXPECT(found);
    }
}

#endif
