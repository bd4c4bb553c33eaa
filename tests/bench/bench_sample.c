/* bench_sample.c - what drawing one token from one row of logits costs a thread of the CPU (engine/sampler.h),
 * by what a request asks for. Its processor time; rows come from memory, as there are more of them than
 * caches hold. Beside it stands the time that reading such a row once takes, in the same rounds: whoever looks at each logit
 * needs that much. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/bench.h"

#include "engine/sampler.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"

#define LOGITS_BYTES ((size_t)256 << 20) // of all rows
#define DRAWS        24                  // of a sample
#define SEEN         1000                // tokens of prompt and answer
#define SUMS         32                  // that are independent, so that none waits for another

struct sample_case {
    const char *name;
    struct sampling_params params;
};

static const struct sample_case cases[] = {
    {"greedy", {.temperature = 0, .top_p = 1}},
    {"temperature 0.8", {.temperature = 0.8f, .top_p = 1}},
    {"top_k 50", {.temperature = 0.8f, .top_p = 1, .top_k = 50}},
    {"top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f}},
    {"min_p 0.05", {.temperature = 0.8f, .top_p = 1, .min_p = 0.05f}},
    {"three penalties", // of 1,000 tokens
     {.temperature = 0.8f,
      .top_p = 1,
      .repetition_penalty = 1.1f,
      .presence_penalty = 0.5f,
      .frequency_penalty = 0.2f}},
    {"all of them",
     {.temperature = 0.8f,
      .top_p = 0.9f,
      .top_k = 50,
      .min_p = 0.05f,
      .repetition_penalty = 1.1f,
      .presence_penalty = 0.5f,
      .frequency_penalty = 0.2f}},
};

struct sample_bench {
    float *logits; // owned; [rows][vocab]
    int vocab, rows;
    int row; // the next one
    int64_t position;
    struct token_history history;
    struct sampler_scratch scratch;
    struct bench_samples read_us, draw_us[ARRAY_LEN(cases)];
    volatile float sum; // somebody wants it
};

/* Of this thread only: what others do to the machine's cores doesn't count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* As a model's are: near a normal distribution, a few dozen far above it. */
static void fill_row(float *row, int vocab, struct rng *rng)
{
    for (int i = 0; i < vocab; i++)
        row[i] = (float)(2.5 * (rng_unit(rng) + rng_unit(rng) + rng_unit(rng) + rng_unit(rng) - 2));
    for (int i = 0; i < 40; i++)
        row[rng_below(rng, (uint32_t)vocab)] = (float)(14 - 0.2 * i);
}

static void fill(struct sample_bench *b, int vocab)
{
    struct rng rng;
    size_t rows = LOGITS_BYTES / sizeof(float) / (size_t)vocab;
    rng_init(&rng, 1);
    b->vocab = vocab;
    b->rows = (int)rows;
    b->logits = xmalloc(rows * (size_t)vocab * sizeof *b->logits);
    fill_row(b->logits, vocab, &rng);
    for (size_t i = 1; i < rows; i++) // the same, beginning elsewhere: random numbers are slow
        for (size_t k = 0, from = i * 977; k < (size_t)vocab; k++, from++)
            b->logits[i * (size_t)vocab + k] = b->logits[from % (size_t)vocab];
    for (int i = 0; i < SEEN; i++) {
        int32_t token = (int32_t)rng_below(&rng, (uint32_t)vocab);
        if (i % 2)
            token_history_add(&b->history, token);
        else
            token_history_add_prompt(&b->history, &token, 1);
    }
}

static const float *next_row(struct sample_bench *b)
{
    const float *row = b->logits + (size_t)b->row * (size_t)b->vocab;
    b->row = (b->row + 1) % b->rows;
    return row;
}

static double read_us(struct sample_bench *b)
{
    float sum[SUMS] = {0};
    uint64_t begun = cpu_ns();
    for (int i = 0; i < DRAWS; i++) {
        const float *row = next_row(b);
        for (int k = 0; k + SUMS <= b->vocab; k += SUMS)
            for (int s = 0; s < SUMS; s++)
                sum[s] += row[k + s];
    }
    uint64_t end = cpu_ns();
    for (int s = 0; s < SUMS; s++)
        b->sum += sum[s];
    return (double)(end - begun) * 1e-3 / DRAWS;
}

static double draw_us(struct sample_bench *b, const struct sampling_params *params)
{
    struct sampler_input in = {.params = params};
    if (penalties_are_on(params)) in.history = &b->history;
    uint64_t begun = cpu_ns();
    for (int i = 0; i < DRAWS; i++) {
        in.position = b->position++;
        CHECK(sampler_draw(&in, next_row(b), b->vocab, &b->scratch, NULL) >= 0);
    }
    return (double)(cpu_ns() - begun) * 1e-3 / DRAWS;
}

static void print(const struct sample_bench *b)
{
    double limit = bench_samples_median(&b->read_us);
    printf("%-8d %-18s %9.1f us (%.1f..%.1f)   %.1f GB/s\n", b->vocab, "read once", limit,
           bench_samples_at(&b->read_us, 0), bench_samples_at(&b->read_us, 1),
           (double)b->vocab * sizeof(float) * 1e-3 / limit);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        double us = bench_samples_median(&b->draw_us[i]);
        printf("%-8d %-18s %9.1f us (%.1f..%.1f)   %.0f draws/s   %.1f times the read\n", b->vocab,
               cases[i].name, us, bench_samples_at(&b->draw_us[i], 0),
               bench_samples_at(&b->draw_us[i], 1), 1e6 / us, us / limit);
    }
    fflush(stdout);
}

static void bench_vocab(int vocab, int64_t rounds)
{
    struct sample_bench *b = xcalloc(1, sizeof *b);
    fill(b, vocab);
    for (int64_t round = -1; round < rounds; round++) { // the first one warms up
        double us = read_us(b);
        if (round >= 0) bench_samples_add(&b->read_us, us);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            us = draw_us(b, &cases[i].params);
            if (round >= 0) bench_samples_add(&b->draw_us[i], us);
        }
    }
    print(b);
    token_history_deinit(&b->history);
    sampler_scratch_deinit(&b->scratch);
    free(b->logits);
    free(b);
}

int bench_sample(const struct bench_options *o)
{
    bench_vocab(49152, o->rounds);
    bench_vocab(151936, o->rounds);
    return 0;
}
