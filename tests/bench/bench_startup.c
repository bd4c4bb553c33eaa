/* bench_startup.c - time from exec to the first 200 of /ready, and resident memory then and after
 * one answer, of a real lm-agent on a free port. */
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/str.h"

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
static int request(int port, const char *text)
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

static double resident_mb(pid_t pid)
{
    char path[64], line[256];
    double kb = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %lf", &kb) == 1) break;
    }
    if (f) fclose(f);
    return kb / 1024;
}

static int start_once(const struct bench_options *o, const char *agent, double *ready_ms,
                      double *idle_mb, double *used_mb)
{
    char port_text[16], threads[24];
    int port = free_port();
    pid_t pid;
    posix_spawn_file_actions_t actions;

    snprintf(port_text, sizeof port_text, "%d", port);
    snprintf(threads, sizeof threads, "%lld", (long long)o->threads);
    const char *argv[] = {agent,     "--server-name", "127.0.0.1", "--server-port",
                          port_text, "--threads",     threads,     "--model-name",
                          "bench",   o->model,        NULL};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    uint64_t start = clock_ns();
    int rc = posix_spawnp(&pid, agent, &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (rc != 0) {
        fprintf(stderr, "lm-bench: cannot run '%s': %s\n", agent, strerror(rc));
        return -1;
    }
    int status = 0;
    bool gone = false;
    while (status != 200 && !gone && clock_ns() - start < 60ull * 1000000000) {
        status = request(port, "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        gone = waitpid(pid, NULL, WNOHANG) == pid;
        if (status != 200) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    if (gone || status != 200) {
        fprintf(stderr, "lm-bench: '%s' did not become ready\n", agent);
        if (!gone) kill(pid, SIGKILL), waitpid(pid, NULL, 0);
        return -1;
    }
    *ready_ms = (double)(clock_ns() - start) * 1e-6;
    *idle_mb = resident_mb(pid);
    static const char body[] =
        "{\"model\":\"bench\",\"prompt\":\"Once upon a time\",\"max_tokens\":64}";
    char text[512];
    snprintf(text, sizeof text,
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu"
             "\r\n\r\n%s",
             sizeof body - 1, body);
    (void)request(port, text);
    *used_mb = resident_mb(pid);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    return 0;
}

int bench_startup(const struct bench_options *o)
{
    struct bench_samples ready = {0}, idle = {0}, used = {0};
    char self[PATH_MAX], agent[PATH_MAX + 16];
    struct stat st;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    snprintf(agent, sizeof agent, "%s/lm-agent", self);
    for (int64_t i = 0; i < o->rounds; i++) {
        double ready_ms, idle_mb, used_mb;
        if (start_once(o, o->agent ? o->agent : agent, &ready_ms, &idle_mb, &used_mb) != 0)
            return 1;
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
