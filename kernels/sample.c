/* sample.c - filters without sorting.
 *
 * All filters keep a head of one total order: weight descending, id ascending. So a filter is known by
 * the last token that it keeps, its `cut`, and the cut is found by quickselect over candidates: by
 * rank for top_k, by mass for top_p. Before that, tokens that can't be in the head are dropped by a
 * bound that costs one pass, which leaves some hundred of 50,000. */
#include "kernels/sample.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/sample_weight.h"
#include "shared/base/check.h"

#define LANES 16
#define CHUNK 256 // tokens that a sum or a maximum stands for

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

static void apply_mask(const uint32_t *mask, int words, float *x, int n)
{
    for (int w = 0; w * 32 < n; w++) {
        uint32_t allowed = w < words ? mask[w] : 0;
        int end = n - w * 32 < 32 ? n - w * 32 : 32;
        for (int i = 0; i < end && allowed != UINT32_MAX; i++)
            if (!(allowed >> i & 1)) x[w * 32 + i] = -INFINITY;
    }
}

/* x with bias, penalties, mask and the first banned_count bans in `out`; returns its maximum. */
static float adjust(const struct sample_row *r, const float *x, int n, int banned_count, float *out)
{
    memcpy(out, x, (size_t)n * sizeof *out);
    for (int i = 0; i < r->bias_count; i++)
        if (r->bias[i].token < n) out[r->bias[i].token] += r->bias[i].bias;
    for (int i = 0; i < r->seen_count; i++) {
        const struct token_count *t = &r->seen[i];
        if (t->token < n)
            out[t->token] =
                sample_penalise(out[t->token], t->answer, r->repetition, r->frequency, r->presence);
    }
    if (r->mask) apply_mask(r->mask, r->mask_words, out, n);
    for (int i = 0; i < banned_count; i++)
        if (r->banned[i] < n) out[r->banned[i]] = -INFINITY;
    return highest(out, n);
}

static int index_of(const float *x, int n, float value)
{
    for (int i = 0; i < n; i++)
        if (x[i] == value) return i;
    UNREACHABLE();
}

static uint64_t mass_of_halves(struct sample_halves sum)
{
    return ((uint64_t)sum.high << 20) + (uint64_t)sum.low;
}

/* Of at most CHUNK weights, those from `at_least` on. */
static uint64_t chunk_mass(const float *w, int n, float at_least)
{
    struct sample_halves sum = {0, 0};
    for (int i = 0; i < n; i++) {
        struct sample_halves h = sample_split(w[i]);
        int32_t keep = -(int32_t)(w[i] >= at_least);
        sum.high += h.high & keep;
        sum.low += h.low & keep;
    }
    return mass_of_halves(sum);
}

/* Weights, and the mass of each chunk of them; returns that of all. */
static uint64_t weigh(const float *x, int n, struct sample_scale scale, float *w, uint64_t *mass)
{
    uint64_t total = 0;
    for (int begin = 0; begin < n; begin += CHUNK) {
        int end = begin + CHUNK < n ? begin + CHUNK : n;
        struct sample_halves sum = {0, 0};
        for (int i = begin; i < end; i++) {
            struct sample_halves h = sample_weigh(x[i], scale);
            sum.high += h.high;
            sum.low += h.low;
            w[i] = sample_whole(h);
        }
        total += mass[begin / CHUNK] = mass_of_halves(sum);
    }
    return total;
}

/* ---- the order and the cut ---- */

