/* agent_main.c - lm-agent: settings, log, exit codes. What happens in between is agent.c, or
 * launcher.c for several agents. */
#include "agent/agent.h"
#include "agent/agent_config.h"
#include "agent/dry_run.h"
#include "agent/launcher.h"
#include "agent/replica.h"
#include "shared/base/backtrace.h"
#include "shared/base/log.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct agent_config config = {0};
    struct error err = {0};
    backtrace_install("lm-agent");
    replica_begin();
    int rc = agent_config_parse(argc, argv, &config, &err);
    if (rc == CONFIG_RUN) {
        static struct agent agent;
        log_init("lm-agent", config.log_level_value);
        if (agent_config_is_launcher(&config))
            rc = launcher_run(argv, &config);
        else
            rc = config.dry_run ? dry_run(&config) : agent_run(&agent, &config);
    } else if (rc == CONFIG_EXIT) {
        rc = 0;
    } else {
        fprintf(stderr, "lm-agent: %s\n", err.text);
        rc = EXIT_USAGE;
    }
    agent_config_deinit(&config);
    return rc;
}
