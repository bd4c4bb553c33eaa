/* test_cuda_attention.cu - attention on CUDA against softmax in float64 over what pages hold; the float32 path
 * against the CPU backend, bit for bit; pages against the bits that the CPU stores. */
#include "tests/kernels/cuda_attention_scene.cuh"
extern "C" {
#include "kernels/cpu/cpu_isa.h"
}

static const char *const type_names[KV_TYPES] = {"f32", "f16", "bf16", "int8"};

/* ---- float64 ---- */

/* q as tensor cores see it. */
static double query(const scene &s, float q)
{
    bool whole = s.shape.exact || s.shape.type == KV_F32;
    return (double)(whole                    ? q
                    : s.shape.type == KV_F16 ? quant_half_to_float(quant_float_to_half(q))
                                             : quant_bf16_to_float(quant_float_to_bf16(q)));
}

/* The largest error of one query head of one token. */
static double error_of(const scene &s, int sequence, int position, int head, const float *o)
{
    const scene_shape &d = s.shape;
    const scene_sequence &x = s.sequence[(size_t)sequence];
    int kv_head = head / (d.heads / d.kv_heads), first = scene_first(s, position);
    const float *q = &x.q[((size_t)position * (size_t)d.heads + (size_t)head) * (size_t)d.head_dim];
    double max = d.sinks ? (double)s.sinks[(size_t)head] : -INFINITY, worst = 0;
    std::vector<double> p((size_t)position + 1), sum((size_t)d.value_dim);

    for (int at = first; at <= position; at++) {
        double score = 0;
        for (int i = 0; i < d.head_dim; i++)
            score += query(s, q[i]) * scene_key(s, sequence, at, kv_head, i);
        score *= (double)s.a.scale;
        if (d.softcap > 0) score = (double)d.softcap * tanh(score / (double)d.softcap);
        p[(size_t)at] = score;
        max = score > max ? score : max;
    }
    double total = d.sinks ? exp((double)s.sinks[(size_t)head] - max) : 0;
    for (int at = first; at <= position; at++) {
        double e = exp(p[(size_t)at] - max);
        total += e;
        for (int i = 0; i < d.value_dim; i++)
            sum[(size_t)i] += e * scene_value(s, sequence, at, kv_head, i);
    }
    for (int i = 0; i < d.value_dim; i++) {
        double error = fabs(sum[(size_t)i] / total - (double)o[i]);
        worst = error > worst || isnan(error) ? error : worst;
    }
    return worst;
}

/* Values lie within 1. Probabilities and outputs are rounded to 8 bits (f16 pages: probabilities to 11; bytes: times
 * the scale, so that no two of a lone position's roundings cancel), outputs of float16 to 11. */
static double bound_of(const scene &s)
{
    static const double bounds[KV_TYPES] = {0.002, 0.0022, 0.004, 0.006};
    static const double half_bounds[KV_TYPES] = {0.00025, 0.0005, 0.0025, 0.0045};
    if (s.shape.o_is_half) return half_bounds[s.shape.type];
    return s.shape.exact ? 2e-6 + 2e-8 * s.shape.head_dim : bounds[s.shape.type];
}

static void check_step(const scene &s, const std::vector<scene_part> &parts,
                       const scene_options &options = {})
{
    const scene_shape &d = s.shape;
    std::vector<float> o = scene_step(s, parts, false, options);
    const float *at = o.data();
    double worst = 0;

    for (const scene_part &p : parts) {
        for (int t = 0; t < p.count; t++) {
            for (int h = 0; h < d.heads; h++, at += d.value_dim) {
                double error = error_of(s, p.sequence, p.past + t, h, at);
                worst = error > worst || isnan(error) ? error : worst;
            }
        }
    }
    if (!(worst < bound_of(s)))
        printf("%s%s heads %d/%d of %d and %d, window %d, cap %g: error %g\n", type_names[d.type],
               d.exact ? " exact" : "", d.heads, d.kv_heads, d.head_dim, d.value_dim, d.window,
               (double)d.softcap, worst);
    EXPECT(worst < bound_of(s));
}

/* Decode, a chunk and a short prefill in one step; then the same with little that is special. */
static void check_shape(const scene_shape &shape, uint64_t seed)
{
    scene s;
    scene_init(&s, shape, {150, 70, 9}, seed);
    check_step(s, {{0, 149, 1}, {1, 40, 30}, {2, 0, 9}, {1, 20, 2}});
    scene_deinit(&s);
}

