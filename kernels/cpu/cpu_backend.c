/* cpu_backend.c - the CPU's table of slots: life, KV pages, and the ends of a step.
 *
 * Stages run when they are called and are complete on return, so step_end has nothing left to do, and
 * the only error that sync can find is another rank's: memory is mapped ahead and everything else was
 * checked at load. */
#include "kernels/cpu/cpu_backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu_comm.h"
#include "kernels/cpu/cpu_state.h"
#include "shared/base/check.h"

static void cpu_close(struct backend *b)
{
    if (!b) return;
    cpu_pool_destroy(b->pool);
    if (b->kv) munmap(b->kv, b->kv_mapped);
    cpu_unload(b);
    free(b);
}

static int cpu_open(const struct backend_options *options, struct backend **out, struct error *err)
{
    struct backend *b = xcalloc(1, sizeof *b);
    b->rank = options->rank;
    b->world = options->world > 1 ? options->world : 1;
    b->group = options->group;
    CHECK(b->rank >= 0 && b->rank < b->world);
    CHECK(b->world == 1 || b->group || options->measure_only);
    b->compute = options->compute;
    b->measure_only = options->measure_only;
    int rc = cpu_isa_choose(options->isa, &b->isa, err);
    if (rc == 0) rc = cpu_pool_create(options->threads, options->cpu_list, &b->pool, err);
    if (rc < 0) {
        cpu_close(b);
        return rc;
    }
    int threads = cpu_pool_threads(b->pool);
    snprintf(b->description, sizeof b->description, "cpu %s, %d thread%s", b->isa->description,
             threads, threads == 1 ? "" : "s");
    *out = b;
    return 0;
}

static const char *cpu_describe(const struct backend *b)
{
    return b->description;
}

/* ---- KV pages ---- */

static size_t cpu_kv_block_bytes(const struct backend *b, enum kv_type type)
{
    struct kv_layout layout;
    CHECK(b->loaded || b->measure_only);
    cpu_kv_layout_init(&layout, type, b->model.head_dim, b->model.value_dim);
    return layout.bytes * (size_t)b->model.layers * (size_t)b->model.kv_heads;
}

static int cpu_kv_open(struct backend *b, enum kv_type type, int blocks, struct error *err)
{
    CHECK(b->loaded && !b->kv);
    if (blocks < 1) return error_set(err, E_INVALID, "%d KV pages are too few", blocks);
    size_t page = cpu_kv_block_bytes(b, type);
    if (page > SIZE_MAX / 2 / (size_t)blocks)
        return error_set(err, E_LIMIT, "%d KV pages of %zu bytes are too many", blocks, page);
    void *base = mmap(NULL, page * (size_t)blocks, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        int code = -errno;
        return error_set(err, code, "can't map %d KV pages of %zu bytes", blocks, page);
    }
    b->kv = base;
    b->kv_mapped = page * (size_t)blocks;
    b->kv_blocks = blocks;
    b->kv_page_bytes = page;
    cpu_kv_layout_init(&b->kv_layout, type, b->model.head_dim, b->model.value_dim);
    return 0;
}

/* K of a page is stored by element, so the first `tokens` positions are not one range: whole pages
 * move. Positions behind them are never read before they are written. */
static uint8_t *page_to_move(const struct backend *b, int block, int tokens)
{
    CHECK(b->kv && !b->step);
    CHECK(block >= 0 && block < b->kv_blocks);
    CHECK(tokens >= 0 && tokens <= KV_BLOCK_TOKENS);
    return b->kv + (size_t)block * b->kv_page_bytes;
}

static void cpu_kv_copy(struct backend *b, int from_block, int to_block, int tokens)
{
    CHECK(to_block != from_block);
    memcpy(page_to_move(b, to_block, tokens), page_to_move(b, from_block, tokens),
           b->kv_page_bytes);
}

static void cpu_kv_save(struct backend *b, int block, int tokens, void *host)
{
    memcpy(host, page_to_move(b, block, tokens), b->kv_page_bytes);
}

static void cpu_kv_restore(struct backend *b, int block, int tokens, const void *host)
{
    memcpy(page_to_move(b, block, tokens), host, b->kv_page_bytes);
}

/* ---- ends of a step ---- */

static void cpu_step_end(struct backend *b)
{
    b->step = NULL;
}

static int cpu_sync(struct backend *b, struct error *err)
{
    return b->group ? cpu_comm_check(b->group, err) : 0;
}

static void cpu_hidden_row(struct backend *b, int row, float *out)
{
    memcpy(out, cpu_input_row(&b->last, row), (size_t)b->model.hidden * sizeof *out);
}

static const float *cpu_logits_host(struct backend *b)
{
    return b->logits;
}

static void cpu_run_parallel(struct backend *b, void (*fn)(void *arg, int part, int parts),
                             void *arg)
{
    cpu_pool_run(b->pool, fn, arg);
}

static void cpu_memory(const struct backend *b, size_t *weights, size_t *activations)
{
    *weights = b->measure_only ? b->weights.used : b->weights.bytes;
    *activations = b->measure_only ? b->activations.used : b->activations.bytes;
}

const struct backend_ops cpu_backend_ops = {
    .name = "cpu",
    .split = TP_SPLIT_OUTPUTS,
    .input_orders = true,
    .group_create = cpu_comm_create,
    .group_destroy = cpu_comm_destroy,
    .group_abort = cpu_comm_abort,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .load = cpu_load,
    .kv_block_bytes = cpu_kv_block_bytes,
    .kv_open = cpu_kv_open,
    .kv_copy = cpu_kv_copy,
    .kv_save = cpu_kv_save,
    .kv_restore = cpu_kv_restore,
    .step_begin = cpu_step_begin,
    .embed = cpu_embed,
    .qkv = cpu_qkv,
    .attend = cpu_attend,
    .out = cpu_out,
    .gate_up = cpu_gate_up,
    .down = cpu_down,
    .all_reduce = cpu_all_reduce,
    .residual = cpu_residual,
    .logits = cpu_logits,
    .step_end = cpu_step_end,
    .sync = cpu_sync,
    .logits_host = cpu_logits_host,
    .hidden_row = cpu_hidden_row,
    .run_parallel = cpu_run_parallel,
    .memory = cpu_memory,
};
