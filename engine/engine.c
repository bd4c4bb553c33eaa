/* engine.c - opening and closing: model file -> tokenizer, template, backend, KV pages, self-test,
 * threads.
 *
 * What runs afterwards is in engine_thread.c (the loop), scheduler.c (who computes what),
 * executor.c (the ranks). The file is closed when all of it was copied or repacked. */
#include "engine/engine.h"

#include "engine/chat_template.h"
#include "engine/chat_template_choice.h"
#include "engine/engine_internal.h"
#include "engine/engine_thread.h"
#include "engine/generation_config.h"
#include "engine/grammar_cache.h"
#include "engine/grammar_pace.h"
#include "engine/host_memory.h"
#include "engine/model_text.h"
#include "engine/pooling.h"
#include "engine/rank_cores.h"
#include "engine/tokenizer.h"
#include "engine/tp_shard.h"
#include "engine/weights.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MODULE "engine"
#include "shared/base/log.h"

#define TEMPLATE_BYTES_MAX (1 << 20)
#define SELF_TEST_TOKENS   3

struct engine {
    struct engine_options options; // with defaults filled in; strings are not kept
    struct engine_info info;
    char architecture[64], model_name[128], backend[256]; // what info points at
    struct engine_rank_info *ranks;                       // likewise, owned
    int vocab;
    struct rope_lengths rope;
    int32_t *stop_ids; // owned
    int stop_id_count;
    struct tokenizer *tokenizer;
    struct chat_template *template;
    struct grammar_cache *grammars;
    struct sampling_params sampling;
    bool can_pool;
    bool takes_all_cores;     // the compute threads leave none to others
    struct grammar_pace pace; // of the grammars then
    struct executor *executor;
    struct engine_thread *thread;
};

/* ---- options ---- */

static int check_range(const char *name, int64_t value, int64_t min, int64_t max, struct error *err)
{
    if (value >= min && value <= max) return 0;
    return error_set(err, E_INVALID, "%s is %lld, expected %lld to %lld", name, (long long)value,
                     (long long)min, (long long)max);
}

static int fill_options(struct engine_options *o, int model_context, struct error *err)
{
    int rc;
    if (o->max_batch_size == 0) o->max_batch_size = 64;
    if (o->max_prefill_token_num == 0) o->max_prefill_token_num = 512;
    if (o->queue_max == 0) o->queue_max = 256;
    if (o->prefill_pace == 0) o->prefill_pace = 2;
    if (o->cache_max_entry_count == 0) o->cache_max_entry_count = 0.8;
    if (o->tp == 0) o->tp = 1;
    if (o->session_len == 0) o->session_len = model_context;
    if (o->session_len > model_context) {
        log_warn("session length cut to the model's context", "asked=%d context=%d", o->session_len,
                 model_context);
        o->session_len = model_context;
    }
    if ((rc = check_range("max_batch_size", o->max_batch_size, 1, 4096, err)) < 0) return rc;
    if ((rc = check_range("max_prefill_token_num", o->max_prefill_token_num, 1, 1 << 20, err)) < 0)
        return rc;
    if ((rc = check_range("queue_max", o->queue_max, 1, 1 << 20, err)) < 0) return rc;
    if ((rc = check_range("pipeline_depth", o->pipeline_depth, 1, 2, err)) < 0) return rc;
    if ((rc = check_range("tp", o->tp, 1, TP_WORLD_MAX, err)) < 0) return rc;
    if ((rc = check_range("session_len", o->session_len, 2, 1 << 30, err)) < 0) return rc;
    if ((rc = check_range("cache_max_tokens", o->cache_max_tokens, 0, INT64_MAX, err)) < 0)
        return rc;
    if (!(o->prefill_pace > 1))
        return error_set(err, E_INVALID, "prefill_pace is %g, expected more than 1",
                         o->prefill_pace);
    if (!(o->session_pin_ratio >= 0 && o->session_pin_ratio <= 1))
        return error_set(err, E_INVALID, "session_pin_ratio is %g, expected 0 to 1",
                         o->session_pin_ratio);
    if ((rc = check_range("session_host_bytes", o->session_host_bytes, 0, INT64_MAX, err)) < 0)
        return rc;
    if (!(o->cache_max_entry_count > 0 && o->cache_max_entry_count <= 1))
        return error_set(err, E_INVALID, "cache_max_entry_count is %g, expected 0 to 1",
                         o->cache_max_entry_count);
    return 0;
}

