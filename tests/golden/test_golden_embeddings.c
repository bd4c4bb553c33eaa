/* Embeddings against what their models' references say of logits: the head times a hidden state is the
 * row of logits, so the head times an embedding is that row but for its scale. And the engine's pooled
 * vectors are those of the states that the backend gives, however prompts are cut into steps, whatever
 * the prefix cache holds, whoever runs beside them. */
#include "engine/engine.h"
#include "kernels/quant.h"
#include "tests/golden/golden_model.h"

#include <pthread.h>
#include <unistd.h>

#define PROMPT_MAX 200

static const char *const models[] = {
    "llama3_rope"}; // folders with a tokenizer, whose ropes have one length

struct subject {
    const char *folder;
    struct json *reference;
    const struct json *prompts, *logits;
    struct golden_model model;
    int hidden;
    float *head; // [vocab][hidden]
};

static void open_subject(struct subject *s, const char *name)
{
    char path[300];
    struct error err = {0};
    struct weights *w;
    snprintf(path, sizeof path, "models/%s/config.json", name);
    char *config = xstrdup(fixture_path(path));
    *strrchr(config, '/') = 0;
    *s = (struct subject){.folder = config};
    snprintf(path, sizeof path, "models/%s/reference.json", name);
    s->reference = fixture_json(path);
    NEED(s->reference);
    s->prompts = json_get(s->reference, "prompts");
    s->logits = json_get(s->reference, "logits");
    NEED(weights_open(s->folder, &w, &err) == 0);
    golden_open(&s->model, w, COMPUTE_F32, KV_F32, PROMPT_MAX, 512);
    s->hidden = w->params.hidden;
    const struct matrix *head = w->params.head.data ? &w->params.head : &w->params.embedding;
    s->head = xcalloc((size_t)w->params.vocab * (size_t)s->hidden, sizeof *s->head);
    size_t row_bytes = matrix_row_bytes(head->type, s->hidden);
    for (int i = 0; i < w->params.vocab; i++)
        quant_dequantize_row(head->type, (const char *)head->data + (size_t)i * row_bytes,
                             s->head + (size_t)i * (size_t)s->hidden, s->hidden);
}

static void close_subject(struct subject *s)
{
    struct weights *w = s->model.weights;
    golden_close(&s->model);
    weights_close(w);
    json_destroy(s->reference);
    free((char *)s->folder);
    free(s->head);
}

static double head_times(const struct subject *s, int token, const float *hidden)
{
    double sum = 0;
    for (int i = 0; i < s->hidden; i++)
        sum += (double)s->head[(size_t)token * (size_t)s->hidden + (size_t)i] * (double)hidden[i];
    return sum;
}

/* The largest difference between the reference's logits and the head times `hidden`, which may have any
 * length: scaled to fit. */
static double distance(const struct subject *s, const struct json *row, const float *hidden)
{
    int vocab = s->model.vocab, i = 0;
    double *own = xcalloc((size_t)vocab, sizeof *own), both = 0, squares = 0, worst = 0;
    for (const struct json *v = json_first(row); v; v = json_next(v), i++) {
        own[i] = head_times(s, i, hidden);
        both += own[i] * json_number(v);
        squares += own[i] * own[i];
    }
    EXPECT_INT(i, vocab);
    i = 0;
    for (const struct json *v = json_first(row); v; v = json_next(v), i++)
        worst = fmax(worst, fabs(own[i] * both / squares - json_number(v)));
    free(own);
    return worst;
}

/* ---- the engine ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static int wakes;

static void on_events(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    wakes++;
    pthread_cond_signal(&woken);
    pthread_mutex_unlock(&lock);
}

static struct engine *open_engine(const struct subject *s, int chunk, int depth, int cache)
{
    struct engine_options o = {.model_path = s->folder,
                               .backend = golden_backend()->name,
                               .threads = 1,
                               .dtype = ENGINE_DTYPE_FLOAT32,
                               .kv_dtype = ENGINE_KV_F32,
                               .cache_max_tokens = cache,
                               .max_batch_size = 4,
                               .max_prefill_token_num = chunk,
                               .queue_max = 16,
                               .pipeline_depth = depth,
                               .prefix_caching = true,
                               .on_events = on_events};
    struct engine *e;
    struct error err = {0};
    if (engine_open(&o, &e, &err) < 0) {
        printf("engine_open: %s\n", err.text);
        exit(1);
    }
    EXPECT_INT(engine_info(e)->hidden_size, s->hidden);
    return e;
}

/* Of request `id`, until all of `open` have ended; the embedding is the caller's. */
static float *wait_for(struct engine *e, uint64_t id, int open)
{
    float *embedding = NULL;
    while (open > 0) {
        struct engine_event event;
        while (engine_next_event(e, &event)) {
            EXPECT(event.kind != ENGINE_EVENT_FAILED);
            if (event.kind != ENGINE_EVENT_TOKENS) open--;
            if (event.id == id) {
                EXPECT(event.kind == ENGINE_EVENT_DONE && event.finish == FINISH_STOP);
                EXPECT(event.token_count == 0 && event.completion_tokens == 0 &&
                       event.text_len == 0);
                embedding = event.embedding;
                event.embedding = NULL;
            } else {
                EXPECT(!event.embedding);
            }
            engine_event_deinit(&event);
        }
        pthread_mutex_lock(&lock);
        while (wakes == 0 && open > 0)
            pthread_cond_wait(&woken, &lock);
        wakes = 0;
        pthread_mutex_unlock(&lock);
    }
    NEED(embedding);
    return embedding;
}

