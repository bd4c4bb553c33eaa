/* weights_hf.h - the loader of Hugging Face folders behind weights_open(). */
#ifndef LM_ENGINE_WEIGHTS_HF_H
#define LM_ENGINE_WEIGHTS_HF_H

#include "engine/weights.h"
#include "shared/base/str.h"

struct safetensors;

/* A folder with config.json and safetensors. Every tensor that the model needs is there, of a type
 * that we read and of the shape that the configuration says, or it is an error; so is one that the
 * model doesn't need. */
FALLIBLE int weights_hf_open(const char *folder, const struct weights_options *options,
                             struct weights **out, struct error *err);

/* The same from a configuration in memory. Takes s, also on failure; `folder` is copied. */
FALLIBLE int weights_hf_take(struct safetensors *s, struct str config, const char *folder,
                             const struct weights_options *options, struct weights **out,
                             struct error *err);

#endif
