#include "client/models.h"

#include "client/plain_text.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int models_parse(const char *text, size_t len, struct model_list *out, struct error *err)
{
    *out = (struct model_list){0};
    struct error why;
    struct json *v = json_parse(text, len, &why);
    if (!v) return error_set(err, E_PROTOCOL, "the list of models is not JSON: %s", why.text);
    const struct json *data = json_get(v, "data");
    if (!data || json_type(data) != JSON_ARRAY) {
        json_destroy(v);
        return error_set(err, E_PROTOCOL, "the list of models has no 'data'");
    }
    out->names = xcalloc(json_len(data) + 1, sizeof *out->names);
    for (const struct json *item = json_first(data); item; item = json_next(item)) {
        const struct json *id = json_get_set(item, "id");
        if (id && json_type(id) == JSON_STRING) {
            out->names[out->count++] = xstrdup(json_string(id, NULL));
        }
    }
    json_destroy(v);
    return 0;
}

int models_fetch(struct api_client *api, struct model_list *out, struct error *err)
{
    struct api_call call = {.path = "/v1/models"};
    struct api_reply reply;
    *out = (struct model_list){0};
    int rc = api_client_call(api, &call, &reply, err);
    if (rc == 0) rc = models_parse(reply.body.data, reply.body.len, out, err);
    api_reply_deinit(&reply);
    return rc;
}

void models_deinit(struct model_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct model_list){0};
}

const char *models_find(const struct model_list *list, const char *word)
{
    const char *found = NULL;
    size_t matches = 0;
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->names[i], word) == 0) return list->names[i];
        if (strncmp(list->names[i], word, strlen(word)) == 0) {
            found = list->names[i];
            matches++;
        }
    }
    return matches == 1 ? found : NULL;
}

int models_command(struct api_client *api, struct error *err)
{
    struct model_list list;
    int rc = models_fetch(api, &list, err);
    struct buf out; // names come from outside: one line each, and nothing that drives a terminal
    buf_init(&out, BUF_MAX_INTERNAL);
    for (size_t i = 0; rc == 0 && i < list.count; i++) {
        plain_text_append_line(&out, str_of(list.names[i]));
        buf_append_char(&out, '\n');
    }
    if (out.len > 0) fwrite(out.data, 1, out.len, stdout);
    buf_deinit(&out);
    models_deinit(&list);
    return rc;
}
