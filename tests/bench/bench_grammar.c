/* bench_grammar.c - what it costs to find the tokens that a grammar allows, over the schemas of a
 * file, one in each line: compiling, the first time that a state is met, and afterwards. Answers are
 * drawn at random from what is allowed, and are written out with --texts for others to check.
 *
 * A line {"part": {...}, "texts": [...]} is a text in parts (engine/grammar.h), whose answers are those
 * texts: drawn ones would never meet a tag.
 *
 * With a peer, llama.cpp's grammar follows each drawn answer right after it was drawn, as far as it takes
 * its tokens. Its sampler sets the logits of what may not come, so ours are set too in the time that is
 * compared: the mask, and a row of logits by it. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/bench.h"
#include "tests/bench/bench_grammar_peer.h"

#include "engine/gguf.h"
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
    struct grammar_peer peer;
    bool peer_takes; // the schema
    struct times beside, peer_compile, peer_whole, peer_alone;
    float *logits;
    int32_t *ids;   // [max_tokens] of the answer that was drawn last
    double *ids_us; // what each of them took
    size_t id_count;
    size_t schemas, refused, answers, cut;
    bool prints_texts;
};

/* Processor time, with that of the thread that compiles: other programs of a shared machine don't count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void add_us(struct times *t, double us)
{
    if (t->count < TIMES_MAX) t->us[t->count++] = us;
}

static void add_time(struct times *t, uint64_t ns)
{
    add_us(t, (double)ns / 1e3);
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

/* As the peer's sampler does: what may not come is impossible. */
static void apply_mask(struct trial *t)
{
    int words = (tokenizer_vocab_size(t->tokenizer) + 31) / 32;
    for (int w = 0; w < words; w++)
        for (uint32_t bits = ~t->mask[w], i = 0; bits; bits >>= 1, i++)
            if (bits & 1) t->logits[w * 32 + (int)i] = -INFINITY;
}

static bool follow(const struct trial *t, struct grammar_matcher *m, int32_t id)
{
    struct str text = tokenizer_token_bytes(t->tokenizer, id, true);
    return tokenizer_is_special(t->tokenizer, id) ? grammar_accept_special(m, text)
                                                  : grammar_accept(m, text);
}

/* One answer into m->text. *ended: it wasn't cut. */
static int write_answer(struct trial *t, struct grammar_matcher *m, struct times *times,
                        bool *ended)
{
    t->id_count = 0;
    for (int step = 0; step < t->options->max_tokens; step++) {
        uint64_t begun = cpu_ns();
        if (grammar_mask(m, t->mask) < 0) return E_UNSUPPORTED;
        add_time(times, cpu_ns() - begun);
        if (t->peer.pid) apply_mask(t);
        double us = (double)(cpu_ns() - begun) / 1e3;
        bool may_end = grammar_may_end(m);
        int32_t id = draw(t, m, step, may_end);
        *ended = id < 0 && may_end;
        if (id < 0) return 0;
        t->ids[t->id_count] = id;
        t->ids_us[t->id_count++] = us;
        bool follows = follow(t, m, id);
        CHECK(follows); // the mask said so
    }
    *ended = false;
    return 0;
}

static int ask_peer(struct trial *t, struct error *err)
{
    struct grammar_peer_time *times = xcalloc(t->id_count + 1, sizeof *times);
    size_t taken = 0;
    int rc = grammar_peer_follow(&t->peer, t->ids, t->id_count, times, &taken, err);
    for (size_t i = 0; i < taken; i++) {
        add_us(&t->beside, t->ids_us[i]);
        add_us(&t->peer_whole, times[i].whole);
        add_us(&t->peer_alone, times[i].alone);
    }
    free(times);
    return rc;
}

