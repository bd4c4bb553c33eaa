/* exchange_answer.c - an answer on its way to the client: held until it is whole, or streamed. */
#define LOG_MODULE "exchange"
#include "proxy/exchange_state.h"

#include "proxy/forward.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/net/api_error.h"

#include <stdio.h>
#include <string.h>

/* ---- how it went, for the agent's record ---- */

/* 501 is what the request asked for; a 503 says when it is over. */
static enum ledger_outcome outcome_of(const struct exchange *e)
{
    bool is_refusal = e->at.not_started || e->status == 501 || e->status == 503;
    if (e->status >= 500 && !is_refusal) return LEDGER_ERRORED;
    return e->status >= 400 ? LEDGER_ABANDONED : LEDGER_SERVED;
}

static void count_passed(const struct exchange *e)
{
    metric_add(&proxy_metrics.responses_passed_total, 1);
    if (e->status >= 500) metric_add(&proxy_metrics.responses_passed_5xx_total, 1);
}

/* ---- its head ---- */

static void add_head(struct exchange *e)
{
    const struct exchange_prelude *pre = e->pre;
    e->first_byte_ns = clock_ns();
    metric_observe(&proxy_metrics.first_byte_seconds,
                   (double)(e->first_byte_ns - e->started_ns) / 1e9);
    for (int i = 0; i < pre->head.count; i++)
        http_exchange_add_header(e->client, pre->head.items[i].name, pre->head.items[i].value);
    if (!e->at.agent->foreign) { // whose id is an address of the inside
        http_exchange_add_header(e->client, STR("x-lm-agent"), str_of(e->at.agent->id));
    }
    limits_add_headers(e->client, &pre->quota);
    if (e->affinity) {
        affinity_confirm(e->affinity, e->at.agent, e->status, &pre->head, e->client);
    }
}

/* ---- whole ---- */

/* `"name": 123` behind `from`; -1: not there. Foreign nodes say what they used in the body only. */
static int64_t find_number(struct str body, const char *name)
{
    const char *at = memmem(body.data, body.len, name, strlen(name));
    if (!at) return -1;
    const char *end = body.data + body.len;
    for (at += strlen(name); at < end && (*at == ':' || *at == ' ');)
        at++;
    int64_t value = 0;
    const char *first = at;
    for (; at < end && *at >= '0' && *at <= '9' && at - first < 9; at++)
        value = value * 10 + (*at - '0');
    return at > first ? value : -1;
}

static void learn_usage(struct exchange *e, struct str body)
{
    if (e->at.has_usage || e->status != 200 || body.len == 0) return;
    int64_t prompt = find_number(body, "\"prompt_tokens\"");
    int64_t completion = find_number(body, "\"completion_tokens\"");
    int64_t cached = find_number(body, "\"cached_tokens\"");
    if (prompt < 0) return;
    e->at.has_usage = true;
    e->at.usage =
        (struct hop_usage){prompt, completion > 0 ? completion : 0, cached > 0 ? cached : 0};
}

/* ---- streamed ---- */

static void begin_streaming(struct exchange *e)
{
    exchange_set_state(e, EXCHANGE_STREAMING);
    add_head(e);
    http_respond_begin(e->client, e->status, NULL, false);
    relay_begin(&e->relay, &e->worker->gather, e->client, e->at.call);
    bool is_hard = e->affinity && e->affinity->kind == SESSION_HARD;
    if (e->affinity && !is_hard) exchange_end_affinity(e, true);
    exchange_charge_resume(e);
    exchange_close_prelude(e);
}

/* Bytes that the client may have. */
static void pass(void *arg, const char *data, size_t len)
{
    struct exchange *e = arg;
    if (e->state == EXCHANGE_HOLDING) begin_streaming(e);
    relay_write(&e->relay, data, len);
}

void exchange_on_body(struct exchange *e, const char *data, size_t len)
{
    exchange_expect_life(e);
    if (e->at.status < 400) ledger_note_started(&e->at.entry, clock_ns());
    if (e->is_hop) {
        hop_stream_feed(&e->hop, data, len, pass, e);
        return;
    }
    if (e->state == EXCHANGE_HOLDING) {
        if (e->hold && buf_append(&e->held, data, len) == 0) return;
        begin_streaming(e);
        if (e->held.len) relay_write(&e->relay, e->held.data, e->held.len);
        buf_deinit(&e->held);
    }
    relay_write(&e->relay, data, len);
}

