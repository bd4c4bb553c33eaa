#define LOG_MODULE "access_log"
#include "proxy/access_log.h"

#include "proxy/exchange_state.h"
#include "proxy/proxy_metrics.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct access_log {
    uv_loop_t *loop;
    char *path; // NULL: standard output
    int fd;
    pthread_mutex_t lock;
    struct buf lines; // behind the lock

    /* the main thread's */
    struct buf writing;
    size_t written;
    uv_fs_t write;
    bool is_writing, says_failed;
};

/* ---- one line ---- */

static void put_time(struct json_writer *w)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;
    char text[40];
    gmtime_r(&seconds, &tm);
    size_t len = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + len, sizeof text - len, ".%03dZ", (int)(now_ms % 1000));
    json_field_text(w, "time", text);
}

static void put_ms(struct json_writer *w, const char *name, uint64_t from_ns, uint64_t to_ns)
{
    if (from_ns == 0 || to_ns < from_ns) return;
    json_field_double(w, name, (double)((to_ns - from_ns) / 1000) / 1e3);
}

static void put_attempts(struct json_writer *w, const struct exchange *e)
{
    json_field_int(w, "attempts", e->attempts);
    if (!e->failures) return;
    json_key(w, "failed");
    json_array_begin(w);
    for (const struct exchange_failure *f = e->failures; f; f = f->next) {
        json_object_begin(w);
        json_field_text(w, "agent", f->agent);
        json_field_text(w, "reason", f->reason);
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_usage(struct json_writer *w, const struct exchange *e)
{
    const struct hop_usage *usage = exchange_usage(e);
    json_field_int(w, "prompt_tokens_estimate", (int64_t)e->prompt_tokens);
    json_field_int(w, "cached_tokens_estimate", (int64_t)e->cached_tokens);
    if (!usage) return;
    json_field_int(w, "prompt_tokens", usage->prompt);
    json_field_int(w, "completion_tokens", usage->completion);
    json_field_int(w, "cached_tokens", usage->cached);
}

static void print_line(struct buf *out, const struct exchange *e)
{
    static const char *const affinities[] = {"none", "hit", "moved"};
    uint64_t now_ns = clock_ns();
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    put_time(&w);
    json_field_str(&w, "request_id", http_router_request_id(e->client));
    if (e->trace.id.data) json_field_str(&w, "trace_id", e->trace.id);
    json_field_text(&w, "client", e->request->peer);
    if (e->key_id[0]) json_field_text(&w, "key", e->key_id);
    json_field_str(&w, "path", e->request->path);
    if (e->model.data) json_field_str(&w, "model", e->model);
    json_field_text(&w, "class", admission_class_names[e->class]);
    json_field_bool(&w, "stream", e->wants_stream);
    json_field_int(&w, "status", e->status);
    if (e->error) json_field_text(&w, "error", e->error);
    json_field_bool(&w, "complete", e->state == EXCHANGE_DONE && !e->client_left);
    if (e->client_left) json_field_bool(&w, "client_left", true);
    if (e->at.agent) json_field_text(&w, "agent", e->at.agent->id);
    put_attempts(&w, e);
    if (e->resumes) json_field_int(&w, "resumes", e->resumes);
    json_field_text(&w, "affinity", affinities[e->routed]);
    put_ms(&w, "queue_ms", e->queued_ns, e->dispatched_ns);
    put_ms(&w, "first_byte_ms", e->started_ns, e->first_byte_ns);
    put_ms(&w, "total_ms", e->started_ns, now_ns);
    json_field_int(&w, "bytes", (int64_t)e->sent_bytes);
    put_usage(&w, e);
    json_object_end(&w);
    buf_append_char(out, '\n');
}

void access_log_write(struct access_log *l, const struct exchange *e)
{
    if (!l) return;
    struct buf line;
    buf_init(&line, BUF_MAX_INTERNAL);
    print_line(&line, e);
    pthread_mutex_lock(&l->lock);
    bool fits = l->lines.len + line.len <= ACCESS_LOG_BYTES;
    if (fits) buf_append(&l->lines, line.data, line.len);
    pthread_mutex_unlock(&l->lock);
    if (!fits) metric_add(&proxy_metrics.access_log_dropped_total, 1);
    buf_deinit(&line);
}

/* ---- to the disk ---- */

static void note_result(struct access_log *l, ssize_t result)
{
    if (result < 0 && !l->says_failed) {
        log_error("the access log can't be written", "path=%s reason=\"%s\"",
                  l->path ? l->path : "-", uv_strerror((int)result));
    }
    l->says_failed = result < 0;
}

/* Lines that the disk didn't take. */
static void count_dropped(const struct access_log *l)
{
    int64_t lines = 0;
    for (size_t i = l->written; i < l->writing.len; i++)
        lines += l->writing.data[i] == '\n';
    metric_add(&proxy_metrics.access_log_dropped_total, lines);
}

static void write_on(struct access_log *l);

static void on_written(uv_fs_t *request)
{
    struct access_log *l = request->data;
    ssize_t result = request->result;
    uv_fs_req_cleanup(request);
    l->is_writing = false;
    note_result(l, result);
    if (result < 0) count_dropped(l);
    l->written += result > 0 ? (size_t)result : 0;
    if (result > 0 && l->written < l->writing.len) write_on(l);
}

static void write_on(struct access_log *l)
{
    uv_buf_t piece =
        uv_buf_init(l->writing.data + l->written, (unsigned)(l->writing.len - l->written));
    l->write.data = l;
    l->is_writing = uv_fs_write(l->loop, &l->write, l->fd, &piece, 1, -1, on_written) == 0;
}

/* False: there is nothing to write. */
static bool take_lines(struct access_log *l)
{
    buf_clear(&l->writing);
    l->written = 0;
    pthread_mutex_lock(&l->lock);
    struct buf empty = l->writing;
    l->writing = l->lines;
    l->lines = empty;
    pthread_mutex_unlock(&l->lock);
    return l->writing.len > 0;
}

void access_log_tick(struct access_log *l)
{
    if (l && !l->is_writing && take_lines(l)) write_on(l);
}

static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    return fd < 0 ? -errno : fd;
}

int access_log_open(uv_loop_t *loop, const char *path, struct access_log **out, struct error *err)
{
    *out = NULL;
    if (!path) return 0;
    bool is_file = strcmp(path, "-") != 0;
    int fd = is_file ? open_file(path) : STDOUT_FILENO;
    if (fd < 0) {
        return error_set(err, fd, "--access-log: cannot open '%s': %s", path, strerror(-fd));
    }
    struct access_log *l = xcalloc(1, sizeof *l);
    l->loop = loop;
    l->fd = fd;
    l->path = is_file ? xstrdup(path) : NULL;
    buf_init(&l->lines, ACCESS_LOG_BYTES);
    buf_init(&l->writing, ACCESS_LOG_BYTES);
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return 0;
}

/* A write that is under way ends in the old file: descriptors are swapped, not closed under it. */
void access_log_reopen(struct access_log *l)
{
    if (!l || !l->path) return;
    int fd = open_file(l->path);
    if (fd < 0) {
        log_error("the access log can't be reopened", "path=%s reason=\"%s\"", l->path,
                  strerror(-fd));
        return;
    }
    if (dup3(fd, l->fd, O_CLOEXEC) < 0) {
        log_error("the access log can't be reopened", "path=%s reason=\"%s\"", l->path,
                  strerror(errno));
    }
    close(fd);
}

bool access_log_is_busy(const struct access_log *l)
{
    return l && l->is_writing;
}

static void write_rest(struct access_log *l)
{
    while (l->written < l->writing.len) {
        ssize_t n = write(l->fd, l->writing.data + l->written, l->writing.len - l->written);
        if (n <= 0) return;
        l->written += (size_t)n;
    }
}

void access_log_close(struct access_log *l)
{
    if (!l) return;
    CHECK(!l->is_writing);
    write_rest(l);
    if (take_lines(l)) write_rest(l);
    if (l->path) close(l->fd);
    free(l->path);
    buf_deinit(&l->lines);
    buf_deinit(&l->writing);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
