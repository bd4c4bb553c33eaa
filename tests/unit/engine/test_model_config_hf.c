/* What keys of config.json mean for layers, rope tables and experts, beyond what the fixtures' models
 * use; answers are read off transformers' configuration_*.py. */
#include "engine/model_config.h"

#include "engine/tensor_names.h"
#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/test.h"

#include <math.h>

static struct arena arena;

/* Eight layers of Llama's shape; `more` is ", \"key\": value ...". */
static int read_config(const char *architecture, const char *more, struct model_config *c,
                       struct error *err)
{
    struct buf text;
    buf_init(&text, 1 << 16);
    buf_printf(&text,
               "{\"architectures\": [\"%sForCausalLM\"], \"hidden_size\": 64, "
               "\"intermediate_size\": 160, \"num_hidden_layers\": 8, \"num_attention_heads\": 4, "
               "\"vocab_size\": 512, \"max_position_embeddings\": 512%s}",
               architecture, more);
    struct json *root = json_parse(text.data, text.len, err);
    int rc = root ? model_config_from_json(root, &arena, c, err) : E_FORMAT;
    json_destroy(root);
    buf_deinit(&text);
    return rc;
}

/* A letter or more for each layer: w window, r second rope table, n no rotation, e experts, - none. */
static const char *describe(const struct model_config *c)
{
    static char text[64];
    size_t at = 0;
    for (int i = 0; i < c->layers; i++) {
        const struct layer_config *l = &c->layer[i];
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s%s%s%s%s", i ? " " : "",
                               l->window ? "w" : "", l->rope_table == 1 ? "r" : "",
                               l->rope_table == ROPE_NONE ? "n" : "", l->experts ? "e" : "",
                               !l->window && l->rope_table == 0 && !l->experts ? "-" : "");
    }
    return text;
}

#define LAYER_TYPES                                                                       \
    ", \"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\", " \
    "\"full_attention\", \"full_attention\", \"full_attention\", \"full_attention\", "    \
    "\"full_attention\"]"
#define MOE ", \"num_experts\": 4, \"num_experts_per_tok\": 2"

