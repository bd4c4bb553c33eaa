/* web_assets.h - files that were built into the program (cmake/lm_assets.cmake) as answers to GET:
 * compressed for who takes gzip, 304 for who has them already, and with the headers that keep a
 * page from doing what it shouldn't. Loop thread only; the tables are constant. */
#ifndef LM_WEB_WEB_ASSETS_H
#define LM_WEB_WEB_ASSETS_H

#include "shared/net/http_server.h"

struct web_asset {
    const char *path; // of the URL: "/chat"
    const char *media_type;
    const char *etag;      // a hash of the content; weak, as it is the same for both encodings
    struct str bytes;      // of the file
    struct str gzip_bytes; // the same, compressed
};

/* lm_assets(NAME ...) defines one: `extern const struct web_asset_list NAME;`. */
struct web_asset_list {
    const struct web_asset *items;
    int count;
};

/* NULL: none has that path. */
const struct web_asset *web_assets_find(const struct web_asset_list *list, struct str path);

/* Scripts, styles, images and connections of the same origin, and nothing else: nothing inline, no
 * frames around it, no forms. What a page writes in spite of itself doesn't run. */
extern const char web_policy_strict[];

/* Answers. policy: the Content-Security-Policy of pages; the strict one, or one that a page of
 * others' needs. */
void web_asset_respond(struct http_exchange *x, const struct web_asset *asset, const char *policy);

#endif
