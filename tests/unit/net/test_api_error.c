#include "shared/net/api_error.h"

#include "shared/base/json.h"
#include "tests/unit/net/server_test.h"

static struct json *print_and_parse(const struct api_error *e)
{
    struct buf out;
    struct error err;
    buf_init(&out, BUF_MAX_INTERNAL);
    api_error_print(&out, e);
    struct json *root = json_parse(out.data, out.len, &err);
    NEED(root != NULL);
    buf_deinit(&out);
    return root;
}

static const char *text_of(const struct json *object, const char *name)
{
    const struct json *v = json_get(object, name);
    return v && json_type(v) == JSON_STRING ? json_string(v, NULL) : NULL;
}

static bool is_null(const struct json *object, const char *name)
{
    const struct json *v = json_get(object, name);
    return v && json_type(v) == JSON_NULL;
}

static void test_full(void)
{
    struct api_error e;
    int rc = api_error_set(&e, 400, "invalid_type", "messages[0].content", "Invalid type for '%s'.",
                           "messages[0].content");
    EXPECT_INT(rc, -1);
    struct json *root = print_and_parse(&e);
    const struct json *inner = json_get(root, "error");
    EXPECT_STR(text_of(inner, "message"), "Invalid type for 'messages[0].content'.");
    EXPECT_STR(text_of(inner, "type"), "invalid_request_error");
    EXPECT_STR(text_of(inner, "param"), "messages[0].content");
    EXPECT_STR(text_of(inner, "code"), "invalid_type");
    EXPECT_STR(text_of(root, "object"), "error");
    EXPECT_STR(text_of(root, "message"), "Invalid type for 'messages[0].content'.");
    EXPECT(json_number(json_get(root, "code")) == 400);
    json_destroy(root);
}

static void test_nulls_and_types(void)
{
    static const struct {
        int status;
        const char *type;
    } cases[] = {
        {400, "invalid_request_error"}, {404, "invalid_request_error"},
        {413, "invalid_request_error"}, {429, "rate_limit_error"},
        {500, "server_error"},          {503, "server_error"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct api_error e;
        api_error_set(&e, cases[i].status, NULL, NULL, "m");
        struct json *root = print_and_parse(&e);
        const struct json *inner = json_get(root, "error");
        EXPECT_STR(text_of(inner, "type"), cases[i].type);
        EXPECT(is_null(inner, "param") && is_null(inner, "code"));
        json_destroy(root);
    }
    struct api_error e;
    api_error_set(&e, 500, NULL, NULL, "m");
    e.type = "engine_error";
    struct json *root = print_and_parse(&e);
    EXPECT_STR(text_of(json_get(root, "error"), "type"), "engine_error");
    json_destroy(root);
}

/* OpenAI's clients read `error`, LMDeploy's of the reference's time `detail.error`. */
static void test_unauthorized(void)
{
    struct api_error e;
    api_error_set(&e, 401, "invalid_api_key", NULL, "m");
    struct json *root = print_and_parse(&e);
    const struct json *both[] = {json_get(root, "error"),
                                 json_get(json_get(root, "detail"), "error")};
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        NEED(both[i] != NULL);
        EXPECT_STR(text_of(both[i], "message"), "m");
        EXPECT_STR(text_of(both[i], "type"), "invalid_request_error");
        EXPECT_STR(text_of(both[i], "code"), "invalid_api_key");
        EXPECT(is_null(both[i], "param"));
    }
    EXPECT(json_number(json_get(root, "code")) == 401);
    json_destroy(root);
    api_error_set(&e, 403, NULL, NULL, "m");
    root = print_and_parse(&e);
    EXPECT(json_get(root, "detail") == NULL);
    json_destroy(root);
}

/* Whatever stands in a message, the body is JSON; what is too long is cut. */
static void test_hostile_text(void)
{
    struct api_error e;
    char longer[2000];
    for (size_t i = 0; i + 3 <= sizeof longer; i += 2)
        memcpy(longer + i, "\xc3\xa9", 3);
    api_error_set(&e, 400, NULL, longer, "a%s", longer); // the cut falls into a character
    json_destroy(print_and_parse(&e));
    api_error_set(&e, 400, NULL, "\"\n\x01\\", "quote \" line \n tab \t byte \xff end");
    struct json *root = print_and_parse(&e);
    EXPECT_STR(text_of(json_get(root, "error"), "param"), "\"\n\x01\\");
    json_destroy(root);
}

static void test_event(void)
{
    struct api_error e;
    struct buf out;
    api_error_set(&e, 500, "upstream_lost", NULL, "lost\nit");
    buf_init(&out, BUF_MAX_INTERNAL);
    api_error_print_event(&out, &e);
    EXPECT_STR(out.data, "data: {\"error\":{\"message\":\"lost\\nit\",\"type\":\"server_error\","
                         "\"param\":null,\"code\":\"upstream_lost\"}}\n\n");
    buf_deinit(&out);
}

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    struct api_error e;
    api_error_set(&e, 429, "rate_limit_exceeded", NULL, "Too many requests are waiting.");
    e.retry_after_s = 2;
    api_error_respond(x, &e);
}

static void test_respond(void)
{
    start_server((struct http_server_options){.on_request = on_request});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "\"code\":429}"), 5000));
    EXPECT_INT(first_status(raw_text(&c)), 429);
    EXPECT(raw_has(&c, "content-type: application/json\r\n"));
    EXPECT(raw_has(&c, "retry-after: 2\r\n"));
    EXPECT(raw_has(&c, "\"code\":\"rate_limit_exceeded\""));
    raw_close(&c);
    stop_server();
}

int main(void)
{
    RUN(test_full);
    RUN(test_nulls_and_types);
    RUN(test_unauthorized);
    RUN(test_hostile_text);
    RUN(test_event);
    RUN(test_respond);
    return TEST_END();
}
