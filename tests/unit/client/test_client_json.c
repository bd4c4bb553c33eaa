/* What lm-client says and understands: the request of a turn, lists of models, the fleet's table,
 * error objects. */
#include "client/api_client.h"
#include "client/chat.h"
#include "client/fleet_status.h"
#include "client/models.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/test.h"

static void test_request_holds_the_conversation(void)
{
    struct client_config config = {
        .temperature = 0, .max_tokens = 9, .stream = true, .system = (char *)"be brief"};
    struct chat_turn turns[] = {{(char *)"hi", (char *)"hello \"you\""}};
    struct chat chat;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    chat_init(&chat, NULL, &config);
    chat_set_model(&chat, "m");
    chat.turns = turns;
    chat.count = 1;
    chat_print_request(&chat, STR("and\nnow?"), &out);
    EXPECT_STR(out.data, "{\"model\":\"m\",\"messages\":["
                         "{\"role\":\"system\",\"content\":\"be brief\"},"
                         "{\"role\":\"user\",\"content\":\"hi\"},"
                         "{\"role\":\"assistant\",\"content\":\"hello \\\"you\\\"\"},"
                         "{\"role\":\"user\",\"content\":\"and\\nnow?\"}],"
                         "\"temperature\":0,\"max_tokens\":9,\"stream\":true}");
    chat.turns = NULL;
    chat.count = 0;
    chat_deinit(&chat);
    buf_deinit(&out);
}

static void test_unset_options_are_not_sent(void)
{
    struct client_config config = {.temperature = -1};
    struct chat chat;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    chat_init(&chat, NULL, &config);
    chat_set_model(&chat, "m");
    chat_print_request(&chat, STR("x"), &out);
    EXPECT_STR(out.data, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                         "\"stream\":false}");
    chat_deinit(&chat);
    buf_deinit(&out);
}

static void test_models_are_found_by_name_or_beginning(void)
{
    struct model_list list;
    struct error err;
    struct str text =
        STR("{\"object\":\"list\",\"data\":[{\"id\":\"llama-3\"},{\"id\":\"llama-3-70b\"},"
            "{\"id\":\"qwen\"},{\"id\":7},{}]}");
    NEED(models_parse(text.data, text.len, &list, &err) == 0);
    EXPECT_INT(list.count, 3);
    EXPECT_STR(models_find(&list, "llama-3"), "llama-3");
    EXPECT_STR(models_find(&list, "q"), "qwen");
    EXPECT(models_find(&list, "lla") == NULL); // two begin so
    EXPECT(models_find(&list, "gpt") == NULL);
    models_deinit(&list);

    struct str bad[] = {STR("{}"), STR("[]"), STR("not json"), STR("{\"data\":{}}")};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        EXPECT_INT(models_parse(bad[i].data, bad[i].len, &list, &err), E_PROTOCOL);
}

static void test_fleet_is_a_table(void)
{
    struct buf out;
    struct error err;
    struct str text = STR(
        "{\"http://10.0.0.1:23333\":{\"models\":[\"a\",\"b\"],\"unfinished\":12,"
        "\"latency\":[0.1,0.3],\"speed\":null,\"id\":\"x\",\"state\":\"live\",\"running\":8,"
        "\"waiting\":4,\"kv_used_share\":0.25},"
        "\"http://10.0.0.2:8\":{\"models\":[],\"unfinished\":0,\"latency\":[],\"speed\":41.5}}");
    buf_init(&out, BUF_MAX_INTERNAL);
    NEED(fleet_status_print(text.data, text.len, &out, &err) == 0);
    EXPECT_STR(
        out.data,
        "AGENT                  STATE  UNFINISHED  RUNNING  WAITING    KV  LATENCY  SPEED  MODELS\n"
        "http://10.0.0.1:23333  live           12        8        4  25 %  0.200 s      -  a, b\n"
        "http://10.0.0.2:8      -               0        -        -     -        -   41.5  -\n"
        "2 agents\n");
    buf_clear(&out);
    NEED(fleet_status_print("{}", 2, &out, &err) == 0);
    EXPECT(strstr(out.data, "0 agents\n") != NULL);
    EXPECT_INT(fleet_status_print("[]", 2, &out, &err), E_PROTOCOL);
    EXPECT_INT(fleet_status_print("<html>", 6, &out, &err), E_PROTOCOL);
    buf_deinit(&out);
}

static bool error_message(const char *text, char out[64])
{
    struct error err;
    struct json *v = json_parse(text, strlen(text), &err);
    NEED(v);
    bool found = api_client_error_message(v, out, 64);
    json_destroy(v);
    return found;
}

static void test_error_objects_give_one_line(void)
{
    char out[64];
    EXPECT(error_message("{\"error\":{\"message\":\"no\\nsuch\\u001b[31m model\"}}", out));
    EXPECT_STR(out, "no such [31m model");
    EXPECT(error_message("{\"object\":\"error\",\"message\":\"flat\",\"code\":404}", out));
    EXPECT_STR(out, "flat");
    EXPECT(error_message("{\"detail\":\"Not Found\"}", out));
    EXPECT_STR(out, "Not Found");
    EXPECT(error_message("{\"error\":\"text\"}", out));
    EXPECT_STR(out, "text");
    EXPECT(!error_message("{\"error\":{\"message\":null}}", out));
    EXPECT(!error_message("[1]", out));
    EXPECT(
        error_message("{\"message\":\"a message that is far longer than what fits into sixty-four "
                      "bytes of room\"}",
                      out));
    EXPECT_INT(strlen(out), 63);
}

int main(void)
{
    RUN(test_request_holds_the_conversation);
    RUN(test_unset_options_are_not_sent);
    RUN(test_models_are_found_by_name_or_beginning);
    RUN(test_fleet_is_a_table);
    RUN(test_error_objects_give_one_line);
    return TEST_END();
}
