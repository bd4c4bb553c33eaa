#include "engine/host_memory.h"

#include "shared/base/str.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 1024

/* Where a group's files are: under root + mount + group. */
struct place {
    const char *root, *mount, *group;
};

/* The first bytes of a small file, terminated. */
static bool read_file(const struct place *place, const char *name, char *out, size_t size)
{
    char path[PATH_BYTES];
    int len =
        snprintf(path, sizeof path, "%s%s%s/%s", place->root, place->mount, place->group, name);
    if (len >= (int)sizeof path) return false;
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t n = fread(out, 1, size - 1, f);
    out[n] = 0;
    fclose(f);
    return n > 0;
}

static bool parse_bytes(struct str text, uint64_t *value)
{
    int64_t number;
    if (str_to_int(str_trim(text), &number) < 0 || number < 0) return false; // "max" too
    *value = (uint64_t)number;
    return true;
}

static uint64_t meminfo_available(const char *root)
{
    char text[4096];
    struct str rest, line;
    uint64_t kib = 0;
    if (!read_file(&(struct place){root, "/proc", ""}, "meminfo", text, sizeof text)) return 0;
    rest = str_of(text);
    while (str_split(&rest, '\n', &line)) {
        struct str name;
        if (!str_split(&line, ':', &name) || !str_equal(name, STR("MemAvailable"))) continue;
        if (line.len > 3) line.len -= 3; // " kB"
        return parse_bytes(line, &kib) ? kib * 1024 : 0;
    }
    return 0;
}

/* The files of one version of control groups. */
struct group_files {
    const char *mount, *limit, *usage;
    const char *cache; // line of memory.stat
};

static const struct group_files files_v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "total_inactive_file"};
static const struct group_files files_v2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                            "inactive_file"};

/* limit - usage of one control group, if it has a limit. Page cache counts as used there, but can
 * be given back: it is left out of the usage. */
static void cut_to_group(const struct group_files *files, const struct place *place,
                         uint64_t *available)
{
    char text[8192];
    uint64_t limit, usage, cache = 0;
    if (!read_file(place, files->limit, text, sizeof text)) return;
    if (!parse_bytes(str_of(text), &limit)) return;
    if (!read_file(place, files->usage, text, sizeof text)) return;
    if (!parse_bytes(str_of(text), &usage)) return;
    if (read_file(place, "memory.stat", text, sizeof text)) {
        struct str rest = str_of(text), line, name;
        while (str_split(&rest, '\n', &line))
            if (str_split(&line, ' ', &name) && str_equal(name, str_of(files->cache)))
                (void)parse_bytes(line, &cache);
    }
    usage -= cache < usage ? cache : usage;
    uint64_t left = limit > usage ? limit - usage : 0;
    if (left < *available) *available = left;
}

/* A group's limit holds for all groups below it, so walk up to the root. */
static void cut_to_groups(const struct group_files *files, const char *root, char *group,
                          uint64_t *available)
{
    for (;;) {
        cut_to_group(files, &(struct place){root, files->mount, group}, available);
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = 0;
    }
}

uint64_t host_memory_available_under(const char *root)
{
    char text[4096], group[PATH_BYTES / 2];
    struct str rest, line;
    uint64_t available = meminfo_available(root);
    if (!read_file(&(struct place){root, "/proc/self", ""}, "cgroup", text, sizeof text))
        return available;
    rest = str_of(text);
    while (str_split(&rest, '\n', &line)) { // "0::/path" (v2), "4:memory:/path" (v1)
        struct str id, controllers;
        if (!str_split(&line, ':', &id) || !str_split(&line, ':', &controllers)) continue;
        bool v2 = controllers.len == 0, v1 = str_equal(controllers, STR("memory"));
        if ((!v2 && !v1) || line.len >= sizeof group) continue;
        memcpy(group, line.data, line.len);
        group[line.len] = 0;
        if (str_equal(line, STR("/"))) group[0] = 0;
        cut_to_groups(v2 ? &files_v2 : &files_v1, root, group, &available);
    }
    return available;
}

uint64_t host_memory_available(void)
{
    return host_memory_available_under("");
}
