#define LOG_MODULE "guard"
#include "agent/guard.h"

#include "agent/agent_metrics.h"
#include "shared/base/log.h"
#include "shared/net/peer_trust.h"

int guard_load(struct guard *g, const struct agent_config *config, struct error *err)
{
    struct api_key_source source = {&config->api_keys, config->api_key_file};
    struct api_keys *keys;
    int rc = api_keys_load(&source, &keys, err);
    if (rc != 0) return rc;
    api_keys_unref(g->keys);
    g->keys = keys;
    // An edit that takes the last key away doesn't open the door.
    g->is_required = g->is_required || keys->count > 0;
    if (g->is_required) log_info("keys are required", "known=%d", keys->count);
    return 0;
}

void guard_deinit(struct guard *g)
{
    api_keys_unref(g->keys);
    *g = (struct guard){0};
}

int guard_check(const struct guard *g, const struct http_request *request, const char *model,
                struct api_error *error)
{
    if (!g->is_required) return 0;
    const struct api_key *key = api_keys_find(g->keys, peer_api_key(request));
    if (key) return api_key_check_model(key, str_of(model), error);
    metric_add(&agent_metrics.requests_unauthorized_total, 1);
    return api_key_error(request, error);
}
