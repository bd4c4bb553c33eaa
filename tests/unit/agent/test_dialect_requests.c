/* Bodies of /v1/responses and /v1/messages as bodies of the chat: tests/fixtures/api/, a case a line,
 * {"body", "chat"} or {"body", "param"}: what the error is about. */
#include "agent/anthropic_request.h"
#include "agent/responses_request.h"
#include "shared/base/check.h"

#include "tests/test.h"

typedef int (*convert_fn)(const struct json *body, struct buf *chat, struct api_error *e);

static int convert_responses(const struct json *body, struct buf *chat, struct api_error *e)
{
    struct buf echo;
    buf_init(&echo, BUF_MAX_INTERNAL);
    int rc = responses_request_to_chat(body, chat, &echo, e);
    if (rc == 0) { // members of an object
        struct buf object;
        buf_init(&object, BUF_MAX_INTERNAL);
        buf_printf(&object, "{%.*s\"end\":0}", (int)echo.len, echo.data);
        struct json *parsed = json_parse(object.data, object.len, NULL);
        NEED(parsed);
        EXPECT(json_get(parsed, "tools") && json_get(parsed, "temperature"));
        json_destroy(parsed);
        buf_deinit(&object);
    }
    buf_deinit(&echo);
    return rc;
}

static int convert_anthropic(const struct json *body, struct buf *chat, struct api_error *e)
{
    return anthropic_request_to_chat(body, false, chat, e);
}

static void check_case(convert_fn convert, const char *line)
{
    struct json *c = json_parse(line, strlen(line), NULL);
    NEED(c);
    struct buf chat, expected;
    struct api_error e = {0};
    buf_init(&chat, BUF_MAX_INTERNAL);
    buf_init(&expected, BUF_MAX_INTERNAL);
    int rc = convert(json_get(c, "body"), &chat, &e);
    const struct json *wanted = json_get(c, "chat");
    EXPECT_INT(rc, wanted ? 0 : -1);
    if (wanted) {
        json_print(wanted, &expected, false);
        EXPECT_STR(chat.data, expected.data);
    } else {
        EXPECT_STR(e.param, json_string(json_get(c, "param"), NULL));
        EXPECT_INT(e.status, 400);
        EXPECT(e.message[0]);
    }
    buf_deinit(&chat);
    buf_deinit(&expected);
    json_destroy(c);
}

static void check_file(convert_fn convert, const char *path, int cases_min)
{
    char *line = NULL;
    size_t cap = 0;
    int cases = 0;
    FILE *f = fopen(test_data(path), "r");
    NEED(f);
    for (ssize_t len; (len = getline(&line, &cap, f)) > 0; cases++) {
        int before = test_failures;
        check_case(convert, line);
        if (test_failures != before) printf("in %s:%d\n", path, cases + 1);
    }
    EXPECT(cases >= cases_min);
    free(line);
    fclose(f);
}

static void test_responses(void)
{
    check_file(convert_responses, "fixtures/api/responses_requests.jsonl", 30);
}

static void test_anthropic(void)
{
    check_file(convert_anthropic, "fixtures/api/anthropic_requests.jsonl", 20);
}

/* To count the tokens of a prompt nobody says how long the answer may be. */
static void test_count(void)
{
    static const char body[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    struct json *parsed = json_parse(body, sizeof body - 1, NULL);
    struct buf chat;
    struct api_error e = {0};
    buf_init(&chat, BUF_MAX_INTERNAL);
    EXPECT_INT(anthropic_request_to_chat(parsed, true, &chat, &e), 0);
    EXPECT_STR(chat.data, body);
    buf_deinit(&chat);
    json_destroy(parsed);
}

int main(void)
{
    RUN(test_responses);
    RUN(test_anthropic);
    RUN(test_count);
    return TEST_END();
}
