/* Latent attention through the CPU backend, and heads of V that aren't as wide as those of K. */
#include "tests/kernels/tiny_models.h"

static void test_values(void)
{
    check_values(model_latent, "latent");
    check_values(model_plain_q, "plain q");
    check_values(model_value_dim, "value size");
}

static void test_rounded(void)
{
    check_rounded(model_latent, "latent");
}

static void test_bits(void)
{
    check_bits(model_latent, COMPUTE_AUTO, KV_F16);
    check_bits(model_latent, COMPUTE_F32, KV_F32);
    check_bits(model_plain_q, COMPUTE_AUTO, KV_BF16);
    check_bits(model_value_dim, COMPUTE_AUTO, KV_INT8);
}

static void test_page_bytes(void)
{
    struct tiny_model t = {0};
    struct runner r;
    struct rng rng;

    rng_init(&rng, 8);
    model_latent(&t, &rng);
    runner_open(&r, &t, NULL, 1, COMPUTE_AUTO, KV_F16);
    EXPECT_INT(r.ops->kv_block_bytes(r.b, KV_F16), 2 * 4 * (24 + 16) * 64 * 2);
    runner_close(&r);
    tiny_free(&t);
}

/* ---- what it refuses ---- */

static void expect_refusal(struct tiny_model *t, int code, const char *text)
{
    struct error err = {0};
    EXPECT_INT(tiny_load_code(t, &err), code);
    if (!strstr(err.text, text)) printf("'%s'\n", err.text);
    EXPECT(strstr(err.text, text));
}

static void test_refusals(void)
{
    struct tiny_model t = {0};
    struct error err = {0};
    struct rng rng;

    rng_init(&rng, 9);
    model_latent(&t, &rng);
    EXPECT_INT(tiny_load_code(&t, &err), 0);
    t.params.kv_rank = 0;
    expect_refusal(&t, E_INVALID, "layer 0 has latents, but the model no rank");
    t.params.kv_rank = 32;
    expect_refusal(&t, E_INVALID, "matrix kv_a is 72 x 64, but the model needs 40 x 64");
    t.params.kv_rank = 64;
    t.params.kv_heads = 2;
    expect_refusal(&t, E_UNSUPPORTED, "latents for 4 heads, but 2 kv heads");
    t.params.kv_heads = 4;
    t.params.value_dim = 2000;
    expect_refusal(&t, E_UNSUPPORTED, "value head size 2000");
    t.params.value_dim = 16;
    t.layer[1].q_bias = t.layer[1].attn_norm;
    expect_refusal(&t, E_UNSUPPORTED, "layer 1 has latents and a bias");
    t.layer[1].q_bias = NULL;
    t.latent[1].kv_norm = NULL;
    expect_refusal(&t, E_INVALID, "layer 1 has latents without norms");
    tiny_free(&t);
}

int main(void)
{
    RUN(test_values);
    RUN(test_rounded);
    RUN(test_bits);
    RUN(test_page_bytes);
    RUN(test_refusals);
    return TEST_END();
}
