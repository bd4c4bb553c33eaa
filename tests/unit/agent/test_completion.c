/* The state machine of completions, with everything around it played by this file: the exchange,
 * the worker, the engine, the tokenizer. What is linked is completion.c and the printers. */
#include "agent/abort_target.h"
#include "agent/completion.h"

#include "shared/base/check.h"
#include "shared/net/api_error.h"
#include "shared/net/http_router.h"
#include "tests/test.h"
#include "tests/unit/agent/no_grammars.h"

/* ---- the exchange ---- */

struct http_exchange {
    struct http_request request;
    bool was_cut, has_begun, has_ended; // ended: the pointer is dead to completion.c
    int status;
    struct buf headers, body;
    size_t pending; // what the next write reports
    int writes;
    void (*on_gone)(void *arg);
    void (*on_drain)(void *arg);
    void *watch_arg;
};

const struct http_request *http_exchange_request(const struct http_exchange *x)
{
    return &x->request;
}

struct str http_router_request_id(const struct http_exchange *x)
{
    (void)x;
    return STR("req-of-test");
}

void http_exchange_watch(struct http_exchange *x, void (*on_gone)(void *arg),
                         void (*on_drain)(void *arg), void *arg)
{
    x->on_gone = on_gone;
    x->on_drain = on_drain;
    x->watch_arg = arg;
}

void http_exchange_add_header(struct http_exchange *x, struct str name, struct str value)
{
    NEED(!x->has_begun && !x->has_ended);
    buf_printf(&x->headers, STR_FMT ": " STR_FMT "\n", STR_ARG(name), STR_ARG(value));
}

void http_respond(struct http_exchange *x, int status, const char *type, struct str body)
{
    NEED(!x->has_begun && !x->has_ended);
    (void)type;
    x->status = status;
    x->has_ended = true;
    buf_append(&x->body, body.data, body.len);
}

void http_respond_begin(struct http_exchange *x, int status, const char *type, bool flush)
{
    NEED(!x->has_begun && !x->has_ended && flush);
    (void)type;
    x->status = status;
    x->has_begun = true;
}

size_t http_respond_write(struct http_exchange *x, const void *data, size_t len)
{
    NEED(x->has_begun && !x->has_ended);
    x->writes++;
    buf_append(&x->body, data, len);
    return x->pending;
}

void http_respond_end(struct http_exchange *x, const void *data, size_t len)
{
    http_respond_write(x, data, len);
    x->has_ended = true;
}

void http_respond_abort(struct http_exchange *x)
{
    NEED(x->has_begun && !x->has_ended);
    x->was_cut = x->has_ended = true;
}

bool http_respond_has_begun(const struct http_exchange *x)
{
    NEED(!x->has_ended);
    return x->has_begun;
}

/* ---- the worker ---- */

static struct text_job *job; // the one that was submitted
static const struct text_worker *job_worker;
static bool worker_is_full;
static char compiler; // only its address

int text_worker_submit(struct text_worker *w, struct text_job *j)
{
    if (worker_is_full) return E_BUSY;
    job = j;
    job_worker = w;
    return 0;
}

void text_job_cancel(struct text_job *j)
{
    atomic_store(&j->cancelled, true);
}

static void finish_job(void)
{
    struct text_job *j = job;
    job = NULL;
    if (!atomic_load(&j->cancelled)) j->run(j);
    j->done(j);
}

/* ---- the text: a token per byte, and a template that copies nothing ---- */

void token_list_push(struct token_list *l, int32_t id)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 4;
        l->ids = xrealloc_array(l->ids, l->cap, sizeof *l->ids);
    }
    l->ids[l->count++] = id;
}

void token_list_deinit(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    (void)t, (void)flags, (void)err;
    for (size_t i = 0; i < len; i++) {
        token_list_push(out, text[i]);
    }
    return 0;
}

/* ---- not under test: --escape-special ---- */

int tokenizer_encode_guarded(const struct tokenizer *t, const char *text, size_t len,
                             unsigned flags, const struct token_guard *guard,
                             struct token_list *out, struct error *err)
{
    (void)guard;
    return tokenizer_encode(t, text, len, flags, out, err);
}

