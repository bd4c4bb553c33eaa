/* Models whose rope tables depend on the prompt's length (dynamic NTK, longrope), with prompts of many
 * lengths beside each other. They all begin alike, so that a page that is found with the tables of
 * another length gives another answer. Against the reference, with tables for exactly its lengths, in
 * one step; and through the whole engine, where each answer must be what it is alone, bit for bit. */
#include "engine/engine.h"
#include "engine/engine_internal.h"
#include "shared/base/clock.h"
#include "tests/golden/golden_model.h"

#include <sched.h>

#define SESSION_LEN 256
#define PROMPT_MAX  960
#define PROMPTS     4 // of the fixture
#define CLIENTS     16
#define TOKENS      100
#define GREEDY      24
#define LOGPROBS    3

struct model {
    const char *name;
    int exact; // of the fixture's prompts, those whose whole answers the reference gives with one table
};

static const struct model models[] = {
    {"llama_dynamic", 3}, // beyond L its base grows with every token
    {"phi3_longrope", 4},
};

static char folder[1024];
static struct json *reference;
static struct rope_lengths lengths;

static struct weights *open_weights(void)
{
    struct weights *w;
    struct error err = {0};
    NEED(weights_open(folder, &w, &err) == 0);
    return w;
}

/* ---- one step over the backend ---- */

static const struct json *nth(const struct json *list, int i)
{
    const struct json *v = json_first(list);
    while (i-- > 0)
        v = json_next(v);
    return v;
}

static void init_sequences(struct golden_sequence *s)
{
    for (int i = 0; i < PROMPTS; i++) {
        golden_sequence_init(&s[i], nth(json_get(reference, "prompts"), i), 0);
        s[i].rope_set = i;
    }
}

static void open_exact(struct golden_model *m)
{
    struct weights *w = open_weights();
    struct golden_sequence s[PROMPTS];
    int positions[PROMPTS];
    init_sequences(s);
    for (int i = 0; i < PROMPTS; i++) {
        positions[i] = s[i].count;
        free(s[i].ids);
    }
    golden_set_lengths(w, positions, PROMPTS);
    golden_open(m, w, COMPUTE_F32, KV_F32, SESSION_LEN, SESSION_LEN);
}

/* The rows of prompt i, in a step with the other prompts or in one of its own; the caller's. */
static float *rows_of(int i, bool together)
{
    struct golden_model m;
    struct golden_sequence s[PROMPTS], *list[PROMPTS];
    int count[PROMPTS], before = 0;
    open_exact(&m);
    init_sequences(s);
    for (int k = 0; k < PROMPTS; k++) {
        list[k] = &s[together ? k : i];
        count[k] = list[k]->count;
        if (together && k < i) before += count[k];
    }
    size_t len = (size_t)s[i].count * (size_t)m.vocab;
    const float *got = golden_step(&m, list, count, together ? PROMPTS : 1, true);
    float *rows = xmemdup(got + (size_t)before * (size_t)m.vocab, len * sizeof *rows);
    for (int k = 0; k < PROMPTS; k++)
        golden_sequence_deinit(&m, &s[k]);
    golden_close(&m);
    weights_close(m.weights);
    return rows;
}

static void test_reference_in_one_step(void)
{
    double tolerance = json_number(json_get(reference, "f32_tolerance")), worst = 0;
    for (int i = 0; i < PROMPTS; i++) {
        float *alone = rows_of(i, false), *together = rows_of(i, true);
        const struct json *want = nth(json_get(reference, "logits"), i);
        int vocab = (int)json_len(json_first(want));
        int count = (int)json_len(nth(json_get(reference, "prompts"), i));
        EXPECT(memcmp(alone, together, sizeof(float) * (size_t)(count * vocab)) == 0);
        const float *row = together + (size_t)(count - (int)json_len(want)) * (size_t)vocab;
        for (const struct json *v = json_first(want); v; v = json_next(v), row += vocab)
            for (int k = 0; k < vocab; k++)
                worst = fmax(worst, fabs((double)row[k] - json_number(nth(v, k))));
        free(alone);
        free(together);
    }
    printf("  error %.6f (%.4f allowed)\n", worst, tolerance);
    EXPECT(worst <= tolerance);
}

/* ---- through the engine ---- */

