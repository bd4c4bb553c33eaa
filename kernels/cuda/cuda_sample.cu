#include "kernels/cuda/cuda_sample.h"

#include <string.h>

#include "kernels/cuda/cuda_sample_select.cuh"
#include "shared/base/check.h"

#define LIST_WORDS (2 * SAMPLE_LISTS_SHORT) // of lists that a row may have, on average

/* ---- top ---- */

/* What adjust() of kernels/sample.c does, for one tile. NaN if a logit is not finite. */
__device__ __forceinline__ float adjust_tile(const struct cuda_sample_draw *d, uint32_t *word,
                                             float *x, int begin, int end)
{
    const struct logit_bias *bias = (const struct logit_bias *)(word + d->bias_at);
    const struct token_count *seen = (const struct token_count *)(word + d->seen_at);
    struct cuda_sample_ban *ban = (struct cuda_sample_ban *)(word + d->ban_at);
    const uint32_t *mask = word + d->mask_at;
    float bad = 0;

    for (int i = begin + (int)threadIdx.x; i < end; i += TILE_THREADS)
        bad += x[i] * 0.0f;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < d->bias_count; i += TILE_THREADS)
        if (is_within(bias[i].token, begin, end)) x[bias[i].token] += bias[i].bias;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < d->seen_count; i += TILE_THREADS) {
        struct token_count t = seen[i];
        if (is_within(t.token, begin, end))
            x[t.token] =
                sample_penalise(x[t.token], t.answer, d->repetition, d->frequency, d->presence);
    }
    __syncthreads();
    for (int i = begin + (int)threadIdx.x; d->is_masked && i < end; i += TILE_THREADS) {
        uint32_t allowed = i / 32 < d->mask_words ? mask[i / 32] : 0;
        if (!(allowed >> (i % 32) & 1)) x[i] = -INFINITY;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < d->ban_count; i += TILE_THREADS)
        if (is_within(ban[i].token, begin, end))
            ban[i].lifted = atomicExch(&x[ban[i].token], -INFINITY); // of twins one gets the logit
    __syncthreads();
    return bad;
}

__device__ __forceinline__ void clear_row(const struct cuda_sample_space &s, unsigned draw)
{
    for (int i = (int)threadIdx.x; i < BINS; i += TILE_THREADS) {
        s.bin_count[(size_t)draw * BINS + i] = 0;
        s.bin_low[(size_t)draw * BINS + i] = 0;
    }
    if (threadIdx.x == 0) s.list_count[draw] = 0;
}

__global__ void __launch_bounds__(TILE_THREADS) sample_top_kernel(struct sample_job job)
{
    LM_SHARED(uint64_t, scratch, WARP_LANES);
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.y];
    float *x = job.logits + (size_t)d->row * job.stride;
    int begin = (int)blockIdx.x * TILE, end = min(begin + TILE, job.vocab), at = begin;
    float best = -INFINITY, bad = 0;

    if (blockIdx.x == 0 && d->is_cut) clear_row(job.space, blockIdx.y);
    bool is_adjusted = d->is_adjusted;
    if (is_adjusted) bad = adjust_tile(d, job.space.word, x, begin, end);
    LM_UNROLL
    for (int j = 0; j < TILE_EACH; j++) {
        int i = begin + j * TILE_THREADS + (int)threadIdx.x;
        float v = i < end ? x[i] : -INFINITY;
        if (!is_adjusted && i < end) bad += v * 0.0f;
        if (v > best) {
            best = v;
            at = i;
        }
    }
    uint64_t top = block_top(bad == 0 ? top_of(best, at) : TOP_BAD, scratch);
    if (threadIdx.x == 0)
        job.space.tile_top[(size_t)blockIdx.y * job.space.tiles + blockIdx.x] = top;
}

/* ---- weigh ---- */

