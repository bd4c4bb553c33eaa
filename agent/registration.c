/* registration.c - one beat clock, any number of listeners.
 *
 * Rules:
 *  1. A beat is registration, heartbeat and load report in one: whoever lost us (a restart, a flush)
 *     has us again after the next one. A proxy that took the last one gets one with every tick, a
 *     proxy that didn't once a second; Redis has a smaller script for loads in between.
 *  2. While our address isn't known, a proxy gets GET /health instead: the connection tells us.
 *  3. One call per proxy at a time. A beat that finds the last one unanswered follows its answer.
 *  4. A target logs when its state changes, not when it stays as it is. */
#define LOG_MODULE "registration"
#include "agent/registration.h"

#include "agent/agent_metrics.h"
#include "agent/redis_lease.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEAVE_MS        500
#define CONNECT_MS      1000
#define ANSWER_MS       2000
#define LOADS_PER_BEAT  (AGENT_BEAT_MS / AGENT_LOAD_MS)
#define ANSWER_KEPT_MAX 200 // bytes of a refusal that go to the log

enum proxy_state { PROXY_UNKNOWN, PROXY_REGISTERED, PROXY_REFUSED, PROXY_AWAY };

struct proxy {
    struct registration *owner;
    const char *text; // as configured
    struct http_url url;
    char target[600];
    struct http_call *call; // NULL: none
    bool is_beat;           // the call is a beat, not rule 2's question
    bool was_overtaken;     // a beat came due while the call was on its way
    bool owes_goodbye;      // a beat that says we leave has to be answered
    enum proxy_state state;
    struct buf body, answer;
    int status;
};

struct registration {
    uv_loop_t *loop;
    struct registration_options options;
    struct agent_record record; // facts; load and flags are filled at each beat
    struct advertise advertise;
    struct http_client *client;
    struct redis_lease *redis; // NULL: none
    struct proxy *proxies;
    size_t proxy_count;
    uv_timer_t tick; // every AGENT_LOAD_MS
    uv_timer_t leave_timer;
    unsigned ticks;
    bool is_started, is_leaving;
    int goodbyes; // not answered yet
    void (*on_left)(void *arg);
    void *on_left_arg;
    int handles_open;
};

static void send_beat(struct proxy *p);

/* ---- the record ---- */

static void make_id(struct registration *r)
{
    if (r->options.agent_id) {
        snprintf(r->record.id, sizeof r->record.id, "%s", r->options.agent_id);
        return;
    }
    char host[48] = "agent";
    if (gethostname(host, sizeof host) != 0 || host[0] == 0) snprintf(host, sizeof host, "agent");
    host[sizeof host - 1] = 0;
    for (char *c = host; *c; c++) {
        bool is_letter = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z');
        if (!is_letter && !(*c >= '0' && *c <= '9') && *c != '.' && *c != '-') *c = '-';
    }
    snprintf(r->record.id, sizeof r->record.id, "%s:%d", host, r->advertise.port);
}

static void refresh_record(struct registration *r)
{
    r->options.fill(r->options.arg, &r->record);
    if (r->is_leaving) r->record.draining = true;
    advertise_url(&r->advertise, r->record.url);
}

static void learn(struct registration *r, const char *address)
{
    if (!advertise_learn(&r->advertise, address)) return;
    char url[AGENT_URL_BYTES];
    advertise_url(&r->advertise, url);
    log_info("address learned", "url=%s", url);
}

/* ---- proxies ---- */

static void set_state(struct proxy *p, enum proxy_state state, const char *why)
{
    if (state != PROXY_REGISTERED) metric_add(&agent_metrics.registration_failures_total, 1);
    if (p->state == state || p->owner->is_leaving) return;
    p->state = state;
    switch (state) {
    case PROXY_REGISTERED:
        log_info("registered", "proxy=%s url=%s", p->text, p->owner->record.url);
        break;
    case PROXY_REFUSED:
        log_warn("proxy refuses this agent", "proxy=%s answer=%s", p->text, why);
        break;
    case PROXY_AWAY:
        log_warn("proxy away, trying on", "proxy=%s reason=%s", p->text, why);
        break;
    case PROXY_UNKNOWN:
        UNREACHABLE();
    }
}

static void on_leave_timer(uv_timer_t *timer)
{
    struct registration *r = timer->data;
    void (*on_left)(void *) = r->on_left;
    if (!on_left) return;
    r->on_left = NULL;
    on_left(r->on_left_arg);
}

