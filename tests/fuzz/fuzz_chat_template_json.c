/* A chat template in LMDeploy's JSON: refused with a reason, or one that renders conversations as
 * LMDeploy puts them together, written out here a second time without Jinja between. */
#include "engine/chat_template.h"
#include "engine/lmdeploy_template.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define BOS "<s>"

struct message {
    const char *role, *content;
};

/* The last one of each list decides whether an answer is asked for, continued, or refused. */
static const struct message asked[] = {{"user", "h\xc3\xa9 '\\{{ x }}\n"}},
                            continued[] = {{"system", "Be."},
                                           {"user", ""},
                                           {"assistant", "A"},
                                           {"user", "b"},
                                           {"assistant", "Yes, "}},
                            called[] = {{"user", "u"}, {"tool", "4"}, {"environment", "%}"}};

static void put(struct buf *out, const char *before, const char *content, const char *after)
{
    buf_append_str(out, before ? before : "");
    buf_append_str(out, content ? content : "");
    buf_append_str(out, after ? after : "");
}

/* False: the template has no such role. */
static bool put_message(const struct lmdeploy_template *t, const struct message *m, bool is_open,
                        struct buf *out)
{
    if (!strcmp(m->role, "system")) {
        put(out, t->system, m->content, t->eosys);
    } else if (!strcmp(m->role, "user")) {
        put(out, t->user, m->content, t->eoh);
    } else if (!strcmp(m->role, "assistant")) {
        put(out, t->assistant, m->content, "");
        if (!is_open) put(out, t->eoa, t->separator, "");
    } else {
        put(out, t->tool, m->content, t->eotool);
        return t->tool || t->eotool;
    }
    return true;
}

static bool put_all(const struct lmdeploy_template *t, bool adds_bos, const struct message *m,
                    size_t count, struct buf *out)
{
    bool known = true;
    if (adds_bos && strcmp(t->begin ? t->begin : "", BOS) != 0) put(out, BOS, "", "");
    put(out, t->begin, "", "");
    if (t->is_completion) {
        for (size_t i = 0; i < count; i++)
            put(out, m[i].content, "", "");
        return true;
    }
    if (t->meta && strcmp(m->role, "system") != 0) put(out, t->system, t->meta, t->eosys);
    for (size_t i = 0; i < count; i++)
        known = put_message(t, &m[i], i == count - 1, out) && known;
    if (strcmp(m[count - 1].role, "assistant") != 0)
        put(out, t->generation ? t->generation : t->assistant, "", "");
    return known;
}

static struct json *as_json(const struct message *m, size_t count)
{
    struct json_writer w;
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_writer_init(&w, &text);
    json_array_begin(&w);
    for (size_t i = 0; i < count; i++) {
        json_object_begin(&w);
        json_field_text(&w, "role", m[i].role);
        json_field_text(&w, "content", m[i].content);
        json_object_end(&w);
    }
    json_array_end(&w);
    struct json *messages = json_parse(text.data, text.len, NULL);
    CHECK(messages);
    buf_deinit(&text);
    return messages;
}

static void check_rendered(const struct lmdeploy_template *t, bool adds_bos,
                           const struct chat_template *template, const struct message *m,
                           size_t count)
{
    struct error err = {0};
    struct buf wanted, found;
    struct json *messages = as_json(m, count);
    buf_init(&wanted, BUF_MAX_INTERNAL);
    buf_init(&found, BUF_MAX_INTERNAL);
    struct chat_template_input in = {.messages = messages, .add_generation_prompt = true};
    bool known = put_all(t, adds_bos, m, count, &wanted);
    int rc = chat_template_render(template, &in, &found, &err);
    CHECK(rc == (known ? 0 : E_INVALID));
    CHECK(rc || str_equal(buf_str(&wanted), buf_str(&found)));
    buf_deinit(&wanted);
    buf_deinit(&found);
    json_destroy(messages);
}

static void check_template(const struct lmdeploy_template *t, bool adds_bos)
{
    struct chat_template *template;
    struct buf source;
    buf_init(&source, BUF_MAX_INTERNAL);
    lmdeploy_template_print(t, adds_bos, &source);
    int rc = chat_template_create(buf_str(&source), STR(BOS), STR("</s>"), &template, NULL);
    CHECK(rc == 0); // whatever the texts are, they are literals
    check_rendered(t, adds_bos, template, asked, ARRAY_LEN(asked));
    check_rendered(t, adds_bos, template, continued, ARRAY_LEN(continued));
    check_rendered(t, adds_bos, template, called, ARRAY_LEN(called));
    chat_template_destroy(template);
    buf_deinit(&source);
}

/* By LMDeploy's rules about names of models, which any string may be. */
static void check_match(const struct json *name)
{
    if (!name || json_type(name) != JSON_STRING) return;
    const struct lmdeploy_template *found = lmdeploy_template_match(json_string(name, NULL));
    CHECK(!found || lmdeploy_template_find(str_of(found->name)) == found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lmdeploy_template t;
    struct error err = {0};
    struct json *json = json_parse((const char *)data, size, NULL);
    if (!json) return 0;
    int rc = lmdeploy_template_read(json, &t, &err);
    check_match(json_get(json, "model_name"));
    if (rc) {
        CHECK(rc == E_FORMAT || rc == E_UNSUPPORTED || rc == E_LIMIT);
        CHECK(err.code == rc && err.text[0]);
    } else {
        for (int i = 0; t.stops[i]; i++)
            CHECK(i < LMDEPLOY_STOPS_MAX - 1);
        check_template(&t, size % 2);
    }
    json_destroy(json);
    return 0;
}
