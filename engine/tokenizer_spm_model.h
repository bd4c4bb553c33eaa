/* tokenizer_spm_model.h - SentencePiece's own tokenizer.model (sentencepiece_model.proto): BPE and
 * unigram models with byte fallback, their normaliser's rules and user-defined symbols. */
#ifndef LM_ENGINE_TOKENIZER_SPM_MODEL_H
#define LM_ENGINE_TOKENIZER_SPM_MODEL_H

#include "engine/tokenizer_load.h"

/* data: of the file, kept by the caller until return. settings may be NULL; then bos is added and
 * eos isn't. E_FORMAT, E_UNSUPPORTED, E_LIMIT. */
FALLIBLE int tokenizer_load_spm_model(struct str data, const struct tokenizer_settings *settings,
                                      struct tokenizer **out, struct error *err);

#endif
