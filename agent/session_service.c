#define LOG_MODULE "session"
#include "agent/session_service.h"

#include "agent/interactive.h"
#include "agent/session_repair.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/base/rng.h"
#include "shared/net/api_error.h"
#include "shared/net/peer_trust.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table's side ---- */

static bool is_held(void *arg, const struct http_request *request, int64_t id);

static struct engine *engine_of(const struct session_service *s)
{
    return engine_bridge_engine(s->completions->bridge);
}

static void on_drop(void *arg, struct session *session, bool expired)
{
    struct session_service *s = arg;
    struct engine *engine = engine_of(s);
    if (engine) engine_session_release(engine, session->key);
    if (expired && session_folder_is_open(&s->folder)) {
        session_file_remove(&s->folder, session->file.name);
    }
}

void session_service_clear(struct session_service *s, struct session *session)
{
    struct engine *engine = engine_of(s);
    if (engine) engine_session_release(engine, session->key);
    size_t before = session->history.bytes_owned;
    session_history_deinit(&session->history);
    session_table_account(&s->table, session, before);
    session->is_safe = false;
    session->file.size = 0;
    if (session_folder_is_open(&s->folder)) {
        session_file_remove(&s->folder, session->file.name);
    }
}

/* ---- the start ---- */

static void on_redis_back(void *arg, bool is_flushed)
{
    session_repair_begin(arg, is_flushed);
}

int session_service_init(struct session_service *s, uv_loop_t *loop,
                         const struct session_service_options *options, struct error *err)
{
    memset(s, 0, sizeof *s);
    s->completions = options->completions;
    s->join_key = options->join_key;
    options->completions->session_is_held = is_held;
    options->completions->session_arg = s;
    list_init(&s->turns);
    struct session_table_options table = {
        .ttl_ms = options->ttl_ms,
        .count_max = SESSION_COUNT_MAX,
        .bytes_max = SESSION_BYTES_MAX,
        .graves_max = SESSION_GRAVE_MAX,
        .on_drop = on_drop,
        .arg = s,
    };
    session_table_init(&s->table, &table);
    int rc = options->folder ? session_folder_open(&s->folder, options->folder, err) : 0;
    if (rc != 0) return error_prefix(err, rc, "--session-dir");
    if (!options->redis) return 0;
    struct session_transcript_options redis = *options->redis;
    redis.on_back = on_redis_back;
    redis.arg = s;
    return session_transcript_create(loop, &redis, &s->transcript, err);
}

void session_service_deinit(struct session_service *s)
{
    if (!s->completions) return;
    CHECK(list_is_empty(&s->turns));
    session_table_deinit(&s->table);
    session_folder_close(&s->folder);
    s->completions = NULL; // before callbacks of session_repair.c come
    if (s->transcript) session_transcript_destroy(s->transcript, NULL, NULL);
    s->transcript = NULL;
}

struct loading {
    struct session_service *service;
    int loaded, refused, expired;
};

static void load_one(void *arg, uint64_t name, int64_t changed_s)
{
    struct loading *l = arg;
    struct session_service *s = l->service;
    int64_t idle_ms = clock_wall_ms() - changed_s * 1000;
    uint64_t now_ms = clock_ms(), idle = idle_ms > 0 ? (uint64_t)idle_ms : 0;
    if (idle >= s->table.options.ttl_ms) {
        session_file_remove(&s->folder, name);
        session_table_bury(&s->table, name, SESSION_EXPIRED, now_ms);
        l->expired++;
        return;
    }
    struct session_file file = {.name = name};
    struct session_owner owner;
    struct session_history history;
    struct error err = {0};
    int rc = session_file_load(&s->folder, &file, &owner, &history, &err);
    bool is_its_name = rc == 0 && session_table_key(&owner, s->completions->limits.model) == name;
    if (rc == 0 && (!is_its_name || history.turn_count == 0)) {
        rc = error_set(&err, E_FORMAT, "%s", is_its_name ? "it has no turn" : "it was renamed");
    }
    if (rc != 0) {
        log_error("a session's file is refused", "name=%016" PRIx64 " reason=\"%s\"", name,
                  err.text);
        session_table_bury(&s->table, name, rc == E_UNSUPPORTED ? SESSION_FOREIGN : SESSION_DAMAGED,
                           now_ms);
        session_history_deinit(&history);
        l->refused++;
        return;
    }
    struct session *session = session_table_take(&s->table, name, &owner);
    session->history = history;
    session->file = file;
    session->used_s = changed_s;
    session->used_ms = now_ms > idle ? now_ms - idle : 0;
    session_table_account(&s->table, session, 0);
    l->loaded++;
}

static void load_folder(struct session_service *s)
{
    struct loading l = {.service = s};
    session_folder_list(&s->folder, load_one, &l);
    session_table_sort(&s->table);
    log_info("sessions read", "folder=%s sessions=%d refused=%d expired=%d", s->folder.path,
             l.loaded, l.refused, l.expired);
}

