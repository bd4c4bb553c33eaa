#include "agent/launcher_plan.h"

#include "agent/advertise.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/cpu_list.h"
#include "shared/base/str.h"
#include "shared/net/agent_record.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBERS_MAX 1024
#define PORT_MAX    65535
#define GPU_MAX     4095
#define CORE_MAX    65535
#define SHARE_MIN   0.001 // the least that --cache-max-entry-count takes
#define ADDED_MAX   8     // arguments or variables of one replica

/* "0-3,8" as numbers in the order in which they stand. */
struct number_list {
    int values[NUMBERS_MAX];
    size_t count;
};

/* What the parts of a plan are made from. */
struct planner {
    const struct agent_config *config;
    const struct launcher_input *input;
    struct number_list gpus;  // empty: replicas share cores
    struct number_list ports; // empty: counted from --server-port
    struct number_list cores; // to divide; empty: none are given out
    size_t replicas;
    struct error *err;
};

/* ---- lists ---- */

static bool has_twice(const struct number_list *list, int *which)
{
    for (size_t i = 0; i < list->count; i++) {
        for (size_t j = 0; j < i; j++) {
            *which = list->values[i];
            if (list->values[i] == list->values[j]) return true;
        }
    }
    return false;
}

/* A list of different numbers up to `max`. NULL or "": an empty one. */
static int parse_list(struct planner *p, const char *option, const char *text, int max,
                      struct number_list *list)
{
    if (!text || !text[0]) return 0;
    int count = cpu_list_parse(text, list->values, NUMBERS_MAX), twice;
    for (int i = 0; i < count; i++)
        if (list->values[i] > max) count = E_INVALID;
    if (count < 0) {
        return error_set(p->err, E_INVALID,
                         "%s: '%s' is not a list like 0-3,8 of at most %d numbers, 0 to %d", option,
                         text, NUMBERS_MAX, max);
    }
    list->count = (size_t)count;
    if (has_twice(list, &twice))
        return error_set(p->err, E_INVALID, "%s: %d stands there twice", option, twice);
    return 0;
}

/* values[from..to) as "0-3,8". */
static void print_list(const struct number_list *list, size_t from, size_t to, struct buf *out)
{
    for (size_t i = from; i < to;) {
        size_t last = i;
        while (last + 1 < to && list->values[last + 1] == list->values[last] + 1)
            last++;
        buf_printf(out, i > from ? ",%d" : "%d", list->values[i]);
        if (last > i) buf_printf(out, "-%d", list->values[last]);
        i = last + 1;
    }
}

/* ---- how many ---- */

static int count_gpu_replicas(struct planner *p)
{
    size_t gpus = p->gpus.count, tp = (size_t)p->config->tp, asked = (size_t)p->config->replicas;
    if (asked > 0 && asked * tp != gpus) {
        return error_set(p->err, E_INVALID,
                         "--replicas %zu of --tp %zu take %zu GPUs, but --gpus names %zu", asked,
                         tp, asked * tp, gpus);
    }
    if (gpus % tp != 0) {
        return error_set(p->err, E_INVALID,
                         "--gpus names %zu GPUs, which cannot be divided into groups of --tp %zu",
                         gpus, tp);
    }
    p->replicas = gpus / tp;
    return 0;
}

/* Entry `n` of a list with ',', or false. */
static bool list_entry(const char *list, int n, struct str *entry)
{
    struct str rest = str_of(list);
    for (int i = 0; str_split(&rest, ',', entry); i++) {
        *entry = str_trim(*entry);
        if (i == n) return entry->len > 0;
    }
    return false;
}

/* Every --gpus has its entry in the CUDA_VISIBLE_DEVICES that the launcher itself was given. */
static int check_visible(struct planner *p)
{
    for (size_t i = 0; p->input->visible_devices && i < p->gpus.count; i++) {
        struct str entry;
        if (list_entry(p->input->visible_devices, p->gpus.values[i], &entry)) continue;
        return error_set(
            p->err, E_INVALID,
            "--gpus: there is no GPU %d in CUDA_VISIBLE_DEVICES='%s', whose entries it "
            "counts from 0",
            p->gpus.values[i], p->input->visible_devices);
    }
    return 0;
}

/* The user's own list in its order, else the cores of this process; none where they don't suffice for
 * one of each rank. */
static int choose_cores(struct planner *p)
{
    size_t needed = p->replicas * (size_t)p->config->tp;
    int rc = parse_list(p, "--cpu-list", p->config->cpu_list, CORE_MAX, &p->cores);
    if (rc != 0) return rc;
    if (p->cores.count > 0 && p->cores.count < needed) {
        return error_set(p->err, E_INVALID,
                         "--cpu-list names %zu cores, too few for %zu replicas of --tp %zu",
                         p->cores.count, p->replicas, needed / p->replicas);
    }
    // Agents on GPUs compute elsewhere: their few threads are the kernel's to place.
    if (p->cores.count > 0 || p->gpus.count > 0) return 0;
    size_t count = p->input->core_count < NUMBERS_MAX ? p->input->core_count : NUMBERS_MAX;
    if (count < needed) return 0;
    memcpy(p->cores.values, p->input->cores, count * sizeof *p->cores.values);
    p->cores.count = count;
    return 0;
}