static void submit(struct engine *e, const struct golden_sequence *prompt, uint64_t id,
                   enum engine_pool pool)
{
    struct error err = {0};
    struct engine_request r = {.id = id,
                               .prompt = prompt->ids,
                               .prompt_count = (size_t)prompt->count,
                               .pool = pool,
                               .sampling = {.top_p = 1},
                               .max_tokens = 5,
                               .ignore_eos = true};
    NEED(engine_submit(e, &r, &err) == 0);
}

static float *embed(struct engine *e, const struct golden_sequence *prompt, enum engine_pool pool)
{
    submit(e, prompt, 1, pool);
    return wait_for(e, 1, 1);
}

/* ---- the comparison ---- */

static void normalise(double *v, int len)
{
    double squares = 0;
    for (int i = 0; i < len; i++)
        squares += v[i] * v[i];
    for (int i = 0; i < len; i++)
        v[i] /= sqrt(squares);
}

static void expect_vector(const float *got, const double *want, int len)
{
    double worst = 0, squares = 0;
    for (int i = 0; i < len; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        squares += (double)got[i] * (double)got[i];
    }
    EXPECT(worst < 1e-5);
    EXPECT(fabs(squares - 1) < 1e-5);
}

/* Pooled by hand from the backend's rows: last, then mean. */
static void pool_by_hand(struct subject *s, struct golden_sequence *prompt, double *last,
                         double *mean, const struct json *rows, double tolerance)
{
    const struct json *row = json_first(rows);
    int first = prompt->count - (int)json_len(rows);
    float *hidden = xcalloc((size_t)s->hidden, sizeof *hidden);
    (void)golden_step(&s->model, &prompt, &prompt->count, 1, true);
    for (int at = 0; at < prompt->count; at++) {
        s->model.ops->hidden_row(s->model.backend, at, hidden);
        for (int i = 0; i < s->hidden; i++) {
            last[i] = (double)hidden[i];
            mean[i] += (double)hidden[i];
        }
        if (at < first) continue;
        EXPECT(distance(s, row, hidden) < tolerance); // of each position
        row = json_next(row);
    }
    normalise(last, s->hidden);
    normalise(mean, s->hidden);
    free(hidden);
}

static const struct {
    int chunk, depth;
} cuts[] = {{512, 1}, {7, 2}, {512, 2}, {1, 1}};

/* On an emulated device (LM_TEST_BACKEND) a step takes a hundred times as long. */
static bool quick(void)
{
    return getenv("LM_TEST_BACKEND") != NULL;
}

static size_t cut_count(void)
{
    return quick() ? 2 : ARRAY_LEN(cuts);
}

static void compare_prompt(struct subject *s, struct engine *const *engines, int index,
                           const struct json *ids)
{
    double tolerance = json_number(json_get(s->reference, "f32_tolerance"));
    const struct json *rows = json_first(s->logits), *row;
    for (int i = 0; i < index; i++)
        rows = json_next(rows);
    row = json_first(rows);
    double *last = xcalloc((size_t)s->hidden, sizeof *last);
    double *mean = xcalloc((size_t)s->hidden, sizeof *mean);
    struct golden_sequence prompt;
    golden_sequence_init(&prompt, ids, 0);
    while (json_next(row))
        row = json_next(row);
    pool_by_hand(s, &prompt, last, mean, rows, tolerance);
    float *first = NULL;
    for (size_t i = 0; i < cut_count(); i++) {
        float *a = embed(engines[i], &prompt, ENGINE_POOL_LAST);
        EXPECT(distance(s, row, a) < tolerance); // straight from the engine to the reference
        expect_vector(a, last, s->hidden);
        float *b = embed(engines[i], &prompt, ENGINE_POOL_MEAN); // after its prompt was cached
        expect_vector(b, mean, s->hidden);
        float *again = embed(engines[i], &prompt, ENGINE_POOL_LAST);
        EXPECT(memcmp(again, a, (size_t)s->hidden * sizeof *a) == 0);
        if (!first) {
            first = b;
        } else {
            EXPECT(memcmp(first, b, (size_t)s->hidden * sizeof *b) == 0);
            free(b);
        }
        free(a);
        free(again);
    }
    free(first);
    free(last);
    free(mean);
    golden_sequence_deinit(&s->model, &prompt);
}