/* One of the given answers. */
static int read_answer(struct trial *t, struct grammar_matcher *m, struct times *times,
                       const struct json *texts, int64_t index, struct error *err)
{
    const struct json *v = json_first(texts);
    for (index %= (int64_t)json_len(texts); index > 0; index--)
        v = json_next(v);
    struct token_list tokens = {0};
    struct str text;
    text.data = json_string(v, &text.len);
    int rc = tokenizer_encode(t->tokenizer, text.data, text.len, TOKENIZER_SPECIAL, &tokens, err);
    for (size_t i = 0; i < tokens.count && rc == 0; i++) {
        uint64_t begun = cpu_ns();
        rc = grammar_mask(m, t->mask);
        add_time(times, cpu_ns() - begun);
        if (!is_allowed(t, tokens.ids[i]) || !follow(t, m, tokens.ids[i]))
            rc = error_set(err, E_INVALID, "'%s' isn't what the part accepts", text.data);
    }
    if (rc == 0 && !grammar_may_end(m))
        rc = error_set(err, E_INVALID, "'%s' isn't all that the part wants", text.data);
    token_list_deinit(&tokens);
    return rc;
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

/* Answers to a grammar: the given ones in turn, or drawn without any. */
static int run_grammar(struct trial *t, struct grammar *g, const struct json *texts,
                       struct error *err)
{
    struct grammar_matcher m[BENCH_SAMPLES_MAX] = {0};
    bool ended[BENCH_SAMPLES_MAX] = {0};
    int rc = 0;
    t->mask = xrealloc_array(t->mask, (size_t)grammar_mask_words(g), sizeof *t->mask);
    for (int64_t i = 0; i < t->options->rounds && rc == 0; i++) {
        struct times *times = i < (texts ? (int64_t)json_len(texts) : 1) ? &t->cold : &t->warm;
        grammar_matcher_init(&m[i], g);
        ended[i] = true;
        rc = texts ? read_answer(t, &m[i], times, texts, i, err)
                   : write_answer(t, &m[i], times, &ended[i]);
        t->answers++;
        t->cut += !ended[i];
        if (rc == 0 && t->peer_takes && !texts) rc = ask_peer(t, err);
    }
    if (rc == E_UNSUPPORTED) error_set(err, rc, "the vocabulary can't spell what must come");
    if (rc == 0 && t->prints_texts) print_answers(m, t->options->rounds, ended);
    for (int64_t i = 0; i < t->options->rounds; i++)
        grammar_matcher_deinit(&m[i]);
    return rc;
}

static int run_source(struct trial *t, enum grammar_kind kind, struct str source,
                      const struct json *texts, struct error *err)
{
    struct grammar *g;
    uint64_t begun = cpu_ns();
    int rc = grammar_cache_get(t->cache, &(struct grammar_wish){kind, source, clock_ms()}, &g, err);
    t->schemas++;
    if (rc < 0) {
        t->refused++;
        err->code = rc;
        if (t->prints_texts) print_refusal(err);
        return 0;
    }
    add_time(&t->compile, cpu_ns() - begun);
    rc = run_grammar(t, g, texts, err);
    grammar_unref(g);
    return rc;
}

static int run_line(struct trial *t, struct str line, struct error *err)
{
    if (!str_starts_with(line, STR("{\"part\":"))) {
        double us = 0;
        int rc = t->peer.pid ? grammar_peer_schema(&t->peer, line, &t->peer_takes, &us, err) : 0;
        if (t->peer_takes) add_us(&t->peer_compile, us);
        return rc < 0 ? rc : run_source(t, GRAMMAR_JSON_SCHEMA, line, NULL, err);
    }
    struct json *root = json_parse(line.data, line.len, err);
    if (!root) return err->code;
    const struct json *texts = json_get(root, "texts");
    struct buf source;
    buf_init(&source, BUF_MAX_INTERNAL);
    json_print(json_get(root, "part"), &source, false);
    int rc = json_len(texts) > 0
                 ? run_source(t, GRAMMAR_PARTS, buf_str(&source), texts, err)
                 : error_set(err, E_INVALID, "a part has no texts that answers could be");
    buf_deinit(&source);
    json_destroy(root);
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
        struct str source = str_trim((struct str){line, (size_t)len});
        if (source.len > 0) rc = run_line(t, source, err);
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

static double at_quantile(const struct times *t, size_t percent)
{
    return t->us[t->count * percent / 100];
}

static void print_times(const char *name, struct times *t)
{
    if (t->count == 0) return;
    qsort(t->us, t->count, sizeof *t->us, compare_doubles);
    printf("%-28s %9zu  median %9.1f us  p99 %9.1f us  most %9.1f us\n", name, t->count,
           at_quantile(t, 50), at_quantile(t, 99), t->us[t->count - 1]);
}

/* Of a model folder, or of a GGUF. */
static int open_tokenizer(const char *path, struct tokenizer **out, struct error *err)
{
    struct gguf *file;
    if (!str_ends_with(str_of(path), STR(".gguf"))) return tokenizer_open_folder(path, out, err);
    int rc = gguf_open(path, &file, err);
    if (rc < 0) return rc;
    rc = tokenizer_load_gguf(file, out, err);
    gguf_close(file);
    return rc;
}

static void print_trial(struct trial *t)
{
    printf("%zu schemas, %zu refused, %zu answers, %zu cut, %d tokens in the vocabulary\n",
           t->schemas, t->refused, t->answers, t->cut, tokenizer_vocab_size(t->tokenizer));
    print_times("compile", &t->compile);
    print_times("mask, states met first", &t->cold);
    print_times("mask, afterwards", &t->warm);
    if (t->beside.count == 0) return;
    printf("%zu of %zu schemas, and those tokens of the answers that both take:\n",
           t->peer_compile.count, t->schemas);
    print_times("mask, and logits by it", &t->beside);
    print_times("llama.cpp, all tokens", &t->peer_whole);
    print_times("llama.cpp, the one drawn", &t->peer_alone);
    print_times("llama.cpp, compile", &t->peer_compile);
    printf("%-28s %.0f of the median, %.1f of p99\n", "ratio, all tokens",
           at_quantile(&t->peer_whole, 50) / at_quantile(&t->beside, 50),
           at_quantile(&t->peer_whole, 99) / at_quantile(&t->beside, 99));
}

static int run_trial(struct trial *t, const char *tokenizer, const char *path, struct error *err)
{
    struct tokenizer *opened = NULL;
    int rc = open_tokenizer(tokenizer, &opened, err);
    if (rc < 0) return rc;
    t->tokenizer = opened;
    t->cache = grammar_cache_create(opened, NULL);
    t->logits = xcalloc((size_t)tokenizer_vocab_size(opened) + 32, sizeof *t->logits);
    find_byte_tokens(t);
    if (t->options->peer) rc = grammar_peer_open(&t->peer, t->options->peer, tokenizer, err);
    if (rc == 0 && t->peer.pid && t->peer.vocab != tokenizer_vocab_size(opened))
        rc = error_set(err, E_INVALID, "the peer's vocabulary is another one; give a GGUF");
    if (rc == 0) rc = run_file(t, path, err);
    if (rc == 0 && !t->prints_texts) print_trial(t);
    grammar_peer_close(&t->peer);
    grammar_cache_destroy(t->cache);
    tokenizer_destroy(opened);
    return rc;
}

int bench_grammar(const struct bench_options *o, const char *tokenizer, const char *path)
{
    struct trial t = {.options = o, .prints_texts = o->texts};
    struct error err = {0};
    struct times *times[] = {&t.compile,      &t.cold,       &t.warm,      &t.beside,
                             &t.peer_compile, &t.peer_whole, &t.peer_alone};
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        times[i]->us = xcalloc(TIMES_MAX, sizeof(double));
    t.ids = xcalloc((size_t)o->max_tokens, sizeof *t.ids);
    t.ids_us = xcalloc((size_t)o->max_tokens, sizeof *t.ids_us);
    rng_init(&t.rng, (uint64_t)o->seed);
    int rc = run_trial(&t, tokenizer, path, &err);
    if (rc) fprintf(stderr, "lm-bench: %s\n", err.text);
    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        free(times[i]->us);
    free(t.mask);
    free(t.logits);
    free(t.ids);
    free(t.ids_us);
    return rc ? 1 : 0;
}
