#include "proxy/peek.h"

#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"
#include "tests/test.h"

struct result {
    int rc;
    bool stream;
    char model[256];
    struct api_error error;
};

/* The text is copied to a block of exactly its size: a read beyond it is the sanitizer's. */
static struct result peek_bytes(const char *text, size_t len)
{
    struct result r = {.rc = 0};
    struct arena arena;
    arena_init(&arena);
    char *copy = len ? xmemdup(text, len) : NULL;
    struct peek peek;
    struct peek_options options = {.route = PEEK_CHAT};
    r.rc = peek_body(&arena, (struct str){copy, len}, &options, &peek, &r.error);
    if (r.rc == 0) {
        NEED(peek.model.len < sizeof r.model);
        memcpy(r.model, peek.model.data, peek.model.len);
        r.model[peek.model.len] = 0;
        r.stream = peek.stream;
    }
    free(copy);
    arena_deinit(&arena);
    return r;
}

static struct result peek_text(const char *text)
{
    return peek_bytes(text, strlen(text));
}

static void expect_model(const char *text, const char *model, bool stream)
{
    struct result r = peek_text(text);
    EXPECT_INT(r.rc, 0);
    if (r.rc < 0) printf("  %s: %s\n", text, r.error.message);
    EXPECT_STR(r.model, model);
    EXPECT_INT(r.stream, stream);
}

static void test_finds_the_fields(void)
{
    expect_model("{\"model\":\"m\"}", "m", false);
    expect_model(" \r\n\t{ \"model\" : \"m\" , \"stream\" : true } \n", "m", true);
    expect_model("{\"stream\":false,\"model\":\"a/b-c.d:e\"}", "a/b-c.d:e", false);
    expect_model("{\"stream\":null,\"model\":\"m\"}", "m", false);
    expect_model("{\"stream\":\"true\",\"model\":\"m\"}", "m", false); // the agent's to refuse
    expect_model("{\"stream\":1,\"model\":\"m\",\"n\":-0.5e+10}", "m", false);
    expect_model("{\"model\":\"\"}", "", false);
    expect_model("{\"model\":\"\xe4\xb9\xa6\xe7\x94\x9f\"}", "\xe4\xb9\xa6\xe7\x94\x9f", false);
    expect_model("{\"messages\":[{\"role\":\"user\",\"content\":[]},{},[[]]],\"model\":\"m\"}", "m",
                 false);
}

static void test_only_the_outermost_object_counts(void)
{
    expect_model("{\"metadata\":{\"model\":\"no\",\"stream\":true},\"model\":\"yes\"}", "yes",
                 false);
    expect_model("{\"model\":\"yes\",\"a\":[{\"model\":\"no\"},{\"stream\":true}]}", "yes", false);
    expect_model("{\"a\":\"\\\"model\\\":\\\"no\\\"\",\"model\":\"yes\"}", "yes", false);
    expect_model("{\"modelx\":\"no\",\"xmodel\":\"no\",\"Model\":\"no\",\"model\":\"yes\"}", "yes",
                 false);
    EXPECT_INT(peek_text("{\"metadata\":{\"model\":\"no\"}}").rc, -1);
}

static void test_escapes(void)
{
    expect_model("{\"\\u006dodel\":\"m\",\"\\u0073\\u0074ream\":true}", "m", true);
    expect_model("{\"model\":\"a\\\"\\\\\\/\\b\\f\\n\\r\\tz\"}", "a\"\\/\b\f\n\r\tz", false);
    expect_model("{\"model\":\"\\u00e9\\u4E66\\ud83d\\ude00\"}",
                 "\xc3\xa9\xe4\xb9\xa6\xf0\x9f\x98\x80", false);
    expect_model("{\"\\\"model\":\"no\",\"model\\u0020\":\"no\",\"model\":\"yes\"}", "yes", false);
}