size_t tokenizer_next_special(const struct tokenizer *t, struct str text, size_t from)
{
    (void)t, (void)text, (void)from;
    return SIZE_MAX;
}

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    (void)t, (void)id, (void)keep_special;
    return STR("x");
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
                      bool keep_special, struct buf *out)
{
    (void)t, (void)ids, (void)count, (void)keep_special, (void)out;
    NEED(false); // only for the log, at trace level
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    (void)t;
    return 256;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    (void)t;
    return 1;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    (void)t;
    return -1;
}

int chat_template_render(const struct chat_template *t, const struct chat_template_input *in,
                         struct buf *out, struct error *err)
{
    (void)t;
    if (json_get(in->kwargs, "refuse")) return error_set(err, E_INVALID, "no thanks");
    buf_append_str(out, "abc");
    return 0;
}

/* ---- the engine ---- */

static struct {
    uint64_t id;
    engine_bridge_on_event *on_event;
    void *arg;
    struct sampling_params sampling;
    size_t prompt_count, resumed_count;
    int rope_positions;
    bool cancelled;
} requests[8];
static int request_count, submits_allowed, submit_code;

int engine_bridge_submit(struct engine_bridge *b, struct engine_request *r,
                         engine_bridge_on_event *on_event, void *arg, struct error *err)
{
    (void)b;
    if (request_count == submits_allowed) return error_set(err, submit_code, "as told");
    r->id = (uint64_t)request_count + 1;
    requests[request_count].id = r->id;
    requests[request_count].on_event = on_event;
    requests[request_count].arg = arg;
    requests[request_count].sampling = r->sampling;
    requests[request_count].prompt_count = r->prompt_count;
    requests[request_count].resumed_count = r->resumed_count;
    requests[request_count].rope_positions = r->rope_positions;
    requests[request_count].cancelled = false;
    request_count++;
    return 0;
}

static int stopped_count;

void engine_bridge_stop(struct engine_bridge *b, uint64_t id)
{
    (void)b;
    NEED(id >= 1 && id <= (uint64_t)request_count && !requests[id - 1].cancelled);
    stopped_count++;
}

void engine_bridge_cancel(struct engine_bridge *b, uint64_t id)
{
    (void)b;
    NEED(id >= 1 && id <= (uint64_t)request_count);
    requests[id - 1].cancelled = true;
}

struct engine *engine_bridge_engine(const struct engine_bridge *b)
{
    (void)b;
    return NULL;
}

void engine_stats(const struct engine *e, struct engine_stats *out)
{
    (void)e;
    *out = (struct engine_stats){.running = 1, .waiting = 2};
}

static int total[8]; // tokens of a request so far

static void send_event(int index, enum engine_event_kind kind, const char *text, int tokens,
                       enum finish_reason finish)
{
    static int32_t ids[] = {10, 11, 12, 13};
    NEED(!requests[index].cancelled);
    total[index] += tokens;
    struct engine_event event = {.id = requests[index].id,
                                 .kind = kind,
                                 .tokens = ids,
                                 .token_count = tokens,
                                 .text = (char *)text,
                                 .text_len = strlen(text),
                                 .finish = finish,
                                 .completion_tokens = total[index],
                                 .error_code = E_DEVICE};
    if (kind != ENGINE_EVENT_TOKENS) total[index] = 0;
    requests[index].on_event(requests[index].arg, &event);
}

/* ---- the stage ---- */

static struct completion_service service;
static struct http_exchange x;
static int idle_calls;

static void on_idle(void *arg)
{
    (void)arg;
    idle_calls++;
}

static struct http_headers hop_headers; // none but in tests of the hop
static bool rope_by_length;

static void begin(enum completion_kind kind, const char *body)
{
    completion_service_init(&service);
    service.phase = SERVICE_OPEN;
    service.compiler = (struct text_worker *)&compiler;
    service.max_batch_size = 4;
    service.limits = (struct request_limits){
        .model = "m", .vocab_size = 256, .prompts_max = 8, .choices_max = 8};
    service.fingerprint = "fp_0";
    service.rope_by_length = rope_by_length;
    service.on_idle = on_idle;
    prompt_context_init(&service.prompts, NULL, NULL, 100);
    x = (struct http_exchange){
        .request = {.headers = hop_headers, .peer_is_loopback = true, .body = str_of(body)}};
    buf_init(&x.headers, 1 << 16);
    buf_init(&x.body, 1 << 16);
    request_count = idle_calls = 0;
    memset(total, 0, sizeof total);
    submits_allowed = 8;
    submit_code = E_BUSY;
    worker_is_full = false;
    completion_start(&service, &x, kind == COMPLETION_CHAT ? &completion_chat : &completion_text);
}

