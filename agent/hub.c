#include "agent/hub.h"

#include "agent/hub_repo.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define LISTED_MAX 40 // files named in a message

/* ---- names ---- */

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!is_letter && c != '-' && c != '_' && c != '.') return false;
    }
    return s.len > 0 && s.len <= 96 && s.data[0] != '.' && s.data[0] != '-';
}

static bool contains_nocase(struct str s, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= s.len; i++)
        if (strncasecmp(s.data + i, part, n) == 0) return true;
    return false;
}

bool hub_is_gguf_model(struct str name, const char *quant)
{
    const char *slash = memrchr(name.data, '/', name.len);
    struct str file = name;
    if (slash) file = (struct str){slash + 1, name.len - (size_t)(slash + 1 - name.data)};
    if (!str_ends_with(file, STR(".gguf")) || contains_nocase(file, "mmproj")) return false;
    if (contains_nocase(file, "-of-") && !contains_nocase(file, "-00001-of-")) return false;
    return !quant || contains_nocase(file, quant);
}

static char *cache_folder(const char *given)
{
    const char *at;
    if (given) return xstrdup(given);
    if ((at = getenv("HF_HUB_CACHE")) && *at) return xstrdup(at);
    if ((at = getenv("HUGGINGFACE_HUB_CACHE")) && *at) return xstrdup(at);
    if ((at = getenv("HF_HOME")) && *at) return xasprintf("%s/hub", at);
    if ((at = getenv("XDG_CACHE_HOME")) && *at) return xasprintf("%s/huggingface/hub", at);
    return xasprintf("%s/.cache/huggingface/hub", (at = getenv("HOME")) ? at : "");
}

static void repo_deinit(struct hub_repo *r)
{
    free(r->id);
    free(r->quant);
    free(r->revision);
    free(r->folder);
}

/* "OWNER/NAME:QUANT", the last part may be missing. */
static bool split_id(const char *model, struct str *owner, struct str *name, struct str *quant)
{
    struct str rest = str_of(model);
    if (!str_split(&rest, ':', name)) return false;
    *quant = rest;
    if (!memchr(name->data, '/', name->len) || !str_split(name, '/', owner)) return false;
    bool is_path = str_ends_with(*name, STR(".gguf"));
    return !is_path && is_name(*owner) && is_name(*name) && (quant->len == 0 || is_name(*quant));
}

bool hub_names_repository(const char *model, size_t *id_len)
{
    struct str owner, name, quant;
    struct stat st;
    if (!split_id(model, &owner, &name, &quant) || stat(model, &st) == 0) return false;
    *id_len = owner.len + 1 + name.len;
    return true;
}

static bool is_revision(const char *text)
{
    return text[0] && text[0] != '/' && !strstr(text, "..") && strlen(text) <= HUB_NAME_MAX &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") ==
               strlen(text);
}

/* E_INVALID: not the id of a repository, or no revision. */
static int repo_init(struct hub_repo *r, const char *model, const struct hub_options *o)
{
    struct str owner, name, quant;
    const char *revision = o->revision ? o->revision : "main";
    *r = (struct hub_repo){0};
    if (!split_id(model, &owner, &name, &quant) || !is_revision(revision)) return E_INVALID;
    char *cache = cache_folder(o->cache);
    r->id = xasprintf(STR_FMT "/" STR_FMT, STR_ARG(owner), STR_ARG(name));
    r->quant = quant.len > 0 ? xstrndup(quant.data, quant.len) : NULL;
    r->revision = xstrdup(revision);
    r->folder = xasprintf("%s/models--" STR_FMT "--" STR_FMT, cache, STR_ARG(owner), STR_ARG(name));
    free(cache);
    return 0;
}

/* ---- what is in the cache ---- */

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Owned; NULL: the revision isn't there. */
static char *find_snapshot(const struct hub_repo *r)
{
    char commit[64] = "";
    char *path = xasprintf("%s/refs/%s", r->folder, r->revision);
    FILE *f = fopen(path, "re");
    free(path);
    if (f) {
        if (!fgets(commit, sizeof commit, f)) commit[0] = 0;
        fclose(f);
        commit[strcspn(commit, "\r\n")] = 0;
    }
    const char *name = commit[0] ? commit : r->revision; // a commit has no ref
    path = xasprintf("%s/snapshots/%s", r->folder, name);
    if (is_folder(path)) return path;
    free(path);
    return NULL;
}

