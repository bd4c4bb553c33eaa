/* check.h - programmer errors. CHECK() is on in release builds too: it prints place, condition and
 * backtrace, then aborts. Never use it on what comes from outside (bytes, files, peers, flags):
 * that gets an error code. Memory: the x-functions abort on exhaustion, since requests are admitted
 * by budget and running out of it is a bug, not a condition to handle. */
#ifndef LM_BASE_CHECK_H
#define LM_BASE_CHECK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void check_failed(const char *file, int line, const char *condition) __attribute__((noreturn));

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (__builtin_expect(!(condition), 0)) check_failed(__FILE__, __LINE__, #condition); \
    } while (0)

#define UNREACHABLE() check_failed(__FILE__, __LINE__, "unreachable")

#ifdef NDEBUG
#define DEBUG_CHECK(condition) ((void)0)
#else
#define DEBUG_CHECK(condition) CHECK(condition)
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size); // zeroed; checks the product
void *xrealloc(void *ptr, size_t size);
void *xrealloc_array(void *ptr, size_t count, size_t size);
void *xmemdup(const void *src, size_t size);
char *xstrdup(const char *src);
char *xstrndup(const char *src, size_t len);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* 64-byte aligned and zeroed; free() it. */
void *xaligned(size_t size);

#ifdef __cplusplus
}
#endif

#endif
