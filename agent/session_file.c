/* session_file.c - what is in a file, and how it survives any end of the process.
 *
 *     "LMSESS1\n"                              8 bytes
 *     frame: owner     id, tenant, model fingerprint
 *     frame: turn 1    a record of session_history.h
 *     frame: turn 2    ...
 *
 * Frames are those of session_frame.h. Rules:
 *  1. A frame is written by one pwrite at the known end and counts once fdatasync came back; until
 *     then the caller doesn't promise the turn to anybody.
 *  2. A file that ends inside a frame was cut by a crash: the unfinished frame is dropped. So are
 *     zeros behind the last frame, which file systems leave after a power failure.
 *  3. Anything else that doesn't fit is damage, and a damaged file is refused as a whole: an older
 *     part of a conversation is never passed off as all of it.
 *  4. Rewriting goes to NAME.new, is synced, renamed, and the folder is synced. */
#define LOG_MODULE "session"
#include "agent/session_file.h"

#include "agent/session_frame.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[8] = "LMSESS1\n";

#define OWNER_BYTES (8 + SESSION_TENANT_BYTES + SESSION_FINGERPRINT_SIZE)
#define NAME_BYTES  40
#define LOCK_NAME   "lock"

/* ---- the folder ---- */

static int fail(struct error *err, const char *what, const char *name)
{
    int rc = -errno;
    return error_set(err, rc, "cannot %s '%s': %s", what, name, error_text(rc));
}

int session_folder_open(struct session_folder *f, const char *path, struct error *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return fail(err, "make the folder", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail(err, "open the folder", path);
    int lock = openat(fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int rc = 0;
    if (lock < 0) {
        rc = fail(err, "write to the folder", path);
    } else if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        rc = error_set(err, E_BUSY, "another agent uses the folder '%s'", path);
        close(lock);
    }
    if (rc != 0) {
        close(fd);
        return rc;
    }
    f->path = xstrdup(path);
    f->fd = fd;
    f->lock = lock;
    return 0;
}

void session_folder_close(struct session_folder *f)
{
    if (!f->path) return;
    close(f->lock);
    close(f->fd);
    free(f->path);
    f->path = NULL;
}

static void file_name(uint64_t name, const char *suffix, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%016" PRIx64 ".session%s", name, suffix);
}

void session_folder_list(const struct session_folder *f,
                         void (*found)(void *arg, uint64_t name, int64_t changed_s), void *arg)
{
    int fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        uint64_t name;
        char same[NAME_BYTES];
        struct stat facts;
        if (sscanf(entry->d_name, "%16" SCNx64, &name) != 1) continue;
        file_name(name, "", same);
        if (strcmp(entry->d_name, same) != 0) {
            file_name(name, ".new", same);
            if (strcmp(entry->d_name, same) == 0) unlinkat(f->fd, same, 0); // a rewrite was cut off
            continue;
        }
        if (fstatat(f->fd, same, &facts, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(facts.st_mode)) {
            continue;
        }
        found(arg, name, (int64_t)facts.st_mtime);
    }
    closedir(folder);
}

/* ---- the owner ---- */

static void put_owner(struct buf *out, const struct session_folder *f,
                      const struct session_owner *owner)
{
    char payload[OWNER_BYTES] = {0};
    session_put_u32(payload, (uint32_t)owner->id);
    session_put_u32(payload + 4, (uint32_t)((uint64_t)owner->id >> 32));
    snprintf(payload + 8, SESSION_TENANT_BYTES, "%s", owner->tenant);
    snprintf(payload + 8 + SESSION_TENANT_BYTES, SESSION_FINGERPRINT_SIZE, "%s", f->fingerprint);
    session_frame_print(out, (struct str){payload, sizeof payload}, (int64_t)out->len);
}

static int read_owner(const struct session_folder *f, struct str payload,
                      struct session_owner *owner, struct error *err)
{
    if (payload.len != OWNER_BYTES) return error_set(err, E_FORMAT, "its first record is not ours");
    const char *tenant = payload.data + 8, *fingerprint = tenant + SESSION_TENANT_BYTES;
    if (!memchr(tenant, 0, SESSION_TENANT_BYTES) ||
        !memchr(fingerprint, 0, SESSION_FINGERPRINT_SIZE)) {
        return error_set(err, E_FORMAT, "its first record is not ours");
    }
    uint64_t id = session_get_u32(payload.data) | (uint64_t)session_get_u32(payload.data + 4) << 32;
    owner->id = (int64_t)id;
    snprintf(owner->tenant, sizeof owner->tenant, "%s", tenant);
    if (strcmp(fingerprint, f->fingerprint) == 0) return 0;
    return error_set(err, E_UNSUPPORTED, "it was written for another model: %s", fingerprint);
}

/* ---- writing ---- */

static int write_all(int fd, const char *data, size_t len, int64_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        data += n;
        len -= (size_t)n;
        at += n;
    }
    return 0;
}

