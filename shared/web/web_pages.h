/* web_pages.h - the pages of lm-agent and lm-proxy, and the files that they load. */
#ifndef LM_WEB_WEB_PAGES_H
#define LM_WEB_WEB_PAGES_H

#include "shared/net/http_server.h"

/* Answers GET /chat, /dashboard and /web/{file}; 404 `unknown_url` for a file that there isn't, and
 * for all of them unless `open` (--web-pages). The pages need no key: they are the same for
 * everybody, and what they ask for with the key that their user types is checked where it is asked
 * for. */
void web_pages_respond(struct http_exchange *x, bool open);

/* Whether a path is one of theirs. */
bool web_pages_have(struct str path);

#endif