struct client {
    struct engine_request request;
    int32_t prompt[PROMPT_MAX], tokens[TOKENS];
    struct token_logprob logprobs[TOKENS][LOGPROBS];
    int count, cached;
    bool ended;
};

static struct str no_text(const void *arg, int32_t token, bool keep_special)
{
    (void)arg, (void)token, (void)keep_special;
    return STR("");
}

/* Without a tokenizer: it knows fewer ids than the reference draws from. */
static struct engine *open_engine(struct engine_options o)
{
    struct engine *e;
    struct error err = {0};
    struct weights *w = open_weights();
    weights_fit_rope(w, SESSION_LEN);
    struct engine_parts parts = {.ops = backend_find("cpu"),
                                 .params = &w->params,
                                 .context_len = SESSION_LEN,
                                 .rope = lengths,
                                 .sampled_vocab = w->params.vocab,
                                 .text = {no_text, NULL}};
    o.session_len = SESSION_LEN;
    o.dtype = ENGINE_DTYPE_FLOAT32;
    o.threads = 1;
    if (o.cache_max_tokens == 0) o.cache_max_tokens = CLIENTS * SESSION_LEN;
    if (engine_open_parts(&o, &parts, &e, &err) < 0) {
        printf("engine_open_parts: %s\n", err.text);
        exit(1);
    }
    weights_close(w);
    EXPECT(engine_info(e)->rope_by_length);
    return e;
}

static struct engine *open_plain(void)
{
    return open_engine((struct engine_options){.max_batch_size = 1});
}

static void take(struct client *c, const struct engine_event *event)
{
    NEED(!c->ended && event->kind != ENGINE_EVENT_FAILED);
    NEED(c->count + event->token_count <= TOKENS);
    for (int i = 0; i < event->token_count; i++) {
        if (c->count >= event->resumed_tokens)
            memcpy(c->logprobs[c->count], event->logprobs + i * LOGPROBS, sizeof *c->logprobs);
        c->tokens[c->count++] = event->tokens[i];
    }
    c->cached = event->cached_tokens;
    c->ended = event->kind == ENGINE_EVENT_DONE;
}

static void run(struct engine *e, struct client *list, int count)
{
    struct error err;
    uint64_t deadline = clock_ms() + 120000;
    for (int i = 0; i < count; i++) {
        struct engine_request *r = &list[i].request;
        r->id = (uint64_t)i + 1;
        r->prompt = list[i].prompt;
        r->max_tokens = r->max_tokens ? r->max_tokens : TOKENS;
        r->sampling.logprobs = LOGPROBS;
        r->sampling.top_p = 1;
        r->ignore_eos = true;
        list[i].count = 0;
        list[i].ended = false;
        NEED(engine_submit(e, r, &err) == 0);
    }
    for (int ended = 0; ended < count;) {
        struct engine_event event;
        NEED(clock_ms() < deadline);
        if (!engine_next_event(e, &event)) {
            sched_yield();
            continue;
        }
        struct client *c = &list[event.id - 1];
        take(c, &event);
        ended += c->ended;
        engine_event_deinit(&event);
    }
}

/* From token `from` on: those before were brought, and have no log-probabilities. */
static bool is_same(const struct client *a, const struct client *b, int from)
{
    size_t bytes = (size_t)(b->count - from) * sizeof *b->logprobs;
    return a->count == b->count &&
           memcmp(a->tokens, b->tokens, (size_t)b->count * sizeof *b->tokens) == 0 &&
           memcmp(a->logprobs[from], b->logprobs[from], bytes) == 0;
}

static struct client alone[CLIENTS], clients[CLIENTS];

static void set_prompt(struct client *c, const struct json *ids, int count)
{
    *c = (struct client){.request.prompt_count = (size_t)count};
    for (int i = 0; i < count; i++, ids = json_next(ids))
        c->prompt[i] = (int32_t)json_number(ids);
}

/* The fixture's prompts, then beginnings of the longest one, at and around where tables change. */
static void init_clients(struct client *list)
{
    static const int cuts[CLIENTS - PROMPTS] = {20, 40, 63, 64, 65, 72, 73, 80, 96, 100, 128, 129};
    const struct json *prompts = json_get(reference, "prompts"), *longest = nth(prompts, 3);
    for (int i = 0; i < CLIENTS; i++) {
        const struct json *ids = i < PROMPTS ? nth(prompts, i) : longest;
        set_prompt(&list[i], json_first(ids), i < PROMPTS ? (int)json_len(ids) : cuts[i - PROMPTS]);
    }
}