void session_service_open(struct session_service *s, const struct engine_info *info)
{
    struct session_limits limits = {info->vocab_size, info->context_len};
    snprintf(s->fingerprint, sizeof s->fingerprint, "%s|%" PRId64 "|%d|%.100s", info->architecture,
             info->parameters, info->vocab_size, info->model_name);
    session_template_init(&s->template, &s->completions->prompts);
    if (!s->template.is_continued) {
        log_info("the chat template rewrites earlier turns: conversations are rendered whole",
                 "model=%s", s->completions->limits.model);
    }
    if (s->transcript) session_transcript_set_model(s->transcript, s->fingerprint, &limits);
    if (!session_folder_is_open(&s->folder)) return;
    snprintf(s->folder.fingerprint, sizeof s->folder.fingerprint, "%s", s->fingerprint);
    s->folder.limits = limits;
    load_folder(s);
}

void session_service_tick(struct session_service *s)
{
    session_table_sweep(&s->table, clock_ms());
    interactive_tick(s);
    if (!s->transcript) return;
    session_transcript_tick(s->transcript);
    session_repair_tick(s);
}

/* ---- who asks ---- */

void session_service_identify(const struct session_service *s, const struct http_request *request,
                              struct session_caller *out)
{
    const struct http_headers *h = &request->headers;
    bool is_trusted = peer_is_fleet(request, s->join_key);
    struct str none = {0};
    *out = (struct session_caller){.queue_tenant = peer_tenant(request, s->join_key)};
    session_tenant(is_trusted ? http_headers_get(h, "x-lm-tenant") : none, peer_api_key(request),
                   out->tenant);
    struct str hop = http_headers_get(h, "x-lm-session");
    if (!is_trusted || !hop.data) return;
    out->has_hop = session_hop_parse(hop, &out->hop) == 0;
    if (!out->has_hop) log_warn("x-lm-session is malformed", "peer=%s", request->peer);
}

uint64_t session_service_key(const struct session_service *s, const struct session_caller *caller,
                             int64_t id)
{
    struct session_owner owner = {.id = id};
    snprintf(owner.tenant, sizeof owner.tenant, "%s", caller->tenant);
    return session_table_key(&owner, s->completions->limits.model);
}

uint64_t session_service_redis_name(const struct session_service *s,
                                    const struct session_caller *caller, int64_t id)
{
    uint64_t name;
    if (!s->transcript) return 0;
    if (caller->has_hop) return caller->hop.key;
    bool is_known = session_transcript_name(s->transcript, str_of(caller->tenant),
                                            str_of(s->completions->limits.model), id, &name);
    return is_known ? name : 0;
}

int64_t session_service_new_id(const struct session_service *s, const struct session_caller *caller)
{
    for (;;) {
        uint64_t bits;
        random_bytes(&bits, sizeof bits);
        int64_t id = (int64_t)(bits >> 11); // below 2^53
        uint64_t key = session_service_key(s, caller, id);
        bool is_taken = session_table_find(&s->table, key) ||
                        session_table_grave(&s->table, key) != SESSION_NOT_LOST;
        if (id > 0 && !is_taken) return id;
    }
}

static bool is_held(void *arg, const struct http_request *request, int64_t id)
{
    const struct session_service *s = arg;
    struct session_caller caller;
    session_service_identify(s, request, &caller);
    return session_table_find(&s->table, session_service_key(s, &caller, id)) != NULL;
}

/* ---- the list ---- */

static const char *state_name(const struct session_service *s, const struct session *session)
{
    static const char *const names[] = {"tokens", "host", "cached", "hot"};
    if (!list_is_empty(&session->queue)) return "running";
    return names[engine_session_state(engine_of(s), session->key)];
}

static void print_session(struct session_service *s, const struct session *session,
                          struct json_writer *w)
{
    json_object_begin(w);
    json_field_int(w, "session_id", session->owner.id);
    json_field_text(w, "state", state_name(s, session));
    json_field_int(w, "history_tokens", (int64_t)session->history.ids.count);
    json_field_int(w, "turns", session->history.turn_count);
    json_field_int(w, "turn", (int64_t)session->history.serial);
    json_field_int(w, "last_used", session->used_s);
    json_object_end(w);
}

void session_service_get(struct session_service *s, struct http_exchange *x, int64_t id)
{
    struct session_caller caller;
    session_service_identify(s, http_exchange_request(x), &caller);
    struct session *session = session_table_find(&s->table, session_service_key(s, &caller, id));
    if (!session || session->history.turn_count == 0) {
        struct api_error e;
        api_error_set(&e, 404, "session_not_found", "session_id",
                      "There is no session %" PRId64 ".", id);
        api_error_respond(x, &e);
        return;
    }
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    print_session(s, session, &w);
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}

void session_service_list(struct session_service *s, struct http_exchange *x)
{
    struct session_caller caller;
    session_service_identify(s, http_exchange_request(x), &caller);
    struct buf body;
    struct json_writer w;
    buf_init(&body, BUF_MAX_INTERNAL);
    json_writer_init(&w, &body);
    json_object_begin(&w);
    json_field_text(&w, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    list_each (session, &s->table.sessions, struct session, link) {
        if (strcmp(session->owner.tenant, caller.tenant) != 0) continue;
        if (session->history.turn_count == 0) continue; // its first turn hasn't ended
        print_session(s, session, &w);
    }
    json_array_end(&w);
    json_object_end(&w);
    http_respond(x, 200, "application/json", buf_str(&body));
    buf_deinit(&body);
}
