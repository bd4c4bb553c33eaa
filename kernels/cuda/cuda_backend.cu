/* cuda_backend.cu - the CUDA backend's table of slots: life, KV pages, waiting.
 *
 * One stream per backend, so everything happens in the order of calls, and sync() is the one place that
 * waits. The first error is kept and every later sync() tells it: behind a failed kernel a
 * context answers nothing else. */
#include "kernels/cuda/cuda_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_pdl.h"
#include "kernels/cuda/cuda_state.h"
#include "kernels/quant.h"
#include "shared/base/check.h"

/* ---- life ---- */

static void cuda_close(struct backend *b)
{
    if (!b) return;
    if (b->stream) cuda_comm_drain(&b->comm, b->stream);
    cuda_graph_close(&b->graphs); // graphs hold operations of the group
    cuda_comm_leave(&b->comm);
    cuda_gemm_close(&b->gemm);
    cuda_arena_close(&b->pages);
    cuda_unload(b);
    if (b->stream) cudaStreamDestroy(b->stream);
    free(b);
}

static int open_device(struct backend *b, const struct backend_options *options, struct error *err)
{
    struct cudaDeviceProp device;
    int count = 0;

    int rc = cuda_try(cudaGetDeviceCount(&count), "CUDA devices", err);
    if (rc < 0) return rc;
    if (options->rank >= count)
        return error_set(err, E_DEVICE, "no device %d: there are %d", options->rank, count);
    b->device = options->rank;
    rc = cuda_try(cudaSetDevice(b->device), "CUDA device", err);
    if (rc == 0) rc = cuda_try(cudaGetDeviceProperties(&device, b->device), "CUDA device", err);
    if (rc < 0) return rc;
    if (device.major < 8)
        return error_set(err, E_UNSUPPORTED, "%s has compute capability %d.%d; 8.0 is needed",
                         device.name, device.major, device.minor);
    snprintf(b->device_name, sizeof b->device_name, "cuda %d: %s, sm_%d%d, %zu GiB", b->device,
             device.name, device.major, device.minor, device.totalGlobalMem >> 30);
    rc = cuda_try(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking), "stream", err);
    if (rc < 0 || options->measure_only) return rc;
    cuda_pdl_try(b->stream);
    return 0;
}

/* `type`: of the model's products. */
static void write_description(struct backend *b, const char *type)
{
    size_t kib = cuda_comm_peer_most(&b->comm) * sizeof(float) >> 10;
    char sums[64] = "";

    if (b->comm.group && kib > 0)
        snprintf(sums, sizeof sums, ", sums of ranks up to %zu KiB in peer memory", kib);
    else if (b->comm.group)
        snprintf(sums, sizeof sums, ", sums of ranks by NCCL only");
    snprintf(b->description, sizeof b->description, "%s, %s%s%s%s", b->device_name, type,
             b->gemm.deterministic ? ", deterministic" : "",
             cuda_pdl_is_refused ? ", refuses early launches" : "", sums);
}

static int cuda_open(const struct backend_options *options, struct backend **out, struct error *err)
{
    struct backend *b = (struct backend *)xcalloc(1, sizeof *b);
    b->compute = options->compute;
    b->measure_only = options->measure_only;
    b->graphs.enabled = true;
    b->graphs.bucket = -1;
    int rc = open_device(b, options, err);
    if (rc == 0) rc = cuda_gemm_open(&b->gemm, options->deterministic, err);
    if (rc == 0) rc = cuda_comm_join(&b->comm, options, err);
    if (rc < 0) {
        cuda_close(b);
        return rc;
    }
    write_description(b, "no model");
    *out = b;
    return 0;
}

static int cuda_load_slot(struct backend *b, const struct model_params *params,
                          const struct step_limits *limits, struct error *err)
{
    static const char *const names[] = {"float32", "bfloat16", "float16"}; // of enum cuda_real
    int rc = cuda_load(b, params, limits, err);

    if (rc == 0) write_description(b, names[b->real]);
    return rc;
}

static const char *cuda_describe(const struct backend *b)
{
    return b->description;
}

static void cuda_memory(const struct backend *b, size_t *weights, size_t *activations)
{
    *weights = b->weights.used;
    *activations = b->activations.used + cuda_comm_peer_bytes(&b->comm);
    if (b->measure_only) *activations += cuda_comm_nccl_bytes(b->comm.world);
}

static size_t cuda_memory_free(const struct backend *b)
{
    size_t free_bytes = 0, total;

    if (cudaSetDevice(b->device) != cudaSuccess ||
        cudaMemGetInfo(&free_bytes, &total) != cudaSuccess)
        return 0;
    return free_bytes;
}

/* ---- KV pages ---- */

static size_t cuda_kv_block_bytes(const struct backend *b, enum kv_type type)
{
    const struct model_params *m = &b->model;
    struct cuda_kv_layout layout;

    CHECK(b->loaded || b->measure_only);
    int rc =
        cuda_kv_layout_init(&layout, type, m->layers, m->kv_heads, m->head_dim, m->value_dim, NULL);
    CHECK(rc == 0); // load has asked already
    return layout.page_bytes;
}

