/* What a GGUF file's keys leave to its architecture's name. Files here hold keys and no tensor. */
#include "engine/gguf.h"
#include "engine/model_config.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "tests/test.h"

#include <math.h>

enum { TYPE_UINT32 = 4, TYPE_FLOAT32 = 6, TYPE_STRING = 8 }; // ggml's docs/gguf.md

struct key {
    const char *suffix; // behind the architecture; NULL: end of the list
    double value;
    bool is_float;
};

static void put_u32(struct buf *b, uint32_t v)
{
    buf_append(b, (const char *)&v, sizeof v);
}

static void put_text(struct buf *b, const char *text)
{
    uint64_t len = strlen(text);
    buf_append(b, (const char *)&len, sizeof len);
    buf_append(b, text, len);
}

static void put_key(struct buf *b, const char *architecture, const struct key *k)
{
    char name[128];
    float value = (float)k->value;
    snprintf(name, sizeof name, "%s.%s", architecture, k->suffix);
    put_text(b, name);
    put_u32(b, k->is_float ? TYPE_FLOAT32 : TYPE_UINT32);
    if (k->is_float)
        buf_append(b, (const char *)&value, sizeof value);
    else
        put_u32(b, (uint32_t)k->value);
}

/* `common`, then `more`; a suffix that stands in both is taken from `more`. */
static int read_config(const char *architecture, const struct key *more, struct model_config *c,
                       struct error *err)
{
    static const struct key common[] = {
        {"block_count", 6, false},
        {"context_length", 512, false},
        {"embedding_length", 96, false},
        {"feed_forward_length", 128, false},
        {"attention.head_count", 4, false},
        {"attention.head_count_kv", 4, false},
        {"attention.key_length", 32, false},
        {"attention.value_length", 32, false},
        {"attention.layer_norm_rms_epsilon", 1e-6, true},
    };
    struct buf keys, file;
    struct gguf *g;
    uint64_t tensors = 0, count = 1;
    buf_init(&keys, 1 << 16);
    buf_init(&file, 1 << 16);
    put_text(&keys, "general.architecture");
    put_u32(&keys, TYPE_STRING);
    put_text(&keys, architecture);
    for (size_t i = 0; i < ARRAY_LEN(common); i++) {
        bool replaced = false;
        for (const struct key *k = more; k->suffix; k++)
            replaced = replaced || strcmp(k->suffix, common[i].suffix) == 0;
        if (replaced) continue;
        put_key(&keys, architecture, &common[i]);
        count++;
    }
    for (; more->suffix; more++, count++)
        put_key(&keys, architecture, more);
    buf_append(&file, "GGUF", 4);
    put_u32(&file, 3);
    buf_append(&file, (const char *)&tensors, sizeof tensors);
    buf_append(&file, (const char *)&count, sizeof count);
    buf_append(&file, keys.data, keys.len);
    NEED(gguf_open_memory(file.data, file.len, &g, err) == 0);
    int rc = model_config_from_gguf(g, c, err);
    gguf_close(g);
    buf_deinit(&keys);
    buf_deinit(&file);
    return rc;
}

static bool is_near(float got, double want)
{
    return fabs((double)got - want) < 1e-6 * want;
}

/* Older files of Gemma 3 don't say the base of local layers; those of 27B never say their scale. */
static void test_gemma3(void)
{
    static struct model_config c;
    struct error err = {0};
    NEED(read_config("gemma3",
                     (struct key[]){{"rope.freq_base", 1e6, true},
                                    {"attention.sliding_window", 64, false},
                                    {NULL}},
                     &c, &err) == 0);
    EXPECT(c.rope_count == 2 && c.rope[0].base == 1e6 && c.rope[1].base == 10000);
    EXPECT(c.layer[4].window == 64 && c.layer[4].rope_table == 1);
    EXPECT(c.layer[5].window == 0 && c.layer[5].rope_table == 0);
    EXPECT(is_near(c.attention_scale, 1 / sqrt(32)));
    NEED(read_config(
             "gemma3",
             (struct key[]){{"block_count", 62, false}, {"rope.freq_base_swa", 5000, true}, {NULL}},
             &c, &err) == 0);
    EXPECT(c.rope[1].base == 5000 && is_near(c.attention_scale, 1 / sqrt(96.0 / 4)));
}

static void test_gemma2(void)
{
    static struct model_config c;
    struct error err = {0};
    EXPECT_INT(read_config("gemma2", (struct key[]){{NULL}}, &c, &err), E_FORMAT);
    EXPECT(strstr(err.text, "'gemma2.attn_logit_softcapping' is missing"));
    const struct key caps[] = {{"block_count", 46, false},
                               {"attn_logit_softcapping", 50, true},
                               {"final_logit_softcapping", 30, true},
                               {NULL}};
    NEED(read_config("gemma2", caps, &c, &err) == 0);
    EXPECT(c.attention_softcap == 50 && c.logit_softcap == 30 && c.rope_count == 1);
    EXPECT(c.layer[0].window == 4096 && c.layer[1].window == 0);
    EXPECT(is_near(c.attention_scale, 1 / sqrt(96.0 / 4)));
}

static void test_deepseek(void)
{
    static struct model_config c;
    struct error err = {0};
    struct key keys[] = {
        {"attention.kv_lora_rank", 16, false},   {"attention.head_count_kv", 1, false},
        {"attention.key_length_mla", 24, false}, {"attention.value_length_mla", 16, false},
        {"rope.dimension_count", 8, false},      {"expert_count", 8, false},
        {"expert_used_count", 2, false},         {"expert_feed_forward_length", 16, false},
        {"expert_shared_count", 3, false},       {"leading_dense_block_count", 2, false},
        {"expert_gating_func", 2, false},        {NULL}};
    NEED(read_config("deepseek2", keys, &c, &err) == 0);
    EXPECT(c.head_dim == 24 && c.latent.value_dim == 16 && c.latent.kv_rank == 16);
    EXPECT(c.kv_heads == c.heads && c.latent.q_rank == 0 && c.rope[0].dims == 8);
    EXPECT(c.experts.scoring == EXPERTS_SIGMOID && c.experts.shared_ffn == 48);
    EXPECT(!c.layer[1].experts && c.layer[2].experts);
    keys[ARRAY_LEN(keys) - 2].value = 1;
    EXPECT_INT(read_config("deepseek2", keys, &c, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "softmax over experts (DeepSeek V2)"));
    keys[ARRAY_LEN(keys) - 2].value = 7;
    EXPECT_INT(read_config("deepseek2", keys, &c, &err), E_FORMAT);
    EXPECT(strstr(err.text, "'deepseek2.expert_gating_func' is 7"));
}

int main(void)
{
    RUN(test_gemma3);
    RUN(test_gemma2);
    RUN(test_deepseek);
    return TEST_END();
}