static bool body_has(const char *text)
{
    return x.body.data && strstr(x.body.data, text);
}

static int count_of(const char *text)
{
    int count = 0;
    for (const char *at = x.body.data; at && (at = strstr(at, text)); at++) {
        count++;
    }
    return count;
}

static void end(void)
{
    EXPECT_INT(service.live_count, 0);
    EXPECT(list_is_empty(&service.live));
    buf_deinit(&x.headers);
    buf_deinit(&x.body);
}

#define CHAT   "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define PLAIN  "{" CHAT "}"
#define STREAM "{" CHAT ",\"stream\":true}"

static void test_plain(void)
{
    begin(COMPLETION_CHAT, PLAIN);
    EXPECT_INT(service.live_count, 1);
    EXPECT(!x.has_ended && request_count == 0);
    finish_job();
    EXPECT_INT(request_count, 1);
    EXPECT_INT(requests[0].prompt_count, 3);
    send_event(0, ENGINE_EVENT_TOKENS, "He", 2, FINISH_NONE);
    EXPECT(!x.has_begun && !x.has_ended && idle_calls == 0);
    send_event(0, ENGINE_EVENT_DONE, "y", 1, FINISH_STOP);
    EXPECT(x.has_ended && x.status == 200 && idle_calls == 1);
    EXPECT(body_has("\"content\":\"Hey\"") && body_has("\"finish_reason\":\"stop\""));
    EXPECT(body_has("\"prompt_tokens\":3,\"completion_tokens\":3,\"total_tokens\":6"));
    EXPECT(strstr(x.headers.data, "openai-processing-ms: "));
    end();
}

static void test_stream(void)
{
    begin(COMPLETION_CHAT, STREAM);
    finish_job();
    EXPECT(x.has_begun && x.body.len == 0); // the head at once, the role with the first token
    send_event(0, ENGINE_EVENT_TOKENS, "", 1, FINISH_NONE);
    EXPECT(body_has("\"role\":\"assistant\""));
    size_t before = x.body.len;
    send_event(0, ENGINE_EVENT_TOKENS, "", 1, FINISH_NONE); // held back: nothing to say
    EXPECT_INT(x.body.len, before);
    send_event(0, ENGINE_EVENT_TOKENS, "Hi", 1, FINISH_NONE);
    int writes = x.writes;
    send_event(0, ENGINE_EVENT_DONE, "!", 1, FINISH_LENGTH);
    EXPECT_INT(x.writes, writes + 1); // text, finish, [DONE] in one write
    EXPECT(x.has_ended);
    EXPECT_INT(count_of("\"role\""), 1);
    EXPECT_INT(count_of("\"finish_reason\":\"length\""), 1);
    EXPECT_INT(count_of("data: "), 5);
    EXPECT(body_has("data: [DONE]\n\n"));
    end();
}

/* Above the high-water mark text gathers and goes out as one event when the client reads again. */
static void test_slow_reader(void)
{
    begin(COMPLETION_CHAT, STREAM);
    finish_job();
    x.pending = 300 << 10;
    send_event(0, ENGINE_EVENT_TOKENS, "a", 1, FINISH_NONE);
    int writes = x.writes;
    send_event(0, ENGINE_EVENT_TOKENS, "b", 1, FINISH_NONE);
    send_event(0, ENGINE_EVENT_TOKENS, "c", 1, FINISH_NONE);
    EXPECT_INT(x.writes, writes);
    x.pending = 0;
    x.on_drain(x.watch_arg);
    EXPECT_INT(x.writes, writes + 1);
    EXPECT(body_has("\"content\":\"bc\""));
    x.pending = 300 << 10;
    send_event(0, ENGINE_EVENT_TOKENS, "d", 1, FINISH_NONE);
    send_event(0, ENGINE_EVENT_DONE, "e", 1, FINISH_STOP); // the end doesn't wait
    EXPECT(x.has_ended && body_has("\"content\":\"e\"") && body_has("[DONE]"));
    end();
}

static void test_client_leaves_while_preparing(void)
{
    begin(COMPLETION_CHAT, PLAIN);
    x.on_gone(x.watch_arg);
    EXPECT_INT(service.live_count, 0);
    EXPECT(atomic_load(&job->cancelled));
    finish_job(); // frees; LeakSanitizer looks
    EXPECT_INT(request_count, 0);
    end();
}

