/* access_log.h - one JSON object a line for every request that was routed (--access-log): who asked
 * what, which agents were tried and why others, how long each part took. Never prompts or answers.
 *
 * Lines are collected in memory and written by libuv's thread pool ten times a second: a slow disk
 * delays lines, never requests. What exceeds ACCESS_LOG_BYTES meanwhile is dropped and counted. Any
 * thread may write; the rest belongs to the main thread. */
#ifndef LM_PROXY_ACCESS_LOG_H
#define LM_PROXY_ACCESS_LOG_H

#include <stdbool.h>
#include <uv.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"

#define ACCESS_LOG_BYTES ((size_t)4 << 20)

struct access_log;
struct exchange;

/* path: a file, which is appended to, or "-": standard output. NULL: *out is NULL, no log. -errno. */
FALLIBLE int access_log_open(uv_loop_t *loop, const char *path, struct access_log **out,
                             struct error *err);
/* A request has ended. NULL is fine. */
void access_log_write(struct access_log *l, const struct exchange *e);
void access_log_tick(struct access_log *l); // NULL is fine
/* After the file was renamed (SIGHUP): lines from now on go to a new one. */
void access_log_reopen(struct access_log *l);
bool access_log_is_busy(const struct access_log *l); // a write is under way; NULL is fine
/* Writes what is left, waiting for the disk. Not while it is busy. NULL is fine. */
void access_log_close(struct access_log *l);

#endif
