/* Every tokenizer of the fixtures against the reference that made them: tokenizer.json against the
 * tokenizers package, tokenizer.model against SentencePiece. A new folder is a new test. */
#include "engine/stopping.h"
#include "shared/base/clock.h"
#include "tests/golden/fixture_tokenizer.h"

#define FOLDERS_MAX 64

/* ---- one case ---- */

struct golden {
    const char *name;
    const struct tokenizer *t;
    const struct json *c;
    bool is_model; // SentencePiece: control tokens are never read out of a text
};

static bool same_ids(const struct golden *g, const char *member, struct str text, unsigned flags)
{
    struct token_list got = {0};
    const struct json *want = json_get(g->c, member), *id = json_first(want);
    size_t i = 0;
    if (!want) return true;
    bool ok = tokenizer_encode(g->t, text.data, text.len, flags, &got, NULL) == 0;
    for (; id && i < got.count && got.ids[i] == (int32_t)json_number(id); id = json_next(id))
        i++;
    ok = ok && !id && i == got.count;
    if (!ok)
        printf("%s: %s of '%.60s' differ at %zu of %zu: %d, expected %d\n", g->name, member,
               text.data, i, got.count, i < got.count ? (int)got.ids[i] : -1,
               id ? (int)json_number(id) : -1);
    token_list_deinit(&got);
    return ok;
}

static bool same_text(const struct golden *g, const char *what, struct buf *got, struct str want)
{
    bool ok = str_equal(buf_str(got), want);
    if (!ok) printf("%s: %s is '%.60s', expected '%.60s'\n", g->name, what, got->data, want.data);
    return ok;
}

/* Token by token, as a stream comes out; only the space in front, that a whole decoding takes off,
 * stays there. */
static bool same_stream(const struct golden *g, const struct token_list *ids, bool keep,
                        struct str want)
{
    struct stopping s;
    struct buf out;
    stopping_init(&s, NULL, 0);
    buf_init(&out, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < ids->count; i++)
        (void)stopping_feed(&s, tokenizer_token_bytes(g->t, ids->ids[i], keep), false, &out);
    stopping_flush(&s, &out);
    while (g->t->strip != STRIP_NONE && out.len > want.len && *out.data == ' ')
        buf_consume(&out, 1);
    bool ok = same_text(g, "stream", &out, want);
    stopping_deinit(&s);
    buf_deinit(&out);
    return ok;
}

static bool same_decoded(const struct golden *g, const char *member, bool keep)
{
    struct token_list ids = {0};
    struct buf out;
    struct str want;
    if (!json_get(g->c, member)) return true;
    char *text = fixture_string(json_get(g->c, member), &want.len);
    want.data = text;
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_append_str(&out, "");
    for (const struct json *id = json_first(json_get(g->c, "ids")); id; id = json_next(id))
        token_list_push(&ids, (int32_t)json_number(id));
    tokenizer_decode(g->t, ids.ids, ids.count, keep, &out);
    bool ok = same_text(g, member, &out, want);
    ok = ok && same_stream(g, &ids, keep, want);
    token_list_deinit(&ids);
    buf_deinit(&out);
    free(text);
    return ok;
}

static bool run_case(const struct golden *g)
{
    struct str text;
    unsigned special = g->is_model ? 0 : TOKENIZER_SPECIAL;
    char *data = fixture_string(json_get(g->c, "text"), &text.len);
    text.data = data;
    bool ok = same_ids(g, "ids", text, special);
    ok = same_ids(g, "ids_special", text, special | TOKENIZER_ADD_BOS) && ok;
    ok = same_decoded(g, "decoded", !g->is_model) && ok;
    ok = same_decoded(g, "decoded_skip", false) && ok;
    free(data);
    return ok;
}

/* ---- runs ---- */

#define RUN_BYTES  (100 << 10)
#define RUN_MS_MAX 5000 // with sanitizers on a busy machine; a quadratic one takes minutes

/* Long runs of anything take a moment, and come back as they were. */
static void test_runs(const char *name, const struct tokenizer *t)
{
    static const char *const units[] = {
        "a", " ",  "7",   "\n", " \n", "\xf0\x9f\x98\x80", "a'", "aB", "\xcc\x81", "\xe4\xbd\xa0",
        "<", " a", "\t ", "!\n"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct token_list ids = {0};
        struct buf text, out;
        buf_init(&text, BUF_MAX_INTERNAL);
        buf_init(&out, BUF_MAX_INTERNAL);
        while (text.len < RUN_BYTES)
            buf_append_str(&text, units[i]);
        uint64_t start = clock_ms();
        EXPECT_INT(tokenizer_encode(t, text.data, text.len, 0, &ids, NULL), 0);
        tokenizer_decode(t, ids.ids, ids.count, true, &out);
        uint64_t took = clock_ms() - start;
        if (took > RUN_MS_MAX) printf("%s: '%s' takes %d ms\n", name, units[i], (int)took);
        EXPECT(took <= RUN_MS_MAX);
        bool stripped = *text.data == ' ' && out.len == text.len - 1; // as decoders do
        if (stripped) buf_consume(&text, 1);
        if (t->model != TOKENIZER_UNIGRAM) // whose normaliser takes spaces away
            EXPECT(str_equal(buf_str(&out), buf_str(&text)));
        token_list_deinit(&ids);
        buf_deinit(&text);
        buf_deinit(&out);
    }
}

/* ---- folders ---- */

static bool run_folder(const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "tokenizers/%s/cases.json", name);
    struct json *cases = fixture_json(path);
    struct tokenizer *t = cases ? fixture_tokenizer(name) : NULL;
    struct golden g = {.name = name, .t = t};
    int count = 0, wrong = 0;
    if (!t) {
        printf("skipped: tokenizers/%s isn't here, or xz isn't\n", name);
        json_destroy(cases);
        return false;
    }
    g.is_model = t->model == TOKENIZER_SPM || t->model == TOKENIZER_UNIGRAM;
    for (g.c = json_first(cases); g.c; g.c = json_next(g.c), count++)
        wrong += !run_case(&g);
    printf("%s: %d cases, %d wrong\n", name, count, wrong);
    EXPECT(count > 100);
    EXPECT_INT(wrong, 0);
    test_runs(name, t);
    tokenizer_destroy(t);
    json_destroy(cases);
    return true;
}

static void test_folders(void)
{
    char names[FOLDERS_MAX][64];
    int count = fixture_names("tokenizers", names, FOLDERS_MAX), ran = 0;
    for (int i = 0; i < count; i++)
        ran += run_folder(names[i]);
    EXPECT(ran >= 2); // those in the tree
}

int main(void)
{
    RUN(test_folders);
    return TEST_END();
}