static void end_properly(struct exchange *e)
{
    count_passed(e);
    e->sent_bytes = e->relay.bytes;
    exchange_set_state(e, EXCHANGE_DONE);
    exchange_release(e, outcome_of(e));
    relay_end(&e->relay, "", 0);
}

void exchange_end_stream(struct exchange *e)
{
    const struct http_failure *failure = e->at.failure;
    if (!failure) {
        if (e->is_hop) hop_stream_end(&e->hop, pass, e);
        end_properly(e);
        return;
    }
    if (e->is_hop) hop_stream_restart(&e->hop);
    bool is_complete = e->is_hop && hop_stream_is_complete(&e->hop);
    if (is_complete || (e->is_events && relay_is_complete(&e->relay))) {
        // what is missing is the end of the body
        end_properly(e);
    } else if (exchange_can_resume(e)) {
        exchange_begin_resume(e, failure);
    } else {
        exchange_cut_stream(e, failure->text);
    }
}

void exchange_finish_whole(struct exchange *e)
{
    struct http_exchange *client = e->client;
    struct api_error lost;
    if (e->is_hop) hop_stream_end(&e->hop, pass, e);
    if (e->state == EXCHANGE_STREAMING) { // with what was held back of an event
        end_properly(e);
        return;
    }
    if (e->affinity && affinity_is_lost(e->affinity, e->status, buf_str(&e->held), &lost)) {
        exchange_end_attempt(e, LEDGER_ABANDONED); // its agent did well
        exchange_fail(e, &lost);
        return;
    }
    learn_usage(e, buf_str(&e->held));
    add_head(e);
    count_passed(e);
    exchange_set_state(e, EXCHANGE_DONE);
    struct buf body = e->held; // survives exchange_release()
    buf_init(&e->held, EXCHANGE_HOLD_BYTES);
    e->sent_bytes = body.len;
    int status = e->status;
    exchange_release(e, outcome_of(e));
    http_respond(client, status, NULL, buf_str(&body));
    buf_deinit(&body);
}

/* Of an interactive stream: with the members that LMDeploy's client reads from each line. */
static void print_last_line(struct buf *out, const struct api_error *error)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "text", "");
    json_field_int(&w, "tokens", 0);
    json_field_int(&w, "input_tokens", 0);
    json_field_int(&w, "history_tokens", 0);
    json_field_text(&w, "finish_reason", "error");
    json_key(&w, "error");
    json_object_begin(&w);
    json_field_text(&w, "message", error->message);
    json_field_text(&w, "type", error->type);
    json_field_text(&w, "param", NULL);
    json_field_text(&w, "code", error->code);
    json_object_end(&w);
    json_object_end(&w);
    buf_append_char(out, '\n');
}

static void print_last_event(const struct exchange *e, struct buf *event)
{
    struct api_error error;
    api_error_set(&error, 502, "upstream_lost", NULL,
                  "The agent was lost while it answered. What came so far is incomplete.");
    error.type = "upstream_error";
    if (e->route != PEEK_INTERACTIVE) {
        api_error_print_event(event, &error);
        return;
    }
    print_last_line(event, &error);
}

/* True where another event may be put. */
static bool is_between_events(const struct exchange *e)
{
    if (!e->is_events) return false;
    if (e->route == PEEK_INTERACTIVE)
        return e->relay.bytes == 0 || relay_ends_with(&e->relay, '\n');
    return relay_is_between_events(&e->relay);
}

void exchange_cut_stream(struct exchange *e, const char *reason)
{
    log_warn("stream cut", "id=" STR_FMT " agent=%s bytes=%llu resumes=%d reason=\"%s\"",
             STR_ARG(http_router_request_id(e->client)), e->at.agent ? e->at.agent->id : "",
             (unsigned long long)e->relay.bytes, e->resumes, reason);
    metric_add(&proxy_metrics.upstream_lost_total, 1);
    e->error = "upstream_lost";
    struct buf event;
    buf_init(&event, BUF_MAX_INTERNAL);
    if (is_between_events(e)) print_last_event(e, &event);
    e->sent_bytes = e->relay.bytes;
    exchange_set_state(e, EXCHANGE_FAILED);
    exchange_release(e, exchange_outcome_of_failure(e));
    if (event.len == 0) {
        relay_abort(&e->relay);
    } else {
        relay_end(&e->relay, event.data, event.len);
    }
    buf_deinit(&event);
}