static void test_models(void)
{
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        struct subject s;
        struct engine *engines[ARRAY_LEN(cuts)];
        open_subject(&s, models[m]);
        for (size_t i = 0; i < cut_count(); i++)
            engines[i] = open_engine(&s, cuts[i].chunk, cuts[i].depth, 4096);
        int index = 0;
        for (const struct json *p = json_first(s.prompts); p; p = json_next(p), index++)
            if (json_len(p) < (quick() ? 12 : PROMPT_MAX)) compare_prompt(&s, engines, index, p);
        EXPECT(index > 0);
        for (size_t i = 0; i < cut_count(); i++)
            engine_close(engines[i]);
        close_subject(&s);
    }
}

/* Beside prompts that are answered, and others that are pooled in other ways. */
static void test_company(void)
{
    struct subject s;
    open_subject(&s, models[0]);
    struct engine *e = open_engine(&s, 16, 2, 4096);
    struct golden_sequence a, b;
    golden_sequence_init(&a, json_first(s.prompts), 0);
    golden_sequence_init(&b, json_next(json_first(s.prompts)), 0);
    for (int pool = ENGINE_POOL_MEAN; pool <= ENGINE_POOL_LAST; pool++) {
        float *alone = embed(e, &a, (enum engine_pool)pool);
        submit(e, &b, 2, ENGINE_POOL_NONE);
        submit(e, &b, 3, ENGINE_POOL_NONE);
        submit(e, &a, 4, (enum engine_pool)pool);
        submit(e, &a, 5, ENGINE_POOL_NONE);
        float *beside = wait_for(e, 4, 4);
        EXPECT(memcmp(alone, beside, (size_t)s.hidden * sizeof *alone) == 0);
        free(alone);
        free(beside);
    }
    engine_close(e);
    golden_sequence_deinit(&s.model, &a);
    golden_sequence_deinit(&s.model, &b);
    close_subject(&s);
}

/* An urgent prompt takes its memory from a sum that is half done; each position still counts once. */
static void test_preempted(void)
{
    enum { LONG = 190, URGENT = 200, CACHE = 4 * ENGINE_BLOCK_TOKENS }; // one has all of it
    struct subject s;
    struct error err = {0};
    int32_t ids[LONG], others[URGENT];
    open_subject(&s, models[0]);
    struct engine *e = open_engine(&s, 1, 2, CACHE);
    for (int i = 0; i < LONG; i++)
        ids[i] = (7 * i + 3) % s.model.vocab;
    struct golden_sequence a = {.ids = ids, .count = LONG};
    float *alone = embed(e, &a, ENGINE_POOL_MEAN);
    struct engine_stats stats = {0};
    for (int i = 0; i < 200 && stats.preemptions_total < 8; i++) {
        for (int k = 0; k < URGENT; k++)
            others[k] = (11 * k + i) % s.model.vocab;
        struct engine_request urgent = {.id = 3,
                                        .prompt = others,
                                        .prompt_count = URGENT,
                                        .sampling = {.top_p = 1},
                                        .max_tokens = 2,
                                        .priority = -1};
        submit(e, &a, 2, ENGINE_POOL_MEAN);
        usleep((unsigned)(i % 20) * 1000); // so that some of them come in the middle
        NEED(engine_submit(e, &urgent, &err) == 0);
        float *beside = wait_for(e, 2, 2);
        EXPECT(memcmp(alone, beside, (size_t)s.hidden * sizeof *alone) == 0);
        free(beside);
        engine_stats(e, &stats);
    }
    EXPECT(stats.preemptions_total >= 8);
    free(alone);
    engine_close(e);
    close_subject(&s);
}

int main(void)
{
    for (size_t m = 0; m < ARRAY_LEN(models); m++) {
        char path[300];
        snprintf(path, sizeof path, "models/%s/config.json", models[m]);
        if (!fixture_path(path)) {
            printf("there is no %s\n", path);
            return 77;
        }
    }
    RUN(test_models);
    if (quick()) return TEST_END();
    RUN(test_company);
    RUN(test_preempted);
    return TEST_END();
}
