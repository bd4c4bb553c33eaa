/* SentencePiece BPE against SentencePiece itself: vocabularies straight from tokenizer.model. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_load.h"
#include "tests/golden/fixtures.h"

/* ---- as much of protobuf as the file needs ---- */

struct field {
    unsigned number;
    uint64_t value;   // varint, or the bits of a 32 bit field
    struct str bytes; // length-delimited
};

static uint64_t varint(struct str *s)
{
    uint64_t value = 0;
    for (int shift = 0; s->len && shift < 64; shift += 7) {
        unsigned char c = (unsigned char)*s->data++;
        s->len--;
        value |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) break;
    }
    return value;
}

static bool next_field(struct str *s, struct field *f)
{
    if (!s->len) return false;
    uint64_t tag = varint(s), len = 0;
    *f = (struct field){.number = (unsigned)(tag >> 3)};
    if ((tag & 7) == 0) {
        f->value = varint(s);
        return true;
    }
    len = (tag & 7) == 2 ? varint(s) : (tag & 7) == 5 ? 4 : 8;
    NEED(len <= s->len);
    f->bytes = (struct str){s->data, len};
    if (len == 4) memcpy(&f->value, s->data, 4);
    s->data += len;
    s->len -= len;
    return true;
}

/* ---- */

static void add_piece(struct tokenizer_builder *b, struct str piece)
{
    struct field f;
    struct str text = STR("");
    uint64_t kind = TOKEN_NORMAL;
    uint32_t bits = 0;
    float score;
    while (next_field(&piece, &f)) {
        if (f.number == 1) text = f.bytes;
        if (f.number == 2) bits = (uint32_t)f.value;
        if (f.number == 3) kind = f.value;
    }
    memcpy(&score, &bits, sizeof score);
    NEED(tokenizer_builder_token(b, text, (enum token_kind)kind, score, NULL) == 0);
}

static struct tokenizer *load(const char *file, size_t len, bool space_prefix)
{
    struct tokenizer_builder b;
    struct tokenizer *t;
    struct error err = {0};
    struct field f;
    uint32_t count = 0;
    for (struct str s = {file, len}; next_field(&s, &f);)
        count += f.number == 1;
    tokenizer_builder_init(&b, TOKENIZER_SPM, count, 0);
    for (struct str s = {file, len}; next_field(&s, &f);)
        if (f.number == 1) add_piece(&b, f.bytes);
    b.space_prefix = space_prefix;
    NEED(tokenizer_build(&b, &t, &err) == 0);
    tokenizer_builder_deinit(&b);
    return t;
}

static bool run_case(const struct tokenizer *t, const struct json *c)
{
    struct token_list got = {0};
    struct buf decoded;
    size_t len, decoded_len, i = 0;
    char *text = fixture_string(json_get(c, "text"), &len);
    char *want = fixture_string(json_get(c, "decoded"), &decoded_len);
    buf_init(&decoded, BUF_MAX_INTERNAL);
    bool ok = tokenizer_encode(t, text, len, 0, &got, NULL) == 0;
    const struct json *id = json_first(json_get(c, "ids"));
    for (; ok && id; id = json_next(id), i++)
        ok = i < got.count && got.ids[i] == (int32_t)json_number(id);
    ok = ok && i == got.count;
    if (!ok) printf("ids differ at %zu: '%.60s'\n", i, text);
    tokenizer_decode(t, got.ids, got.count, false, &decoded);
    if (ok && (decoded.len != decoded_len ||
               memcmp(decoded.data ? decoded.data : "", want, decoded_len))) {
        printf("decoded '%.60s', expected '%.60s'\n", decoded.data ? decoded.data : "", want);
        ok = false;
    }
    buf_deinit(&decoded);
    token_list_deinit(&got);
    free(text);
    free(want);
    return ok;
}

static void check(const char *name, bool space_prefix)
{
    char path[200];
    size_t len;
    snprintf(path, sizeof path, "tokenizers/%s/cases.json", name);
    struct json *cases = fixture_json(path);
    snprintf(path, sizeof path, "tokenizers/%s/tokenizer.model", name);
    char *file = fixture_read(fixture_path(path), &len);
    if (!cases || !file) {
        printf("skipped: tokenizers/%s isn't here\n", name);
        json_destroy(cases);
        free(file);
        return;
    }
    struct tokenizer *t = load(file, len, space_prefix);
    int count = 0, wrong = 0;
    for (const struct json *c = json_first(cases); c; c = json_next(c), count++)
        wrong += !run_case(t, c);
    printf("%s: %d cases, %d wrong\n", name, count, wrong);
    EXPECT(count > 100);
    EXPECT_INT(wrong, 0);
    tokenizer_destroy(t);
    json_destroy(cases);
    free(file);
}

static void test_prefix(void)
{
    check("spm_bpe", true);
}

static void test_no_prefix(void)
{
    check("spm_bpe_noprefix", false);
}

int main(void)
{
    RUN(test_prefix);
    RUN(test_no_prefix);
    return TEST_END();
}
