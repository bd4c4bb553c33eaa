#define LOG_MODULE "loop"
#include "shared/net/loop.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void on_signal(uv_signal_t *handle, int signo)
{
    struct loop_signals *s = handle->data;
    if (s->received && s->ignores_repeats) return;
    if (s->received) _exit(128 + signo); // asked twice: the orderly end takes too long
    s->received = signo;
    log_info("signal", "name=%s", signo == SIGTERM ? "SIGTERM" : "SIGINT");
    s->on_signal(s->arg, signo);
}

int loop_signals_start(struct loop_signals *s, uv_loop_t *loop,
                       void (*on_signal_received)(void *arg, int signo), void *arg)
{
    memset(s, 0, sizeof *s);
    s->on_signal = on_signal_received;
    s->arg = arg;
    signal(SIGPIPE, SIG_IGN); // a write to a lost peer is an error code, not the end
    signal(SIGXFSZ, SIG_IGN); // and so is one beyond the limit on file sizes
    CHECK(uv_signal_init(loop, &s->term) == 0);
    CHECK(uv_signal_init(loop, &s->interrupt) == 0);
    s->term.data = s->interrupt.data = s;
    int rc = uv_signal_start(&s->term, on_signal, SIGTERM);
    if (rc == 0) rc = uv_signal_start(&s->interrupt, on_signal, SIGINT);
    if (rc != 0) {
        loop_signals_stop(s);
        return rc;
    }
    // Waiting for a signal alone is no reason to run on.
    uv_unref((uv_handle_t *)&s->term);
    uv_unref((uv_handle_t *)&s->interrupt);
    return 0;
}

void loop_signals_stop(struct loop_signals *s)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&s->term, (uv_handle_t *)&s->interrupt};
    for (size_t i = 0; i < ARRAY_LEN(handles); i++) {
        if (!uv_is_closing(handles[i])) uv_close(handles[i], NULL);
    }
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void loop_close_all(uv_loop_t *loop)
{
    uv_walk(loop, close_handle, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    CHECK(uv_loop_close(loop) == 0);
}

uint64_t loop_raise_nofile(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return before;
    return limit.rlim_cur;
}
