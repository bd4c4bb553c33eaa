/* What the agent serves and what its parsers take is what the API's tables say. */
#include "agent/agent_routes.h"

#include "agent/agent.h"
#include "agent/chat_request.h"
#include "agent/interactive_request.h"
#include "shared/base/check.h"
#include "shared/net/http_message.h"
#include "tests/route_table.h"

static const struct request_limits limits = {
    .model = "m", .vocab_size = 100, .prompts_max = 128, .choices_max = 1000};

/* ---- routes ---- */

static void test_routes_are_described(void)
{
    struct agent_config config = {0};
    struct agent *a = xcalloc(1, sizeof *a);
    struct http_router router = {0};
    a->config = &config;
    agent_routes_init(&router, a);
    expect_described(&router, API_AGENT);

    int all = router.count;
    config.disable_fastapi_docs = true;
    agent_routes_init(&router, a);
    EXPECT(router.count < all);
    for (int i = 0; i < router.count; i++) {
        EXPECT(strcmp(router.routes[i].pattern, "/") != 0);
        EXPECT(strcmp(router.routes[i].pattern, "/redoc") != 0);
        EXPECT(strcmp(router.routes[i].pattern, "/openapi.json") != 0);
    }
    free(a);
}

/* ---- members ---- */

static int parse_chat(struct str body, struct api_error *e)
{
    struct chat_request r;
    int rc = chat_request_parse(COMPLETION_CHAT, body, &limits, &r, e);
    if (rc == 0) chat_request_deinit(&r);
    return rc;
}

static int parse_text(struct str body, struct api_error *e)
{
    struct chat_request r;
    int rc = chat_request_parse(COMPLETION_TEXT, body, &limits, &r, e);
    if (rc == 0) chat_request_deinit(&r);
    return rc;
}

static int parse_turn(struct str body, struct api_error *e)
{
    struct interactive_request r;
    int rc = interactive_request_parse(body, &limits, &r, e);
    if (rc == 0) interactive_request_deinit(&r);
    return rc;
}

static const struct parser {
    const char *schema, *prompt; // the member that has to be there
    int (*parse)(struct str body, struct api_error *e);
} parsers[] = {
    {"ChatCompletionRequest", "messages", parse_chat},
    {"CompletionRequest", "prompt", parse_text},
    {"GenerateRequest", "prompt", parse_turn},
};

/* {"model":"m","prompt":"x",NAME:VALUE} */
static int parse_with(const struct parser *p, const char *name, const char *value,
                      struct api_error *e)
{
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    buf_append_str(&body, "{");
    if (strcmp(name, "model") != 0) buf_append_str(&body, "\"model\":\"m\",");
    if (strcmp(name, p->prompt) != 0) buf_printf(&body, "\"%s\":\"x\",", p->prompt);
    buf_printf(&body, "\"%s\":%s}", name, value);
    *e = (struct api_error){0};
    int rc = p->parse(buf_str(&body), e);
    buf_deinit(&body);
    return rc;
}

static void expect_code(const struct parser *p, const struct api_field *f, double value,
                        const char *part)
{
    char text[64];
    struct api_error e;
    snprintf(text, sizeof text, "%.17g", value);
    int rc = parse_with(p, f->name, text, &e);
    bool is_refused = rc == -1 && e.code && strstr(e.code, part) && strcmp(e.param, f->name) == 0;
    if (!is_refused) printf("%s.%s: %s was taken, or: %s\n", p->schema, f->name, text, e.message);
    EXPECT(is_refused);
}

/* Refused or not, by some other rule: its range has room for it. */
static void expect_in_range(const struct parser *p, const struct api_field *f, double value)
{
    char text[64];
    struct api_error e;
    snprintf(text, sizeof text, "%.17g", value);
    int rc = parse_with(p, f->name, text, &e);
    bool is_outside =
        rc != 0 && e.code && (strstr(e.code, "above_max") || strstr(e.code, "below_min"));
    if (is_outside) printf("%s.%s: %s: %s\n", p->schema, f->name, text, e.message);
    EXPECT(!is_outside);
}

static void check_range(const struct parser *p, const struct api_field *f)
{
    double step = f->type == API_INTEGER ? 1 : 0.001;
    const struct field_range *r = f->range;
    if (!r) return;
    expect_in_range(p, f, r->min);
    expect_in_range(p, f, r->max);
    expect_code(p, f, r->max + step, "above_max_value");
    expect_code(p, f, r->min - step, "below_min_value");
}

/* Those that nothing reads: the table says so. */
static bool is_ignored(const struct api_field *f)
{
    return f->doc && strstr(f->doc, "ignored");
}

/* A value of another type is refused by name, so the parser knows the member. */
static void check_type(const struct parser *p, const struct api_field *f)
{
    struct api_error e;
    bool is_container = f->type == API_OBJECT || f->type == API_ARRAY || f->type == API_REF;
    if (is_ignored(f)) return;
    int rc = parse_with(p, f->name, is_container ? "7" : "{\"a\":1}", &e);
    bool is_refused =
        rc == -1 && e.code && strcmp(e.code, "invalid_type") == 0 && strcmp(e.param, f->name) == 0;
    /* Of tool_choice an object is one of the types. */
    is_refused |=
        rc == -1 && f->type == API_UNION && strncmp(e.param, f->name, strlen(f->name)) == 0;
    if (!is_refused) printf("%s.%s: any type is taken, or: %s\n", p->schema, f->name, e.message);
    EXPECT(is_refused);
}

static void check_null(const struct parser *p, const struct api_schema *s,
                       const struct api_field *f)
{
    struct api_error e;
    if (f->required || !s->null_is_absent) return;
    EXPECT_INT(parse_with(p, f->name, "null", &e), 0);
}

static void test_members_are_as_described(void)
{
    for (size_t i = 0; i < ARRAY_LEN(parsers); i++) {
        const struct parser *p = &parsers[i];
        const struct api_schema *s = api_schema_find(p->schema);
        int checked = 0;
        for (int part = 0; part < API_PARTS_MAX && s->parts[part]; part++) {
            for (size_t k = 0; k < s->parts[part]->count; k++, checked++) {
                const struct api_field *f = &s->parts[part]->items[k];
                check_range(p, f);
                check_type(p, f);
                check_null(p, s, f);
            }
        }
        EXPECT(checked > 20);
    }
}

static void test_examples_are_taken(void)
{
    for (size_t i = 0; i < ARRAY_LEN(parsers); i++) {
        struct buf body;
        struct api_error e = {0};
        buf_init(&body, BUF_MAX_INTERNAL);
        api_schema_example(api_schema_find(parsers[i].schema)->example, STR("m"), &body);
        EXPECT_INT(parsers[i].parse(buf_str(&body), &e), 0);
        buf_deinit(&body);
    }
}

int main(void)
{
    RUN(test_routes_are_described);
    RUN(test_members_are_as_described);
    RUN(test_examples_are_taken);
    return TEST_END();
}