static int cuda_kv_open(struct backend *b, enum kv_type type, int blocks, struct error *err)
{
    const struct model_params *m = &b->model;

    CHECK(b->loaded && !b->pages.base);
    if (blocks < 1) return error_set(err, E_INVALID, "%d KV pages are too few", blocks);
    size_t page = cuda_kv_block_bytes(b, type);
    if (page > SIZE_MAX / 2 / (size_t)blocks)
        return error_set(err, E_LIMIT, "%d KV pages of %zu bytes are too many", blocks, page);
    int rc = cuda_kv_layout_init(&b->attention.kv, type, m->layers, m->kv_heads, m->head_dim,
                                 m->value_dim, err);
    if (rc == 0) rc = cuda_attention_fits(&b->attention, err);
    if (rc < 0) return rc;
    cuda_arena_take(&b->pages, page * (size_t)blocks);
    b->kv_blocks = blocks;
    return cuda_arena_open(&b->pages, "KV pages", err);
}

static void check_page(const struct backend *b, int block, int tokens)
{
    CHECK(b->pages.base && !b->step);
    CHECK(block >= 0 && block < b->kv_blocks);
    CHECK(tokens >= 0 && tokens <= KV_BLOCK_TOKENS);
}

static void cuda_kv_copy_slot(struct backend *b, int from_block, int to_block, int tokens)
{
    check_page(b, from_block, tokens);
    check_page(b, to_block, tokens);
    CHECK(from_block != to_block);
    cuda_kv_copy(&b->attention.kv, b->pages.base, from_block, to_block, b->stream);
}

static void cuda_kv_save_slot(struct backend *b, int block, int tokens, void *host)
{
    check_page(b, block, tokens);
    cuda_kv_save(&b->attention.kv, b->pages.base, block, host, b->stream);
}

static void cuda_kv_restore_slot(struct backend *b, int block, int tokens, const void *host)
{
    check_page(b, block, tokens);
    cuda_kv_restore(&b->attention.kv, b->pages.base, block, host, b->stream);
}

/* ---- sums and results ---- */

static void cuda_all_reduce(struct backend *b)
{
    if (!cuda_graph_replays(&b->graphs))
        cuda_comm_sum(&b->comm, b->y, (size_t)b->tokens * (size_t)b->model.hidden, b->stream);
}

static const float *cuda_logits_host(struct backend *b)
{
    return b->logits_host;
}

static const int32_t *cuda_sampled(struct backend *b)
{
    return b->sampler.token[b->read_turn];
}

static const struct sample_report *cuda_reported(struct backend *b, int row)
{
    return &b->sampler.report[b->read_turn][row];
}

/* What gather left for the head, in the model's type. An error is noted, and the
 * next sync reports it. */
static void cuda_hidden_row(struct backend *b, int row, float *out)
{
    const struct cuda_rows *last = &b->last;
    size_t hidden = (size_t)b->model.hidden, at = (size_t)row * (size_t)last->stride;
    size_t size = cuda_real_bytes(last->real);

    CHECK(!b->is_ahead); // else it is the later step's
    const char *from = (const char *)last->data + at * size;

    cuda_note(b, cudaMemcpyAsync(out, from, hidden * size, cudaMemcpyDeviceToHost, b->stream));
    cuda_note(b, cudaStreamSynchronize(b->stream));
    if (last->real == CUDA_REAL_F32) return;
    for (size_t i = hidden; i-- > 0;) { // in place, from the end: a float covers two halves
        uint16_t half;
        memcpy(&half, (const char *)out + i * sizeof half, sizeof half);
        out[i] =
            last->real == CUDA_REAL_F16 ? quant_half_to_float(half) : quant_bf16_to_float(half);
    }
}

const struct backend_ops cuda_backend_ops = {
    .name = "cuda",
    .split = TP_SPLIT_INPUTS,
    .input_orders = false,
    .scale_grids = true,
    .group_create = cuda_comm_create,
    .group_destroy = cuda_comm_destroy,
    .group_abort = cuda_comm_abort,
    .open = cuda_open,
    .close = cuda_close,
    .describe = cuda_describe,
    .load = cuda_load_slot,
    .kv_block_bytes = cuda_kv_block_bytes,
    .kv_open = cuda_kv_open,
    .kv_copy = cuda_kv_copy_slot,
    .kv_save = cuda_kv_save_slot,
    .kv_restore = cuda_kv_restore_slot,
    .step_begin = cuda_step_begin,
    .embed = cuda_step_embed,
    .qkv = cuda_step_qkv,
    .attend = cuda_step_attend,
    .out = cuda_step_out,
    .gate_up = cuda_step_gate_up,
    .down = cuda_step_down,
    .all_reduce = cuda_all_reduce,
    .residual = cuda_step_residual,
    .logits = cuda_step_logits,
    .step_end = cuda_step_end,
    .sync = cuda_sync,
    .has_ended = cuda_has_ended,
    .logits_host = cuda_logits_host,
    .sample = cuda_step_sample,
    .sampled = cuda_sampled,
    .reported = cuda_reported,
    .hidden_row = cuda_hidden_row,
    .run_parallel = NULL,
    .memory = cuda_memory,
    .memory_free = cuda_memory_free,
};
