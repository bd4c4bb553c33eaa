#include "shared/api/api_schema.h"

#include "shared/base/check.h"

#include <string.h>

static const struct {
    const struct api_schema *const *items;
    const size_t *count;
} lists[] = {
    {api_request_schemas, &api_request_schema_count},
    {api_dialect_requests, &api_dialect_request_count},
    {api_answer_schemas, &api_answer_schema_count},
    {api_dialect_answers, &api_dialect_answer_count},
};

size_t api_schema_count(void)
{
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        count += *lists[i].count;
    return count;
}

const struct api_schema *api_schema_at(size_t index)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        if (index < *lists[i].count) return lists[i].items[index];
        index -= *lists[i].count;
    }
    UNREACHABLE();
}

const struct api_schema *api_schema_find(const char *name)
{
    for (size_t i = 0; i < api_schema_count(); i++) {
        const struct api_schema *s = api_schema_at(i);
        if (strcmp(s->name, name) == 0) return s;
    }
    UNREACHABLE();
}

static void put_text(const char *text, struct str model, struct buf *out)
{
    static const char mark[] = "'$MODEL'";
    struct json_writer w;
    for (const char *c = text; *c; c++) {
        if (model.data && strncmp(c, mark, sizeof mark - 1) == 0) {
            json_writer_init(&w, out);
            json_put_str(&w, model);
            c += sizeof mark - 2;
        } else {
            buf_append_char(out, *c == '\'' ? '"' : *c);
        }
    }
}

struct json *api_schema_text(const char *text)
{
    struct buf json;
    buf_init(&json, BUF_MAX_INTERNAL);
    put_text(text, (struct str){0}, &json);
    struct json *v = json_parse(json.data, json.len, NULL);
    CHECK(v);
    buf_deinit(&json);
    return v;
}

void api_schema_example(const char *text, struct str model, struct buf *out)
{
    put_text(text, model, out);
}
