/* redis_reply.h - replies out of bytes: hiredis' reader building struct redis_reply; internal. */
#ifndef LM_NET_REDIS_REPLY_H
#define LM_NET_REDIS_REPLY_H

#include "shared/base/error.h"
#include "shared/net/redis_client.h"

struct redisReader;

#define REDIS_REPLY_BYTES_MAX ((size_t)64 << 20) // one reply
#define REDIS_REPLY_ITEMS_MAX (1 << 20)          // one array

struct redis_reader {
    struct redisReader *reader; // owned
    size_t unanswered;          // bytes fed since the last whole reply
};

void redis_reader_init(struct redis_reader *r);
void redis_reader_deinit(struct redis_reader *r);
FALLIBLE int redis_reader_feed(struct redis_reader *r, const char *data, size_t len);
/* 1 and *reply (free with redis_reply_destroy), 0: not whole yet, E_PROTOCOL or E_LIMIT. */
int redis_reader_next(struct redis_reader *r, struct redis_reply **reply);
void redis_reply_destroy(struct redis_reply *reply); // NULL is fine

#endif
