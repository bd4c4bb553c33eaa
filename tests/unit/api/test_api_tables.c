/* The tables are whole: names are unique, what they refer to exists, their JSON is JSON, and what is
 * printed of them can be read. */
#include "shared/api/api_openapi.h"
#include "shared/api/api_reference.h"

#include "tests/test.h"

static void check_field(const struct api_schema *s, const struct api_field *f)
{
    EXPECT((f->of != NULL) == (f->type == API_REF || (f->type == API_ARRAY && f->of)));
    EXPECT(f->type != API_UNION || (f->schema && f->shown));
    EXPECT(f->type != API_ARRAY || f->of || (f->schema && f->shown));
    EXPECT(!f->range || f->type == API_INTEGER || f->type == API_NUMBER);
    EXPECT(!f->range || f->range->min <= f->range->max);
    EXPECT(!f->required || !f->def);
    if (f->of) EXPECT(api_schema_find(f->of) != NULL); // CHECKs
    if (f->schema) json_destroy(api_schema_text(f->schema));
    if (f->doc && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ", f->doc[0]) == NULL &&
        f->doc[strlen(f->doc) - 1] == '.') {
        printf("%s.%s: a phrase has no full stop\n", s->name, f->name);
        EXPECT(false);
    }
}

static void test_schemas(void)
{
    for (size_t i = 0; i < api_schema_count(); i++) {
        const struct api_schema *s = api_schema_at(i);
        EXPECT(api_schema_find(s->name) == s); // the first of that name
        EXPECT(s->doc && (s->parts[0] || s->schema));
        for (int p = 0; p < API_PARTS_MAX && s->parts[p]; p++) {
            for (size_t k = 0; k < s->parts[p]->count; k++)
                check_field(s, &s->parts[p]->items[k]);
        }
    }
}

static void test_routes(void)
{
    for (size_t i = 0; i < api_route_count; i++) {
        const struct api_route *r = &api_routes[i];
        int errors[API_ROUTE_ERRORS_MAX];
        bool has_tag = false;
        for (size_t t = 0; t < api_tag_count; t++)
            has_tag |= strcmp(api_tags[t].name, r->tag) == 0;
        EXPECT(has_tag && r->daemons && r->answers[0].status == 200);
        if (r->request) EXPECT(api_schema_find(r->request)->example != NULL);
        for (int k = 0; k < API_ANSWERS_MAX && r->answers[k].status; k++)
            if (r->answers[k].schema) EXPECT(api_schema_find(r->answers[k].schema) != NULL);
        for (int k = 0; k < API_ERRORS_MAX && r->errors[k]; k++)
            EXPECT(api_status_find(r->errors[k]) != NULL);
        EXPECT(api_route_errors(r, API_PROXY, errors) >= 2);
        for (size_t k = 0; k < i; k++) {
            EXPECT(strcmp(api_routes[k].id, r->id) != 0);
            EXPECT(strcmp(api_routes[k].path, r->path) != 0 ||
                   strcmp(api_routes[k].method, r->method) != 0);
        }
    }
}

static struct json *print(enum api_daemon daemon, const char *model, bool needs_key)
{
    struct buf text;
    struct error err = {0};
    struct api_openapi_options o = {
        .daemon = daemon, .model = model ? str_of(model) : (struct str){0}, .needs_key = needs_key};
    buf_init(&text, BUF_MAX_INTERNAL);
    api_openapi_print(&text, &o);
    struct json *v = json_parse(text.data, text.len, &err); // refuses names that come twice
    if (!v) printf("%s\n", err.text);
    NEED(v);
    buf_deinit(&text);
    return v;
}

static const struct json *operation(const struct json *root, const char *path, const char *method)
{
    return json_get(json_get(json_get(root, "paths"), path), method);
}

static const struct json *schema(const struct json *root, const char *name)
{
    return json_get(json_get(json_get(root, "components"), "schemas"), name);
}

