/* gpu_bench_steps.cu - whole steps of real models' shapes on a real GPU, against what the device can do. Built and
 * run by scripts/gpu-check, a part at a time: gpu_bench_steps 1b | 1b-f16 | 8b | 8b-4bit | 8b-fp8. "dry" goes through the same code
 * with a tiny model, on the emulator too; its numbers mean nothing.
 *
 * Steps with one token a sequence read weights and pages: their share is of the bandwidth that a copy reaches.
 * Prefill multiplies: its share is of the rate of a large cuBLASLt product. A mix of both has as its roof the sum of
 * each step's larger bound. Each row's token is drawn on the device, greedily, and steps are ahead (kernels/backend.h),
 * as the engine has it done; prompts, and one row for comparison, wait for the host.
 *
 * Weights are random. On the host their rows overlap, in a few megabytes. */
#include <math.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/quant.h"
#include "shared/base/rng.h"
#include "tests/kernels/gpu_bench.cuh"

struct shape {
    const char *name;
    int layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    bool tied;
};

static const struct shape llama_1b = {"Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, true};
static const struct shape llama_8b = {"Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, false};

static const struct shape tiny = {"tiny", 2, 64, 4, 2, 32, 96, 131, true};

#define TOKENS_MAX    2048
#define SEQUENCES_MAX 256
#define MIX_PAGES     24  // of a sequence of the mix
#define MIX_LONGEST   768 // tokens of a prompt, and of an answer
#define MIX_REQUESTS  800
#define ROW_SHIFT     64 // bytes from one row of the host's weights to the next

static const struct step_limits limits = {TOKENS_MAX, SEQUENCES_MAX, SEQUENCES_MAX, 8192};

/* ---- a model ---- */

struct subject {
    const struct shape *s;
    enum dtype type; // of the layers' matrices
    struct backend *b;
    struct roof roof;
    double weight_bytes, weight_count; // that a step reads, multiplies by
    double token_bytes;                // of KV
    int pages;
    int requests, longest; // of the mix: how many, tokens of a prompt or an answer
};

static void need(int rc, const struct error *err)
{
    if (rc >= 0) return;
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

/* Numbers for any matrix of the shape, whose rows begin ROW_SHIFT bytes behind each other. */
static uint8_t *random_rows(enum dtype type, const struct shape *s)
{
    int widest = s->ffn > s->hidden ? s->ffn : s->hidden;
    size_t bytes = (size_t)s->vocab * ROW_SHIFT + (size_t)widest * sizeof(float);
    uint8_t *at = (uint8_t *)xmalloc(bytes);
    struct rng rng;

    rng_init(&rng, 1);
    if (type == DTYPE_BF16 || type == DTYPE_F16) {
        for (size_t i = 0; i < bytes / 2; i++) {
            float w = (float)(rng_unit(&rng) - 0.5) * 0.06f;
            ((uint16_t *)at)[i] =
                type == DTYPE_F16 ? quant_float_to_half(w) : quant_float_to_bf16(w);
        }
        return at;
    }
    /* Q4_1, blocks of 20 bytes; where rows overlap, scales are any two bytes: small halves. Of F8_E4M3 small
     * numbers, too. */
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(rng_u64(&rng) & 0x1f);
    return at;
}

/* Scales of blocks as DeepSeek-V3 and Qwen3 have them. */
static float block_scale[1 << 15];
static const struct scale_grid blocks = {block_scale, 1 << 7, 128, 128};

static struct matrix matrix_of(enum dtype type, int rows, int cols, const void *data)
{
    struct matrix m = {};
    m.type = type;
    m.rows = rows;
    m.cols = cols;
    m.row_stride = ROW_SHIFT;
    m.data = data;
    if (type == DTYPE_F8_E4M3) m.grid = &blocks;
    return m;
}

static void fill_layer(struct layer_params *l, const struct shape *s, enum dtype type,
                       const void *data, const float *ones)
{
    int q = s->heads * s->head_dim, k = s->kv_heads * s->head_dim;

    *l = (struct layer_params){};
    l->q = matrix_of(type, q, s->hidden, data);
    l->k = l->v = matrix_of(type, k, s->hidden, data);
    l->o = matrix_of(type, s->hidden, q, data);
    l->gate = l->up = matrix_of(type, s->ffn, s->hidden, data);
    l->down = matrix_of(type, s->hidden, s->ffn, data);
    l->attn_norm = l->ffn_norm = ones;
}

static void load(struct subject *x)
{
    const struct shape *s = x->s;
    enum dtype head_type = x->type == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
    uint8_t *data = random_rows(x->type, s), *head = random_rows(head_type, s);
    float *ones = (float *)xcalloc((size_t)s->hidden, sizeof *ones), inv_freq[128];
    struct layer_params layer[64];
    struct rope_table rope = {inv_freq, 1};
    struct model_params p = {};
    struct error err = {};

    for (int i = 0; i < s->hidden; i++)
        ones[i] = 1;
    for (size_t i = 0; i < ARRAY_LEN(block_scale); i++)
        block_scale[i] = 0.3f;
    for (int i = 0; i < s->head_dim / 2; i++)
        inv_freq[i] = powf(500000.0f, -2.0f * (float)i / (float)s->head_dim);
    p.layers = s->layers, p.hidden = s->hidden, p.heads = s->heads, p.kv_heads = s->kv_heads;
    p.head_dim = p.rope_dims = s->head_dim, p.ffn = s->ffn, p.vocab = s->vocab;
    p.norm_eps = 1e-5f;
    p.attention_scale = 1 / sqrtf((float)s->head_dim);
    p.embedding_scale = p.residual_scale = p.logit_scale = 1;
    p.rope_tables = &rope;
    p.rope_table_count = 1;
    p.final_norm = ones;
    for (int i = 0; i < s->layers; i++)
        fill_layer(&layer[i], s, x->type, data, ones);
    p.layer = layer;
    p.embedding = matrix_of(head_type, s->vocab, s->hidden, head);
    if (!s->tied) p.head = p.embedding;
    need(cuda_backend_ops.load(x->b, &p, &limits, &err), &err);
    free(ones);
    free(data);
    free(head);
}

/* Pages for the mix, or as many as there is room for. */
static void open_pages(struct subject *x)
{
    size_t page = cuda_backend_ops.kv_block_bytes(x->b, KV_BF16);
    size_t room = cuda_backend_ops.memory_free(x->b) / 10 * 9 / page;
    struct error err = {};

    x->pages = SEQUENCES_MAX * MIX_PAGES;
    if (room < (size_t)x->pages) x->pages = (int)room;
    x->token_bytes = (double)page / KV_BLOCK_TOKENS;
    need(cuda_backend_ops.kv_open(x->b, KV_BF16, x->pages, &err), &err);
}

static void open_subject(struct subject *x)
{
    const struct shape *s = x->s;
    struct backend_options options = {};
    struct error err = {};
    size_t weights, activations;

    options.world = 1;
    need(cuda_backend_ops.open(&options, &x->b, &err), &err);
    double begin = now_s();
    load(x);
    double seconds = now_s() - begin;
    cuda_backend_ops.memory(x->b, &weights, &activations);
    printf("%s: %.2f GB of weights loaded in %.1f s, %.2f GB of activations\n\n",
           cuda_backend_ops.describe(x->b), 1e-9 * (double)weights, seconds,
           1e-9 * (double)activations);
    fflush(stdout);
    open_pages(x);
    double embedding = (double)s->vocab * s->hidden;
    double layer = (double)s->hidden * s->head_dim * (2 * s->heads + 2 * s->kv_heads) +
                   3.0 * s->hidden * s->ffn;
    x->weight_bytes = (double)weights - (s->tied ? 0 : 2 * embedding); // a step reads a row of it
    x->weight_count = s->layers * layer;                               // beside the head's
}

/* ---- steps ---- */

static struct sample_row greedy[SEQUENCES_MAX];

static void begin_step(struct subject *x, const struct step *step)
{
    const struct backend_ops *ops = &cuda_backend_ops;

    ops->step_begin(x->b, step);
    ops->embed(x->b);
    ops->residual(x->b, RESIDUAL_BEGIN, 0);
    for (int l = 0; l < x->s->layers; l++) {
        ops->qkv(x->b, l);
        ops->attend(x->b, l);
        ops->out(x->b, l);
        ops->residual(x->b, RESIDUAL_ATTENTION, l);
        ops->gate_up(x->b, l);
        ops->down(x->b, l);
        ops->residual(x->b, RESIDUAL_FFN, l);
    }
    ops->logits(x->b);
    ops->step_end(x->b);
    ops->sample(x->b, greedy, x->s->vocab);
}

static void end_step(struct subject *x)
{
    struct error err = {};
    need(cuda_backend_ops.sync(x->b, &err), &err);
}

/* A step under construction. */
struct batch {
    struct step step;
    struct step_sequence sequence[SEQUENCES_MAX];
    int32_t ids[TOKENS_MAX], row[SEQUENCES_MAX], blocks[SEQUENCES_MAX][128];
    struct step_link link[SEQUENCES_MAX];
    double pairs, positions; // of queries and what they see; of KV that is read
};

static void batch_clear(struct batch *b)
{
    b->step = (struct step){};
    b->step.ids = b->ids;
    b->step.sequence = b->sequence;
    b->step.row = b->row;
    b->step.is_sampled = true;
    b->pairs = b->positions = 0;
}

/* `count` tokens behind `past`, in pages from `page` on; the last one's logits are wanted. */
static void batch_add(struct batch *b, int page, int past, int count)
{
    int i = b->step.sequences++;

    for (int p = 0; p < (past + count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; p++)
        b->blocks[i][p] = page + p;
    b->sequence[i] = (struct step_sequence){};
    b->sequence[i].first = b->step.tokens;
    b->sequence[i].count = count;
    b->sequence[i].past = past;
    b->sequence[i].blocks = b->blocks[i];
    for (int t = 0; t < count; t++)
        b->ids[b->step.tokens + t] = (past + t) * 37 % 100;
    b->step.tokens += count;
    b->row[b->step.rows++] = b->step.tokens - 1;
    b->pairs += (double)count * (past + 0.5 * (count + 1));
    b->positions += past + count;
}

static double bytes_of(const struct subject *x, const struct batch *b)
{
    return x->weight_bytes + x->token_bytes * (b->positions + b->step.tokens);
}

static double flop_of(const struct subject *x, const struct batch *b)
{
    const struct shape *s = x->s;
    return 2 * x->weight_count * b->step.tokens + 2.0 * s->vocab * s->hidden * b->step.rows +
           4 * b->pairs * s->layers * s->heads * s->head_dim;
}

/* From now on each step goes on with the tokens of the one before it. */
static void link_rows(struct batch *b)
{
    b->step.is_ahead = true;
    b->step.links = b->step.rows;
    b->step.link = b->link;
    for (int i = 0; i < b->step.rows; i++) {
        b->link[i].token = b->step.row[i];
        b->link[i].row = i;
    }
}

/* Seconds of one step like it. is_ahead: each begins before the one before it is synced. */
static double time_step(struct subject *x, struct batch *b, bool is_ahead)
{
    const int warm = x->s == &tiny ? 2 : 4, rounds = x->s == &tiny                    ? 1
                                                     : b->step.tokens > SEQUENCES_MAX ? 8
                                                                                      : 40;
    double begin = 0;

    for (int i = -warm; i < rounds; i++) {
        begin_step(x, &b->step);
        if (is_ahead && i == -warm) link_rows(b);
        if (!is_ahead || i > -warm) end_step(x);
        if (i == (is_ahead ? 0 : -1)) begin = now_s(); // one of the warm ones has just ended
    }
    if (is_ahead) end_step(x);
    return (now_s() - begin) / rounds;
}

static const char *type_name(const struct subject *x)
{
    return x->type == DTYPE_BF16      ? "bf16"
           : x->type == DTYPE_F16     ? "f16"
           : x->type == DTYPE_F8_E4M3 ? "FP8"
                                      : "W4A16";
}

/* `sequences` of `count` tokens each behind `past`. */
static void bench_step_as(struct subject *x, int sequences, int count, int past, bool is_ahead,
                          const char *target)
{
    static struct batch b;
    int pages = (past + count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    char what[96], measured[64];

    if (sequences * pages > x->pages) {
        printf("%d sequences of %d don't fit into %d pages\n", sequences, past, x->pages);
        return;
    }
    batch_clear(&b);
    for (int i = 0; i < sequences; i++)
        batch_add(&b, i * pages, past, count);
    double seconds = time_step(x, &b, is_ahead);
    if (count == 1)
        snprintf(what, sizeof what, "%s %s, decode, batch %d behind %d%s", x->s->name, type_name(x),
                 sequences, past, is_ahead ? "" : ", the host between steps");
    else
        snprintf(what, sizeof what, "%s %s, prefill of %d", x->s->name, type_name(x), count);
    snprintf(measured, sizeof measured, "%.3f ms, %.0f tok/s", 1e3 * seconds,
             sequences * count / seconds);
    if (count == 1)
        print_target(what, measured, bytes_of(x, &b) / seconds / x->roof.bytes_per_s, "the copy",
                     target);
    else
        print_target(what, measured, flop_of(x, &b) / seconds / x->roof.flop_per_s, "the peak",
                     target);
}

static void bench_step(struct subject *x, int sequences, int count, int past, const char *target)
{
    bench_step_as(x, sequences, count, past, count == 1, target);
}

/* ---- a mix like that of chats ---- */

struct request {
    int prompt, answer; // tokens
    int done;           // of the answer
    int slot;           // its pages
};

/* Lengths spread like ShareGPT's: many short, some long; about 190 in and 200 out. */
static int random_length(struct rng *rng, double middle, double spread, int longest)
{
    double normal = sqrt(-2 * log(1 - rng_unit(rng))) * cos(2 * M_PI * rng_unit(rng));
    double length = middle * exp(spread * normal);
    return length < 4 ? 4 : length > longest ? longest : (int)length;
}

struct mix {
    struct request waiting[MIX_REQUESTS], running[SEQUENCES_MAX];
    int next, count, slots, requests;
    int free_slot[SEQUENCES_MAX], free_count;
    double tokens_in, tokens_out, roof_s;
};

static void mix_init(struct mix *m, const struct subject *x)
{
    int slots = x->pages / MIX_PAGES < SEQUENCES_MAX ? x->pages / MIX_PAGES : SEQUENCES_MAX;
    struct rng rng;

    memset(m, 0, sizeof *m);
    rng_init(&rng, 2);
    m->slots = slots;
    m->requests = x->requests;
    for (int i = 0; i < slots; i++)
        m->free_slot[m->free_count++] = i;
    for (int i = 0; i < m->requests; i++) {
        m->waiting[i].prompt = random_length(&rng, 110, 1.1, x->longest);
        m->waiting[i].answer = random_length(&rng, 150, 0.8, x->longest);
    }
}

/* All that run get a token; what fits beside them begins. is_ahead: the step before is under way. */
static void mix_step(struct mix *m, struct subject *x, struct batch *b, bool is_ahead)
{
    batch_clear(b);
    b->step.is_ahead = is_ahead;
    for (int i = 0; i < m->count; i++) {
        struct request *r = &m->running[i];
        batch_add(b, r->slot * MIX_PAGES, r->prompt + r->done - 1, 1);
    }
    while (m->next < m->requests && m->free_count > 0 && m->count < SEQUENCES_MAX &&
           b->step.tokens + m->waiting[m->next].prompt <= TOKENS_MAX) {
        struct request *r = &m->running[m->count++];
        *r = m->waiting[m->next++];
        r->slot = m->free_slot[--m->free_count];
        batch_add(b, r->slot * MIX_PAGES, 0, r->prompt);
        m->tokens_in += r->prompt;
    }
    begin_step(x, &b->step);
    if (is_ahead) end_step(x);
    double read = bytes_of(x, b) / x->roof.bytes_per_s,
           computed = flop_of(x, b) / x->roof.flop_per_s;
    m->roof_s += read > computed ? read : computed;
    m->tokens_out += m->count;
    for (int i = m->count - 1; i >= 0; i--) {
        if (++m->running[i].done < m->running[i].answer) continue;
        m->free_slot[m->free_count++] = m->running[i].slot;
        m->running[i] = m->running[--m->count];
    }
}

static void bench_mix(struct subject *x, const char *target)
{
    static struct batch b[2];
    static struct mix m;
    char what[96], measured[96];
    double seconds = 0;

    for (int round = 0; round < 2; round++) { // the first one records graphs and finds algorithms
        mix_init(&m, x);
        double begin = now_s();
        for (int step = 0; m.count > 0 || m.next < m.requests; step++)
            mix_step(&m, x, &b[step % 2], step > 0);
        end_step(x);
        seconds = now_s() - begin;
    }
    snprintf(what, sizeof what, "%s %s, %d chats at once up to %d", x->s->name, type_name(x),
             m.requests, m.slots);
    snprintf(measured, sizeof measured, "%.0f tok/s out, %.0f in", m.tokens_out / seconds,
             m.tokens_in / seconds);
    print_target(what, measured, m.roof_s / seconds, "the steps' roofs", target);
}

/* ---- parts ---- */

static void run_1b(struct subject *x)
{
    bench_step(x, 1, 1, 128, "80 %; H100: 1000 tok/s");
    bench_step_as(x, 1, 1, 128, false, "none");
    bench_step(x, 64, 1, 512, "70 %");
    bench_step(x, 1, 2048, 0, "60 %");
}

static void run_8b(struct subject *x)
{
    bench_step(x, 1, 1, 128, "80 %; H100: 170 tok/s");
    bench_step(x, 64, 1, 512, "75 %; H100: 5500 tok/s");
    bench_step(x, 256, 1, 512, "70 %; H100: 14000 tok/s");
    bench_step(x, 1, 2048, 0, "70 %; H100: 60 ms");
    bench_step(x, 32, 1, 8000, "75 %");
    bench_mix(x, "H100: 16200 tok/s out");
}

static void run_8b_4bit(struct subject *x)
{
    bench_step(x, 1, 1, 128, "80 %; H100: 450 tok/s");
    bench_step(x, 16, 1, 512, "70 %");
    bench_step(x, 64, 1, 512, "60 %");
    bench_step(x, 1, 2048, 0, "60 %");
}

static void run_8b_fp8(struct subject *x)
{
    bench_step(x, 1, 1, 128, "80 %");
    bench_step(x, 16, 1, 512, "75 %");
    bench_step(x, 64, 1, 512, "70 %");
    bench_step(x, 1, 2048, 0, "60 %");
}

static void run_dry(struct subject *x)
{
    x->requests = 3;
    x->longest = 5;
    bench_step(x, 1, 1, 70, "none");
    bench_step_as(x, 1, 1, 70, false, "none");
    bench_step(x, 1, 8, 0, "none");
    bench_mix(x, "none");
}

static const struct part {
    const char *name;
    const struct shape *shape;
    enum dtype type;
    void (*run)(struct subject *x);
} parts[] = {
    {"1b", &llama_1b, DTYPE_BF16, run_1b},
    {"1b-f16", &llama_1b, DTYPE_F16, run_1b},
    {"8b", &llama_8b, DTYPE_BF16, run_8b},
    {"8b-4bit", &llama_8b, DTYPE_Q4_1, run_8b_4bit},
    {"8b-fp8", &llama_8b, DTYPE_F8_E4M3, run_8b_fp8},
    {"dry", &tiny, DTYPE_Q4_1, run_dry},
    {"dry-f16", &tiny, DTYPE_F16, run_dry},
    {"dry-fp8", &tiny, DTYPE_F8_E4M3, run_dry},
};

int main(int argc, char **argv)
{
    cudaStream_t stream;

    for (size_t i = 0; argc == 2 && i < ARRAY_LEN(parts); i++) {
        if (strcmp(argv[1], parts[i].name) != 0) continue;
        struct subject x = {};
        NEED_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        x.s = parts[i].shape;
        x.type = parts[i].type;
        x.requests = MIX_REQUESTS;
        x.longest = MIX_LONGEST;
        for (struct sample_row &row : greedy)
            row.top_p = row.repetition = 1;
        x.roof = x.s == &tiny ? (struct roof){1, 1} : measure_roof(stream);
        open_subject(&x);
        parts[i].run(&x);
        cuda_backend_ops.close(x.b);
        return 0;
    }
    fprintf(stderr, "usage: gpu_bench_steps 1b | 1b-f16 | 8b | 8b-4bit | 8b-fp8\n");
    return 2;
}
