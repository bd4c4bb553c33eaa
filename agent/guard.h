/* guard.h - who may use this agent. Keys are those of --api-keys and --api-key-file
 * (shared/net/api_keys.h). Loop thread only. */
#ifndef LM_AGENT_GUARD_H
#define LM_AGENT_GUARD_H

#include "agent/agent_config.h"
#include "shared/net/api_error.h"
#include "shared/net/api_keys.h"

/* Zeroed: everybody may. */
struct guard {
    struct api_keys *keys; // owned; NULL: none were ever loaded
    bool is_required;      // keys were configured once: without any left, nobody may
};

/* At start and on SIGHUP. On failure the guard is as it was, and *err says what is wrong where. */
FALLIBLE int guard_load(struct guard *g, const struct agent_config *config, struct error *err);
void guard_deinit(struct guard *g);

/* 0, or -1 and *error: 401, or 404 for a key that isn't for `model`. */
FALLIBLE int guard_check(const struct guard *g, const struct http_request *request,
                         const char *model, struct api_error *error);

#endif