static void test_layers(void)
{
    static const struct {
        const char *architecture, *more, *layers;
    } cases[] = {
        {"Llama", ", \"sliding_window\": 16", "- - - - - - - -"},
        {"Mistral", ", \"sliding_window\": 16", "w w w w w w w w"},
        {"Mistral", ", \"sliding_window\": null", "- - - - - - - -"},
        {"Mistral", ", \"sliding_window\": 16" LAYER_TYPES, "- w - - - - - -"},
        {"Qwen2", ", \"sliding_window\": 16, \"use_sliding_window\": false", "- - - - - - - -"},
        {"Qwen2", ", \"sliding_window\": 16", "- - - - - - - -"},
        {"Qwen2",
         ", \"sliding_window\": 16, \"use_sliding_window\": true, \"max_window_layers\": 6",
         "- - - - - - w w"},
        {"Qwen3", ", \"sliding_window\": 16, \"use_sliding_window\": false" LAYER_TYPES,
         "- - - - - - - -"},
        {"Gemma2", ", \"sliding_window\": 16", "w - w - w - w -"},
        {"Gemma3", ", \"sliding_window\": 16, \"rope_local_base_freq\": 10000",
         "wr wr wr wr wr - wr wr"},
        {"Gemma3",
         ", \"sliding_window\": 16, \"rope_local_base_freq\": 10000, \"sliding_window_pattern\": 2",
         "wr - wr - wr - wr -"},
        {"SmolLM3", "", "- - - n - - - n"},
        {"SmolLM3", ", \"no_rope_layer_interval\": 3", "- - n - - n - -"},
        {"SmolLM3", ", \"no_rope_layers\": [0, 1, 1, 1, 1, 1, 1, 0]", "n - - - - - - n"},
        {"GptOss", ", \"sliding_window\": 16, \"num_local_experts\": 4, \"num_experts_per_tok\": 2",
         "we e we e we e we e"},
        {"Mixtral", ", \"num_local_experts\": 4, \"num_experts_per_tok\": 2", "e e e e e e e e"},
        {"Qwen3Moe", MOE, "e e e e e e e e"},
        {"Qwen3Moe", MOE ", \"decoder_sparse_step\": 2, \"mlp_only_layers\": [3]",
         "- e - - - e - e"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct model_config c;
        struct error err = {0};
        int rc = read_config(cases[i].architecture, cases[i].more, &c, &err);
        if (rc < 0) printf("case %zu: %s\n", i, err.text);
        EXPECT_INT(rc, 0);
        if (rc == 0) EXPECT_STR(describe(&c), cases[i].layers);
    }
}

static void test_defaults(void)
{
    struct model_config c;
    struct error err = {0};
    NEED(read_config("Llama", "", &c, &err) == 0);
    EXPECT(c.kv_heads == 4 && c.head_dim == 16 && c.rope_count == 1 && c.rope[0].dims == 16);
    EXPECT(c.rope[0].base == 10000 && c.rope[0].scaling == ROPE_SCALING_NONE);
    EXPECT(c.head == HEAD_TIED_IF_ABSENT && !c.qkv_bias);
    EXPECT(fabsf(c.attention_scale - 0.25f) < 1e-7f);
    NEED(read_config("Llama", ", \"tie_word_embeddings\": false, \"attention_bias\": true", &c,
                     &err) == 0);
    EXPECT(c.head == HEAD_OWN && c.qkv_bias);
    NEED(read_config("Gemma2", "", &c, &err) == 0);
    EXPECT(c.head == HEAD_TIED && c.embedding_scale == 8 && c.activation == FFN_GELU_TANH);
    NEED(read_config("InternLM3", ", \"head_dim\": 32, \"qkv_bias\": true, \"bias\": false", &c,
                     &err) == 0);
    EXPECT(c.names == &tensor_names_llama && c.head_dim == 32 && c.qkv_bias);
    NEED(read_config("Qwen2Moe", MOE ", \"shared_expert_intermediate_size\": 80", &c, &err) == 0);
    EXPECT(c.experts.shared_ffn == 80 && c.experts.ffn == 160 && !c.experts.normalise);
}

static void test_rope_tables(void)
{
    struct model_config c;
    struct error err = {0};
    float table[8], plain[8];
    NEED(read_config("Llama", "", &c, &err) == 0);
    EXPECT(rope_build(&c.rope[0], 512, plain) == 1);
    EXPECT(plain[0] == 1 && fabsf(plain[4] - 0.01f) < 1e-8f);

    /* "type" is the older "rope_type"; beyond max_position_embeddings the base grows. */
    NEED(read_config("InternLM2", ", \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}",
                     &c, &err) == 0);
    rope_build(&c.rope[0], 512, table);
    EXPECT(memcmp(table, plain, sizeof table) == 0);
    rope_build(&c.rope[0], 1024, table);
    EXPECT(table[0] == 1 && table[7] < plain[7]);
    double base = 10000 * pow(2.0 * 1024 / 512 - 1, 16.0 / 14);
    EXPECT(fabs((double)table[7] / pow(base, -14.0 / 16) - 1) < 1e-6);

    NEED(read_config("Llama",
                     ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
                     "\"original_max_position_embeddings\": 128, \"mscale\": 1.0, "
                     "\"mscale_all_dim\": 1.0}",
                     &c, &err) == 0);
    EXPECT(rope_build(&c.rope[0], 512, table) == 1); // DeepSeek's quotient
    EXPECT(table[0] == plain[0] && fabsf(table[7] - plain[7] / 4) < 1e-9f);
}

static void test_refusals(void)
{
    static const struct {
        const char *architecture, *more, *words;
        int code;
    } cases[] = {
        {"Mamba", "", "'MambaForCausalLM' is not supported", E_UNSUPPORTED},
        {"Llama", ", \"num_key_value_heads\": 3", "4 attention heads can't share 3", E_FORMAT},
        {"Llama", ", \"head_dim\": 7", "7", E_FORMAT},
        {"Llama", ", \"rope_theta\": 0", "'rope_theta' is not a number from", E_FORMAT},
        {"Llama", ", \"rope_theta\": \"x\"", "'rope_theta' is not a number from", E_FORMAT},
        {"Llama", ", \"rope_scaling\": {\"rope_type\": \"linear\"}", "'factor' is missing",
         E_FORMAT},
        {"Llama", ", \"rope_scaling\": {\"type\": \"mrope\"}", "rope scaling 'mrope'",
         E_UNSUPPORTED},
        {"Llama", ", \"tie_word_embeddings\": 1", "'tie_word_embeddings' is not true or false",
         E_FORMAT},
        {"Qwen3Moe", ", \"num_experts_per_tok\": 2", "'num_experts' is missing", E_FORMAT},
        {"Mixtral", ", \"num_local_experts\": 2, \"num_experts_per_tok\": 4", "4 of 2 experts",
         E_FORMAT},
        {"DeepseekV3", "", "'kv_lora_rank' is missing", E_FORMAT},
        {"GptOss", MOE ", \"swiglu_limit\": 9.0", "swiglu_limit 9", E_UNSUPPORTED},
        {"Gemma3", ", \"layer_types\": [\"full_attention\"]", "doesn't name 8 layers", E_FORMAT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct model_config c;
        struct error err = {0};
        EXPECT_INT(read_config(cases[i].architecture, cases[i].more, &c, &err), cases[i].code);
        if (!strstr(err.text, cases[i].words)) printf("case %zu: %s\n", i, err.text);
        EXPECT(strstr(err.text, cases[i].words) != NULL);
    }
}

int main(void)
{
    arena_init(&arena);
    RUN(test_layers);
    RUN(test_defaults);
    RUN(test_rope_tables);
    RUN(test_refusals);
    arena_deinit(&arena);
    return TEST_END();
}
