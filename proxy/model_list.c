#include "proxy/model_list.h"

#include "proxy/proxy.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"
#include "shared/net/model_card.h"

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
        model_card_print(&w, fleet->models[i].name, p->started_wall_s, 0);
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
    model_card_print(&w, model->name, p->started_wall_s, 0);
    respond(x, &body);
}