static const char *const malformed[] = {
    "",
    " ",
    "{",
    "}",
    "nul",
    "{\"model\"",
    "{\"model\":",
    "{\"model\":\"m\"",
    "{\"model\":\"m",
    "{\"model\":\"m\",}",
    "{,\"model\":\"m\"}",
    "{\"model\":\"m\"}}",
    "{\"model\":\"m\"} x",
    "{\"model\":\"m\"}{\"model\":\"m\"}",
    "{model:\"m\"}",
    "{'model':'m'}",
    "{\"model\" \"m\"}",
    "{\"model\":\"m\" \"a\":1}",
    "{\"model\":\"m\",\"a\":}",
    "{\"model\":\"m\",\"a\":[1,]}",
    "{\"model\":\"m\",\"a\":[1 2]}",
    "{\"model\":\"m\",\"a\":[1}}",
    "{\"model\":\"m\",\"a\":{]}",
    "{\"model\":\"m\",\"a\":01}",
    "{\"model\":\"m\",\"a\":-}",
    "{\"model\":\"m\",\"a\":1.}",
    "{\"model\":\"m\",\"a\":.5}",
    "{\"model\":\"m\",\"a\":1e}",
    "{\"model\":\"m\",\"a\":1e+}",
    "{\"model\":\"m\",\"a\":+1}",
    "{\"model\":\"m\",\"a\":0x1}",
    "{\"model\":\"m\",\"a\":NaN}",
    "{\"model\":\"m\",\"a\":Infinity}",
    "{\"model\":\"m\",\"a\":tru}",
    "{\"model\":\"m\",\"a\":truex}",
    "{\"model\":\"m\",\"a\":TRUE}",
    "{\"model\":\"m\",\"a\":\"\\x\"}",
    "{\"model\":\"m\",\"a\":\"\\u12\"}",
    "{\"model\":\"m\",\"a\":\"\\u12g4\"}",
    "{\"model\":\"m\",\"a\":\"\\u0000\"}",
    "{\"model\":\"m\\u0000x\"}",
    "{\"model\":\"m\",\"a\":\"\\ud800\"}",
    "{\"model\":\"m\",\"a\":\"\\ud800\\u0041\"}",
    "{\"model\":\"m\",\"a\":\"\\udc00\"}",
    "{\"model\":\"m\",\"a\":\"\t\"}",
    "{\"model\":\"m\",\"a\":\"line\nbreak\"}",
    "{\"model\":\"m\",\"a\":\"\xff\"}",
    "{\"model\":\"m\",\"a\":\"\xc3\"}",
    "{\"model\":\"m\",\"a\":\"\xc0\x80\"}",
    "{\"model\":\"m\",\"a\":\"\xed\xa0\x80\"}",
    "{\"model\":\"m\",\"a\":\"\xf4\x90\x80\x80\"}",
    "{\"model\":\"m\",\xc2\xa0\"a\":1}",
    "\xef\xbb\xbf{\"model\":\"m\"}",
    "{\"model\":\"a\",\"model\":\"b\"}",
    "{\"model\":\"a\",\"\\u006dodel\":\"b\"}",
    "{\"model\":\"a\",\"stream\":true,\"stream\":false}",
    "// comment\n{\"model\":\"m\"}",
};

static void test_malformed(void)
{
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        struct result r = peek_text(malformed[i]);
        EXPECT_INT(r.rc, -1);
        if (r.rc == 0) {
            printf("  accepted: %s\n", malformed[i]);
            continue;
        }
        EXPECT_INT(r.error.status, 400);
        EXPECT(strstr(r.error.message, "parse the JSON body") != NULL);
        EXPECT(strstr(r.error.message, "at byte ") != NULL);
    }
    EXPECT_INT(peek_bytes("{\"model\":\"m\",\"a\":\"\0\"}", 20).rc, -1);
    EXPECT_INT(peek_bytes("{\"model\":\"m\"}\0", 14).rc, -1);
}

