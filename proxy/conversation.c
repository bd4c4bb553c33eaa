#include "proxy/conversation.h"

#include <inttypes.h>
#include <stdio.h>

int conversation_parse_id(struct str text, int64_t *id)
{
    if (str_to_int(text, id) != 0 || *id < 0 || *id > CONVERSATION_ID_MAX) return E_INVALID;
    return 0;
}

void conversation_fields_of(const struct peek *peek, struct str body,
                            struct conversation_fields *out)
{
    *out = (struct conversation_fields){
        .body = body,
        .session_id = peek->session_text.data ? peek->session_text : peek->session_raw,
        .place = peek->session_raw,
        .model = peek->model,
        .interactive_mode = peek->interactive_mode,
        .cancel = peek->cancel,
        .is_empty = peek->bytes == 0 && peek->images == 0 && peek->tokens_given == 0,
    };
}

/* The body with this id in it. */
static struct str put_id(struct arena *arena, const struct conversation_fields *f, int64_t id)
{
    char text[64];
    size_t before, cut = f->place.len;
    int len;
    if (f->place.data) {
        before = (size_t)(f->place.data - f->body.data);
        len = snprintf(text, sizeof text, "%" PRId64, id);
    } else { // right behind the first brace; it holds at least the member that asks for this
        const char *brace = memchr(f->body.data, '{', f->body.len);
        before = (size_t)(brace - f->body.data) + 1;
        len = snprintf(text, sizeof text, "\"session_id\":%" PRId64 ",", id);
    }
    size_t total = f->body.len - cut + (size_t)len;
    char *out = arena_alloc(arena, total + 1);
    memcpy(out, f->body.data, before);
    memcpy(out + before, text, (size_t)len);
    memcpy(out + before + len, f->body.data + before + cut, f->body.len - before - cut);
    return (struct str){out, total};
}

/* -1 and none are the same; a value that the agent will refuse is none of ours. */
static bool read_id(const struct conversation_fields *f, int64_t *id)
{
    *id = -1;
    if (!f->session_id.data || str_equal(f->session_id, STR("null"))) return true;
    double value;
    if (str_to_double(f->session_id, &value) != 0) return false;
    bool is_id = value >= -1 && value <= (double)CONVERSATION_ID_MAX;
    if (!is_id || value != (double)(int64_t)value) return false;
    *id = (int64_t)value;
    return true;
}

static int find_model(const struct conversation_fields *f, const struct fleet *fleet,
                      struct str *out, struct api_error *e)
{
    *out = f->model;
    if (f->model.data) return 0;
    if (fleet->model_count == 1) {
        *out = fleet->models[0].name;
        return 0;
    }
    if (fleet->model_count > 1) {
        return api_error_set(e, 400, "model_required", "model",
                             "you must provide a model parameter: %d models are served here.",
                             fleet->model_count);
    }
    api_error_set(e, 503, "service_unavailable", NULL,
                  "No agent is registered at this proxy yet. Please retry shortly.");
    e->retry_after_s = 1;
    return -1;
}

int conversation_prepare(struct arena *arena, const struct conversation_fields *f,
                         const struct fleet *fleet, uint64_t random, struct conversation *out,
                         struct api_error *e)
{
    *out = (struct conversation){.id = -1, .body = f->body};
    struct str model;
    if (find_model(f, fleet, &model, e) != 0) return -1;
    out->model = (struct str){arena_strndup(arena, model.data, model.len), model.len};
    if (!read_id(f, &out->id)) return 0;
    if (f->cancel) {
        if (out->id < 0) {
            return api_error_set(e, 400, "invalid_value", "session_id",
                                 "please set a session_id to cancel a request");
        }
        out->is_cancel = true;
        return 0;
    }
    out->is_end = out->id >= 0 && !f->interactive_mode;
    out->is_bare_end = out->is_end && f->is_empty;
    if (out->id >= 0 || !f->interactive_mode) return 0;
    out->id = (int64_t)(random >> 11); // below 2^53
    if (out->id == 0) out->id = 1;
    out->is_allotted = true;
    out->body = put_id(arena, f, out->id);
    return 0;
}
