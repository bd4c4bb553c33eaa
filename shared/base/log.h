/* log.h - one line a record: constant event text first, then key=value pairs.
 *
 *     #define LOG_MODULE "registry"      // before the include, once per file
 *     log_info("agent lost", "agent=%s reason=%s", id, reason);
 *
 * error = a person must look; warn = degraded and handled; info = once per process event;
 * debug = once per request; trace = per step or token. Prompts and outputs never above trace.
 * Whoever handles an error logs it; whoever passes it on does not. Any thread, one write a line. */
#ifndef LM_BASE_LOG_H
#define LM_BASE_LOG_H

#include <stdbool.h>

#include "shared/base/error.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

#ifndef LOG_MODULE
#define LOG_MODULE "lm"
#endif

extern _Atomic(enum log_level) log_level_max; // records above it are not formatted

/* stderr until told otherwise. `program` stands in every line. */
void log_init(const char *program, enum log_level level);
/* Our names and those of Python's logging, in any case. E_INVALID: unknown name. */
FALLIBLE int log_level_parse(const char *name, enum log_level *level);

void log_write(enum log_level level, const char *module, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The last up to 64 lines, for the crash handler; async-signal-safe. */
void log_dump_recent(int fd);

#define log_at(level, event, ...)                                                           \
    do {                                                                                    \
        if ((level) <= log_level_max) log_write((level), LOG_MODULE, (event), __VA_ARGS__); \
    } while (0)
#define log_error(event, ...) log_at(LOG_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...)  log_at(LOG_WARN, event, __VA_ARGS__)
#define log_info(event, ...)  log_at(LOG_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_at(LOG_DEBUG, event, __VA_ARGS__)
#define log_trace(event, ...) log_at(LOG_TRACE, event, __VA_ARGS__)

#endif
