/* session_service.h - what all turns of all conversations share: table, folder, transcripts, the
 * template's way to go on; and the routes that look at sessions. Loop thread only. */
#ifndef LM_AGENT_SESSION_SERVICE_H
#define LM_AGENT_SESSION_SERVICE_H

#include <uv.h>

#include "agent/completion.h"
#include "agent/session_file.h"
#include "agent/session_prompt.h"
#include "agent/session_table.h"
#include "agent/session_transcript.h"
#include "shared/net/http_server.h"

#define SESSION_COUNT_MAX 65536
#define SESSION_BYTES_MAX ((size_t)1 << 30) // of token ids
#define SESSION_GRAVE_MAX 65536

struct session_service {
    struct completion_service *completions; // bridge, worker, phase, limits
    const char *join_key;                   // NULL: loopback is trusted
    struct session_table table;
    struct session_folder folder;          // closed: none
    struct session_transcript *transcript; // NULL: none
    struct session_template template;
    char fingerprint[SESSION_FINGERPRINT_SIZE]; // of the model, not of the build
    struct list turns;                          // of struct interactive (agent/interactive_turn.h)
    unsigned repair_round;                      // session_repair.c
    int repairs_under_way;
    bool repair_is_due;
    uint64_t repair_until_ms; // for those that are held
};

struct session_service_options {
    struct completion_service *completions;
    const char *join_key;
    const char *folder; // NULL: none
    uint64_t ttl_ms;
    const struct session_transcript_options *redis; // NULL: none
};

/* Before the model is there. E_INVALID: the Redis URL; E_BUSY, -errno: the folder. Deinit in every
 * case; when no turn lives any more. */
FALLIBLE int session_service_init(struct session_service *s, uv_loop_t *loop,
                                  const struct session_service_options *options, struct error *err);
void session_service_deinit(struct session_service *s);
/* The model is there: `completions` is complete. Reads the folder. */
void session_service_open(struct session_service *s, const struct engine_info *info);
/* Regularly: drops what has expired, asks again for sessions that were busy elsewhere. */
void session_service_tick(struct session_service *s);

/* Who asks, as far as they may be believed. */
struct session_caller {
    char tenant[SESSION_TENANT_BYTES]; // whose sessions
    uint64_t queue_tenant;             // whose turn, as in struct engine_request
    bool has_hop;
    struct session_hop hop;
};
void session_service_identify(const struct session_service *s, const struct http_request *request,
                              struct session_caller *out);
uint64_t session_service_key(const struct session_service *s, const struct session_caller *caller,
                             int64_t id);
/* Names the transcript of an id, or 0: there is none. */
uint64_t session_service_redis_name(const struct session_service *s,
                                    const struct session_caller *caller, int64_t id);
/* A random id that no session of the caller has. */
int64_t session_service_new_id(const struct session_service *s,
                               const struct session_caller *caller);

/* Forget what a session was, here; its queue stays. */
void session_service_clear(struct session_service *s, struct session *session);

/* GET /v1/sessions: those of the caller. */
void session_service_list(struct session_service *s, struct http_exchange *x);
/* GET /v1/sessions/{id}: one of them, or 404. */
void session_service_get(struct session_service *s, struct http_exchange *x, int64_t id);

#endif
