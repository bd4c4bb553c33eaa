#include "shared/net/redis_reply.h"

#include "shared/base/check.h"

#include <hiredis/hiredis.h>
#include <hiredis/read.h>
#include <stdlib.h>

/* Children lie in their parent's items, so only the root is an allocation of its own. Items grow with
 * what has come, by powers of two: how many an array says it has costs its sender nothing. While one is
 * placed nothing points into its brothers: their own children are complete. */
static struct redis_reply *place(const redisReadTask *task)
{
    if (!task->parent) return xcalloc(1, sizeof(struct redis_reply));
    struct redis_reply *parent = task->parent->obj;
    struct redis_reply *items = (struct redis_reply *)parent->items;
    size_t count = parent->count;
    CHECK(count == (size_t)task->idx);
    if ((count & (count - 1)) == 0)
        parent->items = items = xrealloc_array(items, count ? 2 * count : 1, sizeof *items);
    items[count] = (struct redis_reply){0};
    parent->count++;
    return &items[count];
}

static enum redis_reply_type type_of(const redisReadTask *task)
{
    if (task->type == REDIS_REPLY_ERROR) return REDIS_FAIL;
    return task->type == REDIS_REPLY_STATUS ? REDIS_STATUS : REDIS_STRING;
}

static void *create_string(const redisReadTask *task, char *text, size_t len)
{
    struct redis_reply *r = place(task);
    r->type = type_of(task);
    r->text = (struct str){xstrndup(text, len), len};
    return r;
}

static void *create_array(const redisReadTask *task, int count)
{
    if (count < 0 || count > REDIS_REPLY_ITEMS_MAX)
        return NULL; // the reader fails as out of memory
    struct redis_reply *r = place(task);
    r->type = REDIS_ARRAY;
    return r;
}

static void *create_integer(const redisReadTask *task, long long value)
{
    struct redis_reply *r = place(task);
    r->type = REDIS_INT;
    r->integer = value;
    return r;
}

static void *create_nil(const redisReadTask *task)
{
    struct redis_reply *r = place(task);
    r->type = REDIS_NIL;
    return r;
}

static void free_inside(const struct redis_reply *r)
{
    free((char *)r->text.data);
    for (size_t i = 0; i < r->count; i++)
        free_inside(&r->items[i]);
    free((void *)r->items);
}

static void free_object(void *object)
{
    redis_reply_destroy(object);
}

void redis_reply_destroy(struct redis_reply *reply)
{
    if (!reply) return;
    free_inside(reply);
    free(reply);
}

static redisReplyObjectFunctions functions = {
    create_string, create_array, create_integer, create_nil, free_object,
};

void redis_reader_init(struct redis_reader *r)
{
    *r = (struct redis_reader){.reader = redisReaderCreateWithFunctions(&functions)};
    CHECK(r->reader);
}

void redis_reader_deinit(struct redis_reader *r)
{
    if (r->reader) redisReaderFree(r->reader);
    r->reader = NULL;
}

int redis_reader_feed(struct redis_reader *r, const char *data, size_t len)
{
    r->unanswered += len;
    return redisReaderFeed(r->reader, data, len) == REDIS_OK ? 0 : E_PROTOCOL;
}

int redis_reader_next(struct redis_reader *r, struct redis_reply **reply)
{
    void *object = NULL;
    *reply = NULL;
    if (redisReaderGetReply(r->reader, &object) != REDIS_OK) return E_PROTOCOL;
    if (object) {
        r->unanswered = 0;
        *reply = object;
        return 1;
    }
    return r->unanswered > REDIS_REPLY_BYTES_MAX ? E_LIMIT : 0;
}
