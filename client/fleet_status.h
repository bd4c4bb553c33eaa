/* fleet_status.h - `lm-client status`: a proxy and its fleet, or one agent's state. */
#ifndef LM_CLIENT_FLEET_STATUS_H
#define LM_CLIENT_FLEET_STATUS_H

#include "client/api_client.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/json.h"

/* Table of a GET /nodes/status answer. E_PROTOCOL: it is not one. */
FALLIBLE int fleet_status_print(const char *text, size_t len, struct buf *out, struct error *err);

/* One look at a server. lm-proxy's own status where it has one; else, as text, the table of LMDeploy's
 * /nodes/status; else the server is an agent by itself. */
struct fleet_look {
    struct json *status; // fleet_view.h prints it; NULL: `text` says all
    struct buf text;
};
/* On failure there is nothing to deinit. */
FALLIBLE int fleet_look_take(struct api_client *api, struct fleet_look *out, struct error *err);
void fleet_look_deinit(struct fleet_look *look);

/* The command: what is seen, on stdout. */
FALLIBLE int fleet_status_command(struct api_client *api, struct error *err);

#endif
