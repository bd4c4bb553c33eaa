#include "engine/chat_template.h"
#include "tests/test.h"

static const char own[] =
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}{{ eos_token }}";

struct inputs {
    struct json *messages, *tools, *kwargs;
};

static struct json *parse(const char *text)
{
    struct error err;
    struct json *v = text ? json_parse(text, strlen(text), &err) : NULL;
    if (text && !v) printf("%s\n", err.text);
    NEED(!text || v);
    return v;
}

/* Render into a static buffer; NULL and *err when it fails. */
static const char *render(const struct chat_template *t, const char *messages, const char *tools,
                          const char *kwargs, bool generate, struct error *err)
{
    static char text[4096];
    struct inputs in = {parse(messages), parse(tools), parse(kwargs)};
    struct chat_template_input input = {in.messages, in.tools, in.kwargs, generate, 1735787045};
    struct buf out;
    buf_init(&out, sizeof text - 1);
    *err = (struct error){0};
    int rc = chat_template_render(t, &input, &out, err);
    snprintf(text, sizeof text, "%s", out.data ? out.data : "");
    buf_deinit(&out);
    json_destroy(in.messages);
    json_destroy(in.tools);
    json_destroy(in.kwargs);
    EXPECT_INT(rc, err->code);
    return rc ? NULL : text;
}

static struct chat_template *create(const char *source)
{
    struct chat_template *t;
    struct error err = {0};
    if (chat_template_create(str_of(source), STR("[B]"), STR("[E]"), &t, &err) != 0) {
        printf("%s\n", err.text);
        NEED(false);
    }
    return t;
}

static void test_tokens_and_prompt(void)
{
    struct chat_template *t = create(own);
    struct error err;
    const char *one = "[{\"role\": \"user\", \"content\": \"hi\"}]";
    EXPECT_STR(render(t, one, NULL, NULL, true, &err), "[B]<user>hi<a>[E]");
    EXPECT_STR(render(t, one, NULL, NULL, false, &err), "[B]<user>hi[E]");
    EXPECT_STR(render(t, "[]", NULL, NULL, true, &err), "[B]<a>[E]");
    chat_template_destroy(t);
}

static void test_null_content_is_empty(void)
{
    struct chat_template *t = create(own);
    struct error err;
    EXPECT_STR(render(t, "[{\"role\": \"user\", \"content\": null}]", NULL, NULL, false, &err),
               "[B]<user>[E]");
    EXPECT_STR(render(t, "[{\"role\": \"user\"}]", NULL, NULL, false, &err), "[B]<user>[E]");
    chat_template_destroy(t);
}

static void test_variables(void)
{
    struct chat_template *t =
        create("{{ tools is none }}{{ tools | length if tools else 0 }} {{ x }} "
               "{{ documents is none }} {{ messages | length }}");
    struct error err;
    EXPECT_STR(render(t, "[]", NULL, "{\"x\": 5}", false, &err), "True0 5 True 0");
    EXPECT_STR(render(t, "[]", "[{}, {}]", "{\"documents\": [1]}", false, &err), "False2  False 0");
    /* A client's variables don't replace the conversation. */
    EXPECT_STR(render(t, "[]", NULL, "{\"messages\": [1, 2], \"x\": \"\"}", false, &err),
               "True0  True 0");
    chat_template_destroy(t);
}

static void test_refusal(void)
{
    struct chat_template *t =
        create("{{ raise_exception('only ' ~ messages | length ~ ' roles') }}");
    struct error err;
    EXPECT(render(t, "[]", NULL, NULL, false, &err) == NULL);
    EXPECT_INT(err.code, E_INVALID);
    EXPECT_STR(err.text, "only 0 roles");
    chat_template_destroy(t);
}

static void test_time(void)
{
    struct chat_template *t = create("{{ strftime_now('%d %b %Y %H:%M:%S') }}");
    struct error err;
    EXPECT_STR(render(t, "[]", NULL, NULL, false, &err), "02 Jan 2025 03:04:05");
    chat_template_destroy(t);
}

static void test_bad_source(void)
{
    struct chat_template *t;
    struct error err;
    EXPECT_INT(chat_template_create(STR("{% for %}"), STR(""), STR(""), &t, &err), E_FORMAT);
    EXPECT(strstr(err.text, "chat template 1:") == err.text);
}

static void test_plain(void)
{
    struct chat_template *t = chat_template_create_plain();
    struct error err;
    EXPECT_STR(render(t,
                      "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", "
                      "\"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", "
                      "\"text\": \"b\"}]}, {\"role\": \"assistant\", \"content\": null}]",
                      NULL, NULL, true, &err),
               "system: Be brief.\n\nuser: ab\n\nassistant: \n\nassistant:");
    chat_template_destroy(t);
    chat_template_destroy(NULL);
}

static void test_output_limit(void)
{
    struct chat_template *templates[] = {create(own), chat_template_create_plain()};
    for (int i = 0; i < 2; i++) {
        struct json *messages = parse("[{\"role\": \"user\", \"content\": \"0123456789\"}]");
        struct chat_template_input in = {.messages = messages};
        struct error err;
        struct buf out;
        buf_init(&out, 8);
        EXPECT_INT(chat_template_render(templates[i], &in, &out, &err), E_LIMIT);
        buf_deinit(&out);
        json_destroy(messages);
        chat_template_destroy(templates[i]);
    }
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    RUN(test_tokens_and_prompt);
    RUN(test_null_content_is_empty);
    RUN(test_variables);
    RUN(test_refusal);
    RUN(test_time);
    RUN(test_bad_source);
    RUN(test_plain);
    RUN(test_output_limit);
    return TEST_END();
}