/* Replicas without GPUs of their own would all take the same one. */
static int check_device(struct planner *p)
{
    int device = p->config->device;
    if (p->gpus.count > 0 && device == AGENT_DEVICE_CPU)
        return error_set(p->err, E_INVALID, "--gpus makes no sense with --device cpu");
    if (p->gpus.count == 0 && device == AGENT_DEVICE_CUDA)
        return error_set(p->err, E_INVALID,
                         "--device cuda: say with --gpus which replica has which");
    return 0;
}

static int check_counts(struct planner *p)
{
    if (p->replicas > LAUNCHER_REPLICAS_MAX) {
        return error_set(p->err, E_INVALID, "%zu replicas; the limit is %d", p->replicas,
                         LAUNCHER_REPLICAS_MAX);
    }
    if (p->ports.count > 0 && p->ports.count != p->replicas) {
        return error_set(p->err, E_INVALID, "--ports names %zu ports for %zu replicas",
                         p->ports.count, p->replicas);
    }
    if (p->ports.count == 0 && p->config->server_port == 0) {
        return error_set(p->err, E_INVALID,
                         "--server-port 0 picks any port, but replicas are known by theirs; give "
                         "one to count from, or --ports");
    }
    struct advertise advertise;
    int listen_port = 0; // what parsing leaves when the text names none
    int rc = advertise_init(&advertise, p->config->advertise, p->config->server_name, listen_port,
                            p->err);
    if (rc == 0 && p->replicas > 1 && advertise.port != 0) {
        rc = error_set(p->err, E_INVALID,
                       "--advertise '%s' would give all replicas one port; leave the port out",
                       p->config->advertise);
    }
    return rc;
}

static int read_input(struct planner *p)
{
    const struct agent_config *c = p->config;
    int rc;
    if ((rc = parse_list(p, "--gpus", c->gpus, GPU_MAX, &p->gpus)) != 0 ||
        (rc = parse_list(p, "--ports", c->ports, PORT_MAX, &p->ports)) != 0) {
        return rc;
    }
    if (c->gpus && p->gpus.count == 0) return error_set(p->err, E_INVALID, "--gpus names no GPU");
    p->replicas = (size_t)c->replicas;
    if (p->gpus.count > 0 && (rc = count_gpu_replicas(p)) != 0) return rc;
    if ((rc = check_device(p)) != 0 || (rc = check_visible(p)) != 0 || (rc = choose_cores(p)) != 0)
        return rc;
    return check_counts(p);
}

/* ---- one replica ---- */

static __attribute__((format(printf, 2, 3))) void add(char **list, const char *fmt, ...)
{
    struct buf text;
    va_list args;
    size_t count = 0;
    while (list[count])
        count++;
    CHECK(count + 1 < ADDED_MAX);
    buf_init(&text, BUF_MAX_INTERNAL);
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    list[count] = buf_detach(&text, NULL);
}

/* What the launcher's own count starts from is the group's first GPU, as in LMDeploy's script, or the
 * number of the replica. */
static int choose_port(struct planner *p, size_t index, int rank, int *port)
{
    int64_t wanted = p->ports.count > 0 ? p->ports.values[index]
                                        : p->config->server_port + LAUNCHER_PORT_STEP * rank;
    if (wanted < 1 || wanted > PORT_MAX) {
        return error_set(p->err, E_INVALID,
                         "port %lld of replica %zu is not within 1 to %d; give a lower "
                         "--server-port, or --ports",
                         (long long)wanted, index, PORT_MAX);
    }
    *port = (int)wanted;
    return 0;
}

static void add_devices(struct planner *p, size_t index, struct launcher_replica *r)
{
    struct buf devices;
    size_t tp = (size_t)p->config->tp;
    buf_init(&devices, BUF_MAX_INTERNAL);
    for (size_t i = index * tp; i < (index + 1) * tp; i++) {
        struct str entry;
        if (i > index * tp) buf_append_char(&devices, ',');
        if (p->input->visible_devices &&
            list_entry(p->input->visible_devices, p->gpus.values[i], &entry)) {
            buf_append(&devices, entry.data, entry.len);
        } else {
            buf_printf(&devices, "%d", p->gpus.values[i]);
        }
    }
    // nvidia-smi's numbers: CUDA's own order is by speed.
    if (!p->input->device_order) add(r->environment, "CUDA_DEVICE_ORDER=PCI_BUS_ID");
    add(r->environment, "CUDA_VISIBLE_DEVICES=%s", devices.data);
    buf_deinit(&devices);
}

/* A fair share of cores and memory, where replicas have the same ones. */
static void add_share(struct planner *p, size_t index, struct launcher_replica *r)
{
    if (p->cores.count > 0) {
        struct buf list;
        buf_init(&list, BUF_MAX_INTERNAL);
        print_list(&p->cores, index * p->cores.count / p->replicas,
                   (index + 1) * p->cores.count / p->replicas, &list);
        add(r->arguments, "--cpu-list=%s", list.data);
        buf_deinit(&list);
    } else if (p->gpus.count == 0 && p->config->threads == 0) {
        add(r->arguments, "--threads=%d", (int)p->config->tp); // more ranks than cores
    }
    if (p->gpus.count > 0 || p->replicas == 1) return;
    double share = p->config->cache_max_entry_count / (double)p->replicas;
    add(r->arguments, "--cache-max-entry-count=%.4f", share < SHARE_MIN ? SHARE_MIN : share);
}