static void goodbye_answered(struct registration *r)
{
    if (--r->goodbyes > 0) return;
    uv_timer_start(&r->leave_timer, on_leave_timer, 0, 0); // not from inside a callback
}

/* The call is over; `again`: there is more to say at once. */
static void call_ended(struct proxy *p, bool again)
{
    p->call = NULL;
    if (again) {
        send_beat(p);
    } else if (p->owes_goodbye) {
        p->owes_goodbye = false;
        goodbye_answered(p->owner);
    }
}

static void on_head(void *arg, int status, const struct http_headers *headers)
{
    struct proxy *p = arg;
    (void)headers;
    p->status = status;
    learn(p->owner, http_call_local_address(p->call));
}

static void on_body(void *arg, const char *data, size_t len)
{
    struct proxy *p = arg;
    size_t room = ANSWER_KEPT_MAX - p->answer.len;
    buf_append(&p->answer, data, len < room ? len : room);
}

static void on_end(void *arg)
{
    struct proxy *p = arg;
    struct registration *r = p->owner;
    if (p->is_beat) {
        char why[ANSWER_KEPT_MAX + 32];
        snprintf(why, sizeof why, "%d %.*s", p->status, STR_ARG(buf_str(&p->answer)));
        bool is_ok = p->status >= 200 && p->status < 300;
        set_state(p, is_ok ? PROXY_REGISTERED : PROXY_REFUSED, why);
    }
    bool was_question = !p->is_beat && advertise_is_known(&r->advertise);
    call_ended(p, was_question || p->was_overtaken);
}

static void on_fail(void *arg, const struct http_failure *failure)
{
    struct proxy *p = arg;
    set_state(p, PROXY_AWAY, failure->text);
    call_ended(p, false); // the next beat is soon enough
}

static void start_call(struct proxy *p, const char *method, const char *path)
{
    struct registration *r = p->owner;
    struct http_header headers[2] = {{STR("content-type"), STR("application/json")}};
    int count = 1;
    if (r->options.join_key) {
        headers[count++] = (struct http_header){STR("x-lm-join-key"), str_of(r->options.join_key)};
    }
    snprintf(p->target, sizeof p->target, "%s%s", p->url.path, path);
    buf_clear(&p->answer);
    struct http_call_options options = {
        .scheme = p->url.scheme,
        .host = p->url.host,
        .port = p->url.port,
        .method = method,
        .target = str_of(p->target),
        .headers = headers,
        .header_count = count,
        .body = buf_str(&p->body),
        .connect_timeout_ms = CONNECT_MS,
        .head_timeout_ms = ANSWER_MS,
        .idle_timeout_ms = ANSWER_MS,
        .on_head = on_head,
        .on_body = on_body,
        .on_end = on_end,
        .on_fail = on_fail,
        .arg = p,
    };
    p->call = http_call_start(r->client, &options);
}

static void send_beat(struct proxy *p)
{
    struct registration *r = p->owner;
    p->was_overtaken = p->call != NULL;
    if (p->call) return; // rule 3
    buf_clear(&p->body);
    p->is_beat = advertise_is_known(&r->advertise);
    if (!p->is_beat) { // rule 2
        start_call(p, "GET", "/health");
        return;
    }
    refresh_record(r);
    agent_record_print_node(&p->body, &r->record);
    start_call(p, "POST", "/nodes/add");
}

/* ---- Redis ---- */

/* The lease asks for what to write; false: nothing yet, since our address isn't known. */
static bool on_redis_record(void *arg, const char *local_address, struct agent_record *out)
{
    struct registration *r = arg;
    learn(r, local_address);
    if (!r->is_started || !advertise_is_known(&r->advertise)) return false;
    refresh_record(r);
    *out = r->record;
    return true;
}

static void on_redis_left(void *arg)
{
    goodbye_answered(arg);
}

/* ---- the clock ---- */

static void beat_all(struct registration *r)
{
    if (r->redis) redis_lease_beat(r->redis);
    for (size_t i = 0; i < r->proxy_count; i++) {
        send_beat(&r->proxies[i]);
    }
}