static bool before(struct sample_candidate a, struct sample_candidate b)
{
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

static void swap(struct sample_candidate *a, struct sample_candidate *b)
{
    struct sample_candidate t = *a;
    *a = *b;
    *b = t;
}

/* Lomuto's partition around the median of three: c[0..return) come before the pivot, which stands at
 * the returned index; the rest come after it. n >= 1. */
static int partition(struct sample_candidate *c, int n)
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
static struct sample_candidate select_rank(struct sample_candidate *c, int n, int k)
{
    struct sample_candidate *begin = c;
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

static uint64_t mass_of(const struct sample_candidate *c, int n)
{
    uint64_t mass = 0;
    for (int i = 0; i < n; i++)
        mass += (uint64_t)c[i].value;
    return mass;
}

/* The last candidate of the shortest head whose mass reaches `mass`, which all together do. */
static struct sample_candidate select_mass(struct sample_candidate *c, int n, uint64_t mass)
{
    for (;;) {
        CHECK(n > 0);
        int pivot = partition(c, n);
        uint64_t head = mass_of(c, pivot), through = head + (uint64_t)c[pivot].value;
        if (head >= mass) {
            n = pivot;
        } else if (through >= mass) {
            return c[pivot];
        } else {
            mass -= through;
            c += pivot + 1;
            n -= pivot + 1;
        }
    }
}

static int collect(const float *w, int n, float at_least, struct sample_candidate *out)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        if (w[i] >= at_least) out[count++] = (struct sample_candidate){w[i], i};
    return count;
}

/* A value that at least k tokens reach: the k-th highest of the maxima of chunks. */
static float rank_bound(const float *w, int n, int k, struct sample_candidate *scratch)
{
    int chunks = 0, width = CHUNK / 4;
    for (int begin = 0; begin < n; begin += width, chunks++) {
        float max = -INFINITY;
        for (int i = begin; i < begin + width && i < n; i++)
            max = w[i] > max ? w[i] : max;
        scratch[chunks] = (struct sample_candidate){max, chunks};
    }
    return k <= chunks ? select_rank(scratch, chunks, k).value : -INFINITY;
}

/* Where top_k and top_p cut; {0, n} keeps everything. */
static struct sample_candidate find_cut(const struct sample_row *r, const float *w, int n,
                                        uint64_t total, struct sample_candidate *c)
{
    struct sample_candidate cut = {0, n};
    bool by_rank = r->top_k > 0 && r->top_k < n, by_mass = r->top_p < 1;
    int count = 0;
    if (by_rank) {
        count = collect(w, n, rank_bound(w, n, r->top_k, c), c);
        cut = select_rank(c, count, r->top_k);
        count = r->top_k;
        total = mass_of(c, count);
    } else if (by_mass) {
        /* All tokens below the bound together weigh less than what top_p leaves out. The bound is a
         * little lower than that, for rounding. */
        double bound = (1 - (double)r->top_p) * (double)total / n * 0.999;
        count = collect(w, n, (float)bound, c);
    }
    return by_mass ? select_mass(c, count, sample_needed(r->top_p, total)) : cut;
}

/* ---- the draw ---- */

/* Up to `id` weights from `upto` on are kept, behind it those from `behind` on. */
struct kept {
    float upto, behind;
    int32_t id;
};

static struct kept kept_by(struct sample_candidate cut, float floor)
{
    float above = nextafterf(cut.value, INFINITY);
    return (struct kept){fmaxf(cut.value, floor), fmaxf(above, floor), cut.id};
}

static uint64_t kept_mass(const float *w, int begin, int end, struct kept kept)
{
    int split = kept.id + 1 < begin ? begin : kept.id + 1 > end ? end : kept.id + 1;
    return chunk_mass(w + begin, split - begin, kept.upto) +
           chunk_mass(w + split, end - split, kept.behind);
}

/* The first token with which the sum of kept weights is above the target. mass: of chunks, kept or not. */
static int walk(const float *w, int n, const uint64_t *mass, struct kept kept, uint64_t target)
{
    int i = 0;
    for (; mass[i / CHUNK] <= target; i += CHUNK)
        target -= mass[i / CHUNK];
    for (uint64_t sum = 0; i < n; i++) {
        if (w[i] >= (i <= kept.id ? kept.upto : kept.behind)) sum += (uint64_t)w[i];
        if (sum > target) return i;
    }
    UNREACHABLE();
}

static int choose(const struct sample_row *r, const float *x, int n, float max,
                  struct sample_scratch *s)
{
    if (r->temperature < SAMPLE_GREEDY) return index_of(x, n, max);
    uint64_t total = weigh(x, n, sample_scale(max, r->temperature), s->weight, s->mass);
    struct sample_candidate cut = find_cut(r, s->weight, n, total, s->candidate);
    struct kept kept = kept_by(cut, r->min_p * SAMPLE_UNIT);
    if (kept.upto > 0) {
        total = 0;
        for (int begin = 0; begin < n; begin += CHUNK) {
            int end = begin + CHUNK < n ? begin + CHUNK : n;
            total += s->mass[begin / CHUNK] = kept_mass(s->weight, begin, end, kept);
        }
    }
    return walk(s->weight, n, s->mass, kept, sample_target(r->random, total));
}

/* ---- the whole ---- */

static void reserve(struct sample_scratch *s, int vocab)
{
    CHECK(vocab > 0 && vocab < SAMPLE_VOCAB_MAX);
    if (s->cap >= vocab) return;
    sample_scratch_deinit(s);
    s->weight = xaligned((size_t)vocab * sizeof *s->weight);
    s->adjusted = xaligned((size_t)vocab * sizeof *s->adjusted);
    s->candidate = xaligned((size_t)vocab * sizeof *s->candidate);
    s->mass = xcalloc((size_t)vocab / CHUNK + 1, sizeof *s->mass);
    s->cap = vocab;
}

void sample_scratch_deinit(struct sample_scratch *s)
{
    free(s->weight);
    free(s->adjusted);
    free(s->candidate);
    free(s->mass);
    *s = (struct sample_scratch){0};
}

int sample_look(const float *logits, int vocab, struct sample_scratch *s)
{
    reserve(s, vocab);
    s->logits = logits;
    s->max = row_max(logits, vocab);
    return isfinite(s->max) ? 0 : E_DEVICE;
}

int sample_draw(const struct sample_row *row, const float *logits, int vocab,
                struct sample_scratch *s)
{
    int rc = sample_look(logits, vocab, s);
    if (rc < 0) return rc;
    if (sample_is_adjusted(row)) {
        s->logits = s->adjusted;
        s->max = adjust(row, logits, vocab, row->banned_count, s->adjusted);
        if (!isfinite(s->max))
            s->max = adjust(row, logits, vocab, 0, s->adjusted); // all are banned
        if (!isfinite(s->max)) return E_DEVICE;
    }
    return choose(row, s->logits, vocab, s->max, s);
}

/* The k highest logits are candidate[0..k) afterwards, in order. 1 <= k <= vocab. */
static void find_likeliest(struct sample_scratch *s, int vocab, int k)
{
    struct sample_candidate *c = s->candidate;
    int found = collect(s->logits, vocab, rank_bound(s->logits, vocab, k, c), c);
    select_rank(c, found, k);
    for (int i = 1; i < k; i++) // they are few
        for (int j = i; j > 0 && before(c[j], c[j - 1]); j--)
            swap(&c[j], &c[j - 1]);
}

/* Adding 0 makes -0 the 0 that it is equal to. */
void sample_report(struct sample_scratch *s, int vocab, int32_t token, int logprobs,
                   struct sample_report *out)
{
    int wanted = logprobs - 1, there = wanted < vocab ? wanted : vocab;
    CHECK(logprobs >= 1 && logprobs <= SAMPLE_LOGPROBS_MAX);
    out->max = s->max + 0.0f;
    out->own = token < vocab ? s->logits[token] + 0.0f : -INFINITY;
    out->sum = weigh(s->logits, vocab, sample_scale(s->max, 1), s->weight, s->mass);
    if (there > 0) find_likeliest(s, vocab, there);
    for (int i = 0; i < wanted; i++) {
        struct sample_candidate c = {-INFINITY, -1};
        if (i < there && isfinite(s->candidate[i].value)) c = s->candidate[i];
        out->likeliest[i] = (struct sample_candidate){c.value + 0.0f, c.id};
    }
}

float sample_logprob(const struct sample_report *r, float logit)
{
    double log_sum = log((double)r->sum / (double)SAMPLE_UNIT);
    return (float)((double)(logit - r->max) - log_sum);
}
