/* agent.c - start, serve, drain, end.
 *
 *     listen ─► LOADING ──on_engine_open──► OPEN ──SIGTERM──► DRAINING ──idle──► leave ─► end
 *                  │ cannot open: one line, exit 1                │ --drain-timeout: abort ▲
 *                  └ SIGTERM: exit 0 at once                      └────────────────────────┘
 *
 * Rules:
 *  1. The port is taken first: a second agent on it fails before it loads a model, and probes get
 *     answers ("loading") from the first moment.
 *  2. Registries hear of the agent only when it is OPEN, and at once when it begins to drain.
 *  3. While draining the listener stays: those who don't know yet get 503 and Retry-After, which
 *     sends them to another agent, and /ready says why. It closes when the last answer is out. */
#define LOG_MODULE "agent"
#include "agent/agent.h"

#include "agent/agent_metrics.h"
#include "agent/agent_routes.h"
#include "agent/interactive.h"
#include "agent/replica.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "shared/base/log.h"
#include "shared/net/http_client.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAST_BYTES_MS             10000 // for slow readers of answers that are complete
#define LAST_BYTES_STEP_MS        20
#define NEWS_MS                   20
#define MARK_EVENTS_PER_TURN      65536 // that the engine can't keep us here
#define COMPILERS_PER_TEXT_THREAD 4     // 25 MB each with the worst schema

/* ---- the end ---- */

static void close_timer(uv_timer_t *timer)
{
    if (!uv_is_closing((uv_handle_t *)timer)) uv_close((uv_handle_t *)timer, NULL);
}

/* No completion lives any more: what they use may go. */
static void on_server_closed(void *arg)
{
    struct agent *a = arg;
    text_worker_destroy(a->worker);
    text_worker_destroy(a->compiler);
    session_service_deinit(&a->sessions);
    registration_destroy(a->registration);
    engine_bridge_destroy(a->bridge);
}

/* Everything is told to close; the loop runs dry and agent_run goes on. */
static void close_all(struct agent *a)
{
    loop_signals_stop(&a->signals);
    if (!uv_is_closing((uv_handle_t *)&a->reload)) uv_close((uv_handle_t *)&a->reload, NULL);
    close_timer(&a->watch);
    close_timer(&a->drain_timer);
    close_timer(&a->news_timer);
    a->service.on_idle = NULL;
    request_gate_close(&a->gate);
    http_server_close(a->server, on_server_closed, a);
}

static void on_last_bytes(uv_timer_t *timer)
{
    struct agent *a = timer->data;
    a->last_bytes_ms += LAST_BYTES_STEP_MS;
    if (http_server_connections(a->server) > 0 && a->last_bytes_ms < LAST_BYTES_MS) return;
    log_info("stopped", "url=%s", a->url);
    close_all(a);
}

static void on_left(void *arg)
{
    struct agent *a = arg;
    http_server_drain(a->server);
    uv_timer_start(&a->drain_timer, on_last_bytes, 0, LAST_BYTES_STEP_MS);
}

static void leave(void *arg)
{
    struct agent *a = arg;
    if (a->is_leaving) return;
    a->is_leaving = true;
    uv_timer_stop(&a->drain_timer);
    registration_leave(a->registration, on_left, a);
}

static void on_drain_timeout(uv_timer_t *timer)
{
    struct agent *a = timer->data;
    log_warn("drain timeout", "unfinished=%d", a->service.live_count);
    /* Then the service is idle, at once or when workers and Redis have given back what they hold,
     * and leave() is called. */
    completion_service_abort(&a->service);
    interactive_abort(&a->sessions);
    embedding_abort(&a->embeddings);
}

static void drain(struct agent *a)
{
    a->service.phase = SERVICE_DRAINING;
    request_gate_refuse_all(&a->gate);
    registration_beat(a->registration);
    if (a->service.live_count == 0) {
        leave(a);
        return;
    }
    a->service.on_idle = leave;
    a->service.arg = a;
    uint64_t timeout_ms = (uint64_t)a->config->drain_timeout_s * 1000;
    if (timeout_ms > 0) uv_timer_start(&a->drain_timer, on_drain_timeout, timeout_ms, 0);
}

static void on_signal(void *arg, int signo)
{
    struct agent *a = arg;
    if (engine_bridge_is_opening(a->bridge)) {
        log_info("stopped while loading", "signal=%s", strsignal(signo));
        _exit(0); // nothing was promised to anybody, and a load can't be interrupted
    }
    log_info("draining", "signal=%s unfinished=%d", strsignal(signo), a->service.live_count);
    drain(a);
}