/* With race hooks, which make a kernel ten times as slow, each shape has one type of pages. */
#ifdef LM_CUDA_EMU_RACE
#define SKIPS(shape, type) (((int)(shape) + (type)) % (KV_TYPES - 1) != 0)
#else
#define SKIPS(shape, type) false
#endif

static void test_head_sizes(void)
{
    static const int dims[][2] = {{16, 16}, {32, 32}, {64, 64},   {80, 80},   {96, 96},  {128, 128},
                                  {24, 16}, {96, 64}, {192, 128}, {160, 160}, {256, 256}};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (int type = KV_F16; type < KV_TYPES; type++) {
            if (SKIPS(i, type)) continue;
            check_shape({4, 2, dims[i][0], dims[i][1], (enum kv_type)type, false, 0, 0, false},
                        1 + i);
        }
}

static void test_groups(void)
{
    static const int heads[][2] = {{1, 1}, {3, 3}, {4, 2},  {9, 3},  {4, 1}, {10, 2},
                                   {6, 1}, {7, 1}, {16, 2}, {20, 1}, {71, 1}};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        for (int type = KV_BF16; type < KV_TYPES; type++) {
            if (SKIPS(i, type)) continue;
            check_shape({heads[i][0], heads[i][1], 32, 32, (enum kv_type)type, false, 0, 0, false},
                        20 + i);
        }
}

/* Outputs of float16, of all that write some: prefill, decode with one split and with several that meet. */
static void test_float16(void)
{
    for (int type = KV_F32; type < KV_TYPES; type++)
        check_shape({4, 2, 32, 32, (enum kv_type)type, false, 0, 0, true, true}, 35);
}

/* What pages of a wider type hold beyond it becomes its end. */
static void test_float16_ends(void)
{
    for (enum kv_type type : {KV_F32, KV_BF16, KV_INT8}) {
        scene s;
        int wrong = 0;
        scene_init(&s, {2, 1, 32, 32, type, false, 0, 0, false, true}, {9}, 36);
        for (size_t i = 0; i < s.sequence[0].v.size(); i++)
            s.sequence[0].v[i] = i % 2 ? 1e6f : -1e6f;
        scene_step(s, {{0, 0, 9}}, true);
        for (const scene_part &p : {scene_part{0, 8, 1}, scene_part{0, 0, 9}})
            for (float o : scene_step(s, {p}, false))
                wrong += fabsf(o) != 65504;
        EXPECT_INT(wrong, 0);
        scene_deinit(&s);
    }
}

static void test_windows(void)
{
    static const int windows[] = {1, 5, 63, 64, 65, 100, 128, 129};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++) {
        for (int type = KV_F16; type < KV_TYPES; type++) {
            if (SKIPS(i, type)) continue;
            scene s;
            scene_init(&s, {4, 2, 32, 32, (enum kv_type)type, false, windows[i], 0, i % 2 == 0},
                       {300, 130}, 40 + i);
            check_step(s, {{0, 299, 1}, {1, 60, 70}, {0, 191, 1}, {0, 192, 3}});
            scene_deinit(&s);
        }
    }
}

static void test_softcap_and_sinks(void)
{
    for (int type = KV_F16; type < KV_TYPES; type++) {
        for (float cap : {0.0f, 2.0f, 50.0f}) {
            if (SKIPS(cap, type)) continue;
            check_shape({6, 2, 64, 64, (enum kv_type)type, false, 0, cap, true}, 50);
            check_shape({6, 2, 32, 32, (enum kv_type)type, false, 20, cap, true}, 51);
        }
    }
}

/* Contexts on both sides of where splits grow, by decode, several tokens and prefill. */
static void test_long_contexts(void)
{
    for (int type = KV_F16; type < KV_TYPES; type++) {
        if (SKIPS(0, type)) continue;
        scene s;
        scene_init(&s, {2, 1, 32, 32, (enum kv_type)type, false, 0, 0, true}, {1100, 4200}, 60);
        check_step(
            s,
            {{0, 1023, 1}, {0, 1024, 1}, {0, 1019, 8}, {0, 1000, 60}, {1, 4095, 1}, {1, 4096, 4}});
        scene_deinit(&s);
    }
}