static void test_wrong_shapes(void)
{
    static const struct {
        const char *body, *code, *param, *text;
    } rows[] = {
        {"{}", NULL, "", "you must provide a model parameter"},
        {"{\"model\":null}", NULL, "", "you must provide a model parameter"},
        {"{\"messages\":[]}", NULL, "", "you must provide a model parameter"},
        {"[]", "invalid_type", "", "must be a JSON object"},
        {"[{\"model\":\"m\"}]", "invalid_type", "", "must be a JSON object"},
        {"\"model\"", "invalid_type", "", "must be a JSON object"},
        {"null", "invalid_type", "", "must be a JSON object"},
        {"17", "invalid_type", "", "must be a JSON object"},
        {"{\"model\":1}", "invalid_type", "model", "a number"},
        {"{\"model\":true}", "invalid_type", "model", "a boolean"},
        {"{\"model\":[\"m\"]}", "invalid_type", "model", "an array"},
        {"{\"model\":{\"id\":\"m\"}}", "invalid_type", "model", "an object"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct result r = peek_text(rows[i].body);
        EXPECT_INT(r.rc, -1);
        EXPECT_INT(r.error.status, 400);
        EXPECT_STR(r.error.code ? r.error.code : "", rows[i].code ? rows[i].code : "");
        EXPECT_STR(r.error.param, rows[i].param);
        EXPECT(strstr(r.error.message, rows[i].text) != NULL);
    }
}

static char *nested(int levels)
{
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    buf_append_str(&b, "{\"model\":\"m\",\"a\":");
    for (int i = 1; i < levels; i++)
        buf_append_char(&b, '[');
    for (int i = 1; i < levels; i++)
        buf_append_char(&b, ']');
    if (levels == 1) buf_append_char(&b, '1');
    buf_append_char(&b, '}');
    return buf_detach(&b, NULL);
}

static void test_depth_is_bounded(void)
{
    for (int levels = 1; levels <= 66; levels++) {
        char *text = nested(levels);
        EXPECT_INT(peek_text(text).rc, levels <= 64 ? 0 : -1);
        free(text);
    }
    char *text = nested(1000000);
    EXPECT_INT(peek_text(text).rc, -1);
    free(text);
}

static void test_huge(void)
{
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    buf_append_str(&b, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 1 << 20; i++)
        buf_append_str(&b, "plain text, \\\"escaped\\\" and \xe4\xb8\xad\xe6\x96\x87. ");
    buf_append_str(&b, "\"}],\"stream\":true,\"model\":\"late\"}");
    struct result r = peek_bytes(b.data, b.len);
    EXPECT_INT(r.rc, 0);
    EXPECT_STR(r.model, "late");
    EXPECT(r.stream);
    EXPECT_INT(peek_bytes(b.data, b.len - 1).rc, -1);
    buf_deinit(&b);
}

/* Every string length around the eight bytes that are looked at in one go, with every kind of end.
 */
static void test_word_edges(void)
{
    static const char *const inside[] = {"", "\\n", "\xc3\xa9", "\xf0\x9f\x98\x80", "\x7f"};
    for (size_t kind = 0; kind < ARRAY_LEN(inside); kind++) {
        for (int before = 0; before < 20; before++) {
            for (int after = 0; after < 20; after++) {
                char body[128];
                snprintf(body, sizeof body, "{\"a\":\"%.*s%s%.*s\",\"model\":\"m\"}", before,
                         "aaaaaaaaaaaaaaaaaaaa", inside[kind], after, "bbbbbbbbbbbbbbbbbbbb");
                EXPECT_INT(peek_text(body).rc, 0);
            }
        }
    }
    for (int c = 1; c < 0x20; c++) {
        for (int before = 0; before < 20; before++) {
            char body[128];
            snprintf(body, sizeof body, "{\"a\":\"%.*s%cbbbbbbbb\",\"model\":\"m\"}", before,
                     "aaaaaaaaaaaaaaaaaaaa", c);
            EXPECT_INT(peek_text(body).rc, -1);
        }
    }
}

/* What is accepted here must be accepted there and mean the same; random damage finds the corners.
 */
static void test_agrees_with_the_json_reader(void)
{
    static const char seed_text[] =
        "{\"model\":\"m\\u00e9\",\"messages\":[{\"role\":\"user\",\"content\":\"h\\ti "
        "\xe2\x82\xac\"}"
        ",null,true,false,-1.5e3,0,[],{}],\"stream\":true,\"tools\":[{\"y\":[1,2]}],\"n\":2}";
    static const char alphabet[] = "{}[]\",:\\u0d8e1.-+tfn \x01\x80\xc3\xe2";
    struct rng rng;
    rng_init(&rng, 7);
    int accepted = 0;
    for (int round = 0; round < 200000; round++) {
        char text[sizeof seed_text];
        memcpy(text, seed_text, sizeof text);
        size_t len = sizeof seed_text - 1;
        for (uint32_t n = rng_below(&rng, 3) + 1; n > 0; n--)
            text[rng_below(&rng, (uint32_t)len)] = alphabet[rng_below(&rng, sizeof alphabet - 1)];
        if (rng_below(&rng, 10) == 0) len = rng_below(&rng, (uint32_t)len);
        struct result r = peek_bytes(text, len);
        struct json *root = json_parse(text, len, NULL);
        if (r.rc == 0) {
            accepted++;
            if (root) { // a duplicate name elsewhere is the agent's to refuse
                EXPECT_STR(r.model, json_string(json_get(root, "model"), NULL));
                EXPECT_INT(r.stream, json_is_true(json_get(root, "stream")));
            }
        } else if (root && json_type(root) == JSON_OBJECT) {
            const struct json *model = json_get_set(root, "model");
            EXPECT(!model || json_type(model) != JSON_STRING);
        }
        json_destroy(root);
    }
    EXPECT(accepted > 1000);
}

/* ---- fields ---- */

static struct arena fields_arena;

static struct peek fields(enum peek_route route, const char *text)
{
    struct peek_options options = {.route = route};
    struct peek peek;
    struct api_error error;
    int rc = peek_body(&fields_arena, str_of(text), &options, &peek, &error);
    if (rc != 0) printf("  %s: %s\n", text, error.message);
    NEED(rc == 0);
    return peek;
}

static bool says(struct str s, const char *text)
{
    return text ? str_equal(s, str_of(text)) && s.data : s.data == NULL;
}

static void test_amounts(void)
{
    static const struct {
        const char *members;
        int64_t choices, max_tokens;
    } rows[] = {
        {"", 1, -1},
        {",\"n\":3", 3, -1},
        {",\"n\":3,\"best_of\":5", 5, -1},
        {",\"best_of\":2,\"n\":4", 4, -1},
        {",\"n\":0", 1, -1},
        {",\"n\":-7", 1, -1},
        {",\"n\":\"3\"", 1, -1},
        {",\"n\":2.5", 1, -1},
        {",\"n\":2.0", 2, -1},
        {",\"n\":2e1", 20, -1},
        {",\"n\":null", 1, -1},
        {",\"max_tokens\":17", 1, 17},
        {",\"max_completion_tokens\":18", 1, 18},
        {",\"request_output_len\":19", 1, 19},
        {",\"max_tokens\":17,\"max_completion_tokens\":18", 1, 18},
        {",\"max_tokens\":0", 1, 0},
        {",\"max_tokens\":-1", 1, -1},
        {",\"max_tokens\":1e300", 1, -1},
        {",\"max_tokens\":99999999999999999999", 1, -1},
        {",\"a\":{\"n\":4,\"max_tokens\":4}", 1, -1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"model\":\"m\"%s}", rows[i].members);
        struct peek p = fields(PEEK_CHAT, body);
        EXPECT_INT(p.choices, rows[i].choices);
        EXPECT_INT(p.max_tokens, rows[i].max_tokens);
    }
}

static void test_sessions(void)
{
    struct peek p = fields(PEEK_INTERACTIVE,
                           "{\"prompt\":\"hi\",\"session_id\":9007199254740991,\"stream\":true,"
                           "\"interactive_mode\":true,\"cancel\":true,\"priority\":-2}");
    EXPECT(p.has_session_id && p.interactive_mode && p.cancel && p.stream);
    EXPECT(p.model.data == NULL);
    EXPECT_INT(p.session_id, 9007199254740991);
    EXPECT(p.has_priority);
    EXPECT_INT(p.priority, -2);
    EXPECT_INT(p.bytes, 2);

    p = fields(PEEK_INTERACTIVE, "{\"prompt\":\"\",\"model\":null,\"interactive_mode\":false}");
    EXPECT(!p.has_session_id && !p.interactive_mode && !p.cancel && !p.has_priority);
    EXPECT_INT(p.session_id, -1);
    p = fields(PEEK_INTERACTIVE, "{\"prompt\":\"\",\"session_id\":-1}");
    EXPECT(p.has_session_id);
    EXPECT_INT(p.session_id, -1);
    EXPECT(says(p.session_raw, "-1"));
    p = fields(PEEK_INTERACTIVE, "{\"prompt\":\"\",\"session_id\":7.5}");
    EXPECT(!p.has_session_id && says(p.session_raw, "7.5"));
    p = fields(PEEK_INTERACTIVE, "{\"prompt\":\"\",\"session_id\" : null }");
    EXPECT(!p.has_session_id && says(p.session_raw, "null"));
    p = fields(PEEK_INTERACTIVE, "{\"prompt\":[{\"session_id\":1}]}");
    EXPECT(!p.session_raw.data && !p.has_answer);
    p = fields(PEEK_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                          "{\"content\":\"b\",\"role\":\"assis\\u0074ant\"}]}");
    EXPECT(p.has_answer);
    p = fields(PEEK_CHAT, "{\"model\":\"m\",\"role\":\"assistant\",\"messages\":[]}");
    EXPECT(!p.has_answer);
    p = fields(PEEK_CHAT, "{\"model\":\"m\",\"session_id\":\"s-\\u0037\"}");
    EXPECT(!p.has_session_id && says(p.session_text, "s-7"));

    p = fields(PEEK_CHAT, "{\"model\":\"m\",\"conversation\":\"conv_1\",\"user\":\"u\","
                          "\"previous_response_id\":\"resp_1\",\"prompt_cache_key\":\"k\\n\"}");
    EXPECT(says(p.conversation, "conv_1") && says(p.user, "u"));
    EXPECT(says(p.previous_response_id, "resp_1") && says(p.prompt_cache_key, "k\n"));
    p = fields(PEEK_CHAT,
               "{\"model\":\"m\",\"conversation\":{\"a\":{\"id\":\"no\"},\"id\":\"conv_2\"}}");
    EXPECT(says(p.conversation, "conv_2"));
    p = fields(PEEK_CHAT, "{\"model\":\"m\",\"conversation\":[{\"id\":\"no\"}],\"user\":7,"
                          "\"prompt_cache_key\":null,\"metadata\":{\"user\":\"no\"}}");
    EXPECT(says(p.conversation, NULL) && says(p.user, NULL) && says(p.prompt_cache_key, NULL));
    EXPECT_INT(p.fingerprint, 0);
}

static void test_images(void)
{
    struct peek p = fields(
        PEEK_CHAT,
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":"
        "\"abc\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:0123456789\",\"detail\":"
        "\"low\"}},{\"image_url\":\"http://x\"},{\"type\":\"input_audio\",\"input_audio\":{}},"
        "\"de\"]}]}");
    EXPECT_INT(p.images, 2);
    EXPECT_INT(p.bytes, 5);
    p = fields(PEEK_INTERACTIVE, "{\"image_url\":[\"a\",\"b\",\"c\"],\"prompt\":\"abc\"}");
    EXPECT_INT(p.images, 3);
    EXPECT_INT(p.bytes, 3);
    p = fields(PEEK_INTERACTIVE, "{\"image_url\":\"a\",\"prompt\":\"abc\"}");
    EXPECT_INT(p.images, 1);
    p = fields(PEEK_INTERACTIVE, "{\"image_url\":[],\"prompt\":\"abc\"}");
    EXPECT_INT(p.images, 0);
}

/* OpenAI's Responses and Anthropic's Messages are conversations, too. */
static void test_dialects(void)
{
    static const char *const responses[] = {
        "{\"model\":\"m\",\"instructions\":\"be "
        "brief\",\"max_output_tokens\":7,\"input\":\"hello\"}",
        "{\"model\":\"m\",\"instructions\":\"be brief\",\"max_output_tokens\":7,\"input\":"
        "[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hello\"}]},"
        "{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"12\"}]}",
    };
    struct peek p = fields(PEEK_RESPONSES, responses[0]);
    EXPECT_INT(p.max_tokens, 7);
    EXPECT(p.bytes >= 13 && p.bytes < 20);
    p = fields(PEEK_RESPONSES, responses[1]);
    EXPECT(p.bytes >= 17 && p.fingerprint != 0);
    p = fields(PEEK_MESSAGES,
               "{\"model\":\"m\",\"max_tokens\":3,\"system\":[{\"type\":\"text\",\"text\":\"x\"}],"
               "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}");
    EXPECT(p.bytes > 5 && p.fingerprint != 0);
    EXPECT_INT(p.max_tokens, 3);
}

static void test_twice_is_refused(void)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"n\":1,\"n\":1}",
        "{\"model\":\"m\",\"messages\":[],\"messages\":[]}",
        "{\"model\":\"m\",\"tools\":[],\"tools\":null}",
        "{\"model\":\"m\",\"session_id\":1,\"session\\u005fid\":2}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"a\",\"role\":\"b\"}]}",
        "{\"model\":\"m\",\"messages\":[{\"content\":\"a\",\"content\":\"b\"}]}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct result r = peek_text(bodies[i]);
        EXPECT_INT(r.rc, -1);
        EXPECT(strstr(r.error.message, "twice") != NULL);
    }
    EXPECT_INT(peek_text("{\"model\":\"m\",\"x\":1,\"x\":2,\"messages\":[{\"role\":\"a\"},"
                         "{\"role\":\"a\"}]}")
                   .rc,
               0);
}

