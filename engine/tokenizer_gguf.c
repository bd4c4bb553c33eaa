/* tokenizer_gguf.c - the tokenizer that a GGUF file carries in its tokenizer.ggml.* keys. */
#include "engine/gguf.h"
#include "engine/tokenizer_load.h"

#include "shared/base/check.h"

#include <stdlib.h>

#define KEY "tokenizer.ggml."

static int read_tokens(struct tokenizer_builder *b, const struct gguf *g, size_t count,
                       struct error *err)
{
    size_t len;
    bool typed = gguf_array_len(g, KEY "token_type", &len);
    if (typed && len != count)
        return error_set(err, E_FORMAT, "'%s' has %zu entries for %zu tokens", KEY "token_type",
                         len, count);
    bool scored = gguf_array_len(g, KEY "scores", &len);
    if (scored && len != count)
        return error_set(err, E_FORMAT, "'%s' has %zu entries for %zu tokens", KEY "scores", len,
                         count);
    if (!scored && b->model == TOKENIZER_SPM)
        return error_set(err, E_FORMAT, "a SentencePiece vocabulary needs '%s'", KEY "scores");
    for (size_t i = 0; i < count; i++) {
        struct str text;
        int64_t kind = TOKEN_NORMAL;
        double score = 0;
        if (!gguf_array_str(g, KEY "tokens", i, &text))
            return error_set(err, E_FORMAT, "'%s' isn't an array of strings", KEY "tokens");
        if (typed && !gguf_array_int(g, KEY "token_type", i, &kind))
            return error_set(err, E_FORMAT, "'%s' isn't an array of integers", KEY "token_type");
        if (scored && !gguf_array_float(g, KEY "scores", i, &score))
            return error_set(err, E_FORMAT, "'%s' isn't an array of numbers", KEY "scores");
        if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE)
            return error_set(err, E_FORMAT, "token %zu has unknown type %lld", i, (long long)kind);
        int rc = tokenizer_builder_token(b, text, (enum token_kind)kind, (float)score, err);
        if (rc) return rc;
    }
    return 0;
}

/* "left right", split at the first space: the letters of a byte-level vocabulary contain none. */
static int read_merges(struct tokenizer_builder *b, const struct gguf *g, size_t count,
                       struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct str merge, left;
        if (!gguf_array_str(g, KEY "merges", i, &merge))
            return error_set(err, E_FORMAT, "'%s' isn't an array of strings", KEY "merges");
        if (!str_split(&merge, ' ', &left) || !left.len || !merge.len)
            return error_set(err, E_FORMAT, "merge %zu isn't two pieces and a space", i);
        tokenizer_builder_merge(b, left, merge);
    }
    return 0;
}

static int read_id(const struct gguf *g, const char *key, size_t count, int32_t *id,
                   struct error *err)
{
    int64_t value;
    if (!gguf_get_int(g, key, &value)) return 0;
    if (value < 0 || (uint64_t)value >= count)
        return error_set(err, E_FORMAT, "'%s' is %lld, the vocabulary has %zu tokens", key,
                         (long long)value, count);
    *id = (int32_t)value;
    return 0;
}

static int read_ids(struct tokenizer_builder *b, const struct gguf *g, size_t count,
                    struct error *err)
{
    int rc = read_id(g, KEY "bos_token_id", count, &b->bos, err);
    if (!rc) rc = read_id(g, KEY "eos_token_id", count, &b->eos, err);
    if (!rc) rc = read_id(g, KEY "eot_token_id", count, &b->eot, err);
    if (!rc) rc = read_id(g, KEY "eom_token_id", count, &b->eom, err);
    return rc;
}

/* Settings that depend on the kind of vocabulary and may be overridden by keys. */
static int read_settings(struct tokenizer_builder *b, const struct gguf *g, struct error *err)
{
    if (b->model == TOKENIZER_SPM) {
        b->space_prefix = b->add_bos = true;
    } else {
        struct str name;
        if (!gguf_get_str(g, KEY "pre", &name))
            return error_set(err, E_UNSUPPORTED, "the file doesn't name its pre-tokenizer ('%s')",
                             KEY "pre");
        const struct pretokenizer_preset *preset = pretokenizer_preset_find(name);
        if (!preset)
            return error_set(err, E_UNSUPPORTED, "pre-tokenizer '%.*s' is not supported",
                             (int)(name.len < 64 ? name.len : 64), name.data);
        b->patterns = preset->patterns;
        b->ignore_merges = preset->ignore_merges;
        b->add_bos = preset->add_bos;
    }
    (void)gguf_get_bool(g, KEY "add_bos_token", &b->add_bos);
    (void)gguf_get_bool(g, KEY "add_eos_token", &b->add_eos);
    (void)gguf_get_bool(g, KEY "add_space_prefix", &b->space_prefix);
    if (b->space_prefix) b->strip = STRIP_SPACE;
    return 0;
}

int tokenizer_load_gguf(const struct gguf *g, struct tokenizer **out, struct error *err)
{
    enum tokenizer_model model;
    struct str name;
    size_t count, merge_count = 0;
    if (!gguf_get_str(g, KEY "model", &name))
        return error_set(err, E_FORMAT, "the file has no tokenizer ('%s')", KEY "model");
    if (str_equal(name, STR("gpt2")))
        model = TOKENIZER_BYTE_BPE;
    else if (str_equal(name, STR("llama")))
        model = TOKENIZER_SPM;
    else
        return error_set(err, E_UNSUPPORTED, "tokenizer model '%.*s' is not supported",
                         (int)(name.len < 64 ? name.len : 64), name.data);
    if (!gguf_array_len(g, KEY "tokens", &count) || !count)
        return error_set(err, E_FORMAT, "the file has no vocabulary ('%s')", KEY "tokens");
    if (count > TOKENIZER_VOCAB_MAX)
        return error_set(err, E_LIMIT, "a vocabulary of %zu tokens is too large", count);
    if (model == TOKENIZER_BYTE_BPE && !gguf_array_len(g, KEY "merges", &merge_count))
        return error_set(err, E_FORMAT, "a byte-level vocabulary needs '%s'", KEY "merges");
    if (merge_count > TOKENIZER_VOCAB_MAX)
        return error_set(err, E_LIMIT, "%zu merges are too many", merge_count);

    struct tokenizer_builder b;
    tokenizer_builder_init(&b, model, (uint32_t)count, merge_count);
    int rc = read_settings(&b, g, err);
    if (!rc) rc = read_ids(&b, g, count, err);
    if (!rc) rc = read_tokens(&b, g, count, err);
    if (!rc) rc = read_merges(&b, g, merge_count, err);
    if (!rc) rc = tokenizer_build(&b, out, err);
    tokenizer_builder_deinit(&b);
    return rc;
}
