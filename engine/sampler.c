/* sampler.c - filters without sorting.
 *
 * All filters keep a head of one total order: probability descending, id ascending. So a filter is
 * known by the last token that it keeps, its `cut`, and the cut is found by quickselect over
 * candidates: by rank for top_k, by mass for top_p. Before that, tokens that can't be in the head
 * are dropped by a bound that costs one pass, which leaves some hundred of 50,000.
 *
 * Sums run over fixed chunks, in float inside a chunk and in double across, so they depend on the
 * row alone, and are vectorised. */
#include "engine/sampler.h"

#include "shared/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEMPERATURE_MIN 1e-5f // below: greedy (vLLM's bound)
#define LANES           16
#define CHUNK           256 // tokens a partial sum or maximum stands for

struct sampler_candidate {
    float p; // or a logit: only the order counts
    int32_t id;
};

/* ---- random numbers ---- */

void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position)
{
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), choice, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    sampler_philox(counter, key, out);
    uint64_t bits = (uint64_t)out[0] << 32 | out[1];
    return (double)(bits >> 11) * 0x1p-53;
}

/* ---- whole-row passes ---- */

/* The maximum, or NaN if any logit is NaN or infinite. */
static float row_max(const float *x, int n)
{
    float max[LANES], bad[LANES] = {0};
    for (int j = 0; j < LANES; j++)
        max[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
            bad[j] += x[i + j] * 0.0f; // stays 0 for finite values, NaN otherwise
        }
    }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
        bad[0] += x[i] * 0.0f;
    }
    for (int j = 1; j < LANES; j++) {
        max[0] = max[j] > max[0] ? max[j] : max[0];
        bad[0] += bad[j];
    }
    return max[0] + bad[0];
}

static float highest(const float *x, int n)
{
    float max = -INFINITY;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static bool is_adjusted(const struct sampler_input *in)
{
    return in->params->bias_count > 0 || in->history || in->banned_count > 0 || in->grammar;
}

/* Tokens whose bit isn't set, and those behind the mask, can't be drawn. */
static void apply_mask(const uint32_t *mask, int words, float *x, int n)
{
    for (int w = 0; w * 32 < n; w++) {
        uint32_t allowed = w < words ? mask[w] : 0;
        int end = n - w * 32 < 32 ? n - w * 32 : 32;
        for (int i = 0; i < end && allowed != UINT32_MAX; i++)
            if (!(allowed >> i & 1)) x[w * 32 + i] = -INFINITY;
    }
}

/* x with bias, penalties, mask (NULL: none) and the first banned_count bans in scratch->adjusted;
 * returns its maximum. */
static float adjust(const struct sampler_input *in, const float *x, int n, int banned_count,
                    const struct sampler_scratch *scratch, const uint32_t *mask)
{
    float *out = scratch->adjusted;
    const struct sampling_params *s = in->params;
    memcpy(out, x, (size_t)n * sizeof *out);
    for (int i = 0; i < s->bias_count; i++)
        if (s->bias[i].token < n) out[s->bias[i].token] += s->bias[i].bias;
    if (in->history) penalties_apply(s, in->history, out, n);
    if (mask) apply_mask(mask, scratch->mask_words, out, n);
    for (int i = 0; i < banned_count; i++)
        if (in->banned[i] < n) out[in->banned[i]] = -INFINITY;
    return highest(out, n);
}

static int index_of(const float *x, int n, float value)
{
    for (int i = 0; i < n; i++)
        if (x[i] == value) return i;
    UNREACHABLE();
}

/* e^x for x <= 0, relative error below 3e-7, 0 below -87. Range reduction to |r| <= ln2 / 2 and the
 * Taylor polynomial of degree 6; the same bits on every machine, unlike libm's. */
static inline float exp_negative(float x)
{
    float clamped = x < -87.0f ? -87.0f : x;
    float t = clamped * 1.44269504f;
    int n = (int)(t - 0.5f);
    float r = clamped - (float)n * 0.693359375f; // ln 2 in two parts (Cody and Waite)
    r = r + (float)n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        int32_t bits;
        float value;
    } scale = {.bits = (n + 127) << 23};
    float result = p * scale.value;
    return x < -87.0f ? 0.0f : result;
}

/* p[i] = e^((x[i] - max) / temperature); returns their sum. */
static double exponentials(const float *x, int n, float max, float temperature, float *p)
{
    float inverse = 1.0f / temperature;
    for (int i = 0; i < n; i++)
        p[i] = exp_negative((x[i] - max) * inverse);
    double sum = 0;
    for (int begin = 0; begin < n; begin += CHUNK) {
        int end = begin + CHUNK < n ? begin + CHUNK : n, i = begin;
        float lane[LANES] = {0};
        for (; i + LANES <= end; i += LANES)
            for (int j = 0; j < LANES; j++)
                lane[j] += p[i + j];
        for (; i < end; i++)
            lane[0] += p[i];
        for (int j = 0; j < LANES; j++)
            sum += (double)lane[j];
    }
    return sum;
}

