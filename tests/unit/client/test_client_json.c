/* What lm-client says and understands: the request of a turn, lists of models, the fleet's table,
 * error objects. */
#include "client/api_client.h"
#include "client/chat.h"
#include "client/fleet_status.h"
#include "client/fleet_view.h"
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

static void test_a_proxys_status(void)
{
    struct str text = STR(
        "{\"id\":\"a\",\"version\":\"1\",\"phase\":\"ready\",\"uptime_s\":3700,\"threads\":2,"
        "\"routing\":\"affinity\",\"redis\":\"away\",\"requests\":{\"total\":12345,\"failed\":1,"
        "\"lost\":2,\"running\":{\"default\":3,\"bulk\":0},\"waiting\":{\"bulk\":4}},"
        "\"tokens\":{\"prompt\":2000000,\"completion\":10,\"cached\":1000000,"
        "\"cached_expected\":900000},\"retries\":{\"connect\":2,\"lost\":3,\"denied\":9},"
        "\"resumes\":1,\"sessions\":{\"hit\":7,\"moved\":8,\"lost\":9},\"agents\":["
        "{\"id\":\"x\",\"state\":\"up\",\"breaker\":\"closed\",\"score_s\":0.25,\"in_flight\":1,"
        "\"dispatches\":100,\"kv_used_share\":0.031,\"models\":[\"m\",\"n\"]},{\"id\":7},9]}");
    struct error err;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    struct json *v = json_parse(text.data, text.len, &err);
    NEED(v && fleet_view_fits(v));
    struct fleet_view view = {.now = v, .url = "http://p"};
    fleet_view_print(&view, &out);
    EXPECT_STR(
        out.data,
        "lm-proxy 1 at http://p: ready, up 1 h 1 min, 2 threads, routing affinity, Redis away\n"
        "12.3k requests, 3 running (3 default), 4 waiting (4 bulk), 1 failed, 2 lost\n"
        "2.0M prompt tokens, 10 in answers, cache hits 50.0 % (expected 45.0 %)\n"
        "5 retries, 1 streams resumed; sessions: 7 hit, 8 moved, 9 lost\n\n"
        "AGENT  STATE  BREAKER   SCORE  OURS  OTHERS  RUNNING  WAITING     KV  PREFILL/S  STEP  "
        "FAILING  MODELS\n"
        "x      up     closed   250 ms     1       -        -        -  3.1 %          -     -     "
        "   -  m, n\n"
        "-      -      -             -     -       -        -        -      -          -     -     "
        "   -  -\n"
        "-      -      -             -     -       -        -        -      -          -     -     "
        "   -  -\n"
        "3 agents\n");
    buf_deinit(&out);
    json_destroy(v);
}

static void expect_rates(const char *id, double before_s, const char *want)
{
    struct buf now_text, before_text, out;
    struct error err;
    buf_init(&now_text, BUF_MAX_INTERNAL);
    buf_init(&before_text, BUF_MAX_INTERNAL);
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_append_str(&now_text,
                   "{\"id\":\"a\",\"uptime_s\":10,\"requests\":{\"total\":50},\"agents\":[]}");
    buf_printf(&before_text,
               "{\"id\":\"%s\",\"uptime_s\":%g,\"requests\":{\"total\":20},\"agents\":[]}", id,
               before_s);
    struct json *now = json_parse(now_text.data, now_text.len, &err);
    struct json *before = json_parse(before_text.data, before_text.len, &err);
    struct fleet_view view = {.now = now, .before = before, .has_rates = true, .url = "u"};
    fleet_view_print(&view, &out);
    EXPECT(strstr(out.data, want) != NULL);
    json_destroy(now);
    json_destroy(before);
    buf_deinit(&now_text);
    buf_deinit(&before_text);
    buf_deinit(&out);
}

static void test_rates_are_of_one_process(void)
{
    expect_rates("a", 8, "50 requests (15/s)");
    expect_rates("a", 4, "50 requests (5.0/s)");
    expect_rates("b", 8, "50 requests (-/s)");  // it was started anew
    expect_rates("a", 10, "50 requests (-/s)"); // the same moment
    expect_rates("a", 11, "50 requests (-/s)"); // what can't be
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
    RUN(test_a_proxys_status);
    RUN(test_rates_are_of_one_process);
    RUN(test_error_objects_give_one_line);
    return TEST_END();
}
