/* tokenizer_json_parts.h - the small parts of a tokenizer.json into a builder; for tokenizer_json.c.
 * Each part is {"type": NAME, ...} or null, and Sequence is a list of parts of the same kind. */
#ifndef LM_ENGINE_TOKENIZER_JSON_PARTS_H
#define LM_ENGINE_TOKENIZER_JSON_PARTS_H

#include "engine/tokenizer_load.h"

#define JSON_REPLACEMENTS_MAX 4

struct tokenizer_json_parts { // documents, borrowed; NULL: the file doesn't have it
    const struct json *normalizer, *pre_tokenizer, *post_processor, *decoder, *added_tokens;
    bool byte_level;                                           // out: the pre-tokenizer maps bytes
    struct tokenizer_replacement shown[JSON_REPLACEMENTS_MAX]; // out: for the builder
    int shown_count;
};

/* Before tokenizer_builder_init: what decides the model. */
FALLIBLE int tokenizer_json_pre(struct tokenizer_json_parts *parts, struct pretokenizer **out,
                                struct error *err);
/* The others, into an initialised builder. */
FALLIBLE int tokenizer_json_rest(struct tokenizer_json_parts *parts, struct tokenizer_builder *b,
                                 struct error *err);

/* Member as a text; false: absent or not a string. */
bool tokenizer_json_text(const struct json *v, const char *name, struct str *out);
bool tokenizer_json_flag(const struct json *v, const char *name);

#endif
