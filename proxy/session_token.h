/* session_token.h - what a client carries for us: where its session is, signed. A client that shows
 * it finds the owner through any proxy of the fleet, without Redis.
 *
 *     base64url( version, kind, expiry, key, turn, agent id, incarnation, MAC )
 *
 * The MAC covers all that, the tenant and the model: a token that another tenant shows is noise. It
 * is 128 bits of SipHash-2-4, two halves under two keys that are derived from the fleet's session
 * secret for this purpose only. Pure; any thread. */
#ifndef LM_PROXY_SESSION_TOKEN_H
#define LM_PROXY_SESSION_TOKEN_H

#include <stdint.h>

#include "shared/net/agent_record.h"
#include "shared/net/session_key.h"

#define SESSION_TOKEN_BYTES 192 // text with its terminator

enum session_kind { SESSION_NONE, SESSION_SOFT, SESSION_HARD };

struct session_token_key {
    uint8_t low[16], high[16];
};
void session_token_key_of(const struct session_secret *secret, struct session_token_key *out);

struct session_token {
    enum session_kind kind;
    uint64_t key;
    uint32_t turn;     // turns that the session has had, the one answered included
    int64_t expires_s; // wall clock
    char agent[AGENT_ID_BYTES];
    char incarnation[33];
};

void session_token_print(const struct session_token_key *key, const struct session_token *token,
                         struct str tenant, struct str model, char out[SESSION_TOKEN_BYTES]);
/* E_FORMAT: not a token of ours, or changed, or another tenant's or model's. E_TIMEOUT: expired.
 * Takes a time that depends on the text's length only, until it is known to be ours. */
FALLIBLE int session_token_parse(const struct session_token_key *key, struct str text,
                                 struct str tenant, struct str model, int64_t now_s,
                                 struct session_token *out);

#endif
