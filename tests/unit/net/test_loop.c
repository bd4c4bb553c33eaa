#include "shared/net/loop.h"

#include "tests/unit/net/net_test.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int signal_seen;

static void on_signal(void *arg, int signo)
{
    EXPECT(arg == &signal_seen);
    signal_seen = signo;
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer;
}

static void test_signals(void)
{
    struct loop_signals s;
    uv_timer_t work;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &work);
    uv_timer_start(&work, on_timer, 100000, 0);
    NEED(loop_signals_start(&s, &loop, on_signal, &signal_seen) == 0);
    raise(SIGINT);
    EXPECT(SPIN_UNTIL(signal_seen == SIGINT, 5000));
    uv_timer_stop(&work);
    raise(SIGPIPE);                // ignored
    uv_run(&loop, UV_RUN_DEFAULT); // returns: signals alone keep no loop
    loop_signals_stop(&s);
    loop_signals_stop(&s); // harmless
    loop_close_all(&loop);
}

/* Asked twice, the program doesn't wait for its orderly end. */
static void test_second_signal(void)
{
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        struct loop_signals s;
        uv_timer_t forever;
        uv_loop_init(&loop);
        uv_timer_init(&loop, &forever);
        uv_timer_start(&forever, on_timer, 10000, 0);
        if (loop_signals_start(&s, &loop, on_signal, &signal_seen) != 0) _exit(1);
        raise(SIGTERM);
        for (int i = 0; i < 100; i++)
            spin_once();
        raise(SIGTERM);
        uv_run(&loop, UV_RUN_DEFAULT);
        _exit(2);
    }
    int status;
    NEED(waitpid(child, &status, 0) == child);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM);
}

static void test_close_all(void)
{
    uv_timer_t timer;
    uv_tcp_t tcp;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, on_timer, 100000, 0);
    uv_tcp_init(&loop, &tcp);
    loop_close_all(&loop); // CHECKs that nothing is left
}

static void test_nofile(void)
{
    struct rlimit limit;
    uint64_t got = loop_raise_nofile();
    NEED(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    EXPECT_INT(limit.rlim_cur, limit.rlim_max);
    EXPECT_INT(got, limit.rlim_cur);
}

int main(void)
{
    RUN(test_signals);
    RUN(test_second_signal);
    RUN(test_close_all);
    RUN(test_nofile);
    return TEST_END();
}
