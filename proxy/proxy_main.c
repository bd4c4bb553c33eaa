/* proxy_main.c - lm-proxy: options, one loop, signals, exit codes (0 stopped, 1 failed, 2 usage).
 */
#include "proxy/proxy.h"
#include "proxy/proxy_config.h"
#include "shared/base/backtrace.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/loop.h"

#include <stdio.h>
#include <stdlib.h>

struct program {
    struct proxy proxy;
    struct loop_signals signals;
};

static void on_stopped(void *arg)
{
    struct program *program = arg;
    loop_signals_stop(&program->signals);
}

static void on_signal(void *arg, int signo)
{
    (void)signo;
    struct program *program = arg;
    proxy_drain(&program->proxy, on_stopped, program);
}

static int run(struct program *program, const struct proxy_config *config)
{
    uv_loop_t loop;
    struct error err;
    CHECK(uv_loop_init(&loop) == 0);
    /* Before anybody can see that it serves: a SIGTERM that follows at once ends it in order. It is
     * handled by the loop, so when proxy_start has returned. */
    int rc = loop_signals_start(&program->signals, &loop, on_signal, program);
    if (rc < 0) {
        fprintf(stderr, "lm-proxy: cannot handle signals: %s\n", error_text(rc));
        loop_close_all(&loop);
        return EXIT_FAILURE;
    }
    rc = proxy_start(&program->proxy, &loop, config, &err);
    if (rc < 0) {
        loop_signals_stop(&program->signals);
        fprintf(stderr, "lm-proxy: %s\n", err.text);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    proxy_deinit(&program->proxy);
    loop_close_all(&loop);
    return rc == E_INVALID ? EXIT_USAGE : rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct proxy_config config = {0};
    struct error err = {0};
    int rc = proxy_config_parse(argc, argv, &config, &err);
    if (rc < 0) fprintf(stderr, "lm-proxy: %s\n", err.text);
    int code = rc < 0 ? EXIT_USAGE : EXIT_SUCCESS;
    if (rc == CONFIG_RUN) {
        log_init("lm-proxy", config.log_level_value);
        backtrace_install("lm-proxy");
        loop_raise_nofile();
        struct program *program = xcalloc(1, sizeof *program);
        code = run(program, &config);
        free(program);
    }
    proxy_config_deinit(&config);
    return code;
}