static enum kv_type kv_type(const struct engine_options *o)
{
    switch (o->kv_dtype) {
    case ENGINE_KV_F16:
        return KV_F16;
    case ENGINE_KV_BF16:
        return KV_BF16;
    case ENGINE_KV_F32:
        return KV_F32;
    case ENGINE_KV_INT8:
        return KV_INT8;
    case ENGINE_KV_AUTO:
        break;
    }
    return o->dtype == ENGINE_DTYPE_FLOAT32    ? KV_F32
           : o->dtype == ENGINE_DTYPE_BFLOAT16 ? KV_BF16
                                               : KV_F16;
}

static const char *kv_type_name(enum kv_type type)
{
    static const char *const names[KV_TYPES] = {
        [KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16", [KV_INT8] = "int8"};
    return names[type];
}

/* ---- sizes ---- */

static struct scheduler_limits scheduler_limits(const struct engine_options *o)
{
    return (struct scheduler_limits){.running_max = o->max_batch_size,
                                     .prefill_max = o->max_prefill_token_num,
                                     .prefill_pace = o->prefill_pace,
                                     .queue_max = o->queue_max};
}

static struct step_limits step_limits(const struct engine_options *o)
{
    struct scheduler_limits limits = scheduler_limits(o);
    int tokens = scheduler_tokens_max(&limits), rows = o->max_batch_size + SCORED_ROWS_MAX;
    return (struct step_limits){.tokens_max = tokens,
                                .sequences_max = o->max_batch_size,
                                .rows_max = rows < tokens ? rows : tokens,
                                .context_max = o->session_len};
}

/* Blocks for which a memory with so much left has room. */
static int64_t blocks_in(const struct engine_options *o, uint64_t left, size_t model_bytes,
                         size_t block_bytes)
{
    if (o->measure_only) left = left > model_bytes ? left - model_bytes : 0; // it isn't there yet
    return (int64_t)((double)left * o->cache_max_entry_count / (double)block_bytes);
}

/* Ranks on devices have a part of each block in a memory of their own; others share the host's. */
static int64_t blocks_that_fit(const struct engine *e, uint64_t *left)
{
    const struct engine_info *info = &e->info;
    int64_t fewest = INT64_MAX;
    size_t bytes;
    for (int i = 0; i < info->ranks && executor_memory_free(e->executor, i, &bytes); i++) {
        const struct engine_rank_info *r = &e->ranks[i];
        int64_t count = blocks_in(&e->options, bytes, r->weights_bytes + r->activations_bytes,
                                  r->kv_block_bytes);
        if (count >= fewest) continue;
        fewest = count;
        *left = bytes;
    }
    if (fewest < INT64_MAX) return fewest;
    *left = host_memory_available();
    return blocks_in(&e->options, *left, info->weights_bytes + info->activations_bytes,
                     info->kv_block_bytes);
}

/* As many blocks as memory, options and all sequences at full length can use. */
static int count_kv_blocks(const struct engine *e, int *blocks, struct error *err)
{
    const struct engine_options *o = &e->options;
    uint64_t left = 0;
    int64_t count = blocks_that_fit(e, &left);
    int64_t useful = (int64_t)o->max_batch_size * blocks_for(o->session_len);
    if (o->cache_max_tokens > 0 && useful > (o->cache_max_tokens - 1) / KV_BLOCK_TOKENS + 1)
        useful = (o->cache_max_tokens - 1) / KV_BLOCK_TOKENS + 1;
    if (useful > INT32_MAX / KV_BLOCK_TOKENS) useful = INT32_MAX / KV_BLOCK_TOKENS;
    if (count > useful) count = useful;
    if (count < 1 && !o->measure_only)
        return error_set(err, E_LIMIT,
                         "%.0f MiB of free memory are too little for the key-value cache: a block "
                         "takes %.1f MiB",
                         (double)left / 1048576, (double)e->info.kv_block_bytes / 1048576);
    *blocks = (int)count;
    return 0;
}

static void measure_ranks(struct engine *e)
{
    struct engine_info *info = &e->info;
    info->ranks = executor_world(e->executor);
    e->ranks = xcalloc((size_t)info->ranks, sizeof *e->ranks);
    for (int i = 0; i < info->ranks; i++) {
        struct engine_rank_info *r = &e->ranks[i];
        r->kv_block_bytes = executor_kv_block_bytes(e->executor, kv_type(&e->options), i);
        executor_memory(e->executor, i, &r->weights_bytes, &r->activations_bytes);
        info->weights_bytes += r->weights_bytes;
        info->activations_bytes += r->activations_bytes;
        info->kv_block_bytes += r->kv_block_bytes;
    }
    info->rank = e->ranks;
}

/* Room for any rank's part of a block in host memory. */
static size_t host_page_bytes(const struct engine *e)
{
    size_t bytes = 0;
    for (int i = 0; i < e->info.ranks; i++)
        if (e->ranks[i].kv_block_bytes > bytes) bytes = e->ranks[i].kv_block_bytes;
    return bytes;
}

static int open_kv(struct engine *e, int *blocks, struct error *err)
{
    enum kv_type type = kv_type(&e->options);
    struct engine_info *info = &e->info;
    measure_ranks(e);
    int rc = count_kv_blocks(e, blocks, err);
    if (rc == 0 && !e->options.measure_only) rc = executor_open_kv(e->executor, type, *blocks, err);
    if (rc < 0) return rc;
    info->kv_blocks = *blocks;
    e->info.kv_tokens = (int64_t)*blocks * KV_BLOCK_TOKENS;
    e->info.context_len = e->options.session_len;
    if (e->info.context_len > e->info.kv_tokens) {
        e->info.context_len = (int)e->info.kv_tokens;
        log_warn("context cut to the key-value cache", "session_len=%d tokens=%d",
                 e->options.session_len, e->info.context_len);
    }
    return 0;
}

/* ---- self-test ---- */

static int run_self_test_step(struct engine *e, struct scheduler *s, struct batch *b,
                              struct error *err)
{
    batch_clear(b, NULL);
    CHECK(scheduler_plan(s, b));
    executor_submit(e->executor, b);
    executor_wait(e->executor, b);
    int rc = b->status;
    if (rc < 0 && err) *err = b->error;
    if (rc == 0 && b->row_info[0].status < 0)
        rc = error_set(err, b->row_info[0].status, "logits are not finite numbers");
    b->row_info[0].status = rc;
    CHECK(scheduler_complete_entry(s, b, 0) == (rc == 0));
    return rc;
}

/* A short greedy generation before anybody is served: a model that computes garbage must not serve.
 */
static int self_test(struct engine *e, struct error *err)
{
    int32_t prompt[] = {0, e->vocab / 2, e->vocab - 1};
    int context = e->info.context_len, count = context > 3 ? 3 : 1;
    struct engine_request in = {.id = 1, .prompt = prompt, .prompt_count = (size_t)count};
    struct scheduler_limits limits = {.running_max = 1, .prefill_max = count, .queue_max = 1};
    struct step_limits step = {.tokens_max = scheduler_tokens_max(&limits),
                               .sequences_max = 1,
                               .rows_max = 1,
                               .context_max = context};
    struct scheduler scheduler;
    struct kv_memory memory;
    struct batch *batch = xcalloc(1, sizeof *batch); // a lost rank may write to it later
    in.sampling.top_p = 1;
    in.max_tokens = SELF_TEST_TOKENS;
    kv_memory_init(&memory, &(struct kv_memory_setup){.blocks = 1, .ranks = 1});
    batch_init(batch, &step);
    scheduler_init(&scheduler, &limits, &memory);
    struct request *r = request_create(&in, context, NULL, 0);
    int rc = scheduler_submit(&scheduler, r, err);
    for (int i = 0; rc == 0 && i < r->max_tokens; i++)
        rc = run_self_test_step(e, &scheduler, batch, err);
    scheduler_finish(&scheduler, r);
    if (!executor_has_lost_rank(e->executor)) {
        request_destroy(r);
        batch_deinit(batch);
        free(batch);
    }
    scheduler_deinit(&scheduler);
    kv_memory_deinit(&memory);
    return rc < 0 ? error_prefix(err, rc, "self-test failed") : 0;
}

/* ---- from parts ---- */

static enum compute_type compute_type(const struct engine_options *o)
{
    switch (o->dtype) {
    case ENGINE_DTYPE_AUTO:
        return COMPUTE_AUTO;
    case ENGINE_DTYPE_FLOAT16:
        return COMPUTE_F16;
    case ENGINE_DTYPE_BFLOAT16:
        return COMPUTE_BF16;
    case ENGINE_DTYPE_FLOAT32:
        return COMPUTE_F32;
    }
    UNREACHABLE();
}

static int open_executor(struct engine *e, const struct engine_parts *parts, struct error *err)
{
    const struct engine_options *o = &e->options;
    struct rank_cores *cores = xcalloc((size_t)o->tp, sizeof *cores);
    struct executor_setup setup = {
        .ops = parts->ops,
        .backend = {.isa = o->cpu_isa,
                    .compute = compute_type(o),
                    .world = o->tp,
                    .peer_timeout_ms = o->tp_timeout_ms,
                    .deterministic = o->deterministic,
                    .measure_only = o->measure_only},
        .cores = cores,
        .params = parts->params,
        .limits = step_limits(o),
        .vocab = parts->sampled_vocab,
    };
    struct rank_cores_request request = {
        .world = o->tp, .threads = o->threads, .cpu_list = o->cpu_list};
    int rc = rank_cores_divide(&request, cores, err);
    if (rc == 0) rc = executor_open(&setup, &e->executor, err);
    if (rc == 0) // a device has no use for the host's cores
        e->takes_all_cores = !parts->ops->memory_free && rank_cores_take_all(&request, cores);
    free(cores);
    if (rc < 0) return rc;
    const char *backend = executor_describe(e->executor);
    if (o->tp == 1)
        snprintf(e->backend, sizeof e->backend, "%s", backend);
    else
        snprintf(e->backend, sizeof e->backend, "%d ranks of %s", o->tp, backend);
    return 0;
}

/* Any thread: whoever takes a core now makes answers wait. */
static bool is_answering(void *engine)
{
    const struct engine *e = engine;
    return engine_thread_open(e->thread) > 0;
}

static int start(struct engine *e, const struct engine_parts *parts, struct error *err)
{
    int blocks = 0, rc;
    /* A CPU gains nothing from waiting work. */
    if (e->options.pipeline_depth == 0) e->options.pipeline_depth = parts->ops->has_ended ? 2 : 1;
    if ((rc = fill_options(&e->options, parts->context_len, err)) < 0) return rc;
    if ((rc = open_executor(e, parts, err)) < 0) return rc;
    if ((rc = open_kv(e, &blocks, err)) < 0 || e->options.measure_only) return rc;
    if ((rc = self_test(e, err)) < 0) return rc;
    struct engine_thread_setup setup = {
        .limits = scheduler_limits(&e->options),
        .step_limits = step_limits(&e->options),
        .memory = {.blocks = blocks,
                   .rope_sets = parts->params->rope_sets,
                   .prefix_caching = e->options.prefix_caching,
                   .session_pin_ratio = e->options.session_pin_ratio,
                   .session_host_bytes = e->options.session_host_bytes,
                   .page_bytes = host_page_bytes(e),
                   .ranks = e->info.ranks},
        .depth = e->options.pipeline_depth,
        .text = parts->text,
        .hidden = parts->params->hidden,
        .pace = e->takes_all_cores ? &e->pace : NULL,
        .on_events = e->options.on_events,
        .on_events_arg = e->options.on_events_arg,
    };
    return engine_thread_start(&setup, e->executor, &e->thread, err);
}

int engine_open_parts(const struct engine_options *options, const struct engine_parts *parts,
                      struct engine **out, struct error *err)
{
    struct engine *e = xcalloc(1, sizeof *e);
    e->options = *options;
    grammar_pace_init(&e->pace, NULL, is_answering, e);
    generation_config_init(&e->sampling);
    e->vocab = parts->params->vocab;
    e->rope = parts->rope;
    e->can_pool = parts->ops->hidden_row != NULL;
    e->info.hidden_size = parts->params->hidden;
    e->info.rope_by_length = e->rope.original_len > 0;
    e->stop_id_count = parts->stop_id_count;
    if (e->stop_id_count > 0)
        e->stop_ids = xmemdup(parts->stop_ids, (size_t)e->stop_id_count * sizeof *e->stop_ids);
    int rc = start(e, parts, err);
    if (rc < 0) {
        *out = e->executor && executor_has_lost_rank(e->executor) ? e : NULL;
        engine_close(e);
        return rc;
    }
    e->info.architecture = e->architecture;
    e->info.model_name = e->model_name;
    e->info.backend = e->backend;
    e->info.kv_dtype = kv_type_name(kv_type(&e->options));
    e->info.vocab_size = e->vocab;
    e->info.max_batch_size = e->options.max_batch_size;
    *out = e;
    return 0;
}

/* ---- from a model file ---- */

static struct str tokenizer_text(const void *arg, int32_t token, bool keep_special)
{
    return tokenizer_token_bytes(arg, token, keep_special);
}

/* What there is, and why not what isn't. Looking opens modules, so not for who asked for the CPU. */
static void log_backends(void)
{
    struct buf line;
    buf_init(&line, 4096);
    for (int i = 0; backend_name(i); i++) {
        const char *why = backend_why_not(backend_name(i));
        buf_printf(&line, "%s%s=\"%s\"", i ? " " : "", backend_name(i), why ? why : "usable");
    }
    log_info("backends", "%s", line.data);
    buf_deinit(&line);
}

static int find_backend(const struct engine_options *options, const struct backend_ops **out,
                        struct error *err)
{
    const char *name = options->backend ? options->backend : "auto";
    if (strcmp(name, "cpu") != 0 && !options->measure_only) log_backends();
    *out = backend_find(name);
    if (*out) return 0;
    return error_set(err, E_UNSUPPORTED, "backend '%s' can't be used: %s", name,
                     backend_why_not(name));
}

static int collect_stop_ids(const struct tokenizer *t, int vocab, int32_t **out)
{
    int count = 0, cap = 0;
    for (int32_t id = 0; id < vocab; id++) {
        if (!tokenizer_is_stop(t, id)) continue;
        if (count == cap) {
            cap = cap ? 2 * cap : 8;
            *out = xrealloc_array(*out, (size_t)cap, sizeof **out);
        }
        (*out)[count++] = id;
    }
    return count;
}

struct loaded {
    struct weights *weights;
    struct tokenizer *tokenizer;
    struct chat_template *template;
    struct sampling_params sampling;
    enum engine_pool pooling;
};

static int load_template(const struct engine_options *options, struct loaded *l, struct error *err)
{
    struct buf own;
    bool found;
    buf_init(&own, TEMPLATE_BYTES_MAX);
    int rc = model_text_template(l->weights, &own, &found, err);
    if (rc == 0)
        rc = chat_template_choose(options->chat_template, buf_str(&own), l->weights->config.name,
                                  l->tokenizer, &l->template, err);
    buf_deinit(&own);
    return rc;
}

static int load(const struct engine_options *options, struct loaded *l, struct error *err)
{
    generation_config_init(&l->sampling);
    const struct backend_ops *ops = backend_find(options->backend ? options->backend : "auto");
    struct weights_options how = {.compute = compute_type(options),
                                  .format = options->model_format,
                                  .plain_inputs = ops && !ops->input_orders,
                                  .scale_grids = ops && ops->scale_grids};
    int rc = weights_open_with(options->model_path, &how, &l->weights, err);
    if (rc < 0) return rc;
    rc = model_text_tokenizer(l->weights, &l->tokenizer, err);
    if (rc < 0) return error_prefix(err, rc, "can't use model '%s'", options->model_path);
    if ((rc = load_template(options, l, err)) < 0) return rc;
    if ((rc = pooling_read(l->weights, &l->pooling, err)) < 0) return rc;
    const char *folder = l->weights->folder;
    if (!folder || options->no_generation_config) return 0;
    return generation_config_read(folder, &l->sampling, err);
}

/* Positions that can be served. Dynamic NTK has no end: its tables are made for what is asked. */
static int context_of(const struct weights *w, const struct rope_lengths *rope, int session_len)
{
    int context = w->config.context_len;
    return rope->is_open && session_len > context ? session_len : context;
}

static int open_loaded(const struct engine_options *options, struct loaded *l, struct engine **out,
                       struct error *err)
{
    const struct model_config *config = &l->weights->config;
    struct rope_lengths rope = rope_lengths_of(config->rope, config->rope_count);
    int known = tokenizer_vocab_size(l->tokenizer);
    struct engine_parts parts = {
        .params = &l->weights->params,
        .context_len = context_of(l->weights, &rope, options->session_len),
        .rope = rope,
        .sampled_vocab = known < config->vocab ? known : config->vocab,
        .text = {tokenizer_text, l->tokenizer},
    };
    int32_t *stop_ids = NULL;
    weights_fit_rope(l->weights, parts.context_len);
    int rc = find_backend(options, &parts.ops, err);
    if (rc < 0) return rc;
    parts.stop_id_count = collect_stop_ids(l->tokenizer, parts.sampled_vocab, &stop_ids);
    parts.stop_ids = stop_ids;
    rc = engine_open_parts(options, &parts, out, err);
    free(stop_ids);
    if (rc < 0) return error_prefix(err, rc, "can't serve model '%s'", options->model_path);
    struct engine *e = *out;
    snprintf(e->architecture, sizeof e->architecture, "%s", config->architecture);
    snprintf(e->model_name, sizeof e->model_name, "%s", config->name);
    e->info.parameters = l->weights->parameters;
    e->info.pooling = l->pooling;
    e->info.format = l->weights->format;
    e->tokenizer = l->tokenizer;
    e->template = l->template;
    e->grammars = grammar_cache_create(e->tokenizer, e->takes_all_cores ? &e->pace : NULL);
    e->sampling = l->sampling;
    l->tokenizer = NULL;
    l->template = NULL;
    return 0;
}

int engine_open(const struct engine_options *options, struct engine **out, struct error *err)
{
    struct loaded l = {0};
    uint64_t begun = clock_ms();
    int rc = load(options, &l, err);
    *out = NULL;
    if (rc == 0) rc = open_loaded(options, &l, out, err);
    if (rc < 0 && *out) {
        l.weights = NULL; // they are kept for the rank that was lost
        *out = NULL;
    }
    tokenizer_destroy(l.tokenizer);
    chat_template_destroy(l.template);
    weights_close(l.weights);
    if (rc < 0 || options->measure_only) return rc;
    const struct engine_info *i = &(*out)->info;
    log_info("model loaded",
             "architecture=%s parameters=%lld backend=\"%s\" context=%d kv_tokens=%lld "
             "weights_mib=%zu activations_mib=%zu ms=%llu",
             i->architecture, (long long)i->parameters, i->backend, i->context_len,
             (long long)i->kv_tokens, i->weights_bytes >> 20, i->activations_bytes >> 20,
             (unsigned long long)(clock_ms() - begun));
    for (int r = 0; i->ranks > 1 && r < i->ranks; r++)
        log_info("rank loaded", "rank=%d weights_mib=%zu activations_mib=%zu kv_token_bytes=%zu", r,
                 i->rank[r].weights_bytes >> 20, i->rank[r].activations_bytes >> 20,
                 i->rank[r].kv_block_bytes / KV_BLOCK_TOKENS);
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e) return;
    if (e->executor && executor_has_lost_rank(e->executor)) {
        log_error("a rank was lost and its memory is kept", "ranks=%d", e->options.tp);
        if (e->thread) engine_thread_stop(e->thread);
        return;
    }
    engine_thread_destroy(e->thread);
    executor_close(e->executor);
    tokenizer_destroy(e->tokenizer);
    grammar_cache_destroy(e->grammars);
    grammar_pace_deinit(&e->pace);
    chat_template_destroy(e->template);
    free(e->ranks);
    free(e->stop_ids);
    free(e);
}

/* ---- serving ---- */

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->tokenizer;
}

