#include "engine/host_memory.h"

#include "shared/base/str.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 1024

/* The first bytes of a small file, terminated. */
static bool read_file(const char *root, const char *path, char *out, size_t size)
{
    char full[PATH_BYTES];
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full) return false;
    FILE *f = fopen(full, "re");
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
    if (!read_file(root, "/proc/meminfo", text, sizeof text)) return 0;
    rest = str_of(text);
    while (str_split(&rest, '\n', &line)) {
        struct str name;
        if (!str_split(&line, ':', &name) || !str_equal(name, STR("MemAvailable"))) continue;
        if (line.len > 3) line.len -= 3; // " kB"
        return parse_bytes(line, &kib) ? kib * 1024 : 0;
    }
    return 0;
}

/* limit - usage of one control group, if it has a limit. Page cache counts as used there, but can
 * be given back: it is left out of the usage. */
static void cut_to_group(const char *root, const char *folder, const char *limit_name,
                         const char *usage_name, const char *cache_key, uint64_t *available)
{
    char path[PATH_BYTES], text[8192];
    uint64_t limit, usage, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    if (!read_file(root, path, text, sizeof text) || !parse_bytes(str_of(text), &limit)) return;
    snprintf(path, sizeof path, "%s/%s", folder, usage_name);
    if (!read_file(root, path, text, sizeof text) || !parse_bytes(str_of(text), &usage)) return;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (read_file(root, path, text, sizeof text)) {
        struct str rest = str_of(text), line, name;
        while (str_split(&rest, '\n', &line))
            if (str_split(&line, ' ', &name) && str_equal(name, str_of(cache_key)))
                (void)parse_bytes(line, &cache);
    }
    usage -= cache < usage ? cache : usage;
    uint64_t left = limit > usage ? limit - usage : 0;
    if (left < *available) *available = left;
}

/* A group's limit holds for all groups below it, so walk up to the root. */
static void cut_to_groups(const char *root, const char *mount, char *group, const char *limit_name,
                          const char *usage_name, const char *cache_key, uint64_t *available)
{
    for (;;) {
        char folder[PATH_BYTES];
        snprintf(folder, sizeof folder, "%s%s", mount, group);
        cut_to_group(root, folder, limit_name, usage_name, cache_key, available);
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
    if (!read_file(root, "/proc/self/cgroup", text, sizeof text)) return available;
    rest = str_of(text);
    while (str_split(&rest, '\n', &line)) { // "0::/path" (v2), "4:memory:/path" (v1)
        struct str id, controllers;
        if (!str_split(&line, ':', &id) || !str_split(&line, ':', &controllers)) continue;
        bool v2 = controllers.len == 0, v1 = str_equal(controllers, STR("memory"));
        if ((!v2 && !v1) || line.len >= sizeof group) continue;
        memcpy(group, line.data, line.len);
        group[line.len] = 0;
        if (str_equal(line, STR("/"))) group[0] = 0;
        if (v2)
            cut_to_groups(root, "/sys/fs/cgroup", group, "memory.max", "memory.current",
                          "inactive_file", &available);
        else
            cut_to_groups(root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                          "memory.usage_in_bytes", "total_inactive_file", &available);
    }
    return available;
}

uint64_t host_memory_available(void)
{
    return host_memory_available_under("");
}
