#define LOG_MODULE "snapshot"
#include "proxy/snapshot.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/json.h"
#include "shared/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION    1
#define FILE_BYTES ((size_t)64 << 20)

struct snapshot {
    uv_loop_t *loop;
    struct registry *registry;
    char *path, *temporary; // owned
    uint64_t due_ms;
    uint64_t written_hash; // of what the file holds
    uv_work_t work;
    bool is_writing, says_failed;
    struct buf text; // the worker's, while it writes
    int result;
};

/* ---- text ---- */

static const char *const source_names[REGISTRY_SOURCES] = {"http", "redis"};

static void put_agent(struct json_writer *w, const struct registry_member *m)
{
    bool is_redis = m->lease_until_ms[REGISTRY_REDIS] >= m->lease_until_ms[REGISTRY_HTTP];
    json_object_begin(w);
    json_field_text(w, "source", source_names[is_redis ? REGISTRY_REDIS : REGISTRY_HTTP]);
    json_key(w, "lm");
    agent_record_print_facts(w, &m->record);
    json_object_end(w);
}

static void put_node(struct json_writer *w, const struct registry_member *m)
{
    json_object_begin(w);
    json_field_text(w, "url", m->record.url);
    json_key(w, "models");
    json_array_begin(w);
    for (int i = 0; i < m->record.model_count; i++)
        json_put_text(w, m->record.models[i]);
    json_array_end(w);
    if (m->speed > 0) json_field_double(w, "speed", m->speed);
    json_object_end(w);
}

static void put_list(struct json_writer *w, struct registry *registry, const char *name,
                     bool is_foreign)
{
    json_key(w, name);
    json_array_begin(w);
    list_each (m, &registry->members, struct registry_member, link) {
        if (m->foreign != is_foreign || m->presence != REGISTRY_PRESENT) continue;
        if (is_foreign) {
            put_node(w, m);
        } else {
            put_agent(w, m);
        }
    }
    json_array_end(w);
}

void snapshot_print(struct registry *registry, struct buf *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_int(&w, "version", VERSION);
    put_list(&w, registry, "agents", false);
    put_list(&w, registry, "nodes", true);
    json_object_end(&w);
    buf_append_char(out, '\n');
}

static int read_agent(struct registry *registry, const struct json *v, uint64_t now_ms,
                      struct error *err)
{
    struct agent_record record;
    const struct json *source = json_get(v, "source");
    bool is_http = source && json_type(source) == JSON_STRING &&
                   strcmp(json_string(source, NULL), source_names[REGISTRY_HTTP]) == 0;
    int rc = agent_record_parse(json_get(v, "lm"), &record, err);
    if (rc < 0) return rc;
    return registry_recall(registry, is_http ? REGISTRY_HTTP : REGISTRY_REDIS, &record, now_ms,
                           err);
}

static int read_node(struct registry *registry, const struct json *v, uint64_t now_ms,
                     struct error *err)
{
    const struct json *url = json_get(v, "url"), *speed = json_get(v, "speed");
    if (!url || json_type(url) != JSON_STRING) return error_set(err, E_FORMAT, "'url' is missing");
    bool has_speed = speed && json_type(speed) == JSON_NUMBER;
    char models[AGENT_MODELS_MAX][128];
    int count = 0;
    const struct json *list = json_get(v, "models");
    bool has_models = list && json_type(list) == JSON_ARRAY;
    for (const struct json *m = has_models ? json_first(list) : NULL; m; m = json_next(m)) {
        size_t len = 0;
        const char *name = json_type(m) == JSON_STRING ? json_string(m, &len) : NULL;
        if (!name || len == 0 || len >= sizeof models[0] || count == AGENT_MODELS_MAX) continue;
        memcpy(models[count++], name, len + 1);
    }
    return registry_add_foreign(registry, json_string(url, NULL), (const char(*)[128])models, count,
                                has_speed ? json_number(speed) : 0, now_ms, err);
}

