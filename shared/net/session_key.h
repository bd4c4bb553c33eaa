/* session_key.h - who talks in a session and what its name is among agents, proxies and Redis.
 *
 * The key is SipHash-2-4(secret, tenant, model, kind, id): whoever knows the secret finds the same
 * session, nobody else can guess or aim at a name in Redis. The first of our hops that sees a
 * request computes it and passes it on:
 *
 *     x-lm-session: 0123456789abcdef; expect=existing; turn=4
 *     x-lm-session: 0123456789abcdef; expect=adopt; has=3
 *
 * Pure; any thread. */
#ifndef LM_NET_SESSION_KEY_H
#define LM_NET_SESSION_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

#define SESSION_SECRET_BYTES 16
#define SESSION_TENANT_BYTES 65 // with the terminator
#define SESSION_KEY_DIGITS   16

struct session_secret {
    uint8_t bytes[SESSION_SECRET_BYTES];
};

/* Any text, of any length. */
void session_secret_of(struct str text, struct session_secret *out);

/* Each part counts with its length, so that no two lists of parts read the same. */
uint64_t session_key(const struct session_secret *secret, struct str tenant, struct str model,
                     struct str kind, int64_t id);
/* The same for an id that is any text; a number's decimal digits give the key of the number. */
uint64_t session_key_named(const struct session_secret *secret, struct str tenant, struct str model,
                           struct str kind, struct str id);
void session_key_text(uint64_t key, char out[SESSION_KEY_DIGITS + 1]);

/* Of a request: what a trusted hop says (x-lm-tenant), else a hash of the bearer token, else "".
 * data NULL where there is none. */
void session_tenant(struct str named, struct str token, char out[SESSION_TENANT_BYTES]);

enum session_expect {
    SESSION_EXPECT_ANY,      // nothing was said
    SESSION_EXPECT_NEW,      // the hop knows that it begins here
    SESSION_EXPECT_EXISTING, // it must be here
    SESSION_EXPECT_ADOPT,    // the hop won the claim for us: read the transcript
};

struct session_hop {
    uint64_t key;
    enum session_expect expect;
    int64_t turn; // that comes now, from 1; 0: not said
    int64_t has;  // turns that it has had, at least
};

/* E_FORMAT. Members that we don't know are skipped. */
FALLIBLE int session_hop_parse(struct str header, struct session_hop *out);

#endif
