/* tokenizer_json.h - Hugging Face's tokenizer.json (tokenizers 0.23): BPE models, byte-level or over
 * characters, with their normalizers, pre-tokenizers, post-processors, decoders and added tokens.
 * What it asks for by a name that we don't have is refused with that name: ids must be equal or not
 * be at all. */
#ifndef LM_ENGINE_TOKENIZER_JSON_H
#define LM_ENGINE_TOKENIZER_JSON_H

#include "engine/tokenizer_load.h"

/* text: of the file, kept by the caller until return. settings may be NULL. E_FORMAT, E_UNSUPPORTED,
 * E_LIMIT, with the key. */
FALLIBLE int tokenizer_load_json(struct str text, const struct tokenizer_settings *settings,
                                 struct tokenizer **out, struct error *err);

#endif
