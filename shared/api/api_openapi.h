/* api_openapi.h - the tables of this folder as an OpenAPI 3.1 document. */
#ifndef LM_API_API_OPENAPI_H
#define LM_API_API_OPENAPI_H

#include "shared/api/api_routes.h"
#include "shared/base/buf.h"

struct api_openapi_options {
    enum api_daemon daemon; // whose routes
    struct str model;       // for examples, which can be sent as they stand; none: "MODEL"
    bool needs_key;         // requests have to show one
};

/* One JSON object of some 60 KB. Pure; any thread. */
void api_openapi_print(struct buf *out, const struct api_openapi_options *o);

#endif
