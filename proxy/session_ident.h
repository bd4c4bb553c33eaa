/* session_ident.h - which session a request belongs to, if any, and its name among proxies, agents
 * and Redis.
 *
 * Two kinds. HARD: a turn of /v1/chat/interactive with an id: its history is at an agent, and
 * somewhere else it would be lost. SOFT: the client sends all of the history each time, and the
 * agent that has seen it before is merely faster.
 *
 * The text that tells one session from another, first found wins:
 *
 *     1. the header that --session-header names
 *     2. x-session-id, x-claude-code-agent-id, x-claude-code-session-id, session-id,
 *        x-dynamo-session-id
 *     3. of the body: session_id, conversation, previous_response_id, prompt_cache_key
 *     4. x-lm-session-token, then the cookie lm_session, if we signed it: the key inside. A cookie
 *        that isn't ours is a text like those above
 *     5. a fingerprint of model, system text and first user message
 *
 * Never the user, the API key or the address: one busy user would be one agent. The internal key is
 * SipHash-2-4(secret, tenant, model, kind, text), so that tenants neither collide nor guess. Pure;
 * any thread. */
#ifndef LM_PROXY_SESSION_IDENT_H
#define LM_PROXY_SESSION_IDENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/session_token.h"
#include "shared/net/http_message.h"

#define SESSION_COOKIE       "lm_session"
#define SESSION_TOKEN_HEADER "x-lm-session-token"

/* Where the text came from, for metrics and logs. */
enum session_source {
    SESSION_FROM_NOTHING,
    SESSION_FROM_HEADER,
    SESSION_FROM_BODY,
    SESSION_FROM_TOKEN,
    SESSION_FROM_COOKIE,
    SESSION_FROM_FINGERPRINT,
    SESSION_FROM_ID, // hard
};

struct session_ident_input {
    const struct http_headers *headers;
    const char *header; // --session-header; NULL: none
    struct str model, tenant;
    int64_t conversation_id; // a hard session's id, after allotment; -1: the route has none
    /* Members of the body, as they stand there (a number's digits, a string's decoded content, or
     * an object's text); data NULL: none. */
    struct str session_id, conversation, previous_response_id, prompt_cache_key;
    uint64_t fingerprint; // 0: none
};

struct session_ident {
    enum session_kind kind;
    enum session_source source;
    uint64_t key;
    bool has_token; // a token of ours that names this very session
    struct session_token token;
    bool is_final;                     // x-dynamo-session-final: the client won't come back
    char tenant[SESSION_TENANT_BYTES]; // as the agents spell it
};

/* Never fails: without any text the kind is NONE. */
void session_ident_find(const struct session_ident_input *in, const struct session_secret *secret,
                        const struct session_token_key *token_key, int64_t now_s,
                        struct session_ident *out);

/* Value of one cookie in a Cookie header, or data NULL. Quotes are taken off. */
struct str session_cookie_find(struct str header, const char *name);

#endif
