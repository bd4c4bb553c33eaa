/* dry_run.h - lm-agent --dry-run: what a model is, what it needs on each rank and how much of a KV cache
 * fits beside it, on standard output. Nothing is loaded, no port is opened. */
#ifndef LM_AGENT_DRY_RUN_H
#define LM_AGENT_DRY_RUN_H

#include "agent/agent_config.h"

/* The exit status: 1 if the model can't be served here, with the reason on standard error. */
int dry_run(const struct agent_config *config);

#endif