static void test_client_leaves_while_running(void)
{
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"stream\":true}");
    finish_job();
    EXPECT_INT(request_count, 2);
    send_event(0, ENGINE_EVENT_DONE, "x", 1, FINISH_STOP);
    x.on_gone(x.watch_arg);
    EXPECT(!requests[0].cancelled && requests[1].cancelled); // what has ended needs no cancel
    EXPECT_INT(idle_calls, 1);
    end();
}

static void test_many_prompts(void)
{
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"ab\",\"c\"],\"seed\":5}");
    finish_job();
    EXPECT(requests[0].sampling.seed == 5 && requests[1].sampling.seed != 5);
    send_event(1, ENGINE_EVENT_DONE, "second", 2, FINISH_STOP);
    EXPECT(!x.has_ended);
    send_event(0, ENGINE_EVENT_DONE, "first", 1, FINISH_LENGTH);
    EXPECT(x.has_ended);
    EXPECT(
        body_has("{\"index\":0,\"text\":\"first\",\"logprobs\":null,\"finish_reason\":\"length\"},"
                 "{\"index\":1,\"text\":\"second\",\"logprobs\":null,\"finish_reason\":\"stop\"}"));
    EXPECT(body_has("\"prompt_tokens\":3,\"completion_tokens\":3"));
    end();
}

static void test_queue_full_is_all_or_nothing(void)
{
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\",\"c\"],\"stream\":true}");
    submits_allowed = 2;
    finish_job();
    EXPECT(x.has_ended && x.status == 429 && !x.has_begun);
    EXPECT(requests[0].cancelled && requests[1].cancelled);
    EXPECT(strstr(x.headers.data, "retry-after: 1\n"));
    EXPECT(body_has("\"code\":\"rate_limit_exceeded\""));
    end();
}

static void test_engine_refuses(void)
{
    static const struct {
        int code, status;
    } rows[] = {{E_CLOSED, 503}, {E_CONTEXT_LENGTH, 400}, {E_INVALID, 400}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        begin(COMPLETION_CHAT, STREAM);
        submits_allowed = 0;
        submit_code = rows[i].code;
        finish_job();
        EXPECT_INT(x.status, rows[i].status);
        EXPECT(!x.has_begun && body_has("\"error\""));
        end();
    }
}

static void test_worker_full(void)
{
    begin(COMPLETION_CHAT, PLAIN);
    finish_job();
    worker_is_full = true;
    struct http_exchange first = x;
    x = (struct http_exchange){.request = first.request};
    buf_init(&x.headers, 1 << 16);
    buf_init(&x.body, 1 << 16);
    completion_start(&service, &x, &completion_chat);
    EXPECT(x.has_ended && x.status == 429);
    EXPECT_INT(service.live_count, 1);
    buf_deinit(&x.headers);
    buf_deinit(&x.body);
    x = first;
    requests[0].cancelled = false;
    x.on_gone(x.watch_arg);
    end();
}

/* What needs a grammar goes on to the compiler, and takes its room there with it. */
static void test_grammars(void)
{
    static const char form[] = "{" CHAT ",\"response_format\":{\"type\":\"json_object\"}}";
    begin(COMPLETION_CHAT, form);
    EXPECT(job_worker != service.compiler);
    finish_job();
    EXPECT(job && job_worker == service.compiler && !x.has_ended && request_count == 0);
    EXPECT_INT(service.compiling_bytes, strlen(form));
    finish_job(); // there are no grammars here
    EXPECT(x.has_ended && x.status == 400 && service.compiling_bytes == 0);
    end();

    begin(COMPLETION_CHAT, form);
    finish_job();
    x.on_gone(x.watch_arg);
    EXPECT_INT(service.compiling_bytes, strlen(form)); // until it is back
    finish_job();
    EXPECT_INT(service.compiling_bytes, 0);
    end();

    begin(COMPLETION_CHAT, form);
    service.compiling_bytes = (size_t)64 << 20; // others'
    finish_job();
    EXPECT(x.has_ended && x.status == 429 && service.compiling_bytes == (size_t)64 << 20);
    end();

    begin(COMPLETION_CHAT, form);
    worker_is_full = true;
    finish_job();
    EXPECT(x.has_ended && x.status == 429 && service.compiling_bytes == 0);
    end();
}

