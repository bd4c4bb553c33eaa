#include "shared/web/web_assets.h"

const char web_policy_strict[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

const struct web_asset *web_assets_find(const struct web_asset_list *list, struct str path)
{
    for (int i = 0; i < list->count; i++) {
        if (str_equal(str_of(list->items[i].path), path)) return &list->items[i];
    }
    return NULL;
}

static struct str without_weak_mark(struct str tag)
{
    if (!str_starts_with(tag, STR("W/"))) return tag;
    return (struct str){tag.data + 2, tag.len - 2};
}

/* If-None-Match of RFC 9110 13.1.2: a list of tags that are compared weakly, or "*". */
static bool client_has(const struct http_request *r, const char *etag)
{
    struct str rest = http_headers_get(&r->headers, "if-none-match"), item;
    struct str wanted = without_weak_mark(str_of(etag));
    while (rest.data && str_split(&rest, ',', &item)) {
        item = str_trim(item);
        if (str_equal(item, STR("*")) || str_equal(without_weak_mark(item), wanted)) return true;
    }
    return false;
}

void web_asset_respond(struct http_exchange *x, const struct web_asset *asset, const char *policy)
{
    const struct http_request *r = http_exchange_request(x);
    http_exchange_add_header(x, STR("etag"), str_of(asset->etag));
    // Asked for each time, answered by a few bytes: a new version is seen at once.
    http_exchange_add_header(x, STR("cache-control"), STR("no-cache"));
    http_exchange_add_header(x, STR("vary"), STR("accept-encoding"));
    http_exchange_add_header(x, STR("content-security-policy"), str_of(policy));
    http_exchange_add_header(x, STR("x-content-type-options"), STR("nosniff"));
    http_exchange_add_header(x, STR("referrer-policy"), STR("no-referrer"));
    if (client_has(r, asset->etag)) {
        http_respond(x, 304, NULL, STR(""));
        return;
    }
    // "gzip;q=0" and other weights aren't the token, and get the file as it is.
    bool takes_gzip = http_headers_has_token(&r->headers, "accept-encoding", "gzip");
    if (takes_gzip) http_exchange_add_header(x, STR("content-encoding"), STR("gzip"));
    http_respond(x, 200, asset->media_type, takes_gzip ? asset->gzip_bytes : asset->bytes);
}