__global__ void __launch_bounds__(TILE_THREADS) sample_weigh_kernel(struct sample_job job)
{
    LM_SHARED(uint64_t, scratch, WARP_LANES);
    LM_SHARED(uint32_t, count, BINS);
    LM_SHARED(uint32_t, low, BINS); // of TILE tokens: less than 2^32
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.y];
    float *x = job.logits + (size_t)d->row * job.stride;
    int begin = (int)blockIdx.x * TILE, end = min(begin + TILE, job.vocab);
    size_t bins_at = (size_t)blockIdx.y * BINS;
    bool is_lifted, is_cut = d->is_cut;
    uint64_t top = row_top(job, blockIdx.y, &is_lifted), mass = 0, all;

    if (d->is_greedy || !is_top_finite(top)) return;
    if (is_lifted) lift_bans(d, job.space.word, x, begin, end);
    for (int i = (int)threadIdx.x; is_cut && i < BINS; i += TILE_THREADS)
        count[i] = low[i] = 0;
    __syncthreads();
    struct sample_scale scale = sample_scale(top_value(top), d->temperature);
    LM_UNROLL
    for (int j = 0; j < TILE_EACH; j++) {
        int i = begin + j * TILE_THREADS + (int)threadIdx.x;
        float w = i < end ? weight_at(x, i, scale) : 0.0f;
        if (w >= d->floor) mass += (uint64_t)w;
        if (!is_cut || w == 0) continue;
        uint64_t key = key_of(w, i);
        int bin = (int)((key - KEY_MIN) >> BIN_SHIFT);
        atomicAdd(&count[bin], 1u);
        atomicAdd(&low[bin], low_of(key, BIN_SHIFT));
    }
    block_before(mass, scratch, &all); // and all has been counted
    if (threadIdx.x == 0)
        job.space.tile_mass[(size_t)blockIdx.y * job.space.tiles + blockIdx.x] = all;
    for (int i = (int)threadIdx.x; is_cut && i < BINS; i += TILE_THREADS) {
        if (count[i] == 0) continue;
        atomicAdd(&job.space.bin_count[bins_at + i], count[i]);
        atomicAdd(&job.space.bin_low[bins_at + i], (unsigned long long)low[i]);
    }
}

/* ---- range ---- */

/* Bins that the cuts may lie in. What top_p has to reach isn't known exactly before it is known where top_k cuts: it
 * is between that without and with all of the bin in which that is. Above `high` all is kept. */
__global__ void __launch_bounds__(ROW_THREADS) sample_range_kernel(struct sample_job job)
{
    LM_SHARED(struct place, shared, 1);
    LM_SHARED(uint64_t, scratch, WARP_LANES);
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.x];
    const uint64_t width = 1ull << BIN_SHIFT;
    uint64_t low = KEY_MIN, high = KEY_MIN;
    bool is_lifted;

    if (!d->is_cut || !is_top_finite(row_top(job, blockIdx.x, &is_lifted))) return;
    struct place by_rank = find_bin(job, blockIdx.x, false, (uint64_t)d->top_k, shared, scratch);
    uint64_t least = by_rank.all_mass;
    if (by_rank.is_found) {
        low = by_rank.begin;
        high = low + width;
        least = by_rank.mass_before;
    }
    if (d->top_p < 1) {
        uint64_t wanted = sample_needed(d->top_p, least);
        struct place by_mass = find_bin(job, blockIdx.x, true, wanted, shared, scratch);
        high = by_mass.begin + width;
        if (!by_rank.is_found) low = by_mass.begin;
    }
    if (threadIdx.x == 0) {
        job.space.range[2 * blockIdx.x] = low;
        job.space.range[2 * blockIdx.x + 1] = high;
    }
}

/* ---- gather ---- */

__device__ __forceinline__ void append(int *list, int *list_count, int id, bool is_listed)
{
    unsigned votes = __ballot_sync(WARP_ALL, is_listed);
    int at = 0;

    if (votes == 0) return;
    if (lane_id() == 0) at = atomicAdd(list_count, __popc(votes));
    at = __shfl_sync(WARP_ALL, at, 0) + __popc(votes & ((1u << lane_id()) - 1));
    if (is_listed && at < LIST_MAX) list[at] = id;
}