static void test_bad_request(void)
{
    begin(COMPLETION_CHAT, "{" CHAT ",\"stream\":true,\"temperature\":7}");
    finish_job();
    EXPECT(x.has_ended && x.status == 400 && !x.has_begun && request_count == 0);
    EXPECT(body_has("\"param\":\"temperature\""));
    end();
    begin(COMPLETION_CHAT, "{" CHAT ",\"chat_template_kwargs\":{\"refuse\":1}}");
    finish_job();
    EXPECT(x.status == 400 && body_has("no thanks"));
    end();
    char body[400];
    snprintf(body, sizeof body, "{\"model\":\"m\",\"prompt\":\"%0100d\"}", 0);
    begin(COMPLETION_TEXT, body);
    finish_job();
    EXPECT(x.status == 400 && body_has("context_length_exceeded"));
    EXPECT(body_has("maximum context length is 100 tokens. However, your prompt resulted in 100 "));
    end();
}

static void test_engine_fails(void)
{
    begin(COMPLETION_CHAT, PLAIN);
    finish_job();
    send_event(0, ENGINE_EVENT_FAILED, "a bad day", 0, FINISH_NONE);
    EXPECT(x.has_ended && x.status == 500 && body_has("a bad day"));
    end();
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"stream\":true}");
    finish_job();
    send_event(1, ENGINE_EVENT_TOKENS, "x", 1, FINISH_NONE);
    send_event(0, ENGINE_EVENT_FAILED, "a bad day", 0, FINISH_NONE);
    EXPECT(x.has_ended && x.status == 200 && requests[1].cancelled);
    EXPECT(body_has("data: {\"error\":{") && !body_has("[DONE]"));
    end();
}

static void test_phases(void)
{
    begin(COMPLETION_CHAT, PLAIN);
    service.phase = SERVICE_DRAINING; // came before, was prepared after
    finish_job();
    EXPECT(x.status == 503 && request_count == 0);
    EXPECT(strstr(x.headers.data, "retry-after: 1\n"));
    end();
    begin(COMPLETION_CHAT, PLAIN);
    finish_job();
    service.phase = SERVICE_DRAINING;
    send_event(0, ENGINE_EVENT_DONE, "done", 1, FINISH_STOP); // what runs is finished
    EXPECT(x.status == 200);
    end();
}

static void test_abort(void)
{
    begin(COMPLETION_CHAT, STREAM);
    finish_job();
    completion_service_abort(&service);
    EXPECT(x.has_ended && body_has("shutting down") && !body_has("[DONE]"));
    EXPECT(requests[0].cancelled && idle_calls == 1);
    end();
    begin(COMPLETION_CHAT, PLAIN); // still with the worker
    completion_service_abort(&service);
    EXPECT(x.has_ended && x.status == 503);
    finish_job();
    end();
}

/* POST /abort_request: what there is goes out, and says why it ends. */
static void test_stop(void)
{
    struct abort_target all = {.all = true, .session_id = -1};
    stopped_count = 0;
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"]}");
    finish_job();
    send_event(0, ENGINE_EVENT_DONE, "whole", 1, FINISH_STOP);
    send_event(1, ENGINE_EVENT_TOKENS, "ha", 1, FINISH_NONE);
    EXPECT_INT(completion_service_stop(&service, &all), 1);
    EXPECT_INT(stopped_count, 1); // what has ended needs no stop
    EXPECT(!x.has_ended);
    send_event(1, ENGINE_EVENT_DONE, "lf", 1, FINISH_CANCELLED);
    EXPECT(x.has_ended && x.status == 200);
    EXPECT(body_has("\"text\":\"whole\",\"logprobs\":null,\"finish_reason\":\"stop\""));
    EXPECT(body_has("\"text\":\"half\",\"logprobs\":null,\"finish_reason\":\"abort\""));
    end();

    begin(COMPLETION_CHAT, STREAM);
    finish_job();
    EXPECT_INT(completion_service_stop(&service, &all), 1);
    send_event(0, ENGINE_EVENT_DONE, "", 0, FINISH_CANCELLED);
    EXPECT(x.has_ended && body_has("\"finish_reason\":\"abort\"") && body_has("[DONE]"));
    end();

    begin(COMPLETION_CHAT, PLAIN); // still with the worker: nothing has begun, and nothing shall
    EXPECT_INT(completion_service_stop(&service, &all), 1);
    EXPECT(x.has_ended && x.status == 499 && body_has("\"code\":\"request_aborted\""));
    EXPECT(!x.headers.data || !strstr(x.headers.data, "x-lm-not-started"));
    finish_job();
    EXPECT_INT(request_count, 0);
    end();
}

