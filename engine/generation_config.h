/* generation_config.h - how a model's authors want tokens drawn: generation_config.json of a Hugging Face
 * folder. Of it counts what requests could say, too: temperature, top_p, top_k, min_p and
 * repetition_penalty; `do_sample` doesn't, as in other servers. What ends a generation is the
 * tokenizer's (tokenizer_folder.h). */
#ifndef LM_ENGINE_GENERATION_CONFIG_H
#define LM_ENGINE_GENERATION_CONFIG_H

#include "engine/engine.h"

struct json;

/* Nothing but temperature 1 and top_p 1: OpenAI's defaults. */
void generation_config_init(struct sampling_params *s);
/* What the file's object says replaces what *s has. E_FORMAT: the key is named. */
FALLIBLE int generation_config_from_json(const struct json *root, struct sampling_params *s,
                                         struct error *err);
/* The same for a folder's file; 0 as well where there is none. */
FALLIBLE int generation_config_read(const char *folder, struct sampling_params *s,
                                    struct error *err);

#endif
