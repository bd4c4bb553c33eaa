/* bench_agent.c - a real lm-agent on a free port of this machine, as a child process. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/str.h"

#define READY_NS (60ull * 1000000000)
#define ARGS_MAX 40

extern char **environ;

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0) {
        if (fd >= 0) close(fd);
        return -1;
    }
    close(fd);
    return ntohs(address.sin_port);
}

/* One request on a connection of its own; the status, or -1 when nobody answers. */
int bench_agent_request(int port, const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char head[4096] = "";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int status = -1;

    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        write(fd, text, strlen(text)) == (ssize_t)strlen(text)) {
        size_t len = 0;
        ssize_t n;
        while (len < sizeof head - 1 && (n = read(fd, head + len, sizeof head - 1 - len)) > 0) {
            len += (size_t)n;
        }
        head[len] = 0;
        int64_t value;
        if (len > 12 && str_to_int((struct str){head + 9, 3}, &value) == 0) status = (int)value;
    }
    if (fd >= 0) close(fd);
    return status;
}

double bench_agent_resident_mb(const struct bench_agent *a)
{
    char path[64], line[256];
    double kb = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)a->pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %lf", &kb) == 1) break;
    }
    if (f) fclose(f);
    return kb / 1024;
}

/* --agent, or the one beside lm-bench. */
static void agent_path(const struct bench_options *o, char out[PATH_MAX + 16])
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    snprintf(out, PATH_MAX + 16, "%s%s", o->agent ? o->agent : self, o->agent ? "" : "/lm-agent");
}

static int wait_ready(struct bench_agent *a, uint64_t start, struct error *err)
{
    while (clock_ns() - start < READY_NS) {
        if (waitpid(a->pid, NULL, WNOHANG) == a->pid) {
            a->pid = 0;
            return error_set(err, E_UPSTREAM, "the agent ended before it was ready");
        }
        if (bench_agent_request(a->port, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                         "\r\n") == 200) {
            a->ready_ms = (double)(clock_ns() - start) * 1e-6;
            return 0;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return error_set(err, E_TIMEOUT, "the agent did not become ready");
}

int bench_agent_start(const struct bench_options *o, const char *const *extra, bool quiet,
                      struct bench_agent *a, struct error *err)
{
    char path[PATH_MAX + 16], port[16], threads[24];
    posix_spawn_file_actions_t actions;

    *a = (struct bench_agent){.port = free_port()};
    agent_path(o, path);
    snprintf(port, sizeof port, "%d", a->port);
    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    const char *argv[ARGS_MAX] = {path,    "--server-name", "127.0.0.1", "--server-port",
                                  port,    "--threads",     threads,     "--model-name",
                                  "bench", o->model};
    for (int i = 10; extra && *extra; i++) {
        CHECK(i < ARGS_MAX - 1);
        argv[i] = *extra++;
    }
    posix_spawn_file_actions_init(&actions);
    if (quiet) posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    uint64_t start = clock_ns();
    int rc = posix_spawnp(&a->pid, path, &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (rc != 0) {
        a->pid = 0;
        return error_set(err, -rc, "cannot run '%s': %s", path, strerror(rc));
    }
    rc = wait_ready(a, start, err);
    if (rc < 0 && a->pid) {
        kill(a->pid, SIGKILL);
        waitpid(a->pid, NULL, 0);
        a->pid = 0;
    }
    return rc;
}

int bench_agent_stop(struct bench_agent *a, struct error *err)
{
    int status = 0;

    if (!a->pid) return 0;
    kill(a->pid, SIGTERM);
    while (waitpid(a->pid, &status, 0) < 0 && errno == EINTR) {
    }
    a->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return error_set(err, E_UPSTREAM, "the agent ended with status %d", status);
}