__global__ void __launch_bounds__(TILE_THREADS) sample_gather_kernel(struct sample_job job)
{
    LM_SHARED(uint64_t, scratch, WARP_LANES);
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.y];
    const float *x = job.logits + (size_t)d->row * job.stride;
    int begin = (int)blockIdx.x * TILE, end = min(begin + TILE, job.vocab);
    bool is_lifted;
    uint64_t top = row_top(job, blockIdx.y, &is_lifted), mass = 0, all;

    if (!d->is_cut || !is_top_finite(top)) return;
    uint64_t low = job.space.range[2 * blockIdx.y], high = job.space.range[2 * blockIdx.y + 1];
    struct sample_scale scale = sample_scale(top_value(top), d->temperature);
    LM_UNROLL
    for (int j = 0; j < TILE_EACH; j++) {
        int i = begin + j * TILE_THREADS + (int)threadIdx.x;
        float w = i < end ? weight_at(x, i, scale) : 0.0f;
        uint64_t key = key_of(w, i);
        if (key >= high && w >= d->floor) mass += (uint64_t)w;
        append(job.space.list + (size_t)blockIdx.y * LIST_MAX, &job.space.list_count[blockIdx.y], i,
               key >= low && key < high);
    }
    block_before(mass, scratch, &all);
    if (threadIdx.x == 0)
        job.space.tile_mass[(size_t)blockIdx.y * job.space.tiles + blockIdx.x] = all;
}

/* ---- finish ---- */

struct finish_scratch {
    uint64_t sums[WARP_LANES];
    struct place place;
    uint64_t target;
    int tile;
    uint32_t count[DIGITS_MAX], low[DIGITS_MAX];
};

/* The least key that is kept; 0: all are. */
__device__ __forceinline__ uint64_t find_cut(const struct sample_job &job, unsigned draw,
                                             const struct candidates &c, struct finish_scratch *s)
{
    const struct cuda_sample_draw *d = &job.space.draw[draw];
    uint64_t cut = 0, mass;

    struct place bin = find_bin(job, draw, false, (uint64_t)d->top_k, &s->place, s->sums);
    mass = bin.all_mass;
    if (bin.is_found)
        cut =
            refine(c, bin, false, (uint64_t)d->top_k, s->count, s->low, &s->place, s->sums, &mass);
    if (!(d->top_p < 1)) return cut;
    uint64_t wanted = sample_needed(d->top_p, mass);
    bin = find_bin(job, draw, true, wanted, &s->place, s->sums);
    return refine(c, bin, true, wanted, s->count, s->low, &s->place, s->sums, &mass);
}

/* What is kept of the range, into the tiles' mass. */
__device__ __forceinline__ void add_candidates(const struct candidates &c, uint64_t cut,
                                               uint64_t high, float floor,
                                               unsigned long long *tile_mass)
{
    for (int i = (int)threadIdx.x; i < c.count; i += ROW_THREADS) {
        int id = c.list ? c.list[i] : i;
        float w = weight_at(c.x, id, c.scale);
        uint64_t key = key_of(w, id);
        if (w > 0 && w >= floor && key >= cut && key < high)
            atomicAdd(&tile_mass[id / TILE], (unsigned long long)w);
    }
    __syncthreads();
}

/* The tile in which the mass gets above the target, and what is left of that there. */
__device__ __forceinline__ void find_tile(const unsigned long long *tile_mass, int tiles,
                                          uint64_t random, struct finish_scratch *s)
{
    int each = (tiles + ROW_THREADS - 1) / ROW_THREADS, first = (int)threadIdx.x * each;
    int end = min(first + each, tiles);
    uint64_t own = 0, all;

    for (int i = first; i < end; i++)
        own += __ldcg(&tile_mass[i]);
    uint64_t before = block_before(own, s->sums, &all), target = sample_target(random, all);
    if (before <= target && target < before + own) {
        int i = first;
        for (; before + __ldcg(&tile_mass[i]) <= target; i++)
            before += __ldcg(&tile_mass[i]);
        s->tile = i;
        s->target = target - before;
    }
    __syncthreads();
}

