/* model_config_rope.h - the rotary part of a config.json. */
#ifndef LM_ENGINE_MODEL_CONFIG_ROPE_H
#define LM_ENGINE_MODEL_CONFIG_ROPE_H

#include "engine/config_reader.h"
#include "engine/model_config.h"
#include "shared/base/arena.h"

/* Fills c->rope and c->rope_count. Two tables where windowed layers have one of their own: then
 * rope[0] is of the layers that attend to everything, rope[1] of the others. */
FALLIBLE int model_config_read_rope(const struct json *root, struct arena *arena,
                                    struct model_config *c, struct error *err);

#endif
