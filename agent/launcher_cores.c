#include "agent/launcher_cores.h"

#include "shared/base/check.h"
#include "shared/base/str.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    const struct core_place *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    if (x->core != y->core) return x->core < y->core ? -1 : 1;
    return (x->cpu > y->cpu) - (x->cpu < y->cpu);
}

void launcher_cores_sort(struct core_place *places, size_t count)
{
    qsort(places, count, sizeof *places, compare);
}

/* /sys/devices/system/cpu/cpuN/nodeM: a link to its node. */
static int read_node(int cpu)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d", cpu);
    DIR *folder = opendir(path);
    int node = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        int64_t number;
        if (strncmp(entry->d_name, "node", 4) != 0) continue;
        if (str_to_int(str_of(entry->d_name + 4), &number) == 0) node = (int)number;
    }
    if (folder) closedir(folder);
    return node;
}

/* The first of "0,32" or "0-1". */
static int read_core(int cpu)
{
    char path[96], text[64] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "re");
    if (!file) return cpu;
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = 0;
    int64_t first;
    struct str number = {text, strspn(text, "0123456789")};
    return str_to_int(number, &first) == 0 ? (int)first : cpu;
}

size_t launcher_cores_read(int cores[LAUNCHER_CORES_MAX])
{
    struct core_place places[LAUNCHER_CORES_MAX];
    size_t count = 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0) return 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && count < LAUNCHER_CORES_MAX; cpu++) {
        if (CPU_ISSET(cpu, &set))
            places[count++] = (struct core_place){cpu, read_node(cpu), read_core(cpu)};
    }
    launcher_cores_sort(places, count);
    for (size_t i = 0; i < count; i++)
        cores[i] = places[i].cpu;
    return count;
}