/* The token of that tile. */
__device__ __forceinline__ void find_token(const float *x, int vocab, struct sample_scale scale,
                                           uint64_t cut, float floor, struct finish_scratch *s,
                                           int32_t *token)
{
    const int each = TILE / ROW_THREADS;
    int first = s->tile * TILE + (int)threadIdx.x * each;
    float weight[each];
    uint64_t own = 0, all;

    LM_UNROLL
    for (int j = 0; j < each; j++) {
        int id = first + j;
        float w = id < vocab ? weight_at(x, id, scale) : 0.0f;
        weight[j] = w >= floor && key_of(w, id) >= cut ? w : 0.0f;
        own += (uint64_t)weight[j];
    }
    uint64_t before = block_before(own, s->sums, &all), target = s->target;
    if (before > target || target >= before + own) return;
    LM_UNROLL
    for (int j = 0; j < each; j++) {
        uint64_t through = before + (uint64_t)weight[j];
        if (before <= target && target < through) *token = first + j;
        before = through;
    }
}

__global__ void __launch_bounds__(ROW_THREADS) sample_finish_kernel(struct sample_job job)
{
    LM_SHARED(struct finish_scratch, s, 1);
    const struct cuda_sample_draw *d = &job.space.draw[blockIdx.x];
    const float *x = job.logits + (size_t)d->row * job.stride;
    unsigned long long *tile_mass = job.space.tile_mass + (size_t)blockIdx.x * job.space.tiles;
    uint64_t cut = 0;
    int32_t *token = &job.space.token[d->row];
    bool is_lifted;
    uint64_t top = row_top(job, blockIdx.x, &is_lifted);

    if (d->is_greedy || !is_top_finite(top)) {
        int id = d->scored >= 0 ? 0 : top_id(top);
        if (threadIdx.x == 0) *token = is_top_finite(top) ? id : E_DEVICE;
        return;
    }
    struct sample_scale scale = sample_scale(top_value(top), d->temperature);
    if (d->is_cut) {
        int listed = job.space.list_count[blockIdx.x];
        struct candidates c = {x, job.space.list + (size_t)blockIdx.x * LIST_MAX, listed, scale};
        if (listed > LIST_MAX) {
            c.list = NULL;
            c.count = job.vocab;
        }
        cut = find_cut(job, blockIdx.x, c, s);
        add_candidates(c, cut, job.space.range[2 * blockIdx.x + 1], d->floor, tile_mass);
    }
    find_tile(tile_mass, job.space.tiles, d->random, s);
    find_token(x, job.vocab, scale, cut, d->floor, s, token);
}

/* ---- the host's side ---- */

static size_t tokens_at(const struct cuda_sampler *s)
{
    return (size_t)s->rows_max * sizeof(struct cuda_sample_draw);
}

static size_t words_at(const struct cuda_sampler *s)
{
    return tokens_at(s) + (size_t)((s->rows_max + 1) & ~1) * sizeof(int32_t);
}

void cuda_sample_lay(struct cuda_sampler *s, struct cuda_arena *a, int rows_max, int vocab)
{
    struct cuda_sample_space *p = &s->space;
    size_t rows = (size_t)rows_max;

    CHECK(vocab < SAMPLE_VOCAB_MAX);
    s->rows_max = rows_max;
    s->vocab = vocab;
    s->words_max = rows * ((size_t)vocab / 32 + 1 + LIST_WORDS);
    p->tiles = (vocab + TILE - 1) / TILE;
    uint8_t *image = (uint8_t *)cuda_arena_take(a, words_at(s) + s->words_max * sizeof(uint32_t));
    if (image) {
        p->draw = (const struct cuda_sample_draw *)image;
        p->token = (int32_t *)(image + tokens_at(s));
        p->word = (uint32_t *)(image + words_at(s));
    }
    size_t tiles = rows * (size_t)p->tiles;
    p->tile_top = (uint64_t *)cuda_arena_take(a, tiles * sizeof(uint64_t));
    p->tile_mass = (unsigned long long *)cuda_arena_take(a, tiles * sizeof(uint64_t));
    p->bin_count = (uint32_t *)cuda_arena_take(a, rows * BINS * sizeof(uint32_t));
    p->bin_low = (unsigned long long *)cuda_arena_take(a, rows * BINS * sizeof(uint64_t));
    p->range = (uint64_t *)cuda_arena_take(a, rows * 2 * sizeof(uint64_t));
    p->list = (int *)cuda_arena_take(a, rows * LIST_MAX * sizeof(int));
    p->list_count = (int *)cuda_arena_take(a, rows * sizeof(int));
    p->group_top = (uint64_t *)cuda_arena_take(a, tiles * GROUPS * sizeof(uint64_t));
    p->report = (struct sample_report *)cuda_arena_take(a, rows * sizeof *p->report);
}

