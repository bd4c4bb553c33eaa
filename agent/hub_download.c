/* hub_download.c - a repository's files through curl, or through Hugging Face's own tool where that is
 * what there is.
 *
 * GET ENDPOINT/api/models/ID/revision/REVISION?blobs=true names the commit and the files with their sizes
 * and hashes; each is written as NAME.incomplete, goes on there when it was cut, and gets its name when it
 * has the size and the hash that were told. One that has another hash is removed: the next start fetches it
 * anew. The ref is written last: a snapshot that has one is whole.
 * (huggingface.co/docs/hub/api) */
#define LOG_MODULE "hub"
#include "agent/command.h"
#include "agent/hub_repo.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/net/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MAX      ((size_t)16 << 20) // of the API
#define FILES_MAX       4096
#define TOKEN_MAX       1024
#define COMMIT_MAX      40
#define TRIES_MAX       5 // of one file, each from where the one before stopped
#define HTTP_DIGITS     3

#define GIT_BLOB_DIGITS 40

/* ---- who we are ---- */

static const char *endpoint(void)
{
    const char *url = getenv("HF_ENDPOINT");
    return url && *url ? url : "https://huggingface.co";
}

/* "Authorization: Bearer ..." for curl's input: what stands in argv everybody on the machine reads. */
static void read_token(struct buf *header)
{
    char text[TOKEN_MAX] = "";
    const char *token = getenv("HF_TOKEN");
    if (!token || !*token) token = getenv("HUGGING_FACE_HUB_TOKEN");
    if (!token || !*token) {
        const char *home = getenv("HF_HOME"), *user = getenv("HOME");
        char *path = home && *home ? xasprintf("%s/token", home)
                                   : xasprintf("%s/.cache/huggingface/token", user ? user : "");
        FILE *f = fopen(path, "re");
        free(path);
        if (f) {
            if (!fgets(text, sizeof text, f)) text[0] = 0;
            fclose(f);
        }
        token = text;
    }
    struct str trimmed = str_trim(str_of(token));
    if (trimmed.len == 0 || trimmed.len > TOKEN_MAX) return;
    buf_printf(header, "Authorization: Bearer " STR_FMT "\n", STR_ARG(trimmed));
}

/* ---- what there is ---- */

struct remote_file {
    char *name;
    int64_t size; // -1: not told
    /* Large files have a SHA-256, the others their name in git. "": not told. */
    char digest[DIGEST_DIGITS + 1];
    enum digest_kind digest_kind;
};

struct remote {
    const struct hub_repo *repo;
    struct buf token;
    char commit[COMMIT_MAX + 1];
    struct remote_file *files;
    int count;
};

static void remote_deinit(struct remote *r)
{
    for (int i = 0; i < r->count; i++)
        free(r->files[i].name);
    free(r->files);
    buf_deinit(&r->token);
}

/* A name that stays inside the snapshot, one folder deep at most. */
static bool is_safe(struct str name)
{
    int slashes = 0;
    if (name.len == 0 || name.len > HUB_NAME_MAX || name.data[0] == '/' || name.data[0] == '.')
        return false;
    for (size_t i = 0; i < name.len; i++) {
        char c = name.data[i];
        if ((unsigned char)c <= ' ' || c == 0x7f || strchr("\\%?#\"", c)) return false;
        if (c == '/' && (++slashes > 1 || i + 1 == name.len || name.data[i + 1] == '.'))
            return false;
    }
    return true;
}

/* Settings, tokenizer, template and safetensors; of GGUF repositories the parts of one model. */
static bool is_of_folder(struct str name)
{
    static const char *const ends[] = {".json", ".safetensors", ".jinja", "tokenizer.model"};
    if (memchr(name.data, '/', name.len)) return false;
    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        if (str_ends_with(name, str_of(ends[i]))) return true;
    return false;
}

/* "x-00001-of-00003.gguf" and "x-00002-of-00003.gguf" are of one model. */
static bool is_part_of(struct str name, struct str first)
{
    const char *mark = memmem(first.data, first.len, "-00001-of-", 10);
    if (!mark) return str_equal(name, first);
    size_t head = (size_t)(mark - first.data);
    return name.len == first.len && memcmp(name.data, first.data, head + 1) == 0 &&
           memcmp(name.data + head + 6, mark + 6, first.len - head - 6) == 0;
}

static struct str text_of(const struct json *v)
{
    struct str s = {"", 0};
    if (v && json_type(v) == JSON_STRING) s.data = json_string(v, &s.len);
    return s;
}

