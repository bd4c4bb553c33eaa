#include "shared/base/buf.h"

#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAP_MIN 64

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_deinit(struct buf *b)
{
    free(b->data);
    buf_init(b, b->max);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
    if (b->data) b->data[0] = 0;
}

char *buf_reserve(struct buf *b, size_t len)
{
    if (len > b->max - b->len) {
        b->overflow = true;
        return NULL;
    }
    // Room for the content and the 0 behind it. A max of SIZE_MAX leaves no number for that.
    CHECK(b->len + len < SIZE_MAX);
    size_t need = b->len + len + 1;
    if (need > b->cap) {
        size_t cap = b->cap > SIZE_MAX / 2 ? need : b->cap * 2;
        if (cap < CAP_MIN) cap = CAP_MIN;
        if (cap < need) cap = need;
        if (cap > b->max && b->max < SIZE_MAX) cap = b->max + 1; // still >= need
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    return b->data + b->len;
}

void buf_commit(struct buf *b, size_t len)
{
    if (len == 0) return;
    CHECK(len < b->cap - b->len);
    b->len += len;
    b->data[b->len] = 0;
}

int buf_append(struct buf *b, const void *data, size_t len)
{
    if (b->overflow) return E_LIMIT; // what follows a gap is not content
    char *room = buf_reserve(b, len);
    if (!room) return E_LIMIT;
    if (len) memcpy(room, data, len);
    b->len += len;
    b->data[b->len] = 0;
    return 0;
}

int buf_append_str(struct buf *b, const char *text)
{
    return buf_append(b, text, strlen(text));
}

int buf_append_char(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

int buf_vprintf(struct buf *b, const char *fmt, va_list args)
{
    if (b->overflow) return E_LIMIT;
    va_list again;
    va_copy(again, args);
    size_t room = b->cap > b->len ? b->cap - b->len : 0;
    int len = vsnprintf(room ? b->data + b->len : NULL, room, fmt, args);
    CHECK(len >= 0); // a format that the C library refuses
    int rc = 0;
    if ((size_t)len >= room || (size_t)len > b->max - b->len) {
        if (room) b->data[b->len] = 0; // take back the cut first try
        char *at = buf_reserve(b, (size_t)len);
        if (at) {
            vsnprintf(at, (size_t)len + 1, fmt, again);
        } else {
            rc = E_LIMIT;
        }
    }
    va_end(again);
    if (rc == 0) b->len += (size_t)len;
    return rc;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int rc = buf_vprintf(b, fmt, args);
    va_end(args);
    return rc;
}

void buf_consume(struct buf *b, size_t len)
{
    CHECK(len <= b->len);
    if (len == 0) return;
    b->len -= len;
    memmove(b->data, b->data + len, b->len + 1);
}

char *buf_detach(struct buf *b, size_t *len)
{
    if (len) *len = b->len;
    char *data = b->data ? b->data : xcalloc(1, 1);
    buf_init(b, b->max);
    return data;
}
