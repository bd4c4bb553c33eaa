/* fleet_status.h - `lm-client status`: a proxy's fleet, or one agent's state, as a table. */
#ifndef LM_CLIENT_FLEET_STATUS_H
#define LM_CLIENT_FLEET_STATUS_H

#include "client/api_client.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

/* Table of a GET /nodes/status answer. E_PROTOCOL: it is not one. */
FALLIBLE int fleet_status_print(const char *text, size_t len, struct buf *out, struct error *err);

/* The command: the table on stdout. A server without /nodes/status is an agent by itself. */
FALLIBLE int fleet_status_command(struct api_client *api, struct error *err);

#endif
