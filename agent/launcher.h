/* launcher.h - one process that starts and watches an agent for each group of GPUs or cores. Each
 * agent is a whole one with its own port, probes and registration; the launcher serves nothing. */
#ifndef LM_AGENT_LAUNCHER_H
#define LM_AGENT_LAUNCHER_H

#include "agent/agent_config.h"

/* Runs until all agents have ended; what main() returns:
 *   0        asked to end (SIGTERM, SIGINT), and all drained
 *   1        a replica failed for good, or didn't drain
 *   2        options that make no sense, also if only the agents found out
 *   128 + N  asked twice: all were killed
 * With --dry-run it prints the plan instead. argv is main's; its agents get it, too. */
int launcher_run(char **argv, const struct agent_config *config);

#endif
