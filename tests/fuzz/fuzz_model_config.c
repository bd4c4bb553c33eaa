/* A config.json from anywhere, read as a model's configuration and as generation_config.json. What
 * is accepted is within the bounds that model_config.h and engine.h promise, and rotates by numbers. */
#include "engine/generation_config.h"
#include "engine/model_config.h"
#include "shared/base/arena.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static void check_rope(const struct rope_source *rope, int positions)
{
    float inv_freq[MODEL_HEAD_DIM_MAX / 2];
    float scale = rope_build(rope, positions, inv_freq);
    CHECK(isfinite(scale) && scale > 0);
    for (int i = 0; i < rope->dims / 2; i++)
        CHECK(isfinite(inv_freq[i]) && inv_freq[i] >= 0);
}

static void check_config(const struct model_config *c)
{
    CHECK(c->layers >= 1 && c->layers <= MODEL_LAYERS_MAX && c->names);
    CHECK(c->hidden >= 1 && c->hidden <= MODEL_WIDTH_MAX && c->ffn >= 1);
    CHECK(c->heads >= 1 && c->kv_heads >= 1 && c->heads % c->kv_heads == 0);
    CHECK(c->vocab >= 1 && c->vocab <= MODEL_VOCAB_MAX);
    CHECK(isfinite(c->attention_scale) && isfinite(c->logit_scale));
    CHECK(c->rope_count >= 1 && c->rope_count <= ROPE_TABLES_MAX);
    for (int i = 0; i < c->rope_count; i++) {
        check_rope(&c->rope[i], 1);
        check_rope(&c->rope[i], c->context_len);
    }
    for (int i = 0; i < c->layers; i++) {
        const struct layer_config *l = &c->layer[i];
        CHECK(l->window >= 0);
        CHECK(l->rope_table == ROPE_NONE || (l->rope_table >= 0 && l->rope_table < c->rope_count));
        CHECK(!l->experts || c->experts.experts >= 1);
    }
}

static void read_config(const struct json *root)
{
    static struct model_config config; // 12 kB of layers
    struct error err = {0};
    struct arena arena;
    arena_init(&arena);
    int rc = model_config_from_json(root, &arena, &config, &err);
    CHECK(rc == 0 || rc == E_FORMAT || rc == E_UNSUPPORTED);
    if (rc == 0)
        check_config(&config);
    else
        CHECK(err.code == rc && err.text[0]);
    arena_deinit(&arena);
}

static void read_sampling(const struct json *root)
{
    struct sampling_params s;
    struct error err = {0};
    generation_config_init(&s);
    int rc = generation_config_from_json(root, &s, &err);
    CHECK(rc == 0 || (rc == E_FORMAT && err.code == rc && err.text[0]));
    if (rc) return;
    CHECK(s.temperature >= 0 && s.temperature <= 2 && s.top_p > 0 && s.top_p <= 1);
    CHECK(s.min_p >= 0 && s.min_p <= 1 && s.top_k >= 0 && s.repetition_penalty >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json *root = json_parse((const char *)data, size, NULL);
    if (!root) return 0;
    read_config(root);
    read_sampling(root);
    json_destroy(root);
    return 0;
}
