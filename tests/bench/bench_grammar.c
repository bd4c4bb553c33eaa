/* bench_grammar.c - what it costs to find the tokens that a grammar allows, over the schemas of a
 * file, one in each line: compiling, the first time that a state is met, and afterwards. Answers are
 * drawn at random from what is allowed, and are written out with --texts for others to check. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

#include "engine/grammar_cache.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_folder.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"

#define TIMES_MAX  ((size_t)1 << 20)
#define TRIES      24 // draws of which the best is taken
#define EAGER_FROM 40 // tokens from which an answer looks for its end

struct times {
    double *us; // [TIMES_MAX], owned
    size_t count;
};

struct trial {
    const struct bench_options *options;
    const struct tokenizer *tokenizer;
    struct grammar_cache *cache;
    struct rng rng;
    uint32_t *mask;
    int32_t byte_token[256]; // tokens of one byte
    int byte_tokens;
    struct times compile, cold, warm;
    size_t schemas, refused, answers, cut;
    bool prints_texts;
};

static void add_time(struct times *t, uint64_t ns)
{
    if (t->count < TIMES_MAX) t->us[t->count++] = (double)ns / 1e3;
}

static bool is_allowed(const struct trial *t, int32_t token)
{
    return t->mask[token / 32] >> (token % 32) & 1;
}

static bool is_in_string(const struct grammar_matcher *m)
{
    bool in_string = false;
    for (size_t i = 0; i < m->len; i++) {
        if (m->text[i] == '"') in_string = !in_string;
        if (m->text[i] == '\\') i++;
    }
    return in_string;
}

/* The byte token that ends what is open; -1: there is none. */
static int32_t find_closer(const struct trial *t, const struct grammar_matcher *m)
{
    for (const char *c = is_in_string(m) ? "\"" : "}]\""; *c; c++)
        for (int i = 0; i < t->byte_tokens; i++)
            if (is_allowed(t, t->byte_token[i]) &&
                *tokenizer_token_bytes(t->tokenizer, t->byte_token[i], false).data == *c)
                return t->byte_token[i];
    return -1;
}

/* One of the tokens allowed; -1: the answer ends. */
static int32_t draw(struct trial *t, const struct grammar_matcher *m, int step, bool may_end)
{
    bool is_eager = step >= EAGER_FROM;
    if (may_end && (is_eager || rng_below(&t->rng, 4) == 0)) return -1;
    int32_t closer = is_eager ? find_closer(t, m) : -1;
    if (closer >= 0) return closer;
    uint32_t vocab = (uint32_t)tokenizer_vocab_size(t->tokenizer);
    uint32_t begin = rng_below(&t->rng, vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        int32_t id = (int32_t)((begin + i) % vocab);
        if (is_allowed(t, id) && !tokenizer_is_stop(t->tokenizer, id)) return id;
    }
    return -1;
}

/* One answer into m->text. False: it was cut. */
static int write_answer(struct trial *t, struct grammar_matcher *m, struct times *times,
                        bool *ended)
{
    for (int step = 0; step < t->options->max_tokens; step++) {
        uint64_t begun = clock_ns();
        if (grammar_mask(m, t->mask) < 0) return E_UNSUPPORTED;
        add_time(times, clock_ns() - begun);
        bool may_end = grammar_may_end(m);
        int32_t id = draw(t, m, step, may_end);
        *ended = id < 0 && may_end;
        if (id < 0) return 0;
        bool follows = grammar_accept(m, tokenizer_token_bytes(t->tokenizer, id, false));
        CHECK(follows); // the mask said so
    }
    *ended = false;
    return 0;
}

static void print_answers(struct grammar_matcher *m, int64_t count, const bool *ended)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, BUF_MAX_INTERNAL);
    json_writer_init(&w, &out);
    json_object_begin(&w);
    json_key(&w, "texts");
    json_array_begin(&w);
    for (int64_t i = 0; i < count; i++)
        if (ended[i]) json_put_str(&w, (struct str){m[i].text, m[i].len});
    json_array_end(&w);
    json_object_end(&w);
    printf(STR_FMT "\n", STR_ARG(buf_str(&out)));
    buf_deinit(&out);
}