int cuda_sample_open(struct cuda_sampler *s, struct error *err)
{
    size_t image = words_at(s) + s->words_max * sizeof(uint32_t), rows = (size_t)s->rows_max;
    cudaError_t rc = cudaSuccess;

    for (int t = 0; t < CUDA_TURNS && rc == cudaSuccess; t++) {
        rc = cudaMallocHost((void **)&s->image[t], image);
        if (rc == cudaSuccess)
            rc = cudaMallocHost((void **)&s->token[t], rows * sizeof *s->token[t]);
        if (rc == cudaSuccess)
            rc = cudaMallocHost((void **)&s->report[t], rows * sizeof *s->report[t]);
    }
    return cuda_try(rc, "pinned memory", err);
}

void cuda_sample_close(struct cuda_sampler *s)
{
    for (int t = 0; t < CUDA_TURNS; t++) {
        if (s->image[t]) cudaFreeHost(s->image[t]);
        if (s->token[t]) cudaFreeHost(s->token[t]);
        if (s->report[t]) cudaFreeHost(s->report[t]);
        s->image[t] = NULL;
        s->token[t] = NULL;
        s->report[t] = NULL;
    }
}

/* The image while it is filled. */
struct filling {
    struct cuda_sample_draw *draw;
    int32_t *token;
    uint32_t *word;
    size_t words;                 // used ones
    int draws, reports;           // the first draws report
    int report_first, report_end; // their rows
    bool has_sampled, has_cut;
};

static int put_words(struct filling *f, const void *from, int count)
{
    int at = (int)f->words;

    if (count > 0) memcpy(f->word + at, from, (size_t)count * sizeof *f->word);
    f->words += (size_t)count;
    return at;
}

static int put_bans(struct filling *f, const int32_t *token, int count)
{
    int at = (int)f->words;

    for (int i = 0; i < count; i++) {
        struct cuda_sample_ban ban = {token[i], -INFINITY};
        put_words(f, &ban, 2);
    }
    return at;
}

static void put_draw(struct filling *f, const struct sample_row *r, int row, int vocab)
{
    struct cuda_sample_draw *d = &f->draw[f->draws++];
    int mask_words = (vocab + 31) / 32;

    *d = (struct cuda_sample_draw){};
    d->row = row;
    d->scored = r->kind == SAMPLE_SCORE ? r->scored : -1;
    d->logprobs = r->logprobs;
    d->is_greedy = r->kind == SAMPLE_SCORE || r->temperature < SAMPLE_GREEDY;
    if (r->kind == SAMPLE_SCORE) return;
    d->temperature = r->temperature;
    d->top_p = r->top_p;
    d->floor = r->min_p * SAMPLE_UNIT;
    d->top_k = r->top_k < vocab ? r->top_k : 0;
    d->repetition = r->repetition;
    d->frequency = r->frequency;
    d->presence = r->presence;
    d->random = r->random;
    d->bias_count = r->bias_count;
    d->bias_at = put_words(f, r->bias, 2 * r->bias_count);
    d->seen_count = r->seen_count;
    d->seen_at = put_words(f, r->seen, 2 * r->seen_count);
    d->ban_count = r->banned_count;
    d->ban_at = put_bans(f, r->banned, r->banned_count);
    d->is_masked = r->mask != NULL;
    d->mask_words = r->mask_words < mask_words ? r->mask_words : mask_words;
    d->mask_at = put_words(f, r->mask, d->is_masked ? d->mask_words : 0);
    d->is_adjusted = sample_is_adjusted(r);
    d->is_cut = !d->is_greedy && (d->top_k > 0 || d->top_p < 1);
    f->has_sampled |= !d->is_greedy;
    f->has_cut |= d->is_cut;
}