/* Each in a batch of its own, with no cache: what all else is compared with. */
static void test_alone(void)
{
    struct engine *e = open_plain();
    init_clients(alone);
    for (int i = 0; i < CLIENTS; i++)
        run(e, &alone[i], 1);
    engine_close(e);
}

static void test_reference_ids(const struct model *m)
{
    for (int i = 0; i < PROMPTS; i++) {
        const struct json *want = nth(json_get(reference, "greedy"), i);
        for (int k = 0; k < (i < m->exact ? GREEDY : 1); k++)
            EXPECT_INT(alone[i].tokens[k], json_number(nth(want, k)));
    }
}

static void expect_all_same(struct engine *e)
{
    init_clients(clients);
    run(e, clients, CLIENTS);
    for (int i = 0; i < CLIENTS; i++)
        EXPECT(is_same(&clients[i], &alone[i], 0));
}

/* All at once; then once more, when everything but the last token is found. */
static void test_in_one_batch(void)
{
    struct engine *e = open_engine((struct engine_options){.max_batch_size = CLIENTS,
                                                           .max_prefill_token_num = 300,
                                                           .prefill_pace = ENGINE_PACE_NONE,
                                                           .pipeline_depth = 2,
                                                           .prefix_caching = true});
    struct engine_stats stats;
    expect_all_same(e);
    engine_stats(e, &stats);
    EXPECT(stats.steps < 3 * TOKENS); // one after the other they take sixteen times as many
    expect_all_same(e);
    for (int i = 0; i < CLIENTS; i++)
        EXPECT_INT(clients[i].cached, (int)clients[i].request.prompt_count - 1);
    engine_close(e);
}

/* What was preempted is recomputed with the tables that it had, though it is longer now. */
static void test_preempted(void)
{
    for (int caching = 0; caching < 2; caching++) {
        struct engine *e = open_engine((struct engine_options){
            .max_batch_size = CLIENTS, .cache_max_tokens = 768, .prefix_caching = caching});
        struct engine_stats stats;
        expect_all_same(e);
        engine_stats(e, &stats);
        EXPECT(stats.preemptions_total > 0);
        engine_close(e);
    }
}

/* Several answers to one prompt, which share its pages. */
static void test_choices(void)
{
    static struct client choice[3], group[3];
    struct engine *one = open_plain();
    struct engine *e = open_engine((struct engine_options){.max_batch_size = CLIENTS});
    for (int i = 0; i < 3; i++) {
        choice[i] = group[i] = alone[PROMPTS - 1];
        choice[i].request.sampling = group[i].request.sampling =
            (struct sampling_params){.temperature = 1, .seed = 9, .choice = (uint32_t)i};
        group[i].request.group = 1;
        run(one, &choice[i], 1);
    }
    run(e, group, 3);
    for (int i = 0; i < 3; i++)
        EXPECT(is_same(&group[i], &choice[i], 0));
    engine_close(e);
    engine_close(one);
}

/* ---- conversations ---- */

#define TURNS 9

/* The next turn of a conversation: what was said, its answer, and ten more ids. */
static void next_turn(struct client *c, uint64_t session)
{
    int known = (int)c->request.prompt_count;
    memcpy(c->prompt + known, c->tokens, (size_t)c->count * sizeof *c->tokens);
    known += c->count;
    for (int i = 0; i < 10; i++, known++)
        c->prompt[known] = (int32_t)(100 * session) + known;
    c->request = (struct engine_request){
        .prompt_count = (size_t)known, .max_tokens = 11, .session = session};
}

/* From one to several tables: whatever the session still has, the answer is that of the whole
 * prompt by itself, and only pages of its own tables are found. */
static void run_conversations(struct engine *e, bool all_found)
{
    static struct client turn[2], whole;
    struct engine *one = open_plain();
    int set[2] = {-1, -1};
    for (uint64_t s = 0; s < 2; s++)
        set_prompt(&turn[s], json_first(nth(json_get(reference, "prompts"), 3)), 12);
    for (int t = 0; t < 2 * TURNS; t++) {
        int s = t % 2;
        next_turn(&turn[s], (uint64_t)s + 1);
        whole = turn[s];
        run(one, &whole, 1);
        run(e, &turn[s], 1);
        EXPECT(is_same(&turn[s], &whole, 0));
        int chosen = rope_set_for(&lengths, (int)turn[s].request.prompt_count);
        int others = t > 0 && chosen == set[1 - s] ? 12 : 0; // what both begin with
        bool is_same_set = chosen == set[s];
        if (!is_same_set) EXPECT(turn[s].cached <= others);
        if (is_same_set && all_found)
            EXPECT(turn[s].cached >= (int)turn[s].request.prompt_count - 11);
        set[s] = chosen;
    }
    EXPECT(set[0] > 0);
    engine_close(one);
}

