#include "shared/web/web_pages.h"

#include "shared/net/api_error.h"
#include "shared/web/web_assets.h"

extern const struct web_asset_list lm_web_files; // CMakeLists.txt names them

bool web_pages_have(struct str path)
{
    return web_assets_find(&lm_web_files, path) != NULL;
}

void web_pages_respond(struct http_exchange *x, bool open)
{
    const struct http_request *r = http_exchange_request(x);
    const struct web_asset *asset = open ? web_assets_find(&lm_web_files, r->path) : NULL;
    if (asset) {
        web_asset_respond(x, asset, web_policy_strict);
        return;
    }
    struct api_error e;
    api_error_set(&e, 404, "unknown_url", NULL, "Invalid URL (%.*s %.*s)", STR_ARG(r->method),
                  STR_ARG(r->path));
    api_error_respond(x, &e);
}
