/* Real templates over a tokenizer of this file's: a token per byte, "<e>" is the closing one. */
#include "agent/session_prompt.h"

#include "shared/base/check.h"
#include "tests/test.h"
#include "tests/unit/agent/no_grammars.h"

#define CLOSING 999

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    (void)t, (void)flags, (void)err;
    for (size_t i = 0; i < len; i++) {
        bool is_closing = len - i >= 3 && memcmp(text + i, "<e>", 3) == 0;
        token_list_push(out, is_closing ? CLOSING : (unsigned char)text[i]);
        if (is_closing) i += 2;
    }
    return 0;
}

/* ---- not under test: --escape-special ---- */

int tokenizer_encode_guarded(const struct tokenizer *t, const char *text, size_t len,
                             unsigned flags, const struct token_guard *guard,
                             struct token_list *out, struct error *err)
{
    (void)guard;
    return tokenizer_encode(t, text, len, flags, out, err);
}

size_t tokenizer_next_special(const struct tokenizer *t, struct str text, size_t from)
{
    (void)t, (void)text, (void)from;
    return SIZE_MAX;
}

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    (void)t, (void)keep_special;
    return id == CLOSING ? STR("<e>") : STR("x");
}

bool tokenizer_is_stop(const struct tokenizer *t, int32_t id)
{
    (void)t;
    return id == CLOSING;
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    (void)t;
    return CLOSING + 1;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    (void)t;
    return -1;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    (void)t;
    return CLOSING;
}

void token_list_push(struct token_list *l, int32_t id)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 4;
        l->ids = xrealloc_array(l->ids, l->cap, sizeof *l->ids);
    }
    l->ids[l->count++] = id;
}

