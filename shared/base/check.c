/* check.c - how the process dies of a programmer error or of exhausted memory. Nothing here
 * allocates on the way down. */
#include "shared/base/check.h"

#include "shared/base/backtrace.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_stderr(const char *text, int len, size_t size)
{
    if (len < 0) return;
    size_t n = (size_t)len < size ? (size_t)len : size - 1;
    if (write(STDERR_FILENO, text, n) < 0) return; // nowhere left to say it
}

static _Noreturn void die(void)
{
    // An installed crash handler prints the frames itself, with the last log lines.
    if (!backtrace_is_installed()) backtrace_print(STDERR_FILENO);
    abort();
}

void check_failed(const char *file, int line, const char *condition)
{
    char text[512];
    int len = snprintf(text, sizeof text, "%s:%d: CHECK(%s) failed; this is a bug\n", file, line,
                       condition);
    write_stderr(text, len, sizeof text);
    die();
}

static _Noreturn void out_of_memory(size_t count, size_t size)
{
    char text[128];
    int len = snprintf(text, sizeof text, "out of memory: %zu x %zu bytes wanted\n", count, size);
    write_stderr(text, len, sizeof text);
    die();
}

void *xmalloc(size_t size)
{
    void *ptr = malloc(size ? size : 1);
    if (!ptr) out_of_memory(1, size);
    return ptr;
}

void *xcalloc(size_t count, size_t size)
{
    void *ptr = calloc(count ? count : 1, size ? size : 1);
    if (!ptr) out_of_memory(count, size);
    return ptr;
}

void *xrealloc(void *ptr, size_t size)
{
    void *moved = realloc(ptr, size ? size : 1);
    if (!moved) out_of_memory(1, size);
    return moved;
}

void *xrealloc_array(void *ptr, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) out_of_memory(count, size);
    return xrealloc(ptr, bytes);
}

void *xmemdup(const void *src, size_t size)
{
    void *copy = xmalloc(size);
    if (size) memcpy(copy, src, size);
    return copy;
}

char *xstrdup(const char *src)
{
    return xmemdup(src, strlen(src) + 1);
}

char *xstrndup(const char *src, size_t len)
{
    char *copy = xmalloc(len + 1);
    if (len) memcpy(copy, src, len);
    copy[len] = 0;
    return copy;
}

char *xasprintf(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text;
    int len = vasprintf(&text, fmt, args);
    va_end(args);
    if (len < 0) out_of_memory(1, 0);
    return text;
}

void *xaligned(size_t size)
{
    if (size > SIZE_MAX - 63) out_of_memory(1, size);
    size_t rounded = size ? (size + 63) & ~(size_t)63 : 64;
    void *ptr = aligned_alloc(64, rounded);
    if (!ptr) out_of_memory(1, size);
    memset(ptr, 0, rounded);
    return ptr;
}