static void test_stop_finds(void)
{
    stopped_count = 0;
    begin(COMPLETION_CHAT, "{" CHAT ",\"session_id\":7}");
    struct abort_target target = {.session_id = 7};
    EXPECT_INT(completion_service_stop(&service, &target), 0); // not read yet
    finish_job();
    EXPECT_INT(completion_service_stop(&service, &target), 1);
    target.is_bound = true; // to another tenant than nobody
    target.tenant = 1;
    EXPECT_INT(completion_service_stop(&service, &target), 0);
    target = (struct abort_target){.session_id = 8, .id = STR("chatcmpl-")};
    EXPECT_INT(completion_service_stop(&service, &target), 0);
    target.id = STR("req-of-test");
    EXPECT_INT(completion_service_stop(&service, &target), 1);
    send_event(0, ENGINE_EVENT_DONE, "", 0, FINISH_CANCELLED);
    EXPECT(x.has_ended);
    end();
}

static void test_nothing_to_generate(void)
{
    begin(COMPLETION_TEXT, "{\"model\":\"m\",\"prompt\":\"ab\",\"max_tokens\":0}");
    finish_job();
    EXPECT(x.status == 200 && request_count == 0);
    EXPECT(body_has("\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\""));
    end();
}

/* ---- streams that may change their agent ---- */

static void begin_hop(const char *record, const char *body)
{
    static struct http_header items[2];
    static char text[500], length[24];
    snprintf(length, sizeof length, "%zu", record ? strlen(record) : 0);
    items[0] = (struct http_header){STR("x-lm-hop"), STR("1")};
    items[1] = (struct http_header){STR("x-lm-resume"), str_of(length)};
    hop_headers = (struct http_headers){items, record ? 2 : 1};
    snprintf(text, sizeof text, "%s%s", record ? record : "", body);
    begin(COMPLETION_CHAT, text);
    hop_headers.count = 0;
    finish_job();
}

static void test_marks(void)
{
    begin_hop(NULL, STREAM);
    EXPECT(strstr(x.headers.data, "x-lm-resumable: 1"));
    EXPECT(x.has_begun && x.body.len == 0);
    send_event(0, ENGINE_EVENT_TOKENS, "Hi", 2, FINISH_NONE);
    EXPECT(str_starts_with(buf_str(&x.body), STR(": lm seed=")));
    EXPECT(body_has("\n: lm t= b=0 p=1\ndata: ") && body_has("\n\n: lm t=10,11 b=2 p=1\ndata: "));
    send_event(0, ENGINE_EVENT_DONE, "", 1, FINISH_STOP);
    EXPECT(body_has("\n\n: lm u=3,3,0\n: lm t=10 b=2 p=2\ndata: "));
    EXPECT(body_has("\n\n: lm t= b=2 p=4\ndata: [DONE]"));
    end();

    begin_hop(NULL, "{" CHAT ",\"stream\":true,\"n\":2}");
    EXPECT(!strstr(x.headers.data, "x-lm-resumable"));
    send_event(0, ENGINE_EVENT_DONE, "a", 1, FINISH_STOP);
    EXPECT(!body_has(": lm"));
    send_event(1, ENGINE_EVENT_DONE, "b", 1, FINISH_STOP);
    EXPECT_INT(count_of(": lm"), 1);
    EXPECT(body_has("\n\n: lm u=3,2,0\ndata: "));
    end();
}

/* An engine that fails isn't the client's affair where another one can go on. */
static void test_cut(void)
{
    begin_hop(NULL, STREAM);
    send_event(0, ENGINE_EVENT_TOKENS, "Hi", 1, FINISH_NONE);
    send_event(0, ENGINE_EVENT_FAILED, "device lost", 0, FINISH_NONE);
    EXPECT(x.was_cut && !body_has("error"));
    end();
    begin_hop(NULL, STREAM);
    send_event(0, ENGINE_EVENT_TOKENS, "Hi", 1, FINISH_NONE);
    completion_service_abort(&service);
    EXPECT(x.was_cut && !body_has("error"));
    end();
    begin_hop(NULL, "{" CHAT ",\"stream\":true,\"n\":2}");
    send_event(0, ENGINE_EVENT_FAILED, "device lost", 0, FINISH_NONE);
    EXPECT(!x.was_cut && body_has("device lost"));
    end();
}

