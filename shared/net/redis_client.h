/* redis_client.h - one Redis connection on a libuv loop that heals by itself (RESP2: hiredis'
 * parser over our own connection). Commands have deadlines, nothing ever waits for Redis longer;
 * while it is away commands fail at once with E_CLOSED and reconnecting backs off 0.1 -> 2 s with
 * jitter. A late reply is dropped; a server silent for 1 s with a command before it is taken for
 * dead. One log line per change of state. Loop thread only. */
#ifndef LM_NET_REDIS_CLIENT_H
#define LM_NET_REDIS_CLIENT_H

#include <uv.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

struct redis_client;

enum redis_reply_type { REDIS_NIL, REDIS_INT, REDIS_STRING, REDIS_STATUS, REDIS_ARRAY, REDIS_FAIL };

struct redis_reply { // borrowed for the callback
    enum redis_reply_type type;
    int64_t integer;
    struct str text; // STRING, STATUS, FAIL (server's error text)
    const struct redis_reply *items;
    size_t count;
};

struct redis_client_options {
    const char *url;                             // redis://[[user]:password@]host[:port][/db]
    void (*on_state)(void *arg, bool connected); // after AUTH and SELECT; may be NULL
    void *arg;
};

/* E_INVALID: bad URL (the text hides the password). Connecting starts on the loop's next turn. */
FALLIBLE int redis_client_create(uv_loop_t *loop, const struct redis_client_options *options,
                                 struct redis_client **out, struct error *err);
void redis_client_destroy(struct redis_client *c, void (*on_closed)(void *arg), void *arg);

bool redis_client_is_connected(const struct redis_client *c);
uv_loop_t *redis_client_loop(const struct redis_client *c);
const char *redis_client_address(const struct redis_client *c);       // "127.0.0.1:6379", for logs
const char *redis_client_local_address(const struct redis_client *c); // "" until connected

/* status 0 and a reply (which may be FAIL), or NULL and E_CLOSED (away, lost, destroyed), E_TIMEOUT
 * (it may still be carried out) or E_BUSY (10,000 commands or 64 MiB under way). Called exactly
 * once, never inside redis_client_command, _eval or _destroy. */
typedef void redis_callback(void *arg, int status, const struct redis_reply *reply);

void redis_client_command(struct redis_client *c, int deadline_ms, redis_callback *callback,
                          void *arg, int argc, const struct str *argv);

/* What was asked goes out now, before what the caller is about to write elsewhere: whoever reads that
 * finds it done. */
void redis_client_flush(struct redis_client *c);

/* Lua: EVALSHA, falling back to EVAL when the server doesn't know the script. keys come first. The
 * script must outlive the client; one per loop thread. */
struct redis_script {
    const char *source;
    char sha1[41]; // filled on first use, by the server
};
void redis_client_eval(struct redis_client *c, int deadline_ms, struct redis_script *script,
                       int keys, int argc, const struct str *argv, redis_callback *callback,
                       void *arg);

/* Own connection for pub/sub; resubscribes by itself. on_message runs for each message. */
void redis_client_subscribe(struct redis_client *c, const char *channel,
                            void (*on_message)(void *arg, struct str message), void *arg);

#endif