static int64_t size_of(const struct json *file)
{
    const struct json *size = json_get(file, "size");
    return size && json_type(size) == JSON_NUMBER && json_is_integer(size)
               ? (int64_t)json_number(size)
               : -1;
}

/* As many lower-case hex digits as a hash of the kind has. */
static bool is_digest(struct str text, enum digest_kind kind)
{
    if (text.len != (kind == DIGEST_SHA256 ? DIGEST_DIGITS : GIT_BLOB_DIGITS)) return false;
    for (size_t i = 0; i < text.len; i++)
        if (!strchr("0123456789abcdef", text.data[i]) || !text.data[i]) return false;
    return true;
}

/* {"rfilename": NAME, "size": BYTES, "blobId": git's name, "lfs": {"sha256": ...} of large files} */
static void add_file(struct remote *r, const struct json *file)
{
    struct str name = text_of(json_get(file, "rfilename"));
    struct str blob = text_of(json_get(file, "blobId"));
    const struct json *lfs = json_get_set(file, "lfs");
    struct remote_file f = {xstrndup(name.data, name.len), size_of(file), "", DIGEST_GIT_BLOB};
    if (lfs) { // git has a pointer in its place
        blob = text_of(json_get(lfs, "sha256"));
        f.digest_kind = DIGEST_SHA256;
    }
    if (is_digest(blob, f.digest_kind)) str_copy(f.digest, sizeof f.digest, blob.data);
    r->files = xrealloc_array(r->files, (size_t)r->count + 1, sizeof *r->files);
    r->files[r->count++] = f;
}

/* Which files of the list: *first is the GGUF model where there are no safetensors. */
static int choose(struct remote *r, const struct json *list, struct error *err)
{
    struct str first = {0};
    bool has_safetensors = false;
    int models = 0;
    for (const struct json *f = json_first(list); f; f = json_next(f)) {
        struct str name = text_of(json_get(f, "rfilename"));
        if (!is_safe(name)) continue;
        if (is_of_folder(name) && str_ends_with(name, STR(".safetensors"))) has_safetensors = true;
        if (!hub_is_gguf_model(name, r->repo->quant)) continue;
        if (models++ == 0) first = name;
    }
    bool takes_folder = has_safetensors && !r->repo->quant;
    if (!takes_folder && models == 0)
        return error_set(err, E_NOT_FOUND, "'%s' has no model%s%s", r->repo->id,
                         r->repo->quant ? " named " : " that can be served",
                         r->repo->quant ? r->repo->quant : "");
    if (!takes_folder && models > 1)
        return error_set(err, E_INVALID, "'%s' has %d models: say which, as in '%s:Q4_K_M'",
                         r->repo->id, models, r->repo->id);
    for (const struct json *f = json_first(list); f && r->count < FILES_MAX; f = json_next(f)) {
        struct str name = text_of(json_get(f, "rfilename"));
        if (!is_safe(name)) continue;
        if (takes_folder ? is_of_folder(name) : is_part_of(name, first)) add_file(r, f);
    }
    return 0;
}

static int explain_status(const struct remote *r, struct str status, struct error *err)
{
    if (str_equal(status, STR("401")) || str_equal(status, STR("403")))
        return error_set(err, E_UPSTREAM,
                         "the hub refuses '%s' (%s) with status " STR_FMT
                         ": no such repository, or one that needs HF_TOKEN",
                         r->repo->id, r->repo->revision, STR_ARG(status));
    if (str_equal(status, STR("404")))
        return error_set(err, E_NOT_FOUND, "the hub has no repository '%s' with revision '%s'",
                         r->repo->id, r->repo->revision);
    return error_set(err, E_UPSTREAM, "the hub answers status " STR_FMT " for '%s'",
                     STR_ARG(status), r->repo->id);
}

static int read_answer(struct remote *r, struct str body, struct error *err)
{
    struct json *root = json_parse(body.data, body.len, err);
    if (!root) return error_prefix(err, E_UPSTREAM, "can't read the hub's answer");
    struct str commit = text_of(json_get(root, "sha"));
    const struct json *list = json_get(root, "siblings");
    int rc = 0;
    if (commit.len != COMMIT_MAX || !is_safe(commit) || memchr(commit.data, '/', commit.len) ||
        !list || json_type(list) != JSON_ARRAY)
        rc = error_set(err, E_UPSTREAM, "the hub's answer names no commit or no files");
    if (rc == 0) memcpy(r->commit, commit.data, commit.len);
    if (rc == 0) rc = choose(r, list, err);
    json_destroy(root);
    return rc;
}