#define RECORD                                                                                   \
    "{\"seed\":\"7\",\"now\":1,\"id\":\"chatcmpl-z\",\"created\":5,\"ids\":[10,11],\"bytes\":2," \
    "\"phase\":1}"

static void test_resumed(void)
{
    begin_hop(RECORD, STREAM);
    EXPECT_INT(requests[0].resumed_count, 2);
    EXPECT_INT(requests[0].sampling.seed, 7);
    EXPECT(!x.has_begun); // a wrong record could still be refused
    send_event(0, ENGINE_EVENT_TOKENS, "Hi", 2, FINISH_NONE);
    EXPECT(x.has_begun && x.body.len == 0);
    send_event(0, ENGINE_EVENT_TOKENS, "!", 1, FINISH_NONE);
    EXPECT(body_has(": lm seed=7 now=1 id=chatcmpl-z created=5\n: lm t=10 b=3 p=1\ndata: "));
    EXPECT(body_has("\"id\":\"chatcmpl-z\"") && body_has("\"created\":5"));
    EXPECT(body_has("\"content\":\"!\"") && !body_has("role"));
    send_event(0, ENGINE_EVENT_DONE, "", 1, FINISH_STOP);
    EXPECT(body_has("\n\n: lm u=3,4,0\n"));
    end();

    begin_hop(RECORD, STREAM); // the answer was all there
    send_event(0, ENGINE_EVENT_DONE, "Hi", 2, FINISH_STOP);
    EXPECT(x.status == 200 && body_has("\"finish_reason\":\"stop\""));
    EXPECT(!body_has("Hi") && body_has("[DONE]"));
    end();
}

/* The lengths that rope tables are for are told, and kept when the prompt has another one now. */
static void test_rope(void)
{
    rope_by_length = true;
    begin_hop(NULL, STREAM);
    EXPECT_INT(requests[0].rope_positions, 0);
    send_event(0, ENGINE_EVENT_DONE, "Hi", 2, FINISH_STOP);
    EXPECT(body_has(" rope=3\n: lm t= "));
    end();

    begin_hop("{\"seed\":\"7\",\"now\":1,\"ids\":[10],\"bytes\":0,\"phase\":1,\"rope\":70}",
              STREAM);
    EXPECT_INT(requests[0].rope_positions, 70);
    send_event(0, ENGINE_EVENT_DONE, "Hi", 2, FINISH_STOP);
    EXPECT(body_has(" rope=70\n: lm t="));
    end();
    rope_by_length = false;
}

static void test_wrong_records(void)
{
    begin_hop(RECORD, STREAM);
    send_event(0, ENGINE_EVENT_TOKENS, "H", 2, FINISH_NONE); // two bytes were sent
    EXPECT_INT(x.status, 400);
    EXPECT(!x.has_begun && body_has("contradicts") && requests[0].cancelled);
    end();
    begin_hop(RECORD, STREAM);
    send_event(0, ENGINE_EVENT_TOKENS, "H\xc3\xa9", 2, FINISH_NONE);
    EXPECT_INT(x.status, 400);
    end();
    begin_hop(RECORD, PLAIN);
    EXPECT_INT(x.status, 422);
    EXPECT_INT(request_count, 0);
    end();
    begin_hop("{}", STREAM);
    EXPECT_INT(x.status, 400);
    end();
}

int main(void)
{
    RUN(test_marks);
    RUN(test_cut);
    RUN(test_resumed);
    RUN(test_rope);
    RUN(test_wrong_records);
    RUN(test_plain);
    RUN(test_stream);
    RUN(test_slow_reader);
    RUN(test_client_leaves_while_preparing);
    RUN(test_client_leaves_while_running);
    RUN(test_many_prompts);
    RUN(test_queue_full_is_all_or_nothing);
    RUN(test_engine_refuses);
    RUN(test_worker_full);
    RUN(test_grammars);
    RUN(test_bad_request);
    RUN(test_engine_fails);
    RUN(test_phases);
    RUN(test_abort);
    RUN(test_stop);
    RUN(test_stop_finds);
    RUN(test_nothing_to_generate);
    return TEST_END();
}