int snapshot_read(struct registry *registry, struct str text, uint64_t now_ms, struct error *err)
{
    struct json *root = json_parse(text.data, text.len, err);
    if (!root) return err->code;
    const struct json *version = json_get(root, "version");
    if (!version || json_type(version) != JSON_NUMBER || json_number(version) != VERSION) {
        json_destroy(root);
        return error_set(err, E_FORMAT, "it isn't a state file of version %d", VERSION);
    }
    static const char *const lists[] = {"agents", "nodes"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *list = json_get(root, lists[i]);
        if (!list || json_type(list) != JSON_ARRAY) continue;
        for (const struct json *v = json_first(list); v; v = json_next(v)) {
            struct error why = {0};
            int rc = i == 0 ? read_agent(registry, v, now_ms, &why)
                            : read_node(registry, v, now_ms, &why);
            if (rc < 0) log_warn("entry ignored", "list=%s reason=\"%s\"", lists[i], why.text);
        }
    }
    json_destroy(root);
    return 0;
}

/* ---- the file ---- */

static int load(const char *path, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    char piece[65536];
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = read(fd, piece, sizeof piece)) > 0)
        rc = buf_append(out, piece, (size_t)n);
    if (rc == 0 && n < 0) rc = -errno;
    close(fd);
    return rc;
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0) return -errno;
        data += n;
        len -= (size_t)n;
    }
    return fsync(fd) == 0 ? 0 : -errno;
}

/* On a thread of libuv's pool. */
static void write_file(uv_work_t *work)
{
    struct snapshot *s = work->data;
    int fd = open(s->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0) {
        s->result = -errno;
        return;
    }
    s->result = write_all(fd, s->text.data, s->text.len);
    close(fd);
    if (s->result == 0 && rename(s->temporary, s->path) != 0) s->result = -errno;
}

static void on_written(uv_work_t *work, int status)
{
    struct snapshot *s = work->data;
    s->is_writing = false;
    int rc = status < 0 ? status : s->result;
    if (rc == 0) {
        s->written_hash = hash_bytes(s->text.data, s->text.len);
    } else if (!s->says_failed) { // once, until it works again: a full disk stays full
        log_error("the state file can't be written", "path=%s reason=\"%s\"", s->path,
                  uv_strerror(rc));
    }
    s->says_failed = rc != 0;
}

void snapshot_tick(struct snapshot *s, uint64_t now_ms)
{
    if (!s || s->is_writing || now_ms < s->due_ms) return;
    s->due_ms = now_ms + SNAPSHOT_MS;
    buf_clear(&s->text);
    registry_lock(s->registry);
    snapshot_print(s->registry, &s->text);
    registry_unlock(s->registry);
    if (hash_bytes(s->text.data, s->text.len) == s->written_hash) return;
    s->work.data = s;
    s->is_writing = uv_queue_work(s->loop, &s->work, write_file, on_written) == 0;
}

void snapshot_open(uv_loop_t *loop, const char *path, struct registry *registry, uint64_t now_ms,
                   struct snapshot **out)
{
    *out = NULL;
    if (!path) return;
    struct snapshot *s = xcalloc(1, sizeof *s);
    s->loop = loop;
    s->registry = registry;
    s->path = xstrdup(path);
    s->due_ms = now_ms + SNAPSHOT_MS;
    size_t size = strlen(path) + sizeof ".tmp";
    s->temporary = xmalloc(size);
    snprintf(s->temporary, size, "%s.tmp", path);
    buf_init(&s->text, FILE_BYTES);
    struct error err = {0};
    int rc = load(path, &s->text);
    if (rc == 0) rc = snapshot_read(registry, buf_str(&s->text), now_ms, &err);
    if (rc < 0 && rc != -ENOENT) {
        log_error("the state file is ignored", "path=%s reason=\"%s\"", path,
                  err.text[0] ? err.text : error_text(rc));
    } else {
        log_info("state file", "path=%s members=%d", path, registry->count);
    }
    *out = s;
}

bool snapshot_is_busy(const struct snapshot *s)
{
    return s && s->is_writing;
}

void snapshot_close(struct snapshot *s)
{
    if (!s) return;
    CHECK(!s->is_writing);
    buf_deinit(&s->text);
    free(s->path);
    free(s->temporary);
    free(s);
}
