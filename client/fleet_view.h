/* fleet_view.h - an answer of lm-proxy's GET /lm/status as text: what the proxy does, and its agents
 * as a table. What another version left out is shown as "-". */
#ifndef LM_CLIENT_FLEET_VIEW_H
#define LM_CLIENT_FLEET_VIEW_H

#include <stdbool.h>

#include "shared/base/buf.h"
#include "shared/base/json.h"

struct fleet_view {
    const struct json *now;
    const struct json *before; // an earlier answer, for rates; NULL: none yet
    bool has_rates;            // columns for them, "-" where they aren't known
    bool has_urls;
    const char *url; // of the proxy
};

/* True: it is such an answer. */
bool fleet_view_fits(const struct json *status);
void fleet_view_print(const struct fleet_view *v, struct buf *out);

#endif