struct listing {
    const struct hub_repo *repo;
    bool has_safetensors;
    int models;       // GGUF
    char *model;      // owned: the first of them
    struct buf names; // of all, for the message
};

static void list_folder(struct listing *l, const char *folder, const char *inside)
{
    DIR *d = opendir(folder);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d));) {
        struct str name = str_of(entry->d_name);
        if (name.data[0] == '.') continue;
        char *path = xasprintf("%s/%s", folder, entry->d_name);
        if (!inside[0] && is_folder(path)) {
            list_folder(l, path, entry->d_name);
        } else if (is_file(path)) {
            if (!inside[0] && str_ends_with(name, STR(".safetensors"))) l->has_safetensors = true;
            if (hub_is_gguf_model(name, l->repo->quant)) {
                if (l->models++ < LISTED_MAX)
                    buf_printf(&l->names, "%s%s", l->names.len ? ", " : "", entry->d_name);
                if (!l->model) {
                    l->model = path;
                    path = NULL;
                }
            }
        }
        free(path);
    }
    closedir(d);
}

/* The model in a snapshot. E_NOT_FOUND: there is none, or not this one. */
static int pick(const struct hub_repo *r, const char *snapshot, char **path, struct error *err)
{
    struct listing l = {.repo = r};
    int rc = 0;
    buf_init(&l.names, BUF_MAX_INTERNAL);
    list_folder(&l, snapshot, "");
    char *config = xasprintf("%s/config.json", snapshot);
    if (!r->quant && l.has_safetensors && is_file(config)) {
        *path = xstrdup(snapshot);
    } else if (l.models == 1) {
        *path = l.model;
        l.model = NULL;
    } else if (l.models == 0) {
        rc = error_set(err, E_NOT_FOUND, "'%s' has no model%s%s", r->id, r->quant ? " named " : "",
                       r->quant ? r->quant : " that can be served");
    } else {
        rc = error_set(err, E_INVALID,
                       "'%s' has %d models: say which, as in '%s:Q4_K_M' (there is: %s)", r->id,
                       l.models, r->id, l.names.data);
    }
    free(config);
    free(l.model);
    buf_deinit(&l.names);
    return rc;
}

static int locate(const struct hub_repo *r, char **path, struct error *err)
{
    char *snapshot = find_snapshot(r);
    int rc = snapshot ? pick(r, snapshot, path, err) : E_NOT_FOUND;
    free(snapshot);
    if (rc != E_NOT_FOUND) return rc;
    const char *offline = getenv("HF_HUB_OFFLINE");
    if (offline && *offline && strcmp(offline, "0") != 0) {
        return error_set(
            err, E_NOT_FOUND,
            "'%s' (%s) is not in the cache, %s, and HF_HUB_OFFLINE forbids to download it", r->id,
            r->revision, r->folder);
    }
    log_info("downloading", "model=%s revision=%s to=%s", r->id, r->revision, r->folder);
    if ((rc = hub_download(r, err)) < 0) return rc;
    snapshot = find_snapshot(r);
    if (!snapshot)
        return error_set(err, E_NOT_FOUND, "'%s' went from the cache, %s, after its download",
                         r->id, r->folder);
    rc = pick(r, snapshot, path, err);
    free(snapshot);
    return rc;
}

int hub_locate(const char *model, const struct hub_options *options, char **path, struct error *err)
{
    struct hub_repo repo;
    struct stat st;
    if (stat(model, &st) == 0) {
        *path = xstrdup(model);
        return 0;
    }
    int code = -errno;
    if (repo_init(&repo, model, options) < 0) {
        repo_deinit(&repo);
        return error_set(
            err, code,
            "can't open model '%s': %s (nor is it a hub repository, OWNER/NAME, and its "
            "revision)",
            model, strerror(-code));
    }
    int rc = locate(&repo, path, err);
    repo_deinit(&repo);
    return rc;
}
