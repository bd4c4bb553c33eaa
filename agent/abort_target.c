#include "agent/abort_target.h"

#include "agent/request_field.h"
#include "shared/base/json.h"

#define BODY_MAX ((size_t)64 << 10)

bool abort_target_matches(const struct abort_target *target,
                          const struct abort_candidate *candidate)
{
    if (target->is_bound && target->tenant != candidate->tenant) return false;
    if (target->all) return true;
    if (target->session_id >= 0 && target->session_id == candidate->session_id) return true;
    return target->id.len > 0 &&
           (str_equal(target->id, candidate->id) || str_equal(target->id, candidate->request_id));
}

static int read_target(const struct json *body, struct arena *arena, struct abort_target *target,
                       struct api_error *e)
{
    static const struct field_range session_range = {.min = -1, .max = 9007199254740991};
    struct str id = {0};
    if (json_type(body) != JSON_OBJECT) {
        return api_error_set(e, 400, "invalid_json", NULL,
                             "The body must be a JSON object: {\"request_id\": ...}.");
    }
    if (field_bool(body, "abort_all", &target->all, e) != 0 ||
        field_integer(body, "session_id", &session_range, &target->session_id, e) != 0 ||
        field_string(body, "request_id", NULL, &id, e) != 0) {
        return -1;
    }
    if (id.len > 0) target->id = (struct str){arena_strndup(arena, id.data, id.len), id.len};
    if (target->all || target->session_id >= 0 || id.len > 0) return 0;
    return api_error_set(e, 400, "missing_required_parameter", "request_id",
                         "Say what to abort: 'request_id' (the id of an answer, or its "
                         "x-request-id), 'session_id' or 'abort_all'.");
}

int abort_target_parse(struct str body, struct arena *arena, struct abort_target *target,
                       struct api_error *e)
{
    struct error err = {0};
    *target = (struct abort_target){.session_id = -1};
    if (body.len > BODY_MAX) {
        return api_error_set(e, 413, NULL, NULL, "The body has more than %zu KiB.", BODY_MAX >> 10);
    }
    struct json *root = json_parse(body.data, body.len, &err);
    if (!root) {
        return api_error_set(e, 400, "invalid_json", NULL, "The body is not JSON: %s.", err.text);
    }
    int rc = read_target(root, arena, target, e);
    json_destroy(root);
    return rc;
}