/* By default an agent is known by host name and port, which is stable by itself. */
static int add_identity(struct planner *p, struct launcher_replica *r)
{
    const struct agent_config *c = p->config;
    if (c->agent_id && p->replicas > 1) {
        if (strlen(c->agent_id) + 1 + strlen(r->name) >= AGENT_ID_BYTES) {
            return error_set(p->err, E_INVALID, "--agent-id: '%s' leaves no room for '-%s'",
                             c->agent_id, r->name);
        }
        add(r->arguments, "--agent-id=%s-%s", c->agent_id, r->name);
    }
    if (c->session_dir && p->replicas > 1)
        add(r->arguments, "--session-dir=%s/%s", c->session_dir, r->name);
    return 0;
}

static int plan_replica(struct planner *p, size_t index, struct launcher_replica *r)
{
    bool on_gpus = p->gpus.count > 0;
    int rank = on_gpus ? p->gpus.values[index * (size_t)p->config->tp] : (int)index;
    snprintf(r->name, sizeof r->name, "%s%d", on_gpus ? "gpu" : "cpu", rank);
    r->environment = xcalloc(ADDED_MAX, sizeof *r->environment);
    r->arguments = xcalloc(ADDED_MAX, sizeof *r->arguments);
    int rc = choose_port(p, index, rank, &r->port);
    if (rc != 0) return rc;
    add(r->arguments, "--replica=%s", r->name);
    add(r->arguments, "--server-port=%d", r->port);
    add(r->arguments, "--device=%s", on_gpus ? "cuda" : "cpu"); // never another one for want of it
    if (on_gpus) add_devices(p, index, r);
    add_share(p, index, r);
    return add_identity(p, r);
}

/* ---- the plan ---- */

int launcher_plan_init(struct launcher_plan *plan, const struct launcher_input *input,
                       struct error *err)
{
    struct planner *p = xcalloc(1, sizeof *p);
    p->config = input->config;
    p->input = input;
    p->err = err;
    int rc = read_input(p);
    if (rc == 0) {
        plan->count = p->replicas;
        plan->replicas = xcalloc(plan->count, sizeof *plan->replicas);
    }
    for (size_t i = 0; rc == 0 && i < plan->count; i++)
        rc = plan_replica(p, i, &plan->replicas[i]);
    free(p);
    return rc;
}

static void free_texts(char **texts)
{
    for (size_t i = 0; texts && texts[i]; i++)
        free(texts[i]);
    free(texts);
}

void launcher_plan_deinit(struct launcher_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        free_texts(plan->replicas[i].environment);
        free_texts(plan->replicas[i].arguments);
    }
    free(plan->replicas);
    *plan = (struct launcher_plan){0};
}

static size_t count_texts(char *const *texts)
{
    size_t count = 0;
    while (texts[count])
        count++;
    return count;
}

char **launcher_plan_argv(const struct launcher_replica *replica, char *const *given)
{
    size_t count = count_texts(given), added = count_texts(replica->arguments), at = 0;
    char **all = xcalloc(count + added + 1, sizeof *all);
    while (at < count && strcmp(given[at], "--") != 0) // behind "--" stands no option
        at++;
    memcpy(all, given, at * sizeof *all);
    memcpy(all + at, replica->arguments, added * sizeof *all);
    memcpy(all + at + added, given + at, (count - at) * sizeof *all);
    return all;
}

/* "NAME=" of an entry. */
static size_t name_len(const char *entry)
{
    return strcspn(entry, "=") + 1;
}

static bool is_replaced(const struct launcher_replica *replica, const char *entry)
{
    for (size_t i = 0; replica->environment[i]; i++) {
        const char *added = replica->environment[i];
        if (strncmp(entry, added, name_len(added)) == 0) return true;
    }
    return false;
}

char **launcher_plan_environment(const struct launcher_replica *replica, char *const *given)
{
    size_t added = count_texts(replica->environment), at = 0;
    char **all = xcalloc(count_texts(given) + added + 1, sizeof *all);
    for (size_t i = 0; given[i]; i++)
        if (!is_replaced(replica, given[i])) all[at++] = given[i];
    memcpy(all + at, replica->environment, added * sizeof *all);
    return all;
}

void launcher_plan_print(const struct launcher_plan *plan, struct buf *out)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct launcher_replica *r = &plan->replicas[i];
        buf_printf(out, "%-6s port %-5d", r->name, r->port);
        for (size_t j = 0; r->environment[j]; j++)
            buf_printf(out, " %s", r->environment[j]);
        buf_append_str(out, " lm-agent ...");
        for (size_t j = 0; r->arguments[j]; j++)
            buf_printf(out, " %s", r->arguments[j]);
        buf_append_char(out, '\n');
    }
}
