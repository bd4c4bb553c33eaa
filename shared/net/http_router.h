/* http_router.h - from method and path to a handler: one table per daemon, shared rules for the
 * rest.
 *
 * Patterns are exact paths, or end in a parameter: "/v1/models/{id}" (the rest of the path, decoded
 * after matching, so "%2F" works). 404 (`unknown_url`) and 405 with Allow are answered here, as are
 * HEAD (for GET routes, no body), OPTIONS preflights and CORS headers with LMDeploy's defaults (any
 * origin, credentials, any method, requested headers echoed), and an x-request-id for every
 * response (the client's own if it is short and printable). */
#ifndef LM_NET_HTTP_ROUTER_H
#define LM_NET_HTTP_ROUTER_H

#include "shared/net/http_server.h"

struct http_route {
    const char *method;  // "GET"
    const char *pattern; // "/v1/models/{id}"
    void (*handle)(struct http_exchange *x, struct str param,
                   void *arg); // param: data NULL if none
};

struct http_cors {
    const char *origins; // comma-separated, "*" for all; NULL: no CORS headers
    const char *methods; // "*"
    const char *headers; // "*"
    bool credentials;
};
extern const struct http_cors http_cors_default;

struct http_router {
    const struct http_route *routes;
    int count;
    struct http_cors cors;
    /* Before any handler, preflights excepted; NULL: all are admitted. False: it has answered. */
    bool (*admit)(struct http_exchange *x, void *arg);
    void *arg; // passed to handlers
};

/* Use as on_request with the router as its arg. */
void http_router_dispatch(struct http_exchange *x, void *router);
/* The request id of an exchange that came through a router. */
struct str http_router_request_id(const struct http_exchange *x);

#endif
