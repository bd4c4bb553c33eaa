#include "proxy/conversation.h"

#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/proxy_fleet.h"
#include "tests/test.h"

static struct arena arena;
static struct conversation out;
static struct api_error error;
static struct fleet *fleet;

/* `id` names the value's bytes inside the body: its first occurrence. */
static int prepare(const char *body, const char *id, bool interactive_mode, bool cancel)
{
    struct conversation_fields f = {
        .body = str_of(body), .interactive_mode = interactive_mode, .cancel = cancel};
    if (id) f.session_id = f.place = (struct str){strstr(body, id), strlen(id)};
    error = (struct api_error){.status = 0};
    return conversation_prepare(&arena, &f, fleet, UINT64_C(0xfedcba9876543210), &out, &error);
}

static int64_t id_of(struct str body)
{
    struct error err;
    struct json *root = json_parse(body.data, body.len, &err);
    NEED(root != NULL);
    int64_t id = (int64_t)json_number(json_get(root, "session_id"));
    EXPECT(json_get(root, "prompt") != NULL);
    json_destroy(root);
    return id;
}

static void test_ids(void)
{
    static const struct {
        const char *body, *id;
        bool interactive;
        int64_t want; // -2: allotted
        bool is_end;
    } rows[] = {
        {"{\"prompt\":\"\",\"session_id\":7}", "7", true, 7, false},
        {"{\"prompt\":\"\",\"session_id\":7}", "7", false, 7, true},
        {"{\"prompt\":\"\",\"session_id\":0}", "0", true, 0, false},
        {"{\"prompt\":\"\",\"session_id\":7.0}", "7.0", true, 7, false},
        {"{\"prompt\":\"\",\"session_id\":9007199254740991}", "9007199254740991", true,
         CONVERSATION_ID_MAX, false},
        {"{\"prompt\":\"\"}", NULL, false, -1, false},
        {"{\"prompt\":\"\",\"session_id\":-1}", "-1", false, -1, false},
        {"{\"prompt\":\"\",\"session_id\":-1}", "-1", true, -2, false},
        {" {\"prompt\":\"\",\"session_id\" : null }", "null", true, -2, false},
        {"\n { \"prompt\":\"\"}", NULL, true, -2, false},
        // what the agent refuses goes there as it is
        {"{\"prompt\":\"\",\"session_id\":-2}", "-2", true, -1, false},
        {"{\"prompt\":\"\",\"session_id\":1.5}", "1.5", true, -1, false},
        {"{\"prompt\":\"\",\"session_id\":9007199254740992}", "9007199254740992", true, -1, false},
        {"{\"prompt\":\"\",\"session_id\":1e999}", "1e999", true, -1, false},
        {"{\"prompt\":\"\",\"session_id\":\"x\"}", "\"x\"", true, -1, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int failures = test_failures;
        EXPECT_INT(prepare(rows[i].body, rows[i].id, rows[i].interactive, false), 0);
        EXPECT(str_equal(out.model, STR("m")));
        EXPECT_INT(out.is_end, rows[i].is_end);
        EXPECT_INT(out.is_allotted, rows[i].want == -2);
        if (rows[i].want == -2) {
            EXPECT(out.id > 0 && out.id <= CONVERSATION_ID_MAX);
            EXPECT(id_of(out.body) == out.id);
            EXPECT_INT(out.body.data[out.body.len], 0); // as request bodies are
        } else {
            EXPECT_INT(out.id, rows[i].want);
            EXPECT(out.body.data == rows[i].body);
        }
        if (test_failures != failures) printf("  in row %zu: %s\n", i, rows[i].body);
    }
}

static void test_cancel(void)
{
    EXPECT_INT(prepare("{\"session_id\":7}", "7", false, true), 0);
    EXPECT(out.is_cancel && out.id == 7 && !out.is_end);
    EXPECT_INT(prepare("{\"session_id\":-1}", "-1", true, true), -1);
    EXPECT_INT(error.status, 400);
    EXPECT_STR(error.message, "please set a session_id to cancel a request");
}

static int prepare_body(const char *body)
{
    struct peek_options options = {.route = PEEK_INTERACTIVE};
    struct peek peek;
    struct conversation_fields f;
    NEED(peek_body(&arena, str_of(body), &options, &peek, &error) == 0);
    conversation_fields_of(&peek, str_of(body), &f);
    return conversation_prepare(&arena, &f, fleet, 1234567890123, &out, &error);
}

static void test_bodies(void)
{
    EXPECT_INT(prepare_body("{\"prompt\":\"\",\"session_id\":7,\"interactive_mode\":false}"), 0);
    EXPECT(out.is_end && out.is_bare_end && out.id == 7);
    EXPECT_INT(prepare_body("{\"prompt\":[],\"session_id\":7}"), 0);
    EXPECT(out.is_bare_end);
    EXPECT_INT(prepare_body("{\"prompt\":\"x\",\"session_id\":7}"), 0);
    EXPECT(out.is_end && !out.is_bare_end);
    EXPECT_INT(prepare_body("{\"prompt\":\"x\",\"session\\u005fid\":-1,\"interactive_mode\":true}"),
               0);
    EXPECT(out.is_allotted && strstr(out.body.data, "\"session\\u005fid\":602816352,"));
    EXPECT_INT(
        prepare_body("{\"session_id\":\"\\u002d1\",\"prompt\":\"x\",\"interactive_mode\":true}"),
        0); // decoded it lies outside of the body
    EXPECT(out.is_allotted && strstr(out.body.data, "{\"session_id\":\"602816352\","));
    EXPECT_INT(prepare_body("{\"session_id\" : null,\"prompt\":\"x\",\"interactive_mode\":true}"),
               0);
    EXPECT(out.is_allotted && id_of(out.body) == out.id);
    EXPECT_INT(prepare_body("{\"session_id\":[-1],\"prompt\":\"x\",\"interactive_mode\":true}"), 0);
    EXPECT(out.id == -1 && !out.is_allotted);
    EXPECT_INT(prepare_body("{\"session_id\":\"x\",\"prompt\":\"x\",\"interactive_mode\":true}"),
               0);
    EXPECT(!out.is_allotted && out.id == -1); // the agent says why not
    EXPECT_INT(prepare_body("{\"prompt\":\"x\",\"cancel\":true,\"session_id\":5}"), 0);
    EXPECT(out.is_cancel && out.id == 5);
}

static void test_models(void)
{
    static const char *const two[] = {"m", "n"};
    struct fleet *only = fleet;
    struct fleet_agent *agents[] = {proxy_fleet_agent("a", two, 2)};
    fleet = fleet_create_take(agents, 1);
    EXPECT_INT(prepare("{}", NULL, false, false), -1);
    EXPECT_INT(error.status, 400);
    EXPECT_STR(error.param, "model");
    struct conversation_fields f = {.body = STR("{\"model\":\"n\"}"), .model = STR("n")};
    EXPECT_INT(conversation_prepare(&arena, &f, fleet, 1, &out, &error), 0);
    EXPECT(str_equal(out.model, STR("n")));
    proxy_fleet_free(fleet);
    fleet = proxy_fleet_make(0);
    EXPECT_INT(prepare("{}", NULL, false, false), -1);
    EXPECT_INT(error.status, 503);
    EXPECT(error.retry_after_s > 0);
    proxy_fleet_free(fleet);
    fleet = only;
}

static void test_paths(void)
{
    int64_t id;
    EXPECT(conversation_parse_id(STR("77"), &id) == 0 && id == 77);
    EXPECT(conversation_parse_id(STR("0"), &id) == 0);
    EXPECT_INT(conversation_parse_id(STR("-1"), &id), E_INVALID);
    EXPECT_INT(conversation_parse_id(STR("9007199254740992"), &id), E_INVALID);
    EXPECT_INT(conversation_parse_id(STR("7x"), &id), E_INVALID);
    EXPECT_INT(conversation_parse_id(STR(""), &id), E_INVALID);
}

int main(void)
{
    arena_init(&arena);
    fleet = proxy_fleet_make(2);
    RUN(test_ids);
    RUN(test_cancel);
    RUN(test_bodies);
    RUN(test_models);
    RUN(test_paths);
    proxy_fleet_free(fleet);
    arena_deinit(&arena);
    return TEST_END();
}
