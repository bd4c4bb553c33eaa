/* tokenizer_use.h - what a loaded tokenizer must stand, whatever file it came from; for fuzz_*.c. */
#ifndef LM_FUZZ_TOKENIZER_USE_H
#define LM_FUZZ_TOKENIZER_USE_H

#include "engine/tokenizer.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

/* Any text encodes to ids of the vocabulary, and any ids decode to valid UTF-8. */
static inline void tokenizer_use_text(const struct tokenizer *t, struct str text, unsigned flags)
{
    struct token_list ids = {0};
    struct error err = {0};
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    if (tokenizer_encode(t, text.data, text.len, flags, &ids, &err) == 0) {
        for (size_t i = 0; i < ids.count; i++)
            CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocab_size(t));
        tokenizer_decode(t, ids.ids, ids.count, flags != 0, &out);
        CHECK(utf8_is_valid(out.data, out.len));
    } else {
        CHECK(err.code < 0 && err.text[0] && !ids.count);
    }
    buf_deinit(&out);
    token_list_deinit(&ids);
}

/* What servers ask a tokenizer of: special tokens in a text, tokens by their text, ends. */
static inline void tokenizer_use_tokens(const struct tokenizer *t, struct str text)
{
    int32_t size = tokenizer_vocab_size(t);
    for (size_t at = 0; (at = tokenizer_next_special(t, text, at)) != SIZE_MAX; at++)
        CHECK(at < text.len);
    CHECK(tokenizer_bos(t) >= -1 && tokenizer_bos(t) < size);
    CHECK(tokenizer_eos(t) >= -1 && tokenizer_eos(t) < size);
    for (int32_t id = 0; id < size && id < 300; id++) {
        struct str token = tokenizer_token_bytes(t, id, true);
        int32_t found = tokenizer_find(t, token);
        CHECK(found >= -1 && found < size);
        CHECK(tokenizer_is_special(t, id) || str_equal(token, tokenizer_token_bytes(t, id, false)));
        (void)tokenizer_is_stop(t, id);
    }
}

/* Takes the tokenizer or the error of a loader, and frees. */
static inline void tokenizer_use(int rc, struct tokenizer *t, const struct error *err,
                                 const uint8_t *data, size_t size)
{
    static const char *const texts[] = {"",
                                        " ",
                                        "a b  c",
                                        "<s>a</s> b",
                                        "1234\r\n\n 'S",
                                        "\xe2\x96\x81x \xe4\xbd\xa0\xf0\x9f\x98\x80 e\xcc\x81"};
    if (rc) {
        CHECK(rc == E_FORMAT || rc == E_UNSUPPORTED || rc == E_LIMIT);
        CHECK(err->code == rc && err->text[0]);
        return;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tokenizer_use_text(t, str_of(texts[i]), 0);
        tokenizer_use_text(t, str_of(texts[i]), TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS);
    }
    struct str own = {(const char *)data, size < 512 ? size : 512};
    own.len = utf8_valid_prefix(own.data, own.len);
    tokenizer_use_text(t, own, TOKENIZER_SPECIAL);
    tokenizer_use_tokens(t, own);
    tokenizer_destroy(t);
}

#endif
