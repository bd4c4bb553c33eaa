/* launcher_plan.h - which agents a launcher starts: the groups of GPUs or cores, their ports, names,
 * environment and arguments. Pure: it looks at nothing but its input, so --dry-run and the tests see
 * what would run. */
#ifndef LM_AGENT_LAUNCHER_PLAN_H
#define LM_AGENT_LAUNCHER_PLAN_H

#include <stddef.h>

#include "agent/agent_config.h"
#include "shared/base/error.h"

/* From one replica's port to the next: so far apart are they in LMDeploy's script for torchrun. */
#define LAUNCHER_PORT_STEP    10
#define LAUNCHER_REPLICAS_MAX 256

struct launcher_input {
    const struct agent_config *config;
    const char *visible_devices; // CUDA_VISIBLE_DEVICES of the launcher; NULL: not set
    const char *device_order;    // CUDA_DEVICE_ORDER of the launcher; NULL: not set
    const int *cores;            // this process may use, neighbours side by side (launcher_cores.h)
    size_t core_count;
};

struct launcher_replica {
    char name[16]; // "gpu4" after the group's first GPU, "cpu1" by number; stands before log lines
    int port;
    char **environment; // "NAME=value" to add, owned, NULL at the end
    char **arguments;   // to add to the launcher's own, owned, NULL at the end
};

struct launcher_plan {
    struct launcher_replica *replicas; // owned
    size_t count;
};

/* Zeroed *plan in. E_INVALID with *err: options that make no sense together.
 * launcher_plan_deinit in every case. */
FALLIBLE int launcher_plan_init(struct launcher_plan *plan, const struct launcher_input *input,
                                struct error *err);
void launcher_plan_deinit(struct launcher_plan *plan);

/* The launcher's command line or environment with what the replica adds, which wins. The array is
 * the caller's to free, its texts are borrowed from `given` and the plan. */
char **launcher_plan_argv(const struct launcher_replica *replica, char *const *given);
char **launcher_plan_environment(const struct launcher_replica *replica, char *const *given);

/* One line a replica: name, port, what is added. Nothing of the launcher's own arguments, which may
 * hold keys. */
void launcher_plan_print(const struct launcher_plan *plan, struct buf *out);

#endif