int session_file_append(const struct session_folder *f, struct session_file *file,
                        struct str record, struct error *err)
{
    char name[NAME_BYTES];
    file_name(file->name, "", name);
    CHECK(file->size > 0);
    int64_t length = SESSION_FRAME_HEAD + (int64_t)record.len;
    if (length > SESSION_FILE_BYTES_MAX - file->size) {
        return error_set(err, E_LIMIT, "'%s' would be too large", name);
    }
    int fd = openat(f->fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return fail(err, "open", name);
    struct stat facts;
    int rc = fstat(fd, &facts) != 0 ? fail(err, "look at", name) : 0;
    if (rc == 0 && facts.st_size != file->size) {
        rc = error_set(err, E_FORMAT, "'%s' was changed by somebody else", name);
    }
    if (rc == 0) {
        struct buf frame;
        buf_init(&frame, BUF_MAX_INTERNAL);
        session_frame_print(&frame, record, file->size);
        rc = write_all(fd, frame.data, frame.len, file->size);
        if (rc == 0 && fdatasync(fd) != 0) rc = -errno;
        buf_deinit(&frame);
        if (rc != 0) {
            error_set(err, rc, "cannot write to '%s': %s", name, error_text(rc));
            if (ftruncate(fd, file->size) != 0) {
                log_warn("half a record stays in a session's file", "file=%s", name);
            }
        }
    }
    close(fd);
    if (rc == 0) file->size += length;
    return rc;
}

static void put_turn(void *arg, struct str record)
{
    struct buf *out = arg;
    session_frame_print(out, record, (int64_t)out->len);
}

int session_file_rewrite(const struct session_folder *f, struct session_file *file,
                         const struct session_owner *owner, const struct session_history *history,
                         struct error *err)
{
    char name[NAME_BYTES], fresh[NAME_BYTES];
    file_name(file->name, "", name);
    file_name(file->name, ".new", fresh);
    struct buf text;
    buf_init(&text, (size_t)SESSION_FILE_BYTES_MAX);
    buf_append(&text, magic, sizeof magic);
    put_owner(&text, f, owner);
    session_history_print(history, put_turn, &text);
    int rc = text.overflow ? error_set(err, E_LIMIT, "'%s' would be too large", name) : 0;
    int fd = -1;
    if (rc == 0) {
        fd = openat(f->fd, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) rc = fail(err, "create", fresh);
    }
    if (rc == 0) {
        rc = write_all(fd, text.data, text.len, 0);
        if (rc == 0 && fdatasync(fd) != 0) rc = -errno;
        if (rc == 0 && renameat(f->fd, fresh, f->fd, name) != 0) rc = -errno;
        if (rc == 0 && fsync(f->fd) != 0) rc = -errno;
        if (rc != 0) error_set(err, rc, "cannot write '%s': %s", fresh, error_text(rc));
    }
    if (fd >= 0) close(fd);
    if (rc == 0) {
        file->size = (int64_t)text.len;
    } else {
        unlinkat(f->fd, fresh, 0);
    }
    buf_deinit(&text);
    return rc;
}

void session_file_remove(const struct session_folder *f, uint64_t name)
{
    char text[NAME_BYTES];
    file_name(name, "", text);
    if (unlinkat(f->fd, text, 0) != 0 && errno != ENOENT) {
        log_error("a session's file can't be removed", "file=%s/%s reason=%s", f->path, text,
                  strerror(errno));
    }
}

/* ---- reading ---- */

static int read_all(int fd, const char *name, struct buf *out, struct error *err)
{
    for (;;) {
        char *room = buf_reserve(out, 65536);
        if (!room) return error_set(err, E_FORMAT, "'%s' is too large", name);
        ssize_t n = read(fd, room, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(err, "read", name);
        if (n == 0) return 0;
        buf_commit(out, (size_t)n);
    }
}

/* All frames; *end is where the last whole one ends. */
static int replay(const struct session_folder *f, const struct buf *data,
                  struct session_owner *owner, struct session_history *history, int64_t *end,
                  struct error *err)
{
    if (data->len < sizeof magic || memcmp(data->data, magic, sizeof magic) != 0) {
        return error_set(err, E_FORMAT, "it doesn't begin as a session's file does");
    }
    struct str payload;
    *end = sizeof magic;
    if (session_frame_next(buf_str(data), end, &payload) != 1) {
        return error_set(err, E_FORMAT, "its first record is damaged");
    }
    int rc = read_owner(f, payload, owner, err);
    if (rc != 0) return rc;
    int found;
    while ((found = session_frame_next(buf_str(data), end, &payload)) == 1) {
        rc = session_record_apply(history, payload, &f->limits, err);
        if (rc != 0) return rc;
    }
    return found == 0 ? 0 : error_set(err, E_FORMAT, "a record is damaged at byte %" PRId64, *end);
}

int session_file_load(const struct session_folder *f, struct session_file *file,
                      struct session_owner *owner, struct session_history *history,
                      struct error *err)
{
    char name[NAME_BYTES];
    file_name(file->name, "", name);
    *history = (struct session_history){0};
    *owner = (struct session_owner){0};
    file->size = 0;
    int fd = openat(f->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return error_set(err, E_NOT_FOUND, "there is no '%s'", name);
    if (fd < 0) return fail(err, "open", name);
    struct buf data;
    buf_init(&data, (size_t)SESSION_FILE_BYTES_MAX + 65536);
    int64_t end = 0;
    int rc = read_all(fd, name, &data, err);
    if (rc == 0) {
        rc = replay(f, &data, owner, history, &end, err);
        if (rc != 0) rc = error_prefix(err, rc, "'%s'", name);
    }
    if (rc == 0 && end < (int64_t)data.len) {
        log_warn("a session's last turn was cut off and is dropped", "file=%s/%s bytes=%" PRId64,
                 f->path, name, (int64_t)data.len - end);
        if (ftruncate(fd, end) != 0) rc = fail(err, "cut", name);
    }
    if (rc == 0) {
        file->size = end;
    } else {
        session_history_deinit(history);
    }
    buf_deinit(&data);
    close(fd);
    return rc;
}
