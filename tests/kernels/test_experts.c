/* Mixtures of experts through the CPU backend, and the other switches of their families: sinks,
 * layers without rotation, norms over all heads, layers without a norm in front. */
#include "tests/kernels/tiny_models.h"

/* ---- right, and equal ---- */

static void test_values(void)
{
    check_values(model_selected, "selected");
    check_values(model_softmax, "softmax");
    check_values(model_normalised, "normalised");
    check_values(model_groups, "groups");
    check_values(model_softmax_groups, "softmax groups");
    check_values(model_biases, "biases");
    check_values(model_spans, "spans");
}

static void test_bits(void)
{
    check_bits(model_selected, COMPUTE_AUTO, KV_F16);
    check_bits(model_softmax, COMPUTE_AUTO, KV_F32);
    check_bits(model_normalised, COMPUTE_AUTO, KV_F16);
    check_bits(model_groups, COMPUTE_AUTO, KV_INT8);
    check_bits(model_groups, COMPUTE_F32, KV_BF16);
    check_bits(model_biases, COMPUTE_AUTO, KV_INT8);
    check_bits(model_spans, COMPUTE_AUTO, KV_BF16);
}

/* Rounding may flip a route; a row that went to the wrong expert or came from the wrong token at
 * every step would leave nothing of the logits. */
static void test_rounded(void)
{
    check_rounded(model_selected, "selected");
    check_rounded(model_normalised, "normalised");
    check_rounded(model_groups, "groups");
}

/* ---- what it refuses ---- */

struct refusal {
    int code;
    const char *text;
    void (*spoil)(struct tiny_model *t);
};

static void spoil_used(struct tiny_model *t)
{
    t->params.expert_shape.used = 17;
}

static void spoil_group_size(struct tiny_model *t)
{
    t->params.expert_shape.groups = 3;
}

static void spoil_groups_used(struct tiny_model *t)
{
    t->params.expert_shape.groups_used = 0;
}

static void spoil_group_room(struct tiny_model *t)
{
    t->params.expert_shape.groups_used = 1;
    t->params.expert_shape.used = 5;
}

static void spoil_group_scoring(struct tiny_model *t)
{
    t->params.expert_shape.scoring = EXPERTS_SOFTMAX_SELECTED;
}

static void spoil_scoring(struct tiny_model *t)
{
    t->params.expert_shape.scoring = (enum expert_scoring)7;
}

static void spoil_scale(struct tiny_model *t)
{
    t->params.expert_shape.scale = 0;
}

static void spoil_count(struct tiny_model *t)
{
    t->params.expert_shape = (struct expert_shape){0};
}

static void spoil_router(struct tiny_model *t)
{
    t->experts[1].router.rows--;
}

static void spoil_down(struct tiny_model *t)
{
    struct matrix *m = (struct matrix *)(uintptr_t)&t->experts[1].down[9];
    m->data = NULL;
}

static void spoil_shared(struct tiny_model *t)
{
    t->experts[0].shared_up.data = NULL;
}

static void spoil_shared_scale(struct tiny_model *t)
{
    struct expert_params *x = &t->experts[0];
    x->shared_gate.data = x->shared_up.data = x->shared_down.data = NULL;
    x->shared_scale = x->correction;
}

static void test_refusals(void)
{
    static const struct refusal refusals[] = {
        {E_UNSUPPORTED, "experts per token 17", spoil_used},
        {E_UNSUPPORTED, "16 experts don't divide into 3 groups", spoil_group_size},
        {E_UNSUPPORTED, "used expert groups 0", spoil_groups_used},
        {E_UNSUPPORTED, "5 experts per token, but 1 groups have only 4", spoil_group_room},
        {E_UNSUPPORTED, "groups need scores of all", spoil_group_scoring},
        {E_UNSUPPORTED, "expert scoring 7", spoil_scoring},
        {E_INVALID, "scale of experts is 0", spoil_scale},
        {E_INVALID, "layer 0 has experts, but the model has none", spoil_count},
        {E_INVALID, "layer 1: matrix router is 15 x 64", spoil_router},
        {E_INVALID, "layer 1 has no down of expert 9", spoil_down},
        {E_INVALID, "layer 0 has no shared up", spoil_shared},
        {E_INVALID, "layer 0 has a scale for a shared expert", spoil_shared_scale},
    };

    for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
        struct tiny_model t = {0};
        struct error err = {0};
        struct rng rng;
        rng_init(&rng, 9);
        model_groups(&t, &rng);
        if (i == 0) EXPECT_INT(tiny_load_code(&t, &err), 0);
        refusals[i].spoil(&t);
        EXPECT_INT(tiny_load_code(&t, &err), refusals[i].code);
        if (!strstr(err.text, refusals[i].text)) printf("'%s'\n", err.text);
        EXPECT(strstr(err.text, refusals[i].text));
        tiny_free(&t);
    }
}

int main(void)
{
    RUN(test_values);
    RUN(test_bits);
    RUN(test_rounded);
    RUN(test_refusals);
    return TEST_END();
}