void registration_report_load(struct registration *r)
{
    if (!r->is_started || r->is_leaving) return;
    if (r->redis) redis_lease_report_load(r->redis);
    for (size_t i = 0; i < r->proxy_count; i++) {
        if (r->proxies[i].state == PROXY_REGISTERED) send_beat(&r->proxies[i]);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct registration *r = timer->data;
    if (r->ticks++ % LOADS_PER_BEAT == 0) {
        beat_all(r);
    } else {
        registration_report_load(r);
    }
}

/* ---- life ---- */

static int create_proxies(struct registration *r, struct error *err)
{
    const struct option_list *urls = r->options.proxy_urls;
    r->proxies = xcalloc(urls->count ? urls->count : 1, sizeof *r->proxies);
    for (size_t i = 0; i < urls->count; i++) {
        struct proxy *p = &r->proxies[i];
        p->owner = r;
        p->text = urls->items[i];
        buf_init(&p->body, BUF_MAX_INTERNAL);
        buf_init(&p->answer, ANSWER_KEPT_MAX);
        int rc = http_url_parse(p->text, &p->url, err);
        if (rc != 0) return rc;
        r->proxy_count++;
    }
    return 0;
}

int registration_create(uv_loop_t *loop, const struct registration_options *options,
                        struct registration **out, struct error *err)
{
    struct registration *r = xcalloc(1, sizeof *r);
    *out = r;
    r->loop = loop;
    r->options = *options;
    r->advertise = options->advertise;
    r->advertise.is_tls = tls_serves(options->tls);
    random_id(r->record.incarnation, sizeof r->record.incarnation - 1);
    r->record.start_ms = clock_wall_ms();
    make_id(r);
    struct http_client_options client = {.idle_per_origin_max = 1, .tls = options->tls};
    r->client = http_client_create(loop, &client);
    uv_timer_init(loop, &r->tick);
    uv_timer_init(loop, &r->leave_timer);
    r->tick.data = r->leave_timer.data = r;
    r->handles_open = 3;
    int rc = create_proxies(r, err);
    if (rc == 0 && options->redis_url) {
        struct redis_lease_options lease = {
            .url = options->redis_url, .record = on_redis_record, .arg = r};
        rc = redis_lease_create(loop, &lease, &r->redis, err);
        if (rc == 0) r->handles_open++;
    }
    if (rc != 0) {
        registration_destroy(r);
        *out = NULL;
    }
    return rc;
}

const char *registration_agent_id(const struct registration *r)
{
    return r->record.id;
}

const char *registration_incarnation(const struct registration *r)
{
    return r->record.incarnation;
}

void registration_start(struct registration *r)
{
    r->is_started = true;
    if (r->proxy_count > 0 || r->redis) uv_timer_start(&r->tick, on_tick, 0, AGENT_LOAD_MS);
}

void registration_beat(struct registration *r)
{
    if (r->is_started) beat_all(r);
}

void registration_leave(struct registration *r, void (*on_left)(void *arg), void *arg)
{
    r->is_leaving = true;
    r->on_left = on_left;
    r->on_left_arg = arg;
    uv_timer_stop(&r->tick);
    r->goodbyes = 1; // ours, so that it can't become 0 in between
    if (r->is_started && r->redis) {
        r->goodbyes++;
        redis_lease_leave(r->redis, on_redis_left, r);
    }
    for (size_t i = 0; r->is_started && i < r->proxy_count; i++) {
        if (r->proxies[i].state != PROXY_REGISTERED) continue; // it doesn't know us
        r->goodbyes++;
        r->proxies[i].owes_goodbye = true;
        send_beat(&r->proxies[i]);
    }
    uv_timer_start(&r->leave_timer, on_leave_timer, LEAVE_MS, 0);
    goodbye_answered(r);
}

static void handle_closed(struct registration *r)
{
    if (--r->handles_open > 0) return;
    for (size_t i = 0; i < r->proxy_count; i++) {
        buf_deinit(&r->proxies[i].body);
        buf_deinit(&r->proxies[i].answer);
    }
    free(r->proxies);
    free(r);
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_part_closed(void *arg)
{
    handle_closed(arg);
}

void registration_destroy(struct registration *r)
{
    if (!r) return;
    r->on_left = NULL;
    for (size_t i = 0; i < r->proxy_count; i++) {
        if (r->proxies[i].call) http_call_cancel(r->proxies[i].call);
        r->proxies[i].call = NULL;
    }
    uv_close((uv_handle_t *)&r->tick, on_timer_closed);
    uv_close((uv_handle_t *)&r->leave_timer, on_timer_closed);
    http_client_destroy(r->client, on_part_closed, r);
    if (r->redis) redis_lease_destroy(r->redis, on_part_closed, r);
}
