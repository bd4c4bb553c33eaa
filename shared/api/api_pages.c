#include "shared/api/api_pages.h"

#include "shared/api/api_reference.h"
#include "shared/net/api_error.h"
#include "shared/web/web_assets.h"

extern const struct web_asset_list lm_api_files; // CMakeLists.txt names them

/* Swagger UI writes style attributes, and shows images that it has as data. */
static const char explorer_policy[] =
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

bool api_pages_have(struct str path)
{
    return web_assets_find(&lm_api_files, path) || str_equal(path, STR("/redoc")) ||
           str_equal(path, STR("/openapi.json"));
}

void api_pages_explorer(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    (void)arg;
    struct str path = http_exchange_request(x)->path;
    const struct web_asset *asset = web_assets_find(&lm_api_files, path);
    if (asset) {
        web_asset_respond(x, asset, explorer_policy);
        return;
    }
    struct api_error e;
    api_error_set(&e, 404, "unknown_url", NULL, "Invalid URL (GET %.*s)", STR_ARG(path));
    api_error_respond(x, &e);
}

void api_pages_reference(struct http_exchange *x, enum api_daemon daemon)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    api_reference_html(&body, daemon);
    http_exchange_add_header(x, STR("cache-control"), STR("no-cache"));
    http_exchange_add_header(x, STR("content-security-policy"), str_of(web_policy_strict));
    http_exchange_add_header(x, STR("x-content-type-options"), STR("nosniff"));
    http_exchange_add_header(x, STR("referrer-policy"), STR("no-referrer"));
    http_respond(x, 200, "text/html; charset=utf-8", buf_str(&body));
    buf_deinit(&body);
}

void api_pages_openapi(struct http_exchange *x, const struct api_openapi_options *o)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    api_openapi_print(&body, o);
    http_exchange_add_header(x, STR("cache-control"), STR("no-cache"));
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}
