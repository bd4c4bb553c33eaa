/* cuda_attention_scene.cuh - sequences with random q, k and v, their pages on the device, and steps over
 * any of their tokens. What tests of CUDA attention share. */
#ifndef LM_TESTS_CUDA_ATTENTION_SCENE_CUH
#define LM_TESTS_CUDA_ATTENTION_SCENE_CUH

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <vector>

#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_pointwise.h"
extern "C" {
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
}
#include "tests/test.h"

/* ---- memory of the device ---- */

static inline void *device_take(size_t bytes)
{
    void *at = NULL;
    NEED(cudaMalloc(&at, bytes + 16) == cudaSuccess);
    NEED(cudaMemset(at, 0xff, bytes + 16) == cudaSuccess); // NaN in every type
    return at;
}

template <class T> static inline T *device_copy_of(const std::vector<T> &from)
{
    T *at = (T *)device_take(from.size() * sizeof(T));
    NEED(cudaMemcpy(at, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice) ==
         cudaSuccess);
    return at;
}

static inline void device_read(void *to, const void *from, size_t bytes)
{
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    NEED(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
}

/* ---- a scene ---- */

struct scene_shape {
    int heads, kv_heads, head_dim, value_dim;
    enum kv_type type;
    bool exact;
    int window;
    float softcap;
    bool sinks;
    bool o_is_half = false; // output of float16; neither: bfloat16
};

static inline enum cuda_real scene_real(const scene_shape &d)
{
    return d.exact ? CUDA_REAL_F32 : d.o_is_half ? CUDA_REAL_F16 : CUDA_REAL_BF16;
}

struct scene_sequence {
    int length;
    std::vector<int32_t> blocks;
    std::vector<float> q, k,
        v; // [length][heads or kv_heads * head_dim], [length][kv_heads * value_dim]
};

struct scene {
    scene_shape shape;
    struct cuda_attention a;
    std::vector<scene_sequence> sequence;
    std::vector<float> sinks;
    std::vector<uint8_t> stored; // pages, as the device has them
    float *sinks_device;
    uint8_t *pages;
    int layer; // the one that is used
};

#define SCENE_LAYERS 2

/* Tokens [past, past + count) of a sequence. */
struct scene_part {
    int sequence, past, count;
};

/* How a step is run, beside what is in it. */
struct scene_options {
    bool no_workspace;   // nothing can be left in memory: decode rows go to prefill tiles
    int graph_sequences; // launch as for a graph
    int padding;         // tokens behind the step's own
};

static inline std::vector<float> random_vector(struct rng *r, size_t count, float spread)
{
    std::vector<float> x(count);
    for (float &f : x)
        f = (float)(rng_unit(r) * 2 - 1) * spread;
    return x;
}

static inline struct step_limits scene_limits(const scene &s)
{
    struct step_limits limits = {};
    for (const scene_sequence &x : s.sequence) {
        limits.tokens_max += x.length;
        limits.context_max = x.length > limits.context_max ? x.length : limits.context_max;
    }
    limits.sequences_max = 4 * (int)s.sequence.size();
    return limits;
}

/* Rows of the parts' tokens, and the step's sequences. */
struct scene_inputs {
    std::vector<struct step_sequence> sequences;
    std::vector<float> q, k, v;
    int tokens;
};

static inline void append_rows(std::vector<float> *to, const std::vector<float> &from,
                               const scene_part &p, int row)
{
    long first = (long)p.past * row;
    to->insert(to->end(), from.begin() + first, from.begin() + first + (long)p.count * row);
}

static inline scene_inputs inputs_of(const scene &s, const std::vector<scene_part> &parts)
{
    const scene_shape &d = s.shape;
    scene_inputs in = {};

    for (const scene_part &p : parts) {
        const scene_sequence &x = s.sequence[(size_t)p.sequence];
        struct step_sequence one = {};
        one.first = in.tokens;
        one.count = p.count;
        one.past = p.past;
        one.blocks = x.blocks.data();
        in.sequences.push_back(one);
        in.tokens += p.count;
        append_rows(&in.q, x.q, p, d.heads * d.head_dim);
        append_rows(&in.k, x.k, p, d.kv_heads * d.head_dim);
        append_rows(&in.v, x.v, p, d.kv_heads * d.value_dim);
    }
    return in;
}

static inline struct cuda_heads_job plain_heads(float *x, int heads, int dim, int tokens)
{
    struct cuda_heads_job job = {};

    job.x = x;
    job.tokens = tokens;
    job.stride = heads * dim;
    job.heads = heads;
    job.head_dim = dim;
    return job;
}

static inline void write_pages(const scene &s, const int32_t *slot, float *k, float *v, int tokens)
{
    const scene_shape &d = s.shape;
    struct cuda_heads_job q_job = plain_heads(NULL, 0, d.head_dim, tokens);
    struct cuda_heads_job k_job = plain_heads(k, d.kv_heads, d.head_dim, tokens);
    struct cuda_heads_job v_job = plain_heads(v, d.kv_heads, d.value_dim, tokens);
    struct cuda_kv_rows keys = cuda_kv_keys(&s.a.kv, s.pages, s.layer, slot);
    struct cuda_kv_rows values = cuda_kv_values(&s.a.kv, s.pages, s.layer, slot);

    cuda_heads(&q_job, &k_job, &keys, &v_job, &values, NULL);
}

/* The launches of a step: K and V to their pages, or attention over them. */
static inline void launch_step(const scene &s, const scene_inputs &in,
                               const struct cuda_attention_plan &plan,
                               struct cuda_attention_layer *layer, bool only_write)
{
    const scene_shape &d = s.shape;
    float *q = device_copy_of(in.q), *k = device_copy_of(in.k), *v = device_copy_of(in.v);

    layer->layer = s.layer;
    layer->window = d.window;
    layer->sinks = s.sinks_device;
    layer->pages = s.pages;
    layer->q = q;
    layer->q_stride = d.heads * d.head_dim;
    layer->o_stride = d.heads * d.value_dim;
    if (only_write)
        write_pages(s, cuda_attention_slots(layer->image), k, v, plan.tokens);
    else
        cuda_attention_run(&s.a, &plan, layer, NULL);
    NEED(cudaDeviceSynchronize() == cudaSuccess);
    NEED(cudaFree(q) == cudaSuccess && cudaFree(k) == cudaSuccess && cudaFree(v) == cudaSuccess);
}

/* A step of these parts, run: outputs [tokens][heads * value_dim]. `only_write`: K and V of the
 * parts go to their pages, and nothing is attended to. */
static inline std::vector<float> scene_step(const scene &s, const std::vector<scene_part> &parts,
                                            bool only_write, const scene_options &options = {})
{
    struct step_limits limits = scene_limits(s);
    scene_inputs in = inputs_of(s, parts);
    struct step step = {};
    step.tokens = in.tokens;
    step.sequences = (int)in.sequences.size();
    step.sequence = in.sequences.data();

    size_t workspace_bytes =
        options.no_workspace ? 0 : cuda_attention_workspace_bytes(&s.a, &limits);
    limits.tokens_max += options.padding;
    std::vector<uint8_t> image(cuda_attention_plan_bytes_max(&s.a, &limits));
    struct cuda_attention_plan plan;
    cuda_attention_plan_step(&s.a, &step, in.tokens + options.padding, workspace_bytes,
                             image.data(), &plan);
    NEED(plan.bytes <= image.size());
    image.resize(plan.bytes);

    std::vector<float> o((size_t)(in.tokens * s.shape.heads * s.shape.value_dim));
    size_t o_bytes = o.size() * cuda_real_bytes(scene_real(s.shape));
    uint8_t *image_device = device_copy_of(image);
    struct cuda_attention_layer layer = {};
    layer.image = image_device;
    layer.workspace = device_take(workspace_bytes);
    layer.workspace_bytes = workspace_bytes;
    layer.o = device_take(o_bytes);
    layer.graph_sequences = options.graph_sequences;
    launch_step(s, in, plan, &layer, only_write);
    std::vector<uint8_t> bytes(o_bytes);
    device_read(bytes.data(), layer.o, o_bytes);
    for (size_t i = 0; i < o.size(); i++) {
        uint16_t narrow;
        memcpy(&narrow, &bytes[s.shape.exact ? 0 : 2 * i], sizeof narrow);
        if (s.shape.exact)
            memcpy(&o[i], &bytes[4 * i], sizeof o[i]);
        else
            o[i] = s.shape.o_is_half ? quant_half_to_float(narrow) : quant_bf16_to_float(narrow);
    }
    for (void *at : {(void *)image_device, layer.workspace, layer.o})
        NEED(cudaFree(at) == cudaSuccess);
    return o;
}

static inline void scene_init(scene *s, const scene_shape &shape, const std::vector<int> &lengths,
                              uint64_t seed)
{
    struct rng r;
    int32_t pages = 0;

    rng_init(&r, seed);
    s->shape = shape;
    s->a = {};
    s->a.heads = shape.heads;
    s->a.o_real = scene_real(shape);
    s->a.scale = 1.5f / sqrtf((float)shape.head_dim);
    s->a.softcap = shape.softcap;
    s->layer = SCENE_LAYERS - 1;
    NEED(cuda_kv_layout_init(&s->a.kv, shape.type, SCENE_LAYERS, shape.kv_heads, shape.head_dim,
                             shape.value_dim, NULL) == 0);
    s->sequence.clear();
    for (int length : lengths) {
        scene_sequence x;
        x.length = length;
        x.q = random_vector(&r, (size_t)(length * shape.heads * shape.head_dim), 1.5f);
        x.k = random_vector(&r, (size_t)(length * shape.kv_heads * shape.head_dim), 2.0f);
        x.v = random_vector(&r, (size_t)(length * shape.kv_heads * shape.value_dim), 1.0f);
        for (int i = 0; i < (length + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; i++)
            x.blocks.push_back(pages++);
        s->sequence.push_back(x);
    }
    /* scattered: page n lies where n * stride leads */
    int stride = 1;
    for (int candidate : {7, 5, 3, 2})
        if (pages % candidate != 0) {
            stride = candidate;
            break;
        }
    for (scene_sequence &x : s->sequence)
        for (int32_t &block : x.blocks)
            block = block * stride % pages;

    s->pages = (uint8_t *)device_take((size_t)pages * s->a.kv.page_bytes);
    s->sinks = random_vector(&r, (size_t)shape.heads, 3.0f);
    s->sinks_device = shape.sinks ? device_copy_of(s->sinks) : NULL;
    std::vector<scene_part> all;
    for (int i = 0; i < (int)lengths.size(); i++)
        all.push_back({i, 0, lengths[(size_t)i]});
    scene_step(*s, all, true);
    s->stored.resize((size_t)pages * s->a.kv.page_bytes);
    device_read(s->stored.data(), s->pages, s->stored.size());
}

static inline void scene_deinit(scene *s)
{
    NEED(cudaFree(s->pages) == cudaSuccess);
    if (s->sinks_device) NEED(cudaFree(s->sinks_device) == cudaSuccess);
}

/* ---- what is in the pages ---- */

static inline const uint8_t *scene_stored_part(const scene &s, int sequence, int position,
                                               int kv_head)
{
    const struct cuda_kv_layout *l = &s.a.kv;
    size_t page = (size_t)s.sequence[(size_t)sequence].blocks[(size_t)position / KV_BLOCK_TOKENS];
    size_t part = (size_t)(s.layer * l->kv_heads + kv_head);
    return s.stored.data() + page * l->page_bytes + part * l->part_bytes;
}

static inline float scene_scale(const uint8_t *scales, int position)
{
    float f;
    memcpy(&f, scales + 4 * (position % KV_BLOCK_TOKENS), sizeof f);
    return f;
}

/* Element d of a K or V row whose first bytes are at `row`. */
static inline double scene_element(enum kv_type type, const uint8_t *row, int d, float scale)
{
    float f;
    uint16_t h;
    memcpy(&f, row + 4 * (type == KV_F32 ? d : 0), sizeof f);
    memcpy(&h, row + 2 * (type == KV_INT8 ? 0 : d), sizeof h);
    if (type == KV_F32) return (double)f;
    if (type == KV_F16) return (double)quant_half_to_float(h);
    if (type == KV_BF16) return (double)quant_bf16_to_float(h);
    return (double)scale * (double)(int8_t)row[d];
}

static inline double scene_key(const scene &s, int sequence, int position, int kv_head, int d)
{
    const struct cuda_kv_layout *l = &s.a.kv;
    const uint8_t *part = scene_stored_part(s, sequence, position, kv_head);
    float scale = l->type == KV_INT8 ? scene_scale(part + l->key_scales, position) : 1;
    return scene_element(l->type,
                         part + l->values / KV_BLOCK_TOKENS * (size_t)(position % KV_BLOCK_TOKENS),
                         d, scale);
}

static inline double scene_value(const scene &s, int sequence, int position, int kv_head, int d)
{
    const struct cuda_kv_layout *l = &s.a.kv;
    const uint8_t *part = scene_stored_part(s, sequence, position, kv_head),
                  *values = part + l->values;
    float scale = l->type == KV_INT8 ? scene_scale(part + l->value_scales, position) : 1;
    size_t row = (l->key_scales - l->values) / KV_BLOCK_TOKENS;
    return scene_element(l->type, values + row * (size_t)(position % KV_BLOCK_TOKENS), d, scale);
}

static inline int scene_first(const scene &s, int position)
{
    return s.shape.window > 0 && position >= s.shape.window ? position - s.shape.window + 1 : 0;
}

#endif