static void test_launches(void)
{
    scene s;
    scene_init(&s, {4, 2, 32, 32, KV_BF16, false, 0, 0, false}, {500, 200, 64}, 70);
    check_step(s, {{0, 499, 1}, {1, 199, 1}, {2, 63, 1}}, {false, 8, 5});
    check_step(s, {{0, 499, 1}, {1, 0, 200}, {2, 63, 1}}, {true, 0, 3});
    check_step(s, {{0, 400, 9}, {1, 10, 0}, {2, 0, 1}});
    scene_deinit(&s);
}

/* ---- the float32 path and the CPU ---- */

/* One KV head of a sequence as the CPU stores it. */
struct cpu_pages {
    struct kv_layout layout;
    std::vector<int32_t> blocks;
    uint8_t *bytes; // 64-byte aligned
};

static void cpu_store(const cpu_pages &c, int position, const float *k, const float *v)
{
    const struct kv_layout *l = &c.layout;
    const struct cpu_pointwise *ops = cpu_isa_scalar.pointwise;
    uint8_t *page = c.bytes + (size_t)(position / KV_BLOCK_TOKENS) * l->bytes;
    size_t slot = (size_t)(position % KV_BLOCK_TOKENS), row = slot * (size_t)l->value_stride;
    std::vector<uint16_t> half((size_t)(l->head_dim > l->value_dim ? l->head_dim : l->value_dim) +
                               16);
    std::vector<int8_t> byte(half.size());

    for (int pass = 0; pass < 2; pass++) { // K, then V
        int dim = pass == 0 ? l->head_dim : l->value_dim;
        const float *from = pass == 0 ? k : v;
        if (l->type == KV_F16) ops->to_half(half.data(), from, dim);
        if (l->type == KV_BF16) ops->to_bf16(half.data(), from, dim);
        if (l->type == KV_INT8) {
            float scale = ops->quantize_head(byte.data(), from, dim);
            memcpy(page + (pass == 0 ? l->key_scales : l->value_scales) + 4 * slot, &scale,
                   sizeof scale);
        }
        for (int d = 0; d < dim; d++) {
            size_t at = pass == 0 ? (size_t)d * KV_BLOCK_TOKENS + slot : row + (size_t)d;
            uint8_t *to = page + (pass == 0 ? 0 : l->values) + at * l->element_bytes;
            const void *value = l->type == KV_F32    ? (const void *)(from + d)
                                : l->type == KV_INT8 ? (const void *)(byte.data() + d)
                                                     : (const void *)(half.data() + d);
            memcpy(to, value, l->element_bytes);
        }
    }
}

static cpu_pages cpu_pages_of(const scene &s, int sequence, int kv_head)
{
    const scene_shape &d = s.shape;
    const scene_sequence &x = s.sequence[(size_t)sequence];
    cpu_pages c;

    cpu_kv_layout_init(&c.layout, d.type, d.head_dim, d.value_dim);
    for (size_t i = 0; i < x.blocks.size(); i++)
        c.blocks.push_back((int32_t)i);
    c.bytes = (uint8_t *)xaligned(x.blocks.size() * c.layout.bytes);
    for (int p = 0; p < x.length; p++) {
        size_t row = (size_t)(p * d.kv_heads + kv_head);
        cpu_store(c, p, &x.k[row * (size_t)d.head_dim], &x.v[row * (size_t)d.value_dim]);
    }
    return c;
}

static void cpu_attend(const scene &s, const cpu_pages &c, int sequence, int position, int head,
                       float *o)
{
    const scene_shape &d = s.shape;
    const float *from =
        &s.sequence[(size_t)sequence]
             .q[((size_t)position * (size_t)d.heads + (size_t)head) * (size_t)d.head_dim];
    std::vector<float> q(from, from + d.head_dim);
    float *scratch = (float *)xaligned(cpu_attention_scratch_floats(d.value_dim) * sizeof(float));
    struct attention_tile tile = {};

    cpu_isa_scalar.pointwise->scale(q.data(), s.a.scale, d.head_dim);
    tile.rows = 1;
    tile.softcap = d.softcap;
    tile.q[0] = q.data();
    tile.o[0] = o;
    tile.sink[0] = d.sinks ? s.sinks[(size_t)head] : -INFINITY;
    tile.first[0] = scene_first(s, position);
    tile.last[0] = position;
    tile.blocks = c.blocks.data();
    tile.layout = &c.layout;
    tile.pages = c.bytes;
    tile.page_bytes = c.layout.bytes;
    tile.scratch = scratch;
    cpu_isa_scalar.attend(&tile);
    free(scratch);
}

