/* tokenizer.h - text to token ids and back. Immutable after load: any thread may use it. */
#ifndef LM_ENGINE_TOKENIZER_H
#define LM_ENGINE_TOKENIZER_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

struct gguf;
struct tokenizer; // opaque

struct token_list {
    int32_t *ids; // owned, malloc
    size_t count, cap;
};
void token_list_deinit(struct token_list *l); // and back to {0}
void token_list_push(struct token_list *l, int32_t id);

/* From a GGUF's tokenizer.ggml.* keys. E_UNSUPPORTED names a model or pre-tokenizer that we don't
 * have. */
FALLIBLE int tokenizer_load_gguf(const struct gguf *g, struct tokenizer **out, struct error *err);
void tokenizer_destroy(struct tokenizer *t); // NULL is fine

enum tokenizer_flags {
    TOKENIZER_SPECIAL = 1, // special tokens written in the text become their ids (chat templates)
    TOKENIZER_ADD_BOS = 2, // bos before (and eos behind) the text if the model's files say so
};

/* Append the ids of text[0..len) to *out. E_FORMAT: not valid UTF-8. Equal to the reference
 * tokenizer's ids. O(n log n) for any input. */
FALLIBLE int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                              unsigned flags, struct token_list *out, struct error *err);

/* Places of a text, ascending, at which no special token may begin: users wrote what stands there. */
struct token_guard {
    const size_t *at;
    size_t count;
};
/* The same but for those places, where the text of a special token is text. */
FALLIBLE int tokenizer_encode_guarded(const struct tokenizer *t, const char *text, size_t len,
                                      unsigned flags, const struct token_guard *guard,
                                      struct token_list *out, struct error *err);
/* The next place at or behind `from` where the text of a special token begins; SIZE_MAX: none. */
size_t tokenizer_next_special(const struct tokenizer *t, struct str text, size_t from);

/* The bytes that a token stands for, into the tokenizer's own memory; special (control) tokens give
 * their text when keep_special, else nothing. May be part of a UTF-8 character. */
struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special);
/* Whole decoding: bytes of all ids, then invalid UTF-8 replaced by U+FFFD as the reference does. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
                      bool keep_special, struct buf *out);

int tokenizer_vocab_size(const struct tokenizer *t);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* True for every id that ends a generation: eos, eot, eom as the model's files declare them. */
bool tokenizer_is_stop(const struct tokenizer *t, int32_t id);
/* One more of them, while the tokenizer isn't shared yet. False: too many. */
bool tokenizer_add_stop(struct tokenizer *t, int32_t id);
bool tokenizer_adds_bos(const struct tokenizer *t); // with TOKENIZER_ADD_BOS
int32_t tokenizer_bos(const struct tokenizer *t);   // -1: none
int32_t tokenizer_eos(const struct tokenizer *t);   // -1: none
int32_t tokenizer_find(const struct tokenizer *t,
                       struct str piece); // exact special or vocabulary text; -1

#endif
