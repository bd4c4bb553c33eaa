#include "kernels/cpu/cpu_gemm.h"

#include <string.h>

#include "shared/base/check.h"

#define STATIC_TOKENS 16        // up to here decode rules: static shares
#define TILE_TOKENS   64        // tokens of a dynamic tile
#define TILE_CELLS    256       // panels * tokens of one kernel call into scratch
#define SMALL_WORK    (1 << 15) // multiply-adds below which waking the pool costs more than it saves

unsigned cpu_gemm_layouts(const struct cpu_isa *isa, const struct cpu_packed *w)
{
    return 1u << ACT_F32 | 1u << isa->gemm[w->form].layout;
}

/* Eight bits of what eight bits left over, by pieces that fit on the stack (README rule A5). */
static void quantize_remainder(const struct cpu_isa *isa, const struct act_int8 *first,
                               struct act_int8 *second, const float *x, int cols)
{
    float remainder[256];

    for (int k = 0; k < cols; k += 256) {
        int count = cols - k < 256 ? cols - k : 256;
        isa->pointwise->remainder_int8(remainder, first + k / 32, x + k, count);
        isa->pointwise->quantize_int8(second + k / 32, remainder, count);
    }
}

/* `count` elements of a row from its `first` on, both whole blocks; x: those elements. */
static void quantize_piece(const struct cpu_isa *isa, const struct cpu_input *in, size_t row,
                           const float *x, int first, int count)
{
    if (in->layouts & 1u << ACT_INT8) {
        struct act_int8 *out = (void *)((char *)in->data[ACT_INT8] + row * in->row_bytes[ACT_INT8]);
        out += first / 32;
        isa->pointwise->quantize_int8(out, x, count);
        if (in->terms == 2) quantize_remainder(isa, out, out + in->cols / 32, x, count);
    }
    if (in->layouts & 1u << ACT_INT16) {
        struct act_int16 *out =
            (void *)((char *)in->data[ACT_INT16] + row * in->row_bytes[ACT_INT16]);
        isa->pointwise->quantize_int16(out + first / 32, x, count);
    }
}

void cpu_input_quantize(const struct cpu_isa *isa, const struct cpu_input *in, int token,
                        const int32_t *order)
{
    const float *x = cpu_input_row(in, token);
    float piece[256];

    if (!order) {
        quantize_piece(isa, in, (size_t)token, x, 0, in->cols);
        return;
    }
    for (int first = 0, count; first < in->cols; first += count) {
        count = in->cols - first < 256 ? in->cols - first : 256;
        for (int i = 0; i < count; i++)
            piece[i] = x[order[first + i]];
        quantize_piece(isa, in, (size_t)token, piece, first, count);
    }
}

/* Both terms of a token go through the kernel as rows of their own, and the two results are added.
 */
static void multiply_terms(const struct cpu_gemm_job *job, const struct cpu_packed *w, int panel,
                           int panels, const char *x, int tokens, float *out, size_t out_stride)
{
    float cells[2 * TILE_CELLS * PANEL_ROWS];
    size_t term_bytes = job->in->row_bytes[ACT_INT8] / 2;
    int step = TILE_CELLS / tokens;

    for (int p = 0, count; p < panels; p += count) {
        count = panels - p < step ? panels - p : step;
        int width = count * PANEL_ROWS;
        job->isa->gemm[w->form].kernel(w, panel + p, count, x, term_bytes, 2 * tokens, cells,
                                       (size_t)width);
        for (int t = 0; t < tokens; t++) {
            float *row = cells + 2 * t * width;
            job->isa->pointwise->add(row, row + width, width);
            memcpy(out + (size_t)t * out_stride + PANEL_ROWS * p, row, (size_t)width * sizeof *row);
        }
    }
}

/* Panels [panel, panel + panels) of w times tokens [token, token + tokens), at most TILE_TOKENS of
 * them, as rows of out_stride. */
static void multiply(const struct cpu_gemm_job *job, const struct cpu_packed *w, int panel,
                     int panels, int token, int tokens, float *out, size_t out_stride)
{
    const struct cpu_input *in = job->in;
    enum act_layout layout = job->isa->gemm[w->form].layout;
    size_t row_bytes = in->row_bytes[layout];
    const char *x = (const char *)in->data[layout] + (size_t)token * row_bytes;

    if (layout == ACT_INT8 && in->terms == 2)
        multiply_terms(job, w, panel, panels, x, tokens, out, out_stride);
    else
        job->isa->gemm[w->form].kernel(w, panel, panels, x, row_bytes, tokens, out, out_stride);
}