/* What the device stored is what the CPU stores. */
static void check_stored(const scene &s, const cpu_pages &c, int sequence, int kv_head)
{
    const struct kv_layout *l = &c.layout;
    int wrong = 0;

    for (int p = 0; p < s.sequence[(size_t)sequence].length; p++) {
        const uint8_t *page = c.bytes + (size_t)(p / KV_BLOCK_TOKENS) * l->bytes;
        size_t slot = (size_t)(p % KV_BLOCK_TOKENS);
        float ks = l->type == KV_INT8 ? scene_scale(page + l->key_scales, p) : 1;
        float vs = l->type == KV_INT8 ? scene_scale(page + l->value_scales, p) : 1;
        for (int d = 0; d < l->head_dim; d++) {
            const uint8_t *at = page + ((size_t)d * KV_BLOCK_TOKENS + slot) * l->element_bytes;
            uint8_t row[4] = {};
            memcpy(row, at, l->element_bytes);
            wrong += scene_element(l->type, row, 0, ks) != scene_key(s, sequence, p, kv_head, d);
        }
        for (int d = 0; d < l->value_dim; d++) {
            const uint8_t *at =
                page + l->values + (slot * (size_t)l->value_stride + (size_t)d) * l->element_bytes;
            uint8_t row[4] = {};
            memcpy(row, at, l->element_bytes);
            wrong += scene_element(l->type, row, 0, vs) != scene_value(s, sequence, p, kv_head, d);
        }
    }
    EXPECT_INT(wrong, 0);
}

static void check_exact(const scene_shape &shape, const std::vector<int> &lengths, uint64_t seed)
{
    scene s;
    std::vector<scene_part> parts;
    int wrong = 0;

    scene_init(&s, shape, lengths, seed);
    for (int i = 0; i < (int)lengths.size(); i++) {
        int count = i == 0 ? 1 : lengths[(size_t)i] > 40 ? 33 : lengths[(size_t)i];
        parts.push_back({i, lengths[(size_t)i] - count, count});
    }
    std::vector<float> o = scene_step(s, parts, false), want((size_t)shape.value_dim);
    check_step(s, parts);
    size_t token = 0;
    for (const scene_part &p : parts) {
        for (int kv_head = 0; kv_head < shape.kv_heads; kv_head++) {
            cpu_pages c = cpu_pages_of(s, p.sequence, kv_head);
            int group = shape.heads / shape.kv_heads;
            check_stored(s, c, p.sequence, kv_head);
            for (int t = 0; t < p.count; t++) {
                for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
                    size_t row = (token + (size_t)t) * (size_t)shape.heads + (size_t)h;
                    cpu_attend(s, c, p.sequence, p.past + t, h, want.data());
                    wrong += memcmp(want.data(), &o[row * (size_t)shape.value_dim],
                                    want.size() * sizeof(float)) != 0;
                }
            }
            free(c.bytes);
        }
        token += (size_t)p.count;
    }
    if (wrong)
        printf("%s heads %d/%d of %d and %d, window %d: %d rows differ from the CPU's\n",
               type_names[shape.type], shape.heads, shape.kv_heads, shape.head_dim, shape.value_dim,
               shape.window, wrong);
    EXPECT_INT(wrong, 0);
    scene_deinit(&s);
}

static void test_exact_equals_cpu(void)
{
    for (int type = 0; type < KV_TYPES; type++) {
        enum kv_type t = (enum kv_type)type;
        check_exact({4, 2, 64, 64, t, true, 0, 0, false}, {150, 100, 7}, 80);
        check_exact({3, 1, 24, 16, t, true, 0, 0, true}, {200, 70}, 81);
        check_exact({2, 2, 18, 34, t, true, 30, 5.0f, true}, {140, 70}, 82);
        check_exact({18, 1, 32, 32, t, true, 64, 0, false}, {140, 20}, 83);
        check_exact({1, 1, 256, 256, t, true, 0, 0, false}, {70, 3}, 84);
    }
}

/* Pages of float32 under reduced activations: the same sums, a rounded output. */
static void test_float_pages(void)
{
    check_shape({4, 2, 64, 64, KV_F32, false, 0, 0, false}, 90);
    check_shape({4, 2, 32, 32, KV_F32, false, 33, 4.0f, true}, 91);
}

/* ---- pages ---- */