/* ---- the order and the cut ---- */

static bool before(struct sampler_candidate a, struct sampler_candidate b)
{
    return a.p > b.p || (a.p == b.p && a.id < b.id);
}

static void swap(struct sampler_candidate *a, struct sampler_candidate *b)
{
    struct sampler_candidate t = *a;
    *a = *b;
    *b = t;
}

/* Hoare's partition around the median of three: c[0..return) come before the pivot, which stands at
 * the returned index; the rest come after it. n >= 1. */
static int partition(struct sampler_candidate *c, int n)
{
    int mid = n / 2, last = n - 1;
    if (before(c[mid], c[0])) swap(&c[mid], &c[0]);
    if (before(c[last], c[0])) swap(&c[last], &c[0]);
    if (before(c[last], c[mid])) swap(&c[last], &c[mid]);
    swap(&c[mid], &c[last]);
    int kept = 0;
    for (int i = 0; i < last; i++)
        if (before(c[i], c[last])) swap(&c[i], &c[kept++]);
    swap(&c[kept], &c[last]);
    return kept;
}

/* The candidate of rank k (1 = most probable); c[0..k) are the first k afterwards. */
static struct sampler_candidate select_rank(struct sampler_candidate *c, int n, int k)
{
    struct sampler_candidate *begin = c;
    int wanted = k - 1;
    for (;;) {
        int pivot = partition(begin, n);
        if (pivot == wanted) return begin[pivot];
        if (pivot > wanted) {
            n = pivot;
        } else {
            begin += pivot + 1;
            n -= pivot + 1;
            wanted -= pivot + 1;
        }
    }
}

/* The last candidate of the shortest head whose mass reaches `mass`. */
static struct sampler_candidate select_mass(struct sampler_candidate *c, int n, double mass)
{
    struct sampler_candidate cut = {0};
    while (n > 0) {
        int pivot = partition(c, n);
        double head = 0;
        for (int i = 0; i < pivot; i++)
            head += (double)c[i].p;
        if (pivot > 0 && head >= mass) {
            n = pivot;
            continue;
        }
        cut = c[pivot];
        mass -= head + (double)cut.p;
        if (mass <= 0) break;
        c += pivot + 1;
        n -= pivot + 1;
    }
    return cut; // the last one of all when rounding left a little mass over
}

static int collect(const float *p, int n, float at_least, struct sampler_candidate *out)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        if (p[i] >= at_least) out[count++] = (struct sampler_candidate){p[i], i};
    return count;
}

/* A value that at least k tokens reach: the k-th highest of the maxima of chunks. */
static float rank_bound(const float *p, int n, int k, struct sampler_candidate *scratch)
{
    int chunks = 0, width = CHUNK / 4;
    for (int begin = 0; begin < n; begin += width, chunks++) {
        float max = -INFINITY;
        for (int i = begin; i < begin + width && i < n; i++)
            max = p[i] > max ? p[i] : max;
        scratch[chunks] = (struct sampler_candidate){max, chunks};
    }
    return k <= chunks ? select_rank(scratch, chunks, k).p : -INFINITY;
}

/* Where top_k and top_p cut; {0, n} keeps everything. */
static struct sampler_candidate find_cut(const struct sampling_params *s, const float *p, int n,
                                         double total, struct sampler_candidate *c)
{
    struct sampler_candidate cut = {0, n};
    bool by_rank = s->top_k > 0 && s->top_k < n, by_mass = s->top_p < 1;
    int count = 0;
    if (by_rank) {
        count = collect(p, n, rank_bound(p, n, s->top_k, c), c);
        cut = select_rank(c, count, s->top_k);
        count = s->top_k;
        total = 0;
        for (int i = 0; i < count; i++)
            total += (double)c[i].p;
    } else if (by_mass) {
        /* All tokens below the bound together weigh less than what top_p leaves out. The bound is a
         * little lower than that, for rounding. */
        double bound = (1 - (double)s->top_p) * total / n * 0.999;
        count = collect(p, n, (float)bound, c);
    }
    return by_mass ? select_mass(c, count, (double)s->top_p * total) : cut;
}

/* ---- the draw ---- */

static bool is_kept(float p, int id, struct sampler_candidate cut, float floor)
{
    return p >= floor && (p > cut.p || (p == cut.p && id <= cut.id));
}