static size_t words_of(const struct sample_row *r)
{
    if (r->kind != SAMPLE_DRAW) return 0;
    return 2 * ((size_t)r->bias_count + (size_t)r->seen_count + (size_t)r->banned_count) +
           (r->mask ? (size_t)r->mask_words : 0);
}

static void put_row(struct filling *f, const struct cuda_sampler *s, const struct sample_row *row,
                    int i, int vocab)
{
    if (row[i].kind == SAMPLE_NOTHING || words_of(&row[i]) > s->words_max - f->words) return;
    f->token[i] = 0;
    put_draw(f, &row[i], i, vocab);
    if (row[i].logprobs == 0) return;
    if (f->report_first > i) f->report_first = i;
    f->report_end = i + 1;
}

static struct filling fill_image(const struct cuda_sampler *s, const struct sample_row *row,
                                 int rows, int vocab)
{
    struct filling f = {};

    f.draw = (struct cuda_sample_draw *)s->image[s->turn];
    f.token = (int32_t *)(s->image[s->turn] + tokens_at(s));
    f.word = (uint32_t *)(s->image[s->turn] + words_at(s));
    f.report_first = rows;
    for (int i = 0; i < rows; i++) {
        CHECK(row[i].logprobs >= 0 && row[i].logprobs <= SAMPLE_LOGPROBS_MAX);
        f.token[i] = row[i].kind == SAMPLE_NOTHING ? 0 : E_UNSUPPORTED;
        if (row[i].logprobs > 0) put_row(&f, s, row, i, vocab);
    }
    f.reports = f.draws;
    for (int i = 0; i < rows; i++)
        if (row[i].logprobs == 0) put_row(&f, s, row, i, vocab);
    return f;
}

bool cuda_sample_leaves(const struct cuda_sampler *s, int row)
{
    return ((const int32_t *)(s->image[s->turn] + tokens_at(s)))[row] == E_UNSUPPORTED;
}

static cudaError_t copy_reports(const struct cuda_sampler *s, const struct filling *f,
                                cudaStream_t stream)
{
    if (f->reports == 0) return cudaSuccess;
    return cudaMemcpyAsync(s->report[s->turn] + f->report_first, s->space.report + f->report_first,
                           (size_t)(f->report_end - f->report_first) * sizeof *s->space.report,
                           cudaMemcpyDeviceToHost, stream);
}

cudaError_t cuda_sample_run(struct cuda_sampler *s, int turn, const struct sample_row *row,
                            int rows, float *logits, int vocab, cudaStream_t stream)
{
    struct sample_job job = {s->space, logits, s->vocab, vocab};

    s->turn = turn;
    CHECK(rows <= s->rows_max && vocab > 0 && vocab <= s->vocab);
    job.space.tiles = (vocab + TILE - 1) / TILE;
    struct filling f = fill_image(s, row, rows, vocab);
    cudaError_t rc =
        cudaMemcpyAsync((void *)s->space.draw, s->image[turn],
                        words_at(s) + f.words * sizeof(uint32_t), cudaMemcpyHostToDevice, stream);
    if (f.draws > 0) {
        dim3 tiles((unsigned)job.space.tiles, (unsigned)f.draws);
        LM_LAUNCH(sample_top_kernel, tiles, TILE_THREADS, 0, stream, job);
        if (f.has_sampled) LM_LAUNCH(sample_weigh_kernel, tiles, TILE_THREADS, 0, stream, job);
        if (f.has_cut) {
            LM_LAUNCH(sample_range_kernel, f.draws, ROW_THREADS, 0, stream, job);
            LM_LAUNCH(sample_gather_kernel, tiles, TILE_THREADS, 0, stream, job);
        }
        LM_LAUNCH(sample_finish_kernel, f.draws, ROW_THREADS, 0, stream, job);
        if (f.reports > 0) cuda_sample_make_reports(&job, f.reports, stream);
    }
    cudaError_t back =
        cudaMemcpyAsync(s->token[turn], s->space.token, (size_t)rows * sizeof *s->space.token,
                        cudaMemcpyDeviceToHost, stream);
    cudaError_t reports = copy_reports(s, &f, stream);
    return rc != cudaSuccess ? rc : back != cudaSuccess ? back : reports;
}
