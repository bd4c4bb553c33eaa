/* test_cuda_attention_bits.cu - rule 3 of backend.h on CUDA: a row's output has the same bits in decode, in
 * prefill of any chunks, in any company, through any launch, and in any order in which threads run. */
#include "tests/kernels/cuda_attention_scene.cuh"

static const char *const type_names[KV_TYPES] = {"f32", "f16", "bf16", "int8"};

/* Rows of all positions of sequence 0. */
struct expected {
    std::vector<float> o;
    size_t row; // floats of a token
};

static expected expected_of(const scene &s)
{
    expected e;
    e.o = scene_step(s, {{0, 0, s.sequence[0].length}}, false);
    e.row = (size_t)(s.shape.heads * s.shape.value_dim);
    return e;
}

/* Rows of sequence 0 in a step are what they were in one prefill. */
static void check_parts(const scene &s, const expected &e, const std::vector<scene_part> &parts,
                        const scene_options &options, const char *how)
{
    std::vector<float> o = scene_step(s, parts, false, options);
    size_t token = 0;

    for (const scene_part &p : parts) {
        if (p.sequence == 0) {
            bool same = memcmp(&o[token * e.row], &e.o[(size_t)p.past * e.row],
                               (size_t)p.count * e.row * sizeof(float)) == 0;
            if (!same)
                printf("%s, heads %d/%d of %d, positions %d to %d: bits differ %s\n",
                       type_names[s.shape.type], s.shape.heads, s.shape.kv_heads, s.shape.head_dim,
                       p.past, p.past + p.count, how);
            EXPECT(same);
        }
        token += (size_t)p.count;
    }
}

static void check_chunks(const scene &s, const expected &e, int chunk)
{
    for (int past = 0; past < s.sequence[0].length; past += chunk) {
        int count = s.sequence[0].length - past < chunk ? s.sequence[0].length - past : chunk;
        check_parts(s, e, {{0, past, count}}, {}, "in chunks");
    }
}

static void check_shape(const scene_shape &shape, const std::vector<int> &lengths, uint64_t seed)
{
    scene s;
    scene_init(&s, shape, lengths, seed);
    expected e = expected_of(s);
    int length = s.sequence[0].length, other = s.sequence[1].length;

    for (int past = length - 1; past > 0; past -= 37) {
        check_parts(s, e, {{0, past, 1}}, {}, "in decode");
        check_parts(s, e, {{1, 0, other}, {0, past, 1}, {1, other - 1, 1}}, {}, "in company");
        check_parts(s, e, {{0, past, 1}}, {true, 0, 0}, "without a workspace");
        check_parts(s, e, {{1, other - 1, 1}, {0, past, 1}}, {false, 4, 2}, "in a graph");
        if (past + 5 <= length) check_parts(s, e, {{0, past, 5}}, {}, "with its neighbours");
    }
    for (int chunk : {17, 100})
        check_chunks(s, e, chunk);
    scene_deinit(&s);
}

static void test_types_and_sizes(void)
{
    for (int type = 0; type < KV_TYPES; type++) {
        enum kv_type t = (enum kv_type)type;
        check_shape({4, 2, 32, 32, t, type == KV_F32, 0, 0, false}, {300, 50}, 1);
        check_shape({3, 1, 64, 64, t, type == KV_F32, 0, 3.0f, true}, {200, 50}, 2);
    }
    check_shape({2, 2, 192, 128, KV_BF16, false, 0, 0, false}, {150, 20}, 3);
    check_shape({1, 1, 256, 256, KV_INT8, false, 0, 0, true}, {150, 20}, 4);
}

static void test_windows(void)
{
    for (int window : {1, 40, 64, 130})
        check_shape({4, 1, 32, 32, KV_F16, false, window, 0, window == 40}, {290, 70}, 5);
}

/* Splits grow at 1,024 and 4,096 positions; a decode tile must not mix two sizes, a prefill tile does. */
static void test_borders(void)
{
    scene s;
    scene_init(&s, {2, 1, 32, 32, KV_BF16, false, 0, 0, true}, {4110, 1}, 6);
    expected e = expected_of(s);
    for (int border : {128, 1024, 4096}) {
        for (int past : {border - 1, border, border + 1})
            check_parts(s, e, {{0, past, 1}}, {}, "in decode");
        check_parts(s, e, {{0, border - 4, 8}}, {}, "across a border in decode");
        check_parts(s, e, {{0, border - 7, 9}}, {}, "across a border in prefill");
        check_parts(s, e, {{0, border - 30, 44}}, {}, "across a border in prefill");
    }
    scene_deinit(&s);
}

/* On the emulator threads run in any order; a barrier that is missing shows. */
static void test_orders(void)
{
#ifdef LM_CUDA_EMULATED
    for (int type = 0; type < KV_TYPES; type++) {
        scene s;
        bool exact = type == KV_F32;
        scene_init(&s, {4, 2, 64, 64, (enum kv_type)type, exact, 0, 0, true}, {330, 90}, 7);
        std::vector<scene_part> parts = {{0, 329, 1}, {1, 10, 80}, {0, 200, 3}};
        emu::configure(emu::ORDER_FORWARD, 0);
        std::vector<float> want = scene_step(s, parts, false);
        for (uint64_t seed = 0; seed < 4; seed++) {
            emu::configure(seed == 0 ? emu::ORDER_REVERSE : emu::ORDER_RANDOM, seed);
            std::vector<float> got = scene_step(s, parts, false);
            EXPECT(memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0);
        }
        emu::configure(emu::ORDER_FORWARD, 0);
        scene_deinit(&s);
    }
#endif
}

int main(void)
{
    RUN(test_types_and_sizes);
    RUN(test_windows);
    RUN(test_borders);
    RUN(test_orders);
    return TEST_END();
}