static void test_routes(void)
{
    EXPECT_INT(peek_route_of(STR("/v1/chat/completions")), PEEK_CHAT);
    EXPECT_INT(peek_route_of(STR("/v1/completions")), PEEK_COMPLETIONS);
    EXPECT_INT(peek_route_of(STR("/v1/chat/interactive")), PEEK_INTERACTIVE);
    EXPECT_INT(peek_route_of(STR("/v1/embeddings")), PEEK_OTHER);
    EXPECT_INT(peek_route_of(STR("/v1/messages")), PEEK_MESSAGES);
    EXPECT_INT(peek_route_of(STR("/v1/messages/count_tokens")), PEEK_OTHER);
    EXPECT_INT(peek_route_of(STR("/v1/responses")), PEEK_RESPONSES);
}

int main(void)
{
    arena_init(&fields_arena);
    RUN(test_finds_the_fields);
    RUN(test_only_the_outermost_object_counts);
    RUN(test_escapes);
    RUN(test_malformed);
    RUN(test_wrong_shapes);
    RUN(test_depth_is_bounded);
    RUN(test_huge);
    RUN(test_word_edges);
    RUN(test_agrees_with_the_json_reader);
    RUN(test_amounts);
    RUN(test_sessions);
    RUN(test_images);
    RUN(test_dialects);
    RUN(test_twice_is_refused);
    RUN(test_routes);
    arena_deinit(&fields_arena);
    return TEST_END();
}
