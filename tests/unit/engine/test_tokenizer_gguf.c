/* Tokenizers out of GGUF files written here, good ones and bad ones. */
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "shared/base/buf.h"
#include "tests/test.h"

#include <unistd.h>

/* ---- a writer of what the reader needs ---- */

enum { GGUF_INT32 = 5, GGUF_FLOAT32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

struct writer {
    struct buf keys;
    uint64_t count;
};

static void put(struct writer *w, const void *value, size_t size)
{
    buf_append(&w->keys, value, size);
}

static void put_u32(struct writer *w, uint32_t v)
{
    put(w, &v, 4);
}

static void put_text(struct writer *w, const char *text)
{
    uint64_t len = strlen(text);
    put(w, &len, 8);
    put(w, text, len);
}

static void key(struct writer *w, const char *name, uint32_t type)
{
    char full[100];
    snprintf(full, sizeof full, "tokenizer.ggml.%s", name);
    put_text(w, full);
    put_u32(w, type);
    w->count++;
}

static void key_text(struct writer *w, const char *name, const char *value)
{
    key(w, name, GGUF_STRING);
    put_text(w, value);
}

static void key_int(struct writer *w, const char *name, int value)
{
    key(w, name, GGUF_INT32);
    put_u32(w, (uint32_t)value);
}

static void key_bool(struct writer *w, const char *name, bool value)
{
    char byte = value;
    key(w, name, GGUF_BOOL);
    put(w, &byte, 1);
}

static void key_array(struct writer *w, const char *name, uint32_t type, uint64_t count)
{
    key(w, name, GGUF_ARRAY);
    put_u32(w, type);
    put(w, &count, 8);
}

static void key_texts(struct writer *w, const char *name, const char *const *texts)
{
    uint64_t count = 0;
    while (texts[count])
        count++;
    key_array(w, name, GGUF_STRING, count);
    for (uint64_t i = 0; i < count; i++)
        put_text(w, texts[i]);
}

static void key_ints(struct writer *w, const char *name, const int *values, uint64_t count)
{
    key_array(w, name, GGUF_INT32, count);
    for (uint64_t i = 0; i < count; i++)
        put_u32(w, (uint32_t)values[i]);
}

/* Writes the file, loads it, removes it. */
static int load(struct writer *w, struct tokenizer **t, struct error *err)
{
    char path[] = "/tmp/test_tokenizer_gguf_XXXXXX";
    uint64_t tensors = 0;
    struct gguf *g = NULL;
    int fd = mkstemp(path);
    NEED(fd >= 0);
    FILE *f = fdopen(fd, "wb");
    NEED(f);
    fwrite("GGUF\3\0\0\0", 1, 8, f);
    fwrite(&tensors, 8, 1, f);
    fwrite(&w->count, 8, 1, f);
    if (w->keys.len) fwrite(w->keys.data, 1, w->keys.len, f);
    NEED(fclose(f) == 0);
    int rc = gguf_open(path, &g, err);
    if (rc) printf("%s\n", err->text);
    NEED(rc == 0);
    rc = tokenizer_load_gguf(g, t, err);
    gguf_close(g);
    unlink(path);
    buf_deinit(&w->keys);
    return rc;
}

static struct writer begin(void)
{
    struct writer w = {.count = 0};
    buf_init(&w.keys, 1 << 20);
    return w;
}

static void expect_error(struct writer *w, int code, const char *text)
{
    struct tokenizer *t;
    struct error err = {0};
    EXPECT_INT(load(w, &t, &err), code);
    EXPECT_STR(err.text, text);
}

/* ---- */

static const char *const tokens[] = {"a", "b", "ab", "<|im_end|>", NULL};
static const char *const merges[] = {"a b", NULL};
static const int kinds[] = {1, 1, 1, 3};

static struct writer good(const char *pre)
{
    struct writer w = begin();
    key_text(&w, "model", "gpt2");
    key_text(&w, "pre", pre);
    key_texts(&w, "tokens", tokens);
    key_texts(&w, "merges", merges);
    return w;
}

static void test_byte_level(void)
{
    struct writer w = good("gpt-2");
    struct tokenizer *t;
    struct token_list ids = {0};
    struct error err = {0};
    key_ints(&w, "token_type", kinds, 4);
    key_int(&w, "eos_token_id", 3);
    key_int(&w, "bos_token_id", 0);
    key_bool(&w, "add_bos_token", true);
    key_bool(&w, "add_eos_token", true);
    NEED(load(&w, &t, &err) == 0); // the file is closed and gone by now
    EXPECT_INT(
        tokenizer_encode(t, "ab<|im_end|>", 12, TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS, &ids, &err),
        0);
    EXPECT(ids.count == 4 && ids.ids[0] == 0 && ids.ids[1] == 2 && ids.ids[2] == 3 &&
           ids.ids[3] == 3);
    EXPECT(tokenizer_is_stop(t, 3));
    token_list_deinit(&ids);
    tokenizer_destroy(t);
}

static void test_sentencepiece(void)
{
    static const char *const pieces[] = {"<unk>", "<s>",           "<0x41>", "\xe2\x96\x81",
                                         "x",     "\xe2\x96\x81x", NULL};
    static const int types[] = {2, 3, 6, 1, 1, 1};
    static const float scores[] = {0, 0, 0, -3, -2, -1};
    struct writer w = begin();
    struct tokenizer *t;
    struct token_list ids = {0};
    struct error err = {0};
    struct buf out;
    key_text(&w, "model", "llama");
    key_texts(&w, "tokens", pieces);
    key_ints(&w, "token_type", types, 6);
    key_array(&w, "scores", GGUF_FLOAT32, 6);
    put(&w, scores, sizeof scores);
    key_int(&w, "bos_token_id", 1);
    NEED(load(&w, &t, &err) == 0);
    EXPECT_INT(
        tokenizer_encode(t, "xA x<s>x", 8, TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS, &ids, &err), 0);
    static const int32_t want[] = {1, 5, 2, 5, 1, 5}; // <s> _x A _x <s> _x
    EXPECT(ids.count == 6 && !memcmp(ids.ids, want, sizeof want));
    buf_init(&out, 100);
    tokenizer_decode(t, ids.ids, ids.count, false, &out);
    EXPECT_STR(out.data, "xA x x"); // the first space goes, those in the middle don't
    struct str piece = tokenizer_token_bytes(t, 5, false);
    EXPECT(str_equal(piece, STR(" x")));
    buf_deinit(&out);
    token_list_deinit(&ids);
    tokenizer_destroy(t);
}

static void test_refusals(void)
{
    struct writer w = begin();
    expect_error(&w, E_FORMAT, "the file has no tokenizer ('tokenizer.ggml.model')");

    w = begin();
    key_text(&w, "model", "wordpiece");
    expect_error(&w, E_UNSUPPORTED, "tokenizer model 'wordpiece' is not supported");

    w = begin();
    key_text(&w, "model", "gpt2");
    expect_error(&w, E_FORMAT, "the file has no vocabulary ('tokenizer.ggml.tokens')");

    w = good("deepseek-v99");
    expect_error(&w, E_UNSUPPORTED, "pre-tokenizer 'deepseek-v99' is not supported");

    w = begin();
    key_text(&w, "model", "gpt2");
    key_texts(&w, "tokens", tokens);
    expect_error(&w, E_FORMAT, "a byte-level vocabulary needs 'tokenizer.ggml.merges'");
    w = begin();
    key_text(&w, "model", "gpt2");
    key_texts(&w, "tokens", tokens);
    key_texts(&w, "merges", merges);
    expect_error(&w, E_UNSUPPORTED,
                 "the file doesn't name its pre-tokenizer ('tokenizer.ggml.pre')");

    w = begin();
    key_text(&w, "model", "llama");
    key_texts(&w, "tokens", tokens);
    expect_error(&w, E_FORMAT, "a SentencePiece vocabulary needs 'tokenizer.ggml.scores'");
}

static void test_damage(void)
{
    static const char *const no_space[] = {"ab", NULL}, *const unknown[] = {"a z", NULL};
    static const int wild[] = {1, 1, 1, 77};
    struct writer w = good("gpt-2");
    key_ints(&w, "token_type", kinds, 3);
    expect_error(&w, E_FORMAT, "'tokenizer.ggml.token_type' has 3 entries for 4 tokens");

    w = good("gpt-2");
    key_ints(&w, "token_type", wild, 4);
    expect_error(&w, E_FORMAT, "token 3 has unknown type 77");

    w = good("gpt-2");
    key_int(&w, "eos_token_id", 4);
    expect_error(&w, E_FORMAT, "'tokenizer.ggml.eos_token_id' is 4, the vocabulary has 4 tokens");

    w = good("gpt-2");
    key_int(&w, "bos_token_id", -1);
    expect_error(&w, E_FORMAT, "'tokenizer.ggml.bos_token_id' is -1, the vocabulary has 4 tokens");

    w = begin();
    key_text(&w, "model", "gpt2");
    key_text(&w, "pre", "gpt-2");
    key_texts(&w, "tokens", tokens);
    key_texts(&w, "merges", no_space);
    expect_error(&w, E_FORMAT, "merge 0 isn't two pieces and a space");

    w = begin();
    key_text(&w, "model", "gpt2");
    key_text(&w, "pre", "gpt-2");
    key_texts(&w, "tokens", tokens);
    key_texts(&w, "merges", unknown);
    expect_error(&w, E_FORMAT, "merge 0 ('a' with 'z') has a part that isn't in the vocabulary");
}

int main(void)
{
    RUN(test_byte_level);
    RUN(test_sentencepiece);
    RUN(test_refusals);
    RUN(test_damage);
    return TEST_END();
}