static int draw(const float *p, int n, struct sampler_candidate cut, float floor, double u)
{
    double mass = 0, sum = 0;
    int last = -1;
    for (int i = 0; i < n; i++)
        if (is_kept(p[i], i, cut, floor)) mass += (double)p[i];
    for (int i = 0; i < n; i++) {
        if (p[i] <= 0 || !is_kept(p[i], i, cut, floor)) continue;
        sum += (double)p[i];
        last = i;
        if (sum > u * mass) break;
    }
    CHECK(last >= 0);
    return last; // by rounding u * mass may be the whole sum: then it is the last one kept
}

/* ---- log-probabilities ---- */

/* out[0]: of `token`; then the count - 1 likeliest. max: of x. Overwrites the scratch. */
static void report(const float *x, int n, float max, int32_t token, struct sampler_scratch *scratch,
                   struct token_logprob *out, int count)
{
    struct sampler_candidate *c = scratch->candidate;
    double log_sum = log(exponentials(x, n, max, 1, scratch->probability));
    int top = count - 1 < n ? count - 1 : n;
    if (top > 0) {
        int found = collect(x, n, rank_bound(x, n, top, c), c);
        select_rank(c, found, top);
    }
    for (int i = 1; i < top; i++) // the few that are reported are sorted by insertion
        for (int j = i; j > 0 && before(c[j], c[j - 1]); j--)
            swap(&c[j], &c[j - 1]);
    float own = token < n ? x[token] : -INFINITY;
    out[0] = (struct token_logprob){token, (float)((double)(own - max) - log_sum)};
    for (int i = 1; i < count; i++) {
        bool is_there = i <= top && isfinite(c[i - 1].p);
        out[i] = (struct token_logprob){-1, -INFINITY};
        if (is_there) out[i].token = c[i - 1].id;
        if (is_there) out[i].logprob = (float)((double)(c[i - 1].p - max) - log_sum);
    }
}

/* ---- the whole ---- */

static void reserve(struct sampler_scratch *s, int vocab)
{
    if (s->cap >= vocab) return;
    sampler_scratch_deinit(s);
    s->probability = xaligned((size_t)vocab * sizeof *s->probability);
    s->adjusted = xaligned((size_t)vocab * sizeof *s->adjusted);
    s->candidate = xaligned((size_t)vocab * sizeof *s->candidate);
    s->cap = vocab;
}

void sampler_scratch_deinit(struct sampler_scratch *s)
{
    free(s->probability);
    free(s->adjusted);
    free(s->candidate);
    free(s->mask);
    *s = (struct sampler_scratch){0};
}

static int find_mask(struct grammar_matcher *grammar, struct sampler_scratch *s)
{
    int words = grammar_mask_words(grammar->grammar);
    if (s->mask_words != words) s->mask = xrealloc_array(s->mask, (size_t)words, sizeof *s->mask);
    s->mask_words = words;
    return grammar_mask(grammar, s->mask);
}

static int choose(const struct sampler_input *in, const float *logits, int vocab, float max,
                  struct sampler_scratch *scratch)
{
    const struct sampling_params *params = in->params;
    if (params->temperature < TEMPERATURE_MIN) return index_of(logits, vocab, max);
    float *p = scratch->probability;
    double total = exponentials(logits, vocab, max, params->temperature, p);
    struct sampler_candidate cut = find_cut(params, p, vocab, total, scratch->candidate);
    double u = sampler_uniform(params->seed, params->choice, (uint64_t)in->position);
    return draw(p, vocab, cut, params->min_p, u); // the most probable has p = 1
}

int sampler_draw(const struct sampler_input *in, const float *logits, int vocab,
                 struct sampler_scratch *scratch, struct token_logprob *logprobs)
{
    float max = row_max(logits, vocab);
    if (!isfinite(max)) return E_DEVICE;
    reserve(scratch, vocab);
    if (is_adjusted(in)) {
        int rc = in->grammar ? find_mask(in->grammar, scratch) : 0;
        if (rc < 0) return rc;
        const uint32_t *mask = in->grammar ? scratch->mask : NULL;
        max = adjust(in, logits, vocab, in->banned_count, scratch, mask);
        if (!isfinite(max)) max = adjust(in, logits, vocab, 0, scratch, mask); // all are banned
        if (!isfinite(max)) return E_DEVICE;
        logits = scratch->adjusted;
    }
    int token = choose(in, logits, vocab, max, scratch);
    if (logprobs) report(logits, vocab, max, token, scratch, logprobs, in->params->logprobs);
    return token;
}

int sampler_score(int32_t token, const float *logits, int vocab, struct sampler_scratch *scratch,
                  struct token_logprob *logprobs, int count)
{
    float max = row_max(logits, vocab);
    if (!isfinite(max)) return E_DEVICE;
    reserve(scratch, vocab);
    report(logits, vocab, max, token, scratch, logprobs, count);
    return 0;
}