static const struct json *property(const struct json *root, const char *name, const char *member)
{
    return json_get(json_get(schema(root, name), "properties"), member);
}

static void expect_print(const struct json *v, const char *want)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    NEED(v);
    json_print(v, &text, false);
    buf_append_char(&text, 0);
    EXPECT_STR(text.data, want);
    buf_deinit(&text);
}

static void test_openapi(void)
{
    struct json *root = print(API_AGENT, "a \"model\"", false);
    EXPECT_STR(json_string(json_get(root, "openapi"), NULL), "3.1.0");
    expect_print(json_first(json_get(schema(root, "CompletionRequest"), "examples")),
                 "{\"model\":\"a \\\"model\\\"\",\"prompt\":\"two steps to build a house:\","
                 "\"max_tokens\":32}");
    expect_print(property(root, "GenerateRequest", "top_p"),
                 "{\"type\":[\"number\",\"null\"],\"exclusiveMinimum\":0,\"maximum\":1,\"default\":"
                 "0.8,\"description\":\"the most likely tokens that have this share together\"}");
    expect_print(property(root, "Session", "state"),
                 "{\"type\":\"string\",\"enum\":[\"hot\",\"cached\",\"host\",\"tokens\","
                 "\"running\"],\"description\":\"what the next turn finds\"}");
    expect_print(
        property(root, "ChatChunkChoice", "finish_reason"),
        "{\"oneOf\":[{\"type\":\"string\",\"enum\":[\"stop\",\"length\",\"tool_calls\",\"abort\"]},"
        "{\"type\":\"null\"}],\"description\":\"null in all chunks but a choice's last\"}");
    expect_print(json_get(root, "security"), "[{},{\"bearer\":[]}]");
    expect_print(json_get(operation(root, "/health", "get"), "security"), "[]");
    EXPECT(operation(root, "/v1/sessions/{id}", "delete") &&
           operation(root, "/lm/prefixes", "get"));
    /* What an agent hasn't isn't there, nor what only that leads to; nor are pages. */
    EXPECT(!operation(root, "/nodes/add", "post") && !schema(root, "AddNodeRequest"));
    EXPECT(!operation(root, "/redoc", "get"));
    json_destroy(root);

    root = print(API_PROXY, NULL, true);
    expect_print(json_get(root, "security"), "[{\"bearer\":[]}]");
    EXPECT(operation(root, "/nodes/add", "post") && schema(root, "AddNodeRequest"));
    EXPECT(json_get(json_get(operation(root, "/tokenize", "post"), "responses"), "504") != NULL);
    json_destroy(root);
}

static bool contains(const struct buf *text, const char *part)
{
    return memmem(text->data, text->len, part, strlen(part)) != NULL;
}

static void test_reference(void)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    api_reference_markdown(&text);
    EXPECT(contains(&text, "\n### `POST /v1/chat/completions`\n"));
    EXPECT(contains(&text, "\n| `top_logprobs` | integer 0..20 | 0 |"));
    EXPECT(contains(&text, "| `role` | `system`, `developer`, `user`,"));
    EXPECT(contains(&text, "[ChatMessage](#chatmessage)") && contains(&text, "Only `lm-proxy`."));
    EXPECT(!memchr(text.data, 0, text.len));
    buf_clear(&text);
    api_reference_html(&text, API_AGENT);
    EXPECT(contains(&text, "<a href=\"#ChatMessage\">ChatMessage</a>"));
    EXPECT(contains(&text, "<h3 id=\"ChatMessage\">") &&
           contains(&text, "<td>integer &gt;= 1</td>"));
    EXPECT(!contains(&text, "/nodes/add") && !memchr(text.data, 0, text.len));
    buf_deinit(&text);
}

int main(void)
{
    RUN(test_schemas);
    RUN(test_routes);
    RUN(test_openapi);
    RUN(test_reference);
    return TEST_END();
}
