#include "proxy/model_list.h"

#include "proxy/proxy.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

/* OpenAI's four members and LMDeploy's three, as agents write them. */
static void put_model(struct json_writer *w, struct str name, int64_t created_s)
{
    json_object_begin(w);
    json_field_str(w, "id", name);
    json_field_text(w, "object", "model");
    json_field_int(w, "created", created_s);
    json_field_text(w, "owned_by", "lm-cluster");
    json_field_str(w, "root", name);
    json_field_null(w, "parent");
    json_key(w, "permission");
    json_array_begin(w);
    json_object_begin(w);
    json_field_text(w, "id", "modelperm-0");
    json_field_text(w, "object", "model_permission");
    json_field_int(w, "created", created_s);
    json_field_bool(w, "allow_create_engine", false);
    json_field_bool(w, "allow_sampling", true);
    json_field_bool(w, "allow_logprobs", true);
    json_field_bool(w, "allow_search_indices", true);
    json_field_bool(w, "allow_view", true);
    json_field_bool(w, "allow_fine_tuning", false);
    json_field_text(w, "organization", "*");
    json_field_null(w, "group");
    json_field_bool(w, "is_blocking", false);
    json_object_end(w);
    json_array_end(w);
    json_object_end(w);
}

static void respond(struct http_exchange *x, struct buf *body)
{
    http_respond(x, 200, "application/json", buf_str(body));
    buf_deinit(body);
}

void model_list_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct proxy *p = arg;
    const struct fleet *fleet = registry_fleet(&p->registry);
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (int i = 0; i < fleet->model_count; i++)
        put_model(&w, fleet->models[i].name, p->started_wall_s);
    json_array_end(&w);
    json_object_end(&w);
    respond(x, &body);
}

void model_list_handle_one(struct http_exchange *x, struct str id, void *arg)
{
    struct proxy *p = arg;
    const struct fleet_model *model = fleet_find_model(registry_fleet(&p->registry), id);
    if (!model) {
        struct api_error error;
        int shown = id.len > 256 ? 256 : (int)id.len;
        api_error_set(&error, 404, "model_not_found", "model", "The model `%.*s` does not exist.",
                      shown, id.data);
        api_error_respond(x, &error);
        return;
    }
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    put_model(&w, model->name, p->started_wall_s);
    respond(x, &body);
}