static int ask(struct remote *r, struct error *err)
{
    struct buf out;
    char *url = xasprintf("%s/api/models/%s/revision/%s?blobs=true", endpoint(), r->repo->id,
                          r->repo->revision);
    const char *argv[] = {
        "curl", "--silent",   "--show-error", "--location",  "--retry",      "3", "--header",
        "@-",   "--max-time", "60",           "--write-out", "%{http_code}", url, NULL};
    buf_init(&out, ANSWER_MAX);
    int rc = command_run(&(struct command){argv, buf_str(&r->token), &out}, err);
    if (rc > 0)
        rc = error_set(err, E_UPSTREAM, "can't reach the hub at %s: curl ended with status %d",
                       endpoint(), rc);
    if (rc == 0 && out.len < HTTP_DIGITS) rc = error_set(err, E_UPSTREAM, "the hub says nothing");
    if (rc == 0) {
        size_t body = out.len - HTTP_DIGITS;
        struct str status = {out.data + body, HTTP_DIGITS};
        rc = str_equal(status, STR("200")) ? read_answer(r, (struct str){out.data, body}, err)
                                           : explain_status(r, status, err);
    }
    buf_deinit(&out);
    free(url);
    return rc;
}

/* ---- fetching ---- */

/* All folders above a file. */
static int make_folders(const char *path, struct error *err)
{
    char *copy = xstrdup(path);
    int rc = 0;
    for (char *at = copy + 1; rc == 0 && (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            rc = error_set(err, -errno, "can't make folder '%s': %s", copy, strerror(errno));
    }
    free(copy);
    return rc;
}

static int64_t bytes_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* Try until it has its size, or curl has failed TRIES_MAX times. */
static int fetch_part(const struct remote *r, const struct remote_file *f, const char *part,
                      struct error *err)
{
    char *url = xasprintf("%s/%s/resolve/%s/%s", endpoint(), r->repo->id, r->commit, f->name);
    const char *argv[] = {"curl",
                          "--fail",
                          "--location",
                          isatty(STDERR_FILENO) ? "--progress-bar" : "--silent",
                          "--show-error",
                          "--continue-at",
                          "-",
                          "--speed-limit",
                          "1",
                          "--speed-time",
                          "60",
                          "--header",
                          "@-",
                          "--output",
                          part,
                          url,
                          NULL};
    int rc = 0;
    for (int i = 0; i < TRIES_MAX; i++) {
        int64_t before = bytes_of(part);
        if (f->size >= 0 && before > f->size && unlink(part) == 0) before = -1;
        if (f->size >= 0 && before == f->size)
            rc = 0;
        else
            rc = command_run(&(struct command){argv, buf_str(&r->token), NULL}, err);
        if (rc <= 0) break;
        log_warn("download was cut", "file=%s curl_status=%d bytes=%" PRId64, f->name, rc,
                 bytes_of(part));
        if (f->size >= 0 && bytes_of(part) > before) i = -1; // it gets on, and has an end
        if (i + 1 < TRIES_MAX) sleep(1);
    }
    if (rc > 0)
        rc = error_set(err, E_UPSTREAM, "can't download %s of '%s': curl ended with status %d",
                       f->name, r->repo->id, rc);
    free(url);
    return rc;
}

/* What arrived is what the hub has. */
static int check_part(const struct remote *r, const struct remote_file *f, const char *part,
                      struct error *err)
{
    char digest[DIGEST_DIGITS + 1];
    if (f->size >= 0 && bytes_of(part) != f->size)
        return error_set(err, E_UPSTREAM, "%s of '%s' has %" PRId64 " bytes, expected %" PRId64,
                         f->name, r->repo->id, bytes_of(part), f->size);
    if (!f->digest[0]) return 0;
    int rc = digest_file(part, f->digest_kind, digest, err);
    if (rc < 0 || strcmp(digest, f->digest) == 0) return rc;
    if (unlink(part) < 0)
        return error_set(err, -errno, "can't remove '%s': %s", part, strerror(errno));
    return error_set(err, E_UPSTREAM,
                     "%s of '%s' arrived damaged and was removed: its %s is %s, the hub says %s; "
                     "start again to fetch it anew",
                     f->name, r->repo->id, f->digest_kind == DIGEST_SHA256 ? "sha256" : "git hash",
                     digest, f->digest);
}

static int fetch(const struct remote *r, const struct remote_file *f, struct error *err)
{
    char *path = xasprintf("%s/snapshots/%s/%s", r->repo->folder, r->commit, f->name);
    char *part = xasprintf("%s.incomplete", path);
    int rc = 0;
    if (bytes_of(path) < 0 || (f->size >= 0 && bytes_of(path) != f->size)) {
        log_info("download", "file=%s bytes=%" PRId64, f->name, f->size);
        rc = make_folders(path, err);
        if (rc == 0) rc = fetch_part(r, f, part, err);
        if (rc == 0) rc = check_part(r, f, part, err);
        if (rc == 0 && rename(part, path) < 0)
            rc = error_set(err, -errno, "can't rename '%s': %s", part, strerror(errno));
    }
    free(path);
    free(part);
    return rc;
}

/* In one piece: others read it without the lock. */
static int write_ref(const struct remote *r, struct error *err)
{
    char *path = xasprintf("%s/refs/%s", r->repo->folder, r->repo->revision);
    char *part = xasprintf("%s.incomplete", path);
    int rc = make_folders(path, err);
    FILE *f = rc == 0 ? fopen(part, "we") : NULL;
    if (rc == 0 && (!f || fputs(r->commit, f) < 0))
        rc = error_set(err, -errno, "can't write '%s': %s", part, strerror(errno));
    if (f && fclose(f) != 0 && rc == 0)
        rc = error_set(err, -errno, "can't write '%s': %s", part, strerror(errno));
    if (rc == 0 && rename(part, path) < 0)
        rc = error_set(err, -errno, "can't rename '%s': %s", part, strerror(errno));
    free(path);
    free(part);
    return rc;
}

/* Agents that start together share the cache: one downloads, the others wait and find the files. The
 * lock goes with its process. *fd: to close. */
static int lock_repository(const struct hub_repo *repo, int *fd, struct error *err)
{
    char *path = xasprintf("%s/.lm-lock", repo->folder);
    int rc = make_folders(path, err);
    if (rc == 0 && (*fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666)) < 0)
        rc = error_set(err, -errno, "can't open '%s': %s", path, strerror(errno));
    while (rc == 0 && flock(*fd, LOCK_EX) < 0)
        if (errno != EINTR)
            rc = error_set(err, -errno, "can't lock '%s': %s", path, strerror(errno));
    free(path);
    return rc;
}

