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

/* False: refused and answered. */
static bool admit(struct worker *worker, struct http_exchange *x)
{
    const struct api_key *key;
    struct api_error error;
    struct api_key_ring *ring = &worker->proxy->keys;
    int rc = api_key_ring_authorize(ring, &worker->keys, http_exchange_request(x), &key, &error);
    if (rc < 0) api_key_refuse(x, &error);
    return rc == 0;
}

void model_list_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *worker = arg;
    if (!admit(worker, x)) return;
    const struct fleet *fleet = worker_fleet(worker);
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (int i = 0; i < fleet->model_count; i++)
        model_card_print(&w, fleet->models[i].name, worker->proxy->started_wall_s, 0);
    json_array_end(&w);
    json_object_end(&w);
    respond(x, &body);
}

void model_list_handle_one(struct http_exchange *x, struct str id, void *arg)
{
    struct worker *worker = arg;
    if (!admit(worker, x)) return;
    const struct fleet_model *model = fleet_find_model(worker_fleet(worker), id);
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
    model_card_print(&w, model->name, worker->proxy->started_wall_s, 0);
    respond(x, &body);
}