void agent_terminate(struct agent *a)
{
    CHECK(!engine_bridge_is_opening(a->bridge));
    if (a->service.phase != SERVICE_OPEN) return; // it does already
    log_info("draining", "signal=none reason=/terminate unfinished=%d", a->service.live_count);
    drain(a);
}

/* ---- what others hear ---- */

bool agent_is_healthy(const struct agent *a)
{
    struct engine_stats stats;
    engine_stats(engine_bridge_engine(a->bridge), &stats);
    return !stats.failed && !engine_progress_is_stalled(&a->progress, clock_ms());
}

void agent_update_prefixes(struct agent *a)
{
    struct engine *engine = engine_bridge_engine(a->bridge);
    struct engine_mark_event event;
    for (int i = 0; i < MARK_EVENTS_PER_TURN && engine_next_mark_event(engine, &event); i++)
        prefix_index_apply(&a->prefixes, &event);
    prefix_index_note_lost(&a->prefixes, engine_lost_mark_events(engine));
}

static void fill_record(void *arg, struct agent_record *record)
{
    struct agent *a = arg;
    const struct engine *engine = engine_bridge_engine(a->bridge);
    const struct engine_info *info = engine_info(engine);
    struct engine_stats stats;
    engine_stats(engine, &stats);
    record->model_count = 1;
    snprintf(record->models[0], sizeof record->models[0], "%s", a->config->model_name);
    record->context_len = info->context_len;
    record->capacity = info->max_batch_size;
    if (a->gate.max > 0 && a->gate.max < record->capacity) record->capacity = a->gate.max;
    record->queue_max = (int)a->config->queue_max;
    record->draining = a->service.phase != SERVICE_OPEN || !agent_is_healthy(a);
    agent_update_prefixes(a);
    record->load = (struct agent_load){0};
    engine_load(&stats, &record->load);
    record->load.waiting += a->gate.waiting_count;
    a->tokens_reported = stats.prefill_tokens_waiting;
    dispatch_table_report(&a->service.dispatches, clock_ms(), &record->load);
    record->load.prefix_version = agent_config_keeps_prefixes(a->config) ? a->prefixes.version : 0;
    record->load.sequence = ++a->load_sequence;
}

/* By now the engine knows how much of the prompts is cached. */
static void on_news_timer(uv_timer_t *timer)
{
    struct agent *a = timer->data;
    struct engine_stats stats;
    engine_stats(engine_bridge_engine(a->bridge), &stats);
    if (engine_load_is_news(&stats, a->tokens_reported)) registration_report_load(a->registration);
}

/* Several proxies that all see the same idle agent send it all they have until its next report: what
 * fills a tenth of a second is worth one of its own, at most one in NEWS_MS. */
static void on_work(void *arg)
{
    struct agent *a = arg;
    if (uv_is_active((uv_handle_t *)&a->news_timer) || uv_is_closing((uv_handle_t *)&a->news_timer))
        return;
    uv_timer_start(&a->news_timer, on_news_timer, NEWS_MS, 0);
}

static int create_registration(struct agent *a, struct error *err)
{
    const struct agent_config *c = a->config;
    struct registration_options options = {
        .proxy_urls = &c->proxy_urls,
        .redis_url = c->redis_url,
        .join_key = c->join_key,
        .agent_id = c->agent_id,
        .tls = a->tls,
        .fill = fill_record,
        .arg = a,
    };
    int rc = advertise_init(&options.advertise, c->advertise, c->server_name,
                            http_server_port(a->server), err);
    return rc != 0 ? rc : registration_create(a->loop, &options, &a->registration, err);
}

static int create_sessions(struct agent *a, struct error *err)
{
    const struct agent_config *c = a->config;
    uint64_t ttl_ms = (uint64_t)c->session_ttl_s * 1000;
    struct session_transcript_options redis = {
        .url = c->redis_url,
        .agent_id = registration_agent_id(a->registration),
        .incarnation = registration_incarnation(a->registration),
        .secret = c->session_secret,
        .ttl_ms = ttl_ms,
    };
    struct session_service_options options = {
        .completions = &a->service,
        .join_key = c->join_key,
        .folder = c->session_dir,
        .ttl_ms = ttl_ms,
        .redis = c->redis_url ? &redis : NULL,
    };
    return session_service_init(&a->sessions, a->loop, &options, err);
}