const struct sampling_params *engine_sampling(const struct engine *e)
{
    return &e->sampling;
}

struct grammar_cache *engine_grammars(const struct engine *e)
{
    return e->grammars;
}

const struct chat_template *engine_chat_template(const struct engine *e)
{
    return e->template;
}

int engine_submit(struct engine *e, const struct engine_request *request, struct error *err)
{
    int rc = request_validate(request, e->vocab, e->info.context_len, err);
    if (rc < 0) return rc;
    if (request->pool != ENGINE_POOL_NONE && !e->can_pool)
        return error_set(err, E_UNSUPPORTED, "the backend gives no hidden states");
    struct request *r = request_create(request, e->info.context_len, e->stop_ids, e->stop_id_count);
    int positions = request->rope_positions > 0 ? request->rope_positions : r->prompt_count;
    r->rope_set = rope_set_for(&e->rope, positions);
    return engine_thread_submit_take(e->thread, r, err);
}

void engine_cancel(struct engine *e, uint64_t id)
{
    engine_thread_cancel(e->thread, id);
}

bool engine_next_event(struct engine *e, struct engine_event *event)
{
    return engine_thread_next_event(e->thread, event);
}

void engine_event_deinit(struct engine_event *event)
{
    free(event->tokens);
    free(event->logprobs);
    free(event->prompt_logprobs);
    free(event->embedding);
    free(event->text);
    *event = (struct engine_event){0};
}

bool engine_next_mark_event(struct engine *e, struct engine_mark_event *event)
{
    return engine_thread_next_mark_event(e->thread, event);
}

uint64_t engine_lost_mark_events(const struct engine *e)
{
    return engine_thread_lost_mark_events(e->thread);
}

enum engine_session_state engine_session_state(struct engine *e, uint64_t session)
{
    return engine_thread_session_state(e->thread, session);
}

void engine_session_release(struct engine *e, uint64_t session)
{
    engine_thread_session_release(e->thread, session);
}

void engine_stats(const struct engine *e, struct engine_stats *out)
{
    engine_thread_stats(e->thread, out);
}
