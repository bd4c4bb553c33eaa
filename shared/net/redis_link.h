/* redis_link.h - one connection to Redis that heals by itself; internal to redis_client. */
#ifndef LM_NET_REDIS_LINK_H
#define LM_NET_REDIS_LINK_H

#include "shared/base/buf.h"
#include "shared/base/list.h"
#include "shared/base/rng.h"
#include "shared/net/redis_client.h"
#include "shared/net/redis_reply.h"
#include "shared/net/redis_url.h"

struct redis_link_options {
    const struct redis_url *url; // borrowed for the link's life
    bool pubsub;                 // replies are events, see on_event
    void (*on_ready)(void *arg);
    void (*on_lost)(void *arg); // was ready
    void (*on_event)(void *arg, const struct redis_reply *reply);
    void *arg;
};

enum redis_link_state {
    REDIS_LINK_WAITING, // until the next try
    REDIS_LINK_RESOLVING,
    REDIS_LINK_CONNECTING,
    REDIS_LINK_GREETING, // AUTH, SELECT, PING
    REDIS_LINK_READY,
    REDIS_LINK_CLOSING,
};

struct redis_link;

struct redis_link *redis_link_create(uv_loop_t *loop, const struct redis_link_options *options);
/* Commands under way end with E_CLOSED first. */
void redis_link_destroy(struct redis_link *l, void (*on_closed)(void *arg), void *arg);

bool redis_link_is_ready(const struct redis_link *l);
const char *redis_link_local_address(const struct redis_link *l);

/* Send one command, already in RESP. The callback comes once, later. */
void redis_link_submit(struct redis_link *l, struct str command, int deadline_ms,
                       redis_callback *callback, void *arg);
/* What was submitted goes out now and not with the loop's next turn: before what its caller is about
 * to write elsewhere. */
void redis_link_flush(struct redis_link *l);
/* Send without waiting for a reply of its own (pubsub). Nothing happens unless ready. */
void redis_link_tell(struct redis_link *l, struct str command);

/* RESP: "*<count>\r\n", then each part. */
void redis_put_count(struct buf *out, size_t count);
void redis_put_bulk(struct buf *out, struct str part);

#endif
