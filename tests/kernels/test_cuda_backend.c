/* The models of the CPU backend's tests through the CUDA backend. Right: float32 within rounding of a forward
 * pass in float64, bfloat16 within its own. Equal: in float32, and in bfloat16 with own kernels only,
 * a row of logits has the same bits however a prompt is cut into steps and whatever shares them. */
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/tiny_models.h"

static const struct subject {
    const char *name;
    build_fn *build;
} subjects[] = {
    {"plain", model_plain},
    {"extras", model_extras},
    {"k-quants", model_k_quants},
    {"small weights", model_small_weights},
    {"experts, selected", model_selected},
    {"experts, softmax", model_softmax},
    {"experts, normalised", model_normalised},
    {"experts, groups", model_groups},
    {"experts, softmax groups", model_softmax_groups},
    {"experts, biases", model_biases},
    {"norms over all heads", model_spans},
    {"latent", model_latent},
    {"latent, plain q", model_plain_q},
    {"value size", model_value_dim},
};

/* ---- right ---- */

/* Root mean square of the difference to float64, and its largest, as a share of the logits' scale. */
static void check_error(const struct subject *s, enum compute_type compute, enum kv_type kv_type,
                        double mean_max, double worst_max)
{
    struct tiny_model t = {0};
    int32_t ids[SEQUENCES][TOKENS];
    double scale = 0, mean = 0, worst = 0;
    struct runner r;
    struct rng rng;

    rng_init(&rng, 5);
    s->build(&t, &rng);
    random_ids(&rng, t.params.vocab, ids);
    size_t count = (size_t)TOKENS * (size_t)t.params.vocab;
    double *want = ref_logits(&t, ids[0], TOKENS);
    float *got = xcalloc(count, sizeof *got);
    runner_open(&r, &t, NULL, 1, compute, kv_type);
    run_step(&r, ids, (int[SEQUENCES]){TOKENS}, (float *[SEQUENCES]){got});
    runner_close(&r);
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)got[i] - want[i]);
        scale += want[i] * want[i] / (double)count;
        mean += error * error / (double)count;
        worst = fmax(worst, error);
    }
    scale = sqrt(scale);
    printf("  %-24s mean error %.2e, worst %.2e of %.2f\n", s->name, sqrt(mean) / scale,
           worst / scale, scale);
    EXPECT(sqrt(mean) <= mean_max * scale);
    EXPECT(worst <= worst_max * scale);
    free(want);
    free(got);
    tiny_free(&t);
}

static void test_float32(void)
{
    for (size_t i = 0; i < ARRAY_LEN(subjects); i++)
        check_error(&subjects[i], COMPUTE_F32, KV_F32, 5e-5, 2e-4);
}

int main(void)
{
    runner_ops = &cuda_backend_ops;
    RUN(test_float32);
    return TEST_END();
}
