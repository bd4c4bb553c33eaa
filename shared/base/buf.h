/* buf.h - growable bytes with a mandatory maximum: no peer can grow a buffer without bound. */
#ifndef LM_BASE_BUF_H
#define LM_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

struct buf {
    char *data; // owned; data[len] is always 0 once anything was appended
    size_t len;
    size_t cap;
    size_t max;    // bytes of content allowed
    bool overflow; // sticky: an append was refused; content is what fitted before it
};

/* For buffers whose content is bounded by what they are built from (a reply, a log line). */
#define BUF_MAX_INTERNAL ((size_t)1 << 30)

void buf_init(struct buf *b, size_t max); // allocates nothing
void buf_deinit(struct buf *b);           // and back to the state after init
void buf_clear(struct buf *b);            // keeps the memory

/* All appends return 0, or E_LIMIT and append nothing. Builders may ignore single results and look
 * at b->overflow once at the end, so these are not FALLIBLE. */
int buf_append(struct buf *b, const void *data, size_t len);
int buf_append_str(struct buf *b, const char *text);
int buf_append_char(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_vprintf(struct buf *b, const char *fmt, va_list args);

/* Room for len more bytes at data + len, or NULL beyond max; buf_commit() makes them content. */
char *buf_reserve(struct buf *b, size_t len);
void buf_commit(struct buf *b, size_t len);

void buf_consume(struct buf *b, size_t len); // drop from the front
/* The content as an owned, terminated string; the buffer is empty afterwards. Never NULL. */
char *buf_detach(struct buf *b, size_t *len);

static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->data, b->len};
}

#endif
