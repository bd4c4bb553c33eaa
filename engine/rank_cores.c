#include "engine/rank_cores.h"

#include "shared/base/cpu_list.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define NODES_MAX 64

struct core_list {
    int count;
    int core[RANK_CORES_MAX];
};

/* Part `index` of `parts` of a count; the first ones are larger by what is left over. */
static int part_size(int count, int parts, int index)
{
    return count / parts + (index < count % parts);
}

/* ---- what there is ---- */

static void find_allowed(const struct rank_cores_request *q, struct core_list *out)
{
    cpu_set_t set;
    out->count = 0;
    if (q->allowed) {
        out->count = q->allowed_count < RANK_CORES_MAX ? q->allowed_count : RANK_CORES_MAX;
        memcpy(out->core, q->allowed, (size_t)out->count * sizeof *out->core);
        return;
    }
    if (sched_getaffinity(0, sizeof set, &set) < 0) return;
    for (int core = 0; core < CPU_SETSIZE && out->count < RANK_CORES_MAX; core++)
        if (CPU_ISSET(core, &set)) out->core[out->count++] = core;
}

static bool contains(const struct core_list *list, int core)
{
    for (int i = 0; i < list->count; i++)
        if (list->core[i] == core) return true;
    return false;
}

/* A file of the node folder that holds a list; its length, or 0. */
static int read_list(const struct rank_cores_request *q, const char *name, int *numbers, int max)
{
    char path[512], text[4096];
    snprintf(path, sizeof path, "%s/sys/devices/system/node/%s", q->root ? q->root : "", name);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    int count = cpu_list_parse(text, numbers, max);
    return count < 0 ? 0 : count;
}

/* The allowed cores of each NUMA node that has any. */
static int find_nodes(const struct rank_cores_request *q, const struct core_list *allowed,
                      struct core_list nodes[NODES_MAX])
{
    int number[NODES_MAX], cores[RANK_CORES_MAX], count = 0;
    int online = read_list(q, "online", number, NODES_MAX);
    for (int i = 0; i < online; i++) {
        char name[64];
        struct core_list *node = &nodes[count];
        snprintf(name, sizeof name, "node%d/cpulist", number[i]);
        int found = read_list(q, name, cores, RANK_CORES_MAX);
        node->count = 0;
        for (int c = 0; c < found; c++)
            if (contains(allowed, cores[c])) node->core[node->count++] = cores[c];
        if (node->count > 0) count++;
    }
    return count;
}

/* ---- sharing ---- */

static void print_list(struct rank_cores *out, const int *core, int count)
{
    size_t at = 0;
    out->cpu_list[0] = 0;
    for (int i = 0; i < count && at < sizeof out->cpu_list; i++)
        at += (size_t)snprintf(out->cpu_list + at, sizeof out->cpu_list - at, "%s%d", i ? "," : "",
                               core[i]);
}

/* Give the cores to `ranks` ranks in order; each is pinned to its part. */
static void pin_ranks(const struct core_list *list, struct rank_cores *out, int ranks)
{
    for (int rank = 0, first = 0; rank < ranks; rank++) {
        int count = part_size(list->count, ranks, rank);
        print_list(&out[rank], list->core + first, count);
        out[rank].threads = 0;
        first += count;
    }
}

static bool pin_to_nodes(const struct rank_cores_request *q, const struct core_list *allowed,
                         struct rank_cores *out)
{
    struct core_list nodes[NODES_MAX];
    int count = find_nodes(q, allowed, nodes);
    if (count < 2 || q->world % count) return false;
    int each = q->world / count;
    for (int i = 0; i < count; i++)
        if (nodes[i].count < each) return false;
    for (int i = 0; i < count; i++)
        pin_ranks(&nodes[i], out + i * each, each);
    return true;
}

static int divide_list(const struct rank_cores_request *q, struct rank_cores *out,
                       struct error *err)
{
    struct core_list list;
    list.count = cpu_list_parse(q->cpu_list, list.core, RANK_CORES_MAX);
    if (list.count < 0)
        return error_set(err, E_INVALID, "cpu list '%s' is not like '0-3,8'", q->cpu_list);
    if (list.count < q->world)
        return error_set(err, E_INVALID, "cpu list '%s' has %d cores for %d ranks", q->cpu_list,
                         list.count, q->world);
    pin_ranks(&list, out, q->world);
    return 0;
}

int rank_cores_divide(const struct rank_cores_request *q, struct rank_cores *out, struct error *err)
{
    struct core_list allowed;
    if (q->world == 1) {
        out->threads = q->threads;
        snprintf(out->cpu_list, sizeof out->cpu_list, "%s", q->cpu_list ? q->cpu_list : "");
        return 0;
    }
    find_allowed(q, &allowed);
    bool pinned = q->cpu_list != NULL;
    int rc = pinned ? divide_list(q, out, err) : 0;
    if (rc < 0) return rc;
    if (!pinned) pinned = pin_to_nodes(q, &allowed, out);
    int threads = q->threads > 0 ? q->threads : allowed.count;
    for (int rank = 0; rank < q->world; rank++) {
        if (!pinned) out[rank].cpu_list[0] = 0;
        if (pinned && q->threads == 0) continue; // as many as its cores
        out[rank].threads = part_size(threads, q->world, rank);
        if (out[rank].threads < 1) out[rank].threads = 1;
    }
    return 0;
}

bool rank_cores_take_all(const struct rank_cores_request *q, const struct rank_cores *cores)
{
    struct core_list allowed;
    int taken = 0, list[RANK_CORES_MAX];
    find_allowed(q, &allowed);
    for (int rank = 0; rank < q->world; rank++) {
        const struct rank_cores *c = &cores[rank];
        int count =
            *c->cpu_list ? cpu_list_parse(c->cpu_list, list, RANK_CORES_MAX) : allowed.count;
        taken += c->threads > 0 && c->threads < count ? c->threads : count;
    }
    return taken >= allowed.count;
}