/* ---- the start ---- */

static void on_watch(uv_timer_t *timer)
{
    struct agent *a = timer->data;
    struct engine_stats stats;
    session_service_tick(&a->sessions);
    request_gate_tick(&a->gate);
    agent_update_prefixes(a);
    engine_stats(engine_bridge_engine(a->bridge), &stats);
    engine_progress_update(&a->progress, &stats, clock_ms());
    if (!stats.failed || a->exit_code != 0) return;
    /* It can't recover (engine_thread.c rule 4): whoever supervises the agent starts a new one. */
    log_error("leaving, as the engine has failed", "unfinished=%d", a->service.live_count);
    a->exit_code = 1;
    if (a->service.phase == SERVICE_OPEN) drain(a);
}

/* Names weights and build: the same request gives the same answer where it is equal. */
static void set_fingerprint(struct agent *a, const struct engine_info *info)
{
    char text[512];
    snprintf(text, sizeof text, "%s|%s|%s|%" PRId64 "|%d|%s", LM_VERSION, a->config->model_name,
             info->architecture, info->parameters, info->vocab_size, info->model_name);
    uint64_t hash = hash_bytes(text, strlen(text));
    snprintf(a->fingerprint, sizeof a->fingerprint, "fp_%010" PRIx64, hash & 0xffffffffffu);
}

static void open_service(struct agent *a, const struct engine *engine)
{
    const struct engine_info *info = engine_info(engine);
    size_t requests_max = (size_t)a->config->queue_max + (size_t)info->max_batch_size;
    set_fingerprint(a, info);
    a->worker = text_worker_create(a->loop, (int)a->config->text_threads, requests_max);
    a->service.worker = a->worker;
    /* They mostly wait (engine/grammar_pace.h), and who wants a grammar that is known shouldn't. */
    int compilers = COMPILERS_PER_TEXT_THREAD * (int)a->config->text_threads;
    a->compiler = text_worker_create(a->loop, compilers, requests_max);
    a->service.compiler = a->compiler;
    a->service.max_batch_size = info->max_batch_size;
    a->service.rope_by_length = info->rope_by_length;
    a->service.request_timeout_s = (int)a->config->request_timeout_s;
    a->service.max_log_len = a->config->max_log_len;
    a->service.fingerprint = a->fingerprint;
    a->service.join_key = a->config->join_key;
    a->service.limits = (struct request_limits){
        .model = a->config->model_name,
        .vocab_size = info->vocab_size,
        .sampling = engine_sampling(engine),
        .prompts_max = requests_max < PROMPTS_MAX ? requests_max : PROMPTS_MAX,
        .choices_max = requests_max,
    };
    prompt_context_init(&a->service.prompts, engine_tokenizer(engine), engine_chat_template(engine),
                        info->context_len);
    a->service.prompts.grammars = engine_grammars(engine);
    reply_formats_init(&a->formats, a->config->tool_call_parser, a->config->reasoning_parser,
                       engine_chat_template(engine), engine_tokenizer(engine));
    a->service.prompts.formats = &a->formats;
    a->service.prompts.escape_special = a->config->escape_special;
    a->embeddings.pool = agent_config_pool(a->config, info->pooling);
    a->embeddings.hidden = info->hidden_size;
    session_service_open(&a->sessions, info);
    a->service.phase = SERVICE_OPEN;
}

static void on_engine_open(void *arg, int status, const struct error *err)
{
    struct agent *a = arg;
    if (status != 0) {
        fprintf(stderr, "lm-agent: %s\n", err->text);
        a->exit_code = 1;
        close_all(a);
        return;
    }
    const struct engine *engine = engine_bridge_engine(a->bridge);
    const struct engine_info *info = engine_info(engine);
    a->created = clock_wall_ms() / 1000;
    open_service(a, engine);
    uv_timer_start(&a->watch, on_watch, 0, AGENT_LOAD_MS);
    registration_start(a->registration);
    log_info("ready", "url=%s model=%s backend=\"%s\" context=%d kv_tokens=%" PRId64 " batch=%d",
             a->url, a->config->model_name, info->backend, info->context_len, info->kv_tokens,
             info->max_batch_size);
    replica_say_ready();
}

static char *join_list(const struct option_list *list)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) buf_append_char(&text, ',');
        buf_append_str(&text, list->items[i]);
    }
    return buf_detach(&text, NULL);
}