static void test_sessions(void)
{
    struct engine *e = open_engine((struct engine_options){
        .max_batch_size = 4, .prefix_caching = true, .session_pin_ratio = 0.5});
    run_conversations(e, true);
    EXPECT_INT(engine_session_state(e, 1), SESSION_HOT);
    engine_close(e);

    struct engine_stats stats;
    e = open_engine((struct engine_options){.max_batch_size = 4,
                                            .cache_max_tokens = SESSION_LEN,
                                            .prefix_caching = true,
                                            .session_pin_ratio = 0.5,
                                            .session_host_bytes = 64 << 20});
    run_conversations(e, false);
    engine_stats(e, &stats);
    EXPECT(stats.kv_host_bytes > 0);
    engine_close(e);
}

/* ---- answers that go on elsewhere ---- */

/* The length that was chosen for is brought along, and counts in the place of the prompt's. */
static void test_resumed(void)
{
    static struct client begun, resumed;
    struct engine *e =
        open_engine((struct engine_options){.max_batch_size = 4, .prefix_caching = true});
    struct error err;
    begun = alone[PROMPTS - 1];
    begun.request.rope_positions = 40;
    run(e, &begun, 1);
    EXPECT(!is_same(&begun, &alone[PROMPTS - 1], 0)); // or nothing here would show
    for (int k = 1; k < TOKENS; k += 30) {
        resumed = begun;
        resumed.request.resumed = begun.tokens;
        resumed.request.resumed_count = (size_t)k;
        run(e, &resumed, 1);
        EXPECT(is_same(&resumed, &begun, k));
    }
    resumed.request.rope_positions = SESSION_LEN;
    EXPECT_INT(engine_submit(e, &resumed.request, &err), E_INVALID);
    EXPECT_STR(err.text, "rope tables for a prompt of 256 tokens, in the model's context of 256");
    engine_close(e);
}

/* A model with dynamic NTK is served as far as is asked for, and a longer prompt has its tables. */
static void test_open_beyond_the_original_length(void)
{
    static struct client c;
    struct engine *e;
    struct error err = {0};
    struct engine_options o = {.model_path = folder, .session_len = 1000, .cache_max_tokens = 1024};
    NEED(engine_open(&o, &e, &err) == 0);
    EXPECT(engine_info(e)->context_len == 1000 && engine_info(e)->rope_by_length);
    for (int i = 0; i < PROMPT_MAX; i++)
        c.prompt[i] = i % 100;
    for (size_t count = 60; count <= PROMPT_MAX; count *= 2) {
        c.request = (struct engine_request){.prompt_count = count, .max_tokens = 5};
        run(e, &c, 1);
        EXPECT_INT(c.count, 5);
    }
    engine_close(e);
}

static void open_model(const struct model *m)
{
    char relative[300];
    snprintf(relative, sizeof relative, "models/%s/config.json", m->name);
    const char *config = fixture_path(relative);
    NEED(config != NULL);
    snprintf(folder, sizeof folder, "%.*s", (int)(strlen(config) - strlen("/config.json")), config);
    snprintf(relative, sizeof relative, "models/%s/reference.json", m->name);
    reference = fixture_json(relative);
    NEED(reference != NULL);
    struct weights *w = open_weights();
    lengths = rope_lengths_of(w->config.rope, w->config.rope_count);
    weights_close(w);
}

int main(void)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        printf("%s\n", models[i].name);
        open_model(&models[i]);
        RUN(test_reference_in_one_step);
        RUN(test_alone);
        test_reference_ids(&models[i]);
        RUN(test_in_one_batch);
        RUN(test_preempted);
        RUN(test_choices);
        RUN(test_sessions);
        RUN(test_resumed);
        if (lengths.is_open) RUN(test_open_beyond_the_original_length);
        json_destroy(reference);
    }
    return TEST_END();
}