static void test_refused_sizes(void)
{
    struct cuda_kv_layout l;
    struct error err;
    EXPECT_INT(cuda_kv_layout_init(&l, KV_BF16, 1, 1, 320, 320, &err), E_UNSUPPORTED);
    EXPECT_INT(cuda_kv_layout_init(&l, KV_BF16, 1, 1, 192, 288, &err), E_UNSUPPORTED);
    EXPECT_INT(cuda_kv_layout_init(&l, KV_BF16, 1, 1, 33, 32, &err), E_UNSUPPORTED);
}

/* A page that was copied, and one that was saved and brought back elsewhere, serve as well as their origin. */
static void test_moved_pages(void)
{
    for (int type = 0; type < KV_TYPES; type++) {
        scene s;
        scene_init(&s, {2, 1, 32, 32, (enum kv_type)type, type == 0, 0, 0, false}, {130, 130}, 95);
        std::vector<float> want = scene_step(s, {{0, 129, 1}}, false);
        void *host = NULL;
        NEED(cudaMallocHost(&host, s.a.kv.page_bytes) == cudaSuccess);
        std::vector<int32_t> from = s.sequence[0].blocks, to = s.sequence[1].blocks;
        cuda_kv_copy(&s.a.kv, s.pages, from[0], to[0], NULL);
        cuda_kv_copy(&s.a.kv, s.pages, from[1], to[1], NULL);
        cuda_kv_save(&s.a.kv, s.pages, from[2], host, NULL);
        cuda_kv_restore(&s.a.kv, s.pages, to[2], host, NULL);
        s.sequence[0].blocks = to;
        std::vector<float> got = scene_step(s, {{0, 129, 1}}, false);
        EXPECT(memcmp(want.data(), got.data(), want.size() * sizeof(float)) == 0);
        NEED(cudaFreeHost(host) == cudaSuccess);
        scene_deinit(&s);
    }
}

/* Rows that are broken show it: an infinity makes the scale NaN, and the output. A tiny row is zero. */
static void test_int8_rows_without_scale(void)
{
    scene s;
    scene_init(&s, {1, 1, 32, 32, KV_INT8, false, 0, 0, false}, {3}, 96);
    s.sequence[0].v[0] = INFINITY;
    for (size_t d = 32; d < 64; d++)
        s.sequence[0].v[d] = 1e-35f;
    scene_step(s, {{0, 0, 3}}, true);
    device_read(s.stored.data(), s.pages, s.stored.size());
    EXPECT(isnan(scene_value(s, 0, 0, 0, 5)));
    EXPECT(scene_value(s, 0, 1, 0, 5) == 0);
    EXPECT(isnan(scene_step(s, {{0, 2, 1}}, false)[0]));
    scene_deinit(&s);
}

/* A device with less shared memory than an H100: large heads with pages of 16 bits don't fit. */
static void test_small_devices(void)
{
    static const struct {
        int dim, rc;
        enum kv_type type;
        enum cuda_real real;
    } cases[] = {{128, 0, KV_BF16, CUDA_REAL_BF16},
                 {256, E_UNSUPPORTED, KV_F16, CUDA_REAL_BF16},
                 {256, E_UNSUPPORTED, KV_INT8, CUDA_REAL_BF16},
                 {256, 0, KV_F16, CUDA_REAL_F32}};

    for (int kib : {227, 99}) {
        int have = 0; // a real one has what it has
        setenv("LM_CUDA_EMU_SHARED_KIB", std::to_string(kib).c_str(), 1);
        NEED(cudaDeviceGetAttribute(&have, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) ==
             cudaSuccess);
        for (const auto &c : cases) {
            struct cuda_attention a = {};
            struct error err = {};
            a.o_real = c.real;
            NEED(cuda_kv_layout_init(&a.kv, c.type, 1, 1, c.dim, c.dim, &err) == 0);
            int rc = cuda_attention_fits(&a, &err);
            EXPECT_INT(rc, have < 100 << 10 ? c.rc : 0);
            if (rc < 0) EXPECT(strstr(err.text, "heads of 256 and 256 want"));
        }
    }
    unsetenv("LM_CUDA_EMU_SHARED_KIB");
}

int main(void)
{
    RUN(test_head_sizes);
    RUN(test_groups);
    RUN(test_float16);
    RUN(test_float16_ends);
    RUN(test_windows);
    RUN(test_softcap_and_sinks);
    RUN(test_long_contexts);
    RUN(test_launches);
    RUN(test_exact_equals_cpu);
    RUN(test_float_pages);
    RUN(test_refused_sizes);
    RUN(test_small_devices);
    RUN(test_moved_pages);
    RUN(test_int8_rows_without_scale);
    return TEST_END();
}