static int download_by_curl(const struct hub_repo *repo, struct error *err)
{
    struct remote r = {.repo = repo};
    int lock = -1;
    buf_init(&r.token, TOKEN_MAX + 64);
    read_token(&r.token);
    int rc = ask(&r, err);
    if (rc == 0) rc = lock_repository(repo, &lock, err);
    for (int i = 0; rc == 0 && i < r.count; i++)
        rc = fetch(&r, &r.files[i], err);
    if (rc == 0) rc = write_ref(&r, err);
    if (lock >= 0) close(lock);
    remote_deinit(&r);
    return rc;
}

/* ---- Hugging Face's own ---- */

static int download_by(const char *tool, const struct hub_repo *repo, struct error *err)
{
    char *cache = xstrndup(repo->folder, (size_t)(strrchr(repo->folder, '/') - repo->folder));
    char *pattern = repo->quant ? xasprintf("*%s*.gguf", repo->quant) : NULL;
    const char *argv[] = {tool,           "download",    repo->id, "--revision",
                          repo->revision, "--cache-dir", cache,    pattern ? "--include" : NULL,
                          pattern,        NULL};
    int rc = command_run(&(struct command){argv, {"", 0}, NULL}, err);
    if (rc > 0)
        rc = error_set(err, E_UPSTREAM, "can't download '%s': %s ended with status %d", repo->id,
                       tool, rc);
    free(cache);
    free(pattern);
    return rc;
}

int hub_download(const struct hub_repo *r, struct error *err)
{
    static const char *const tools[] = {"hf", "huggingface-cli"};
    if (command_exists("curl")) return download_by_curl(r, err);
    for (size_t i = 0; i < ARRAY_LEN(tools); i++)
        if (command_exists(tools[i])) return download_by(tools[i], r, err);
    return error_set(
        err, E_NOT_FOUND,
        "'%s' is not in the cache, %s, and neither curl nor hf is there to download it", r->id,
        r->folder);
}