static void add_bias(const struct cpu_gemm_job *job, const struct cpu_gemm_part *part, float *out,
                     size_t out_stride, int row, int rows, int tokens)
{
    if (!part->bias) return;
    for (int t = 0; t < tokens; t++)
        job->isa->pointwise->add(out + (size_t)t * out_stride, part->bias + row, rows);
}

/* A last panel with padding rows goes through scratch, so that nothing is written beyond a row. */
static void ragged_panel(const struct cpu_gemm_job *job, const struct cpu_gemm_part *part,
                         int token, int tokens)
{
    const struct cpu_packed *w = part->w;
    int row = (w->panels - 1) * PANEL_ROWS, rows = w->rows - row;

    for (int done = 0, count; done < tokens; done += count) {
        float cells[STATIC_TOKENS * PANEL_ROWS];
        count = tokens - done < STATIC_TOKENS ? tokens - done : STATIC_TOKENS;
        multiply(job, w, w->panels - 1, 1, token + done, count, cells, PANEL_ROWS);
        for (int t = 0; t < count; t++) {
            float *out = part->out + (size_t)(token + done + t) * part->out_stride + row;
            memcpy(out, cells + t * PANEL_ROWS, (size_t)rows * sizeof *out);
        }
    }
    add_bias(job, part, part->out + (size_t)token * part->out_stride + row, part->out_stride, row,
             rows, tokens);
}

static void plain_tile(const struct cpu_gemm_job *job, const struct cpu_gemm_part *part, int panel,
                       int panels, int token, int tokens)
{
    const struct cpu_packed *w = part->w;
    bool ragged = w->rows % PANEL_ROWS != 0 && panel + panels == w->panels;
    int whole = ragged ? panels - 1 : panels;

    if (whole > 0) {
        int row = panel * PANEL_ROWS;
        float *out = part->out + (size_t)token * part->out_stride + row;
        multiply(job, w, panel, whole, token, tokens, out, part->out_stride);
        add_bias(job, part, out, part->out_stride, row, whole * PANEL_ROWS, tokens);
    }
    if (ragged) ragged_panel(job, part, token, tokens);
}

/* Gate and up of the same rows, side by side in scratch, then act(gate) * up to its place. */
static void gated_tile(const struct cpu_gemm_job *job, int panel, int panels, int token, int tokens)
{
    float gate[TILE_CELLS * PANEL_ROWS], up[TILE_CELLS * PANEL_ROWS];
    const struct cpu_gemm_part *g = &job->part[0], *u = &job->part[1];
    int step = TILE_CELLS / tokens;

    for (int p = panel, count; p < panel + panels; p += count) {
        count = panel + panels - p < step ? panel + panels - p : step;
        size_t stride = (size_t)count * PANEL_ROWS;
        int row = p * PANEL_ROWS, rows = count * PANEL_ROWS;
        if (row + rows > g->w->rows) rows = g->w->rows - row;
        multiply(job, g->w, p, count, token, tokens, gate, stride);
        multiply(job, u->w, p, count, token, tokens, up, stride);
        add_bias(job, g, gate, stride, row, rows, tokens);
        add_bias(job, u, up, stride, row, rows, tokens);
        for (int t = 0; t < tokens; t++) {
            float *from = gate + (size_t)t * stride;
            job->isa->pointwise->activate(job->activation, from, up + (size_t)t * stride, rows);
            float *out = g->out + (size_t)(token + t) * g->out_stride + row;
            memcpy(out, from, (size_t)rows * sizeof *out);
        }
    }
}

void cpu_gemm_job_add(struct cpu_gemm_job *job, const struct cpu_packed *w, float *out,
                      const float *bias)
{
    CHECK(job->parts < GEMM_PARTS_MAX);
    job->part[job->parts++] = (struct cpu_gemm_part){w, out, (size_t)w->rows, bias};
}

static int parts_to_run(const struct cpu_gemm_job *job)
{
    return job->gated ? 1 : job->parts;
}

/* `token` counts from the job's first. */
static void run_tile(const struct cpu_gemm_job *job, int part, int panel, int panels, int token,
                     int tokens)
{
    token += job->first;
    if (job->gated)
        gated_tile(job, panel, panels, token, tokens);
    else
        plain_tile(job, &job->part[part], panel, panels, token, tokens);
}

