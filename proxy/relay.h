/* relay.h - the streamed part of an answer on its way to the client: bytes pass unchanged, what
 * came in one read goes out in one write, and a client that doesn't read stops the reading from
 * the agent.
 *
 * One gather buffer serves all relays of a loop: pieces of one read come one after another, so it
 * belongs to one relay at a time and is flushed when the next one needs it, and before the loop
 * sleeps (relay_flush from a uv_check handle). No relay owns memory; no chunk allocates. Loop
 * thread. */
#ifndef LM_PROXY_RELAY_H
#define LM_PROXY_RELAY_H

#include "shared/base/buf.h"
#include "shared/net/http_client.h"
#include "shared/net/http_server.h"

struct relay;

struct relay_gather {
    struct relay *owner; // whose bytes these are; NULL: none
    struct buf bytes;
};

void relay_gather_init(struct relay_gather *g);
void relay_gather_deinit(struct relay_gather *g);
void relay_flush(struct relay_gather *g);

#define RELAY_TAIL 16 // "data: [DONE]\r\n\r\n"

struct relay {
    struct relay_gather *gather;
    struct http_exchange *client; // its answer has begun
    struct http_call *upstream;   // NULL once it has ended
    bool paused;                  // waits for the client
    char tail[RELAY_TAIL];        // last bytes: does the stream stand between two events?
    uint64_t bytes;               // passed on so far
};

void relay_begin(struct relay *r, struct relay_gather *g, struct http_exchange *client,
                 struct http_call *upstream);
void relay_write(struct relay *r, const char *data, size_t len);
/* The client has caught up: reading goes on. True if it had been stopped. */
bool relay_resume(struct relay *r);
/* True between two server-sent events, where another one may be put. */
bool relay_is_between_events(const struct relay *r);
bool relay_ends_with(const struct relay *r, char c);
/* True behind the event `[DONE]`: the client has had all there is. */
bool relay_is_complete(const struct relay *r);
/* End the answer, with some last bytes of ours behind what was passed on; the client is gone then.
 */
void relay_end(struct relay *r, const void *data, size_t len);
/* Cut it, so that the client sees that it is incomplete. */
void relay_abort(struct relay *r);
/* The client left: forget what was gathered for it. */
void relay_drop(struct relay *r);

#endif
