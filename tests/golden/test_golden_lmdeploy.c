/* LMDeploy's built-in chat templates against what LMDeploy 0.6.5 itself renders. */
#include "engine/chat_template.h"
#include "engine/lmdeploy_template.h"
#include "tests/golden/fixtures.h"

static struct json *reference;

static void test_rendered(void)
{
    int count = 0;
    for (const struct json *c = json_first(json_get(reference, "cases")); c; c = json_next(c)) {
        const char *name = json_string(json_get(c, "template"), NULL);
        const struct lmdeploy_template *row = lmdeploy_template_find(str_of(name));
        struct chat_template *t;
        struct error err = {0};
        struct buf source, out;
        NEED(row);
        buf_init(&source, 1 << 20);
        buf_init(&out, 1 << 20);
        lmdeploy_template_print(row, false, &source);
        if (chat_template_create(buf_str(&source), STR(""), STR(""), &t, &err) != 0) {
            printf("%s: %s\n", name, err.text);
            NEED(false);
        }
        struct chat_template_input in = {.messages = json_get(c, "messages"),
                                         .add_generation_prompt = true};
        EXPECT_INT(chat_template_render(t, &in, &out, &err), 0);
        const char *want = json_string(json_get(c, "rendered"), NULL);
        if (strcmp(out.data ? out.data : "", want) != 0) printf("%s:\n", name);
        EXPECT_STR(out.data, want);
        chat_template_destroy(t);
        buf_deinit(&source);
        buf_deinit(&out);
        count++;
    }
    EXPECT(count > 80);
}

static void test_stops(void)
{
    int count = 0;
    for (const struct json *c = json_first(json_get(reference, "cases")); c; c = json_next(c)) {
        const struct json *stop = json_first(json_get_set(c, "stop_words"));
        const char *name = json_string(json_get(c, "template"), NULL);
        const struct lmdeploy_template *t = lmdeploy_template_find(str_of(name));
        int i = 0;
        if (!json_get(c, "stop_words")) continue;
        for (; stop; stop = json_next(stop), i++, count++)
            EXPECT_STR(t->stops[i] ? t->stops[i] : "", json_string(stop, NULL));
        EXPECT(t->stops[i] == NULL);
    }
    EXPECT(count > 10);
}

static void test_matches(void)
{
    const struct json *m = json_first(json_get(reference, "matches"));
    EXPECT(m != NULL);
    for (; m; m = json_next(m)) {
        const struct lmdeploy_template *t = lmdeploy_template_match(json_name(m));
        EXPECT_STR(t ? t->name : "base", json_string(m, NULL));
    }
}

int main(void)
{
    reference = fixture_json("templates/lmdeploy.json");
    NEED(reference);
    RUN(test_rendered);
    RUN(test_stops);
    RUN(test_matches);
    json_destroy(reference);
    return TEST_END();
}
