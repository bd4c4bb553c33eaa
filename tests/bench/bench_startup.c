/* bench_startup.c - time from exec to the first 200 of /ready, and resident memory then and after
 * one answer, of a real lm-agent on a free port. */
#include <stdio.h>
#include <sys/stat.h>

#include "tests/bench/bench.h"

static int start_once(const struct bench_options *o, double *ready_ms, double *idle_mb,
                      double *used_mb)
{
    struct bench_agent agent;
    struct error err;

    int rc = bench_agent_start(o, NULL, true, &agent, &err);
    if (rc == 0) {
        *ready_ms = agent.ready_ms;
        *idle_mb = bench_agent_resident_mb(&agent);
        static const char body[] =
            "{\"model\":\"bench\",\"prompt\":\"Once upon a time\",\"max_tokens\":64}";
        char text[512];
        snprintf(text, sizeof text,
                 "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 sizeof body - 1, body);
        (void)bench_agent_request(agent.port, text);
        *used_mb = bench_agent_resident_mb(&agent);
        rc = bench_agent_stop(&agent, &err);
    }
    if (rc < 0) fprintf(stderr, "lm-bench: %s\n", err.text);
    return rc;
}

int bench_startup(const struct bench_options *o)
{
    struct bench_samples ready = {0}, idle = {0}, used = {0};
    struct stat st;

    for (int64_t i = 0; i < o->rounds; i++) {
        double ready_ms, idle_mb, used_mb;
        if (start_once(o, &ready_ms, &idle_mb, &used_mb) != 0) return 1;
        bench_samples_add(&ready, ready_ms);
        bench_samples_add(&idle, idle_mb);
        bench_samples_add(&used, used_mb);
    }
    double file_mb = stat(o->model, &st) == 0 ? (double)st.st_size / (1 << 20) : 0;
    printf("%s: %.1f MiB\n", o->model, file_mb);
    bench_print_row("exec to /ready", "ms", &ready, NULL);
    bench_print_row("resident, idle", "MiB", &idle, NULL);
    bench_print_row("resident, after an answer", "MiB", &used, NULL);
    printf("%-28s %10.1f MiB\n", "resident above the file", bench_samples_median(&used) - file_mb);
    return 0;
}
