#define LOG_MODULE "abort"
#include "agent/abort_request.h"

#include "agent/abort_target.h"
#include "agent/agent.h"
#include "agent/interactive.h"
#include "shared/base/log.h"
#include "shared/net/peer_trust.h"

#include <inttypes.h>

/* A proxy speaks for a tenant, or with an empty name for nobody in particular. */
static void bind_tenant(const struct agent *a, const struct http_request *request,
                        struct abort_target *target)
{
    struct str tenant = {0};
    if (peer_is_fleet(request, a->config->join_key)) {
        tenant = http_headers_get(&request->headers, "x-lm-tenant");
    }
    target->is_bound = tenant.data ? tenant.len > 0 : a->guard.is_required;
    target->tenant = peer_tenant(request, a->config->join_key);
}

static void not_found_error(const struct abort_target *target, struct api_error *e)
{
    if (target->id.len > 0) {
        int shown = target->id.len > 128 ? 128 : (int)target->id.len;
        api_error_set(e, 404, "request_not_found", "request_id", "No request '%.*s' runs here.",
                      shown, target->id.data);
    } else { // LMDeploy's
        api_error_set(e, 400, "session_not_found", "session_id", "Session %" PRId64 " not found.",
                      target->session_id);
    }
}

void abort_request_handle(struct agent *a, struct http_exchange *x)
{
    const struct http_request *request = http_exchange_request(x);
    struct abort_target target;
    struct api_error e = {0};
    if (!a->config->enable_abort_handling) {
        http_respond(x, 501, "text/plain; charset=utf-8",
                     STR("This server does not support abort requests. Enable with "
                         "--enable-abort-handling flag."));
        return;
    }
    if (abort_target_parse(request->body, http_exchange_arena(x), &target, &e) != 0) {
        api_error_respond(x, &e);
        return;
    }
    bind_tenant(a, request, &target);
    int count = request_gate_abort(&a->gate, &target);
    count += completion_service_stop(&a->service, &target);
    count += embedding_stop(&a->embeddings, &target);
    count += interactive_stop(&a->sessions, &target);
    log_debug("aborted", "requests=%d", count);
    if (count > 0 || target.all) {
        http_respond(x, 200, NULL, STR(""));
        return;
    }
    not_found_error(&target, &e);
    api_error_respond(x, &e);
}
