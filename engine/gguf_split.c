#include "engine/gguf_split.h"

#include "shared/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX   1024
#define SUFFIX_SIZE 40 // room for what an int may be

/* What a file says of itself. One that isn't split is part 0 of 1. */
struct split {
    int64_t no, count;
};

static int read_split(const struct gguf *g, struct split *s, struct error *err)
{
    *s = (struct split){0, 1};
    if (!gguf_get_int(g, "split.count", &s->count) || s->count == 0) s->count = 1;
    if (!gguf_get_int(g, "split.no", &s->no)) s->no = 0;
    if (s->count < 1 || s->count > PARTS_MAX)
        return error_set(err, E_FORMAT, "'split.count' is %lld, at most %d are supported",
                         (long long)s->count, PARTS_MAX);
    if (s->no < 0 || s->no >= s->count)
        return error_set(err, E_FORMAT, "'split.no' is %lld of %lld parts", (long long)s->no,
                         (long long)s->count);
    return 0;
}

static void put_suffix(char suffix[SUFFIX_SIZE], int64_t no, int64_t count)
{
    snprintf(suffix, SUFFIX_SIZE, "-%05d-of-%05d.gguf", (int)no + 1, (int)count);
}

/* Path of part `no` beside `path`, which is part s->no; free it. NULL: path isn't named like one. */
static char *part_path(const char *path, const struct split *s, int64_t no)
{
    char own[SUFFIX_SIZE], wanted[SUFFIX_SIZE];
    size_t len = strlen(path), n;

    put_suffix(own, s->no, s->count);
    put_suffix(wanted, no, s->count);
    n = strlen(own);
    if (len < n || strcmp(path + len - n, own) != 0) return NULL;
    return xasprintf("%.*s%s", (int)(len - n), path, wanted);
}

static int refuse_name(const char *path, const struct split *s, struct error *err)
{
    char suffix[SUFFIX_SIZE];
    put_suffix(suffix, s->no, s->count);
    return error_set(err, E_FORMAT, "'%s' is one of %d parts and has to be named NAME%s", path,
                     (int)s->count, suffix);
}

static int refuse_later_part(const char *path, const struct split *s, struct error *err)
{
    char *first = part_path(path, s, 0);
    if (!first) return refuse_name(path, s, err);
    int rc = error_set(err, E_INVALID, "'%s' is part %d of %d: give the first, '%s'", path,
                       (int)s->no + 1, (int)s->count, first);
    free(first);
    return rc;
}

static int join_part(struct gguf *g, const char *path, const struct split *want, struct error *err)
{
    struct gguf *part;
    struct split is;
    int rc = gguf_open(path, &part, err);
    if (rc < 0) return error_prefix(err, rc, "part %d of %d", (int)want->no + 1, (int)want->count);
    rc = read_split(part, &is, err);
    if (rc == 0 && (is.no != want->no || is.count != want->count))
        rc = error_set(err, E_FORMAT, "says that it is part %d of %d", (int)is.no + 1,
                       (int)is.count);
    if (rc < 0) {
        gguf_close(part);
        return error_prefix(err, rc, "'%s'", path);
    }
    rc = gguf_join_take(g, part, err);
    return rc < 0 ? error_prefix(err, rc, "'%s'", path) : 0;
}

static int join_others(struct gguf *g, const char *path, const struct split *first,
                       struct error *err)
{
    int64_t tensors;
    for (struct split next = {1, first->count}; next.no < next.count; next.no++) {
        char *other = part_path(path, first, next.no);
        if (!other) return refuse_name(path, first, err);
        int rc = join_part(g, other, &next, err);
        free(other);
        if (rc < 0) return rc;
    }
    if (gguf_get_int(g, "split.tensors.count", &tensors) &&
        tensors != (int64_t)gguf_tensor_count(g))
        return error_set(err, E_FORMAT, "'%s' promises %lld tensors, its %d parts have %zu", path,
                         (long long)tensors, (int)first->count, gguf_tensor_count(g));
    return 0;
}

int gguf_split_open(const char *path, struct gguf **out, struct error *err)
{
    struct gguf *g;
    struct split s;
    int rc = gguf_open(path, &g, err);
    if (rc < 0) return rc;
    if ((rc = read_split(g, &s, err)) < 0)
        rc = error_prefix(err, rc, "'%s'", path);
    else if (s.no > 0)
        rc = refuse_later_part(path, &s, err);
    else if (s.count > 1)
        rc = join_others(g, path, &s, err);
    if (rc < 0) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}
