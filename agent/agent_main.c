/* agent_main.c - lm-agent: settings, log, exit codes. What happens in between is agent.c. */
#include "agent/agent.h"
#include "agent/agent_config.h"
#include "agent/dry_run.h"
#include "shared/base/backtrace.h"
#include "shared/base/log.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct agent_config config = {0};
    struct error err = {0};
    backtrace_install("lm-agent");
    int rc = agent_config_parse(argc, argv, &config, &err);
    if (rc == CONFIG_RUN) {
        static struct agent agent;
        log_init("lm-agent", config.log_level_value);
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
