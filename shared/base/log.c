/* log.c - one line a record:
 *
 *     2026-11-24T07:00:00.123Z INFO  lm-proxy registry: agent lost agent=a1 reason=timeout
 *
 * Rules:
 *  1. A line is one write(2), so lines of threads and processes that share a pipe don't mix.
 *  2. What comes from peers can't forge lines or drive a terminal: control characters and bytes
 *     that aren't UTF-8 are escaped (\n, \x1b), and a line is cut at LINE_SIZE bytes.
 *  3. The last LINES_KEPT lines stay in memory for the crash handler, which reads them with no
 *     lock: a line that is being replaced then may come out mixed, nothing worse. */
#include "shared/base/log.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/utf8.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_SIZE  2048 // bytes, newline included
#define LINES_KEPT 64

struct kept_line {
    atomic_size_t len;
    char text[LINE_SIZE];
};

static const char *const level_names[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};

_Atomic(enum log_level) log_level_max = LOG_INFO;
static const char *program_name = "lm";

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER; // writers only (rule 3)
static struct kept_line kept[LINES_KEPT];
static atomic_size_t kept_count; // ever; the next line goes to kept_count % LINES_KEPT

void log_init(const char *program, enum log_level level)
{
    program_name = program;
    log_level_max = level;
}

/* Of Python's logging, which LMDeploy's --log-level takes. */
static const struct {
    const char *name;
    enum log_level level;
} python_levels[] = {
    {"warning", LOG_WARN}, {"critical", LOG_ERROR}, {"fatal", LOG_ERROR}, {"notset", LOG_TRACE}};

int log_level_parse(const char *name, enum log_level *level)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(python_levels); i++) {
        if (strcasecmp(name, python_levels[i].name) != 0) continue;
        *level = python_levels[i].level;
        return 0;
    }
    return E_INVALID;
}

/* Room for one escaped character at `at`, so that escaping never overruns and never cuts an escape.
 */
static size_t escape_one(const char *text, size_t len, char *at, size_t *taken)
{
    uint32_t code_point;
    *taken = utf8_decode(text, len, &code_point);
    bool is_control = *taken && (code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0));
    if (*taken && !is_control) {
        memcpy(at, text, *taken);
        return *taken;
    }
    if (*taken == 0) *taken = 1;
    if (*text == '\n') return (size_t)snprintf(at, 9, "\\n");
    if (*text == '\t') return (size_t)snprintf(at, 9, "\\t");
    if (*text == '\r') return (size_t)snprintf(at, 9, "\\r");
    size_t n = 0;
    for (size_t i = 0; i < *taken; i++) {
        n += (size_t)snprintf(at + n, 9 - n, "\\x%02x", (unsigned char)text[i]);
    }
    return n;
}

/* Append `text` escaped; returns the new length. The last 4 bytes of the line are kept for the mark
 * of a cut line and the newline. */
static size_t append_escaped(char line[LINE_SIZE], size_t len, const char *text, size_t text_len)
{
    char one[16];
    for (size_t i = 0, taken; i < text_len; i += taken) {
        size_t n = escape_one(text + i, text_len - i, one, &taken);
        if (len + n > LINE_SIZE - 4) {
            memcpy(line + len, "...", 3);
            return len + 3;
        }
        memcpy(line + len, one, n);
        len += n;
    }
    return len;
}

static size_t append_head(char line[LINE_SIZE], enum log_level level, const char *module,
                          const char *event)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    int len =
        snprintf(line, LINE_SIZE / 2, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %-5s %s %s: %s",
                 utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                 utc.tm_sec, (int)(now_ms % 1000), level_names[level], program_name, module, event);
    CHECK(len > 0 && len < LINE_SIZE / 2); // all of these are constants of the program
    return (size_t)len;
}

static void write_line(int fd, const char *line, size_t len)
{
    while (len > 0) {
        ssize_t done = write(fd, line, len);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return; // a log that can't be written is no reason to stop serving
        line += done;
        len -= (size_t)done;
    }
}

static void keep_line(const char *line, size_t len)
{
    pthread_mutex_lock(&kept_lock);
    size_t count = atomic_load_explicit(&kept_count, memory_order_relaxed);
    struct kept_line *slot = &kept[count % LINES_KEPT];
    atomic_store_explicit(&slot->len, 0, memory_order_relaxed);
    memcpy(slot->text, line, len);
    atomic_store_explicit(&slot->len, len, memory_order_release);
    atomic_store_explicit(&kept_count, count + 1, memory_order_release);
    pthread_mutex_unlock(&kept_lock);
}

void log_write(enum log_level level, const char *module, const char *event, const char *fmt, ...)
{
    int saved_errno = errno; // callers log on error paths and then use errno
    char fields[LINE_SIZE];
    va_list args;
    va_start(args, fmt);
    int wanted = vsnprintf(fields, sizeof fields, fmt, args);
    va_end(args);
    CHECK(wanted >= 0);
    size_t fields_len = (size_t)wanted < sizeof fields ? (size_t)wanted : sizeof fields - 1;

    char line[LINE_SIZE];
    size_t len = append_head(line, level, module, event);
    if (fields_len) line[len++] = ' ';
    len = append_escaped(line, len, fields, fields_len);
    line[len++] = '\n';
    write_line(STDERR_FILENO, line, len);
    keep_line(line, len);
    errno = saved_errno;
}

void log_dump_recent(int fd)
{
    size_t count = atomic_load_explicit(&kept_count, memory_order_acquire);
    size_t first = count > LINES_KEPT ? count - LINES_KEPT : 0;
    for (size_t i = first; i < count; i++) {
        const struct kept_line *slot = &kept[i % LINES_KEPT];
        write_line(fd, slot->text, atomic_load_explicit(&slot->len, memory_order_acquire));
    }
}