struct job_list {
    const struct cpu_gemm_job *job;
    int count;
};

/* Decode, one job: all panels of all parts in one row, cut into equal shares. */
static void run_static(void *arg, int part, int parts)
{
    const struct job_list *list = arg;
    const struct cpu_gemm_job *job = list->job;
    int total = 0, first, last, base = 0;

    for (int i = 0; i < parts_to_run(job); i++)
        total += job->part[i].w->panels;
    cpu_pool_share(total, part, parts, &first, &last);
    for (int i = 0; i < parts_to_run(job); i++) {
        int panels = job->part[i].w->panels;
        int from = first > base ? first - base : 0;
        int to = last - base < panels ? last - base : panels;
        if (from < to) run_tile(job, i, from, to - from, 0, job->tokens);
        base += panels;
    }
}

/* Panels per tile: few enough that every thread gets several tiles and that a tile's weights fit
 * into the second cache beside the activations. */
static int tile_panels(const struct cpu_gemm_job *job)
{
    size_t bytes = job->part[0].w->panel_bytes * (job->gated ? 2 : 1);
    int panels = (int)((128 << 10) / bytes);
    return panels < 1 ? 1 : panels > 8 ? 8 : panels;
}

/* Tiles of a job side by side: those of one block of tokens. */
static int tile_columns(const struct cpu_gemm_job *job, int step)
{
    int columns = 0;
    for (int i = 0; i < parts_to_run(job); i++)
        columns += (job->part[i].w->panels + step - 1) / step;
    return columns;
}

static int tile_count(const struct cpu_gemm_job *job)
{
    int rows = (job->tokens + TILE_TOKENS - 1) / TILE_TOKENS;
    return rows * tile_columns(job, tile_panels(job));
}

/* In an order that keeps a block of tokens hot while the panels go by. */
static void run_tile_at(const struct cpu_gemm_job *job, int item)
{
    int step = tile_panels(job), columns = tile_columns(job, step);
    int token = item / columns * TILE_TOKENS, column = item % columns, i = 0;
    int tokens = job->tokens - token < TILE_TOKENS ? job->tokens - token : TILE_TOKENS;

    for (int n; column >= (n = (job->part[i].w->panels + step - 1) / step); i++)
        column -= n;
    int panel = column * step, panels = job->part[i].w->panels - panel;
    run_tile(job, i, panel, panels < step ? panels : step, token, tokens);
}

/* Prefill, and several jobs at once: tiles as threads get free. */
static void run_dynamic(void *arg, int part, int parts)
{
    const struct job_list *list = arg;
    int at = 0, base = 0, tiles = tile_count(&list->job[0]);

    (void)part;
    (void)parts;
    for (;;) {
        int item = cpu_pool_next(list->job[0].pool);
        while (item - base >= tiles) {
            if (++at == list->count) return;
            base += tiles;
            tiles = tile_count(&list->job[at]);
        }
        run_tile_at(&list->job[at], item - base);
    }
}

/* Multiply-adds of a job. */
static int64_t check_job(const struct cpu_gemm_job *job)
{
    int64_t work = 0;

    CHECK(job->parts > 0 && job->parts <= GEMM_PARTS_MAX);
    for (int i = 0; i < job->parts; i++) {
        CHECK(job->part[i].w->cols == job->in->cols);
        work += (int64_t)job->part[i].w->rows * job->in->cols * job->tokens;
    }
    CHECK(!job->gated || job->part[0].w->rows == job->part[1].w->rows);
    return work;
}

void cpu_gemm_run(const struct cpu_gemm_job *job)
{
    struct job_list list = {job, 1};
    int64_t work = check_job(job);

    if (job->tokens == 0) return;
    if (job->tokens > STATIC_TOKENS)
        cpu_pool_run(job->pool, run_dynamic, &list);
    else if (work < SMALL_WORK)
        run_static(&list, 0, 1);
    else
        cpu_pool_run(job->pool, run_static, &list);
}

void cpu_gemm_run_all(const struct cpu_gemm_job *jobs, int count)
{
    struct job_list list = {jobs, count};
    int64_t work = 0;

    for (int i = 0; i < count; i++)
        work += check_job(&jobs[i]);
    if (work >= SMALL_WORK) {
        cpu_pool_run(jobs[0].pool, run_dynamic, &list);
        return;
    }
    for (int i = 0; i < count; i++)
        for (int item = 0; item < tile_count(&jobs[i]); item++)
            run_tile_at(&jobs[i], item);
}
