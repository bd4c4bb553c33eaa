/* proxy_main.c - lm-proxy: options, one loop, signals, exit codes (0 stopped, 1 failed, 2 usage).
 *
 *     SIGTERM, SIGINT   drain; a second one ends at once
 *     SIGHUP            read options, API keys and limits again; reopen the access log
 *     SIGUSR2           start the program file anew with these sockets, then drain (upgrade.h) */
#define LOG_MODULE "main"
#include "proxy/proxy.h"
#include "proxy/proxy_config.h"
#include "proxy/upgrade.h"
#include "shared/base/backtrace.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/net/loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct program {
    struct proxy proxy;
    struct loop_signals signals;
    uv_signal_t reload, upgrade;
    int argc;
    char **argv;
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

/* Validate, then swap: whatever is wrong leaves everything as it was. */
static void on_reload(uv_signal_t *handle, int signo)
{
    (void)signo;
    struct program *program = handle->data;
    struct proxy_config fresh = {0};
    struct error err = {0};
    int rc = proxy_config_parse(program->argc, program->argv, &fresh, &err);
    if (rc == CONFIG_RUN) rc = proxy_reload(&program->proxy, &fresh, &err);
    if (rc == CONFIG_RUN) {
        log_level_max = fresh.log_level_value;
        log_info("reloaded", "keys=%s", fresh.api_key_file ? fresh.api_key_file : "");
    } else {
        log_error("reload refused, nothing has changed", "reason=\"%s\"", err.text);
    }
    proxy_config_deinit(&fresh);
}

static void on_upgrade(uv_signal_t *handle, int signo)
{
    (void)signo;
    struct program *program = handle->data;
    struct error err = {0};
    if (proxy_upgrade(&program->proxy, &err) < 0) {
        log_error("upgrade refused", "reason=\"%s\"", err.text);
    }
}

static void watch(struct program *program, uv_loop_t *loop, uv_signal_t *handle,
                  uv_signal_cb callback, int signo)
{
    CHECK(uv_signal_init(loop, handle) == 0);
    handle->data = program;
    CHECK(uv_signal_start(handle, callback, signo) == 0);
    uv_unref((uv_handle_t *)handle);
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
    } else {
        watch(program, &loop, &program->reload, on_reload, SIGHUP);
        watch(program, &loop, &program->upgrade, on_upgrade, SIGUSR2);
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
    upgrade_init(argv);
    int rc = proxy_config_parse(argc, argv, &config, &err);
    if (rc < 0) fprintf(stderr, "lm-proxy: %s\n", err.text);
    int code = rc < 0 ? EXIT_USAGE : EXIT_SUCCESS;
    if (rc == CONFIG_RUN) {
        log_init("lm-proxy", config.log_level_value);
        backtrace_install("lm-proxy");
        loop_raise_nofile();
        struct program *program = xcalloc(1, sizeof *program);
        program->argc = argc;
        program->argv = argv;
        code = run(program, &config);
        free(program);
    }
    proxy_config_deinit(&config);
    return code;
}