static void print_refusal(const struct error *err)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, BUF_MAX_INTERNAL);
    json_writer_init(&w, &out);
    json_object_begin(&w);
    json_field_text(&w, "error", err->text);
    json_field_text(&w, "code", error_name(err->code));
    json_object_end(&w);
    printf(STR_FMT "\n", STR_ARG(buf_str(&out)));
    buf_deinit(&out);
}

static int run_schema(struct trial *t, struct str schema, struct error *err)
{
    struct grammar_matcher m[BENCH_SAMPLES_MAX] = {0};
    bool ended[BENCH_SAMPLES_MAX] = {0};
    struct grammar *g;
    uint64_t begun = clock_ns();
    int rc = grammar_cache_get(t->cache, GRAMMAR_JSON_SCHEMA, schema, &g, err);
    t->schemas++;
    if (rc < 0) {
        t->refused++;
        err->code = rc;
        if (t->prints_texts) print_refusal(err);
        return 0;
    }
    add_time(&t->compile, clock_ns() - begun);
    t->mask = xrealloc_array(t->mask, (size_t)grammar_mask_words(g), sizeof *t->mask);
    for (int64_t i = 0; i < t->options->rounds && rc == 0; i++) {
        grammar_matcher_init(&m[i], g);
        rc = write_answer(t, &m[i], i == 0 ? &t->cold : &t->warm, &ended[i]);
        t->answers++;
        t->cut += !ended[i];
    }
    if (rc < 0) error_set(err, rc, "the vocabulary can't spell what a schema demands");
    if (rc == 0 && t->prints_texts) print_answers(m, t->options->rounds, ended);
    for (int64_t i = 0; i < t->options->rounds; i++)
        grammar_matcher_deinit(&m[i]);
    grammar_unref(g);
    return rc;
}

static void find_byte_tokens(struct trial *t)
{
    for (int32_t id = 0; id < tokenizer_vocab_size(t->tokenizer) && t->byte_tokens < 256; id++)
        if (tokenizer_token_bytes(t->tokenizer, id, false).len == 1)
            t->byte_token[t->byte_tokens++] = id;
}

static int run_file(struct trial *t, const char *path, struct error *err)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int rc = 0;
    if (!file) return error_set(err, -errno, "can't open '%s'", path);
    while (rc == 0 && (len = getline(&line, &cap, file)) > 0) {
        struct str schema = str_trim((struct str){line, (size_t)len});
        if (schema.len > 0) rc = run_schema(t, schema, err);
    }
    free(line);
    fclose(file);
    return rc;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, struct times *t)
{
    if (t->count == 0) return;
    qsort(t->us, t->count, sizeof *t->us, compare_doubles);
    printf("%-28s %9zu  median %9.1f us  p99 %9.1f us  most %9.1f us\n", name, t->count,
           t->us[t->count / 2], t->us[t->count * 99 / 100], t->us[t->count - 1]);
}

int bench_grammar(const struct bench_options *o, const char *folder, const char *path)
{
    struct trial t = {.options = o, .prints_texts = o->texts};
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    struct times *times[] = {&t.compile, &t.cold, &t.warm};
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        times[i]->us = xcalloc(TIMES_MAX, sizeof(double));
    rng_init(&t.rng, (uint64_t)o->seed);
    int rc = tokenizer_open_folder(folder, &tokenizer, &err);
    t.tokenizer = tokenizer;
    if (rc == 0) t.cache = grammar_cache_create(tokenizer);
    if (rc == 0) find_byte_tokens(&t);
    if (rc == 0) rc = run_file(&t, path, &err);
    if (rc == 0 && !t.prints_texts) {
        printf("%zu schemas, %zu refused, %zu answers, %zu cut, %d tokens in the vocabulary\n",
               t.schemas, t.refused, t.answers, t.cut, tokenizer_vocab_size(tokenizer));
        print_times("compile", &t.compile);
        print_times("mask, states met first", &t.cold);
        print_times("mask, afterwards", &t.warm);
    }
    if (rc) fprintf(stderr, "lm-bench: %s\n", err.text);
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        free(times[i]->us);
    free(t.mask);
    grammar_cache_destroy(t.cache);
    tokenizer_destroy(tokenizer);
    return rc ? 1 : 0;
}