void token_list_deinit(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

#define MARKS                                                                     \
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<e>\n{% endfor %}{% if " \
    "add_generation_prompt %}[assistant]{% endif %}"
/* As Llama 2's: a space before the closing token. */
#define SPACED                                                                             \
    "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}</u>{% else %} {{ " \
    "m.content }} <e>{% endif %}{% endfor %}"
/* As Qwen 3's: only the last answer keeps its reasoning. */
#define REASONING                                                                             \
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' and loop.last %}(r){% " \
    "endif %}{{ m.content }}<e>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
#define NUMBERED                                                                                \
    "{{ messages|length }}:{% for m in messages %}[{{ m.role }}]{{ m.content }}<e>{% endfor %}" \
    "{% if add_generation_prompt %}[assistant]{% endif %}"
#define LAST_SYSTEM                                                                             \
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{% if loop.last and "      \
    "messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}{{ m.content }}<e>{% " \
    "endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
#define NO_SYSTEM \
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" MARKS

static struct prompt_context context;
static struct session_template template;
static struct chat_template *chat;

static void begin(const char *source)
{
    struct error err = {0};
    if (source) {
        NEED(chat_template_create(str_of(source), STR(""), STR("<e>"), &chat, &err) == 0);
    } else {
        chat = chat_template_create_plain();
    }
    prompt_context_init(&context, NULL, chat, 200);
    session_template_init(&template, &context);
}

static void end(void)
{
    chat_template_destroy(chat);
}

static void test_which_can_be_continued(void)
{
    static const struct {
        const char *source;
        bool is_continued;
    } rows[] = {{MARKS, true},      {SPACED, true},       {NULL, true},     {NO_SYSTEM, true},
                {REASONING, false}, {LAST_SYSTEM, false}, {NUMBERED, false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        begin(rows[i].source);
        EXPECT_INT(template.is_continued, rows[i].is_continued);
        end();
    }
}

#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"

/* The ids from `from` on, as text. */
static const char *text_of(const struct session_prompt *p, int from)
{
    static char text[512];
    size_t len = 0;
    for (size_t i = (size_t)from; i < p->ids.count; i++) {
        bool is_closing = p->ids.ids[i] == CLOSING;
        len += (size_t)snprintf(text + len, sizeof text - len, is_closing ? "<e>" : "%c",
                                p->ids.ids[i]);
    }
    text[len] = 0;
    return text;
}

/* A turn is built and answered; answers that end in "<e>" were closed by the model. */
static void take_turn(struct session_history *h, const char *messages, const char *answer)
{
    struct session_prompt p;
    struct api_error e = {0};
    struct buf turn;
    NEED(session_prompt_build(&template, h, (int)h->ids.count, messages, 0, &p, &e) == 0);
    EXPECT(!p.is_full);
    EXPECT_INT(p.input_tokens, (long long)p.ids.count - p.base);
    NEED(tokenizer_encode(NULL, answer, strlen(answer), 0, &p.ids, NULL) == 0);
    size_t len = strlen(answer);
    if (len >= 3 && strcmp(answer + len - 3, "<e>") == 0) len -= 3;
    buf_init(&turn, 4096);
    session_prompt_print_turn(&turn, messages, (struct str){answer, len});
    struct session_step step = {.base = p.base,
                                .keep_turns = p.keep_turns,
                                .ids = p.ids.ids + p.base,
                                .count = (int)p.ids.count - p.base,
                                .serial = h->serial + 1,
                                .messages = buf_str(&turn)};
    session_history_apply(h, &step);
    session_history_check(h);
    buf_deinit(&turn);
    session_prompt_deinit(&p);
}

static const char *next_turn(const struct session_history *h, int base, const char *messages)
{
    static char text[512];
    struct session_prompt p;
    struct api_error e = {0};
    NEED(session_prompt_build(&template, h, base, messages, 0, &p, &e) == 0);
    snprintf(text, sizeof text, "%s", text_of(&p, p.base));
    session_prompt_deinit(&p);
    return text;
}

static void test_continued(void)
{
    struct session_history h = {0};
    begin(MARKS);
    EXPECT_STR(next_turn(&h, 0, USER("hi")), "[user]hi<e>\n[assistant]");
    take_turn(&h, USER("hi"), "yes<e>");
    EXPECT_STR(next_turn(&h, (int)h.ids.count, USER("go")), "\n[user]go<e>\n[assistant]");
    take_turn(&h, USER("go"), "and s"); // cut off: the closing token is the next turn's
    EXPECT_STR(next_turn(&h, (int)h.ids.count, USER("on")), "<e>\n[user]on<e>\n[assistant]");
    EXPECT_STR(next_turn(&h, 5, USER("on")), "<e>\n[user]on<e>\n[assistant]"); // into a word
    EXPECT_STR(next_turn(&h, (int)h.ids.count, USER("lm7placeholder7answer")),
               "<e>\n[user]lm7placeholder7answer<e>\n[assistant]");
    EXPECT_STR(next_turn(&h, (int)h.ids.count, "{\"role\":\"tool\",\"content\":\"1\"}," USER("so")),
               "<e>\n[tool]1<e>\n[user]so<e>\n[assistant]");
    session_history_deinit(&h);
    end();

    begin(SPACED);
    take_turn(&h, USER("hi"), " yes<e>");
    EXPECT_STR(next_turn(&h, (int)h.ids.count, USER("go")), "<u>go</u>");
    take_turn(&h, USER("go"), " no");
    EXPECT_STR(next_turn(&h, (int)h.ids.count, USER("go")), " <e><u>go</u>");
    session_history_deinit(&h);
    end();
}

static void test_rendered_whole(void)
{
    struct session_history h = {0};
    struct api_error e = {0};
    struct session_prompt p;
    begin(NUMBERED);
    take_turn(&h, USER("hi"), "yes<e>");
    int first_end = (int)h.ids.count;
    NEED(session_prompt_build(&template, &h, first_end, USER("go"), 0, &p, &e) == 0);
    EXPECT_STR(text_of(&p, 0), "3:[user]hi<e>[assistant]yes<e>[user]go<e>[assistant]");
    EXPECT_INT(p.base, 0); // the number in front has changed
    EXPECT_INT(p.keep_turns, 1);
    session_prompt_deinit(&p);
    EXPECT_INT(session_prompt_build(&template, &h, 3, USER("go"), 0, &p, &e), -1);
    EXPECT_STR(e.param, "rewind_to");
    session_prompt_deinit(&p);
    take_turn(&h, USER("go"), "no<e>");
    EXPECT_INT(h.turn_count, 2);
    NEED(session_prompt_build(&template, &h, (int)h.ids.count, USER("x"), 0, &p, &e) == 0);
    EXPECT_STR(text_of(&p, 0),
               "5:[user]hi<e>[assistant]yes<e>[user]go<e>[assistant]no<e>[user]x<e>[assistant]");
    session_prompt_deinit(&p);
    session_history_deinit(&h);
    end();

    begin(REASONING);
    take_turn(&h, USER("hi"), "(r)yes<e>");
    EXPECT_INT(h.turn_count, 1);
    NEED(session_prompt_build(&template, &h, (int)h.ids.count, USER("go"), 0, &p, &e) == 0);
    EXPECT_STR(text_of(&p, p.base), "[user]go<e>[assistant]");
    session_prompt_deinit(&p);
    session_history_deinit(&h);
    end();
}

static void test_no_room(void)
{
    char text[400], messages[500];
    struct session_history h = {0};
    struct session_prompt p;
    struct api_error e = {0};
    begin(MARKS);
    memset(text, 'a', sizeof text);
    for (int len = 160; len <= 399; len++) {
        snprintf(messages, sizeof messages, USER("%.*s"), len, text);
        NEED(session_prompt_build(&template, &h, 0, messages, 0, &p, &e) == 0);
        EXPECT_INT(p.is_full, len + 19 >= 200);
        if (!p.is_full) EXPECT_INT(p.input_tokens, len + 19);
        session_prompt_deinit(&p);
    }
    EXPECT_INT(session_prompt_build(&template, &h, 0, "{\"role\":7", 0, &p, &e), -1);
    EXPECT_INT(e.status, 400);
    session_prompt_deinit(&p);
    end();
    begin(NO_SYSTEM);
    EXPECT_INT(
        session_prompt_build(&template, &h, 0, "{\"role\":\"system\",\"content\":\"\"}", 0, &p, &e),
        -1);
    EXPECT(strstr(e.message, "no system"));
    session_prompt_deinit(&p);
    end();
}

int main(void)
{
    RUN(test_which_can_be_continued);
    RUN(test_continued);
    RUN(test_rendered_whole);
    RUN(test_no_room);
    return TEST_END();
}
