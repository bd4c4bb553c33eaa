/* api_pages.h - what both programs serve of the API's description: the explorer (Swagger UI, compiled
 * in) at /, the reference at /redoc and /openapi.json. None of it needs a key: a browser that opens
 * a page can't show one, and the explorer's Authorize button is where its user types it. */
#ifndef LM_API_API_PAGES_H
#define LM_API_API_PAGES_H

#include "shared/api/api_openapi.h"
#include "shared/net/http_server.h"

/* Handler of GET / and /explorer/{file}; 404 `unknown_url` for a file that there isn't. */
void api_pages_explorer(struct http_exchange *x, struct str param, void *arg);
/* Answer GET /redoc and GET /openapi.json. */
void api_pages_reference(struct http_exchange *x, enum api_daemon daemon);
void api_pages_openapi(struct http_exchange *x, const struct api_openapi_options *o);

/* Whether a path is one of theirs. */
bool api_pages_have(struct str path);
/* How many rows of a program's routes these are; they stand at the end, so that
 * --disable-fastapi-docs can leave them out. */
#define API_PAGES_ROUTES 4

#endif