static int listen_first(struct agent *a, struct error *err)
{
    const struct agent_config *c = a->config;
    agent_routes_init(&a->router, a);
    a->router.cors = (struct http_cors){
        .origins = a->cors_origins = join_list(&c->allow_origins),
        .methods = a->cors_methods = join_list(&c->allow_methods),
        .headers = a->cors_headers = join_list(&c->allow_headers),
        .credentials = c->allow_credentials,
    };
    struct http_server_options options = {
        .host = c->server_name,
        .port = (int)c->server_port,
        .tls = a->tls,
        .on_request = http_router_dispatch,
        .arg = &a->router,
    };
    int rc = http_server_open(a->loop, &options, &a->server, err);
    if (rc != 0) return rc;
    http_url_print_origin(a->url, sizeof a->url, tls_serves(a->tls) ? HTTP_TLS : HTTP_PLAIN,
                          c->server_name, http_server_port(a->server));
    return 0;
}

static int take_settings(void *arg, const struct agent_config *fresh, struct error *err)
{
    struct agent *a = arg;
    struct tls *tls = NULL;
    int rc = a->tls ? tls_create(&fresh->tls, &tls, err) : 0;
    if (rc == 0) rc = guard_load(&a->guard, fresh, err);
    if (rc == 0 && tls)
        tls_take(a->tls, tls);
    else
        tls_destroy(tls);
    return rc;
}

static void on_reload(uv_signal_t *handle, int signo)
{
    struct agent *a = handle->data;
    (void)signo;
    agent_config_reload(a->config, take_settings, a);
}

static int start(struct agent *a, struct error *err)
{
    int rc;
    if ((rc = guard_load(&a->guard, a->config, err)) != 0 ||
        (rc = tls_create(&a->config->tls, &a->tls, err)) != 0 || (rc = listen_first(a, err)) != 0 ||
        (rc = create_registration(a, err)) != 0 || (rc = create_sessions(a, err)) != 0) {
        return rc;
    }
    if ((rc = loop_signals_start(&a->signals, a->loop, on_signal, a)) != 0) {
        return error_set(err, rc, "cannot watch signals: %s", error_text(rc));
    }
    /* Service managers signal all processes of a service, and then the launcher does: once is meant.
     * A launcher that is asked twice kills. */
    a->signals.ignores_repeats = a->config->replica != NULL;
    CHECK(uv_signal_init(a->loop, &a->reload) == 0);
    a->reload.data = a;
    CHECK(uv_signal_start(&a->reload, on_reload, SIGHUP) == 0);
    uv_unref((uv_handle_t *)&a->reload);
    uv_timer_init(a->loop, &a->watch);
    uv_timer_init(a->loop, &a->drain_timer);
    uv_timer_init(a->loop, &a->news_timer);
    request_gate_init(&a->gate, a->loop, &a->service, (int)a->config->max_concurrent_requests,
                      (int)a->config->queue_max);
    a->watch.data = a->drain_timer.data = a->news_timer.data = a;

    struct engine_options options;
    agent_config_engine_options(a->config, &options);
    struct hub_options hub = {a->config->download_dir, a->config->revision};
    a->bridge = engine_bridge_create(a->loop, &options, &hub, on_engine_open, a);
    a->service.bridge = a->bridge;
    engine_bridge_watch_work(a->bridge, on_work, a);
    return 0;
}

int agent_run(struct agent *a, const struct agent_config *config)
{
    uv_loop_t loop;
    CHECK(uv_loop_init(&loop) == 0);
    memset(a, 0, sizeof *a);
    a->loop = &loop;
    a->config = config;
    completion_service_init(&a->service);
    embedding_service_init(&a->embeddings, &a->service);
    prefix_index_init(&a->prefixes, (uint64_t)clock_wall_ms() * PREFIX_VERSIONS_PER_MS);
    loop_raise_nofile();

    struct error err = {0};
    int rc = start(a, &err);
    if (rc != 0) {
        fprintf(stderr, "lm-agent: %s\n", err.text);
        a->exit_code = rc == E_INVALID ? EXIT_USAGE : 1;
        if (a->server) http_server_close(a->server, NULL, NULL);
        session_service_deinit(&a->sessions);
        registration_destroy(a->registration);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    loop_close_all(&loop);
    completion_service_deinit(&a->service);
    prefix_index_deinit(&a->prefixes);
    guard_deinit(&a->guard);
    tls_destroy(a->tls);
    free(a->cors_origins);
    free(a->cors_methods);
    free(a->cors_headers);
    return a->exit_code;
}
