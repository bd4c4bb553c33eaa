#define LOG_MODULE "upgrade"
#include "proxy/upgrade.h"

#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SOCKETS_VARIABLE "LM_LISTEN_FDS"     // how many, from descriptor 3 on
#define PARENT_VARIABLE  "LM_UPGRADE_PARENT" // its process id
#define STATE_VARIABLE   "LM_UPGRADE_STATE"  // descriptor of a file; behind the sockets
#define FIRST_SOCKET     3
#define ADDED            3 // variables

extern char **environ;

/* Of the process, not of a proxy: arguments and descriptors are. */
static struct {
    char program[4096];
    char **argv;
    int sockets[UPGRADE_SOCKETS_MAX]; // -1: taken
    int count;
    pid_t parent; // 0: not an upgrade
    int state;    // descriptor; 0: none
    uv_process_t child;
    bool has_child;
} upgrade;

/* 0 unless it is a number within 1..max. */
static int read_variable(const char *name, int max)
{
    const char *text = getenv(name);
    int64_t value = 0;
    if (text && (str_to_int(str_of(text), &value) < 0 || value < 1 || value > max)) value = 0;
    unsetenv(name);
    return (int)value;
}

/* The working directory may change, so the path is made absolute. */
static void remember_program(const char *name)
{
    size_t size = sizeof upgrade.program;
    char folder[2048];
    if (name[0] == '/' || (strchr(name, '/') && getcwd(folder, sizeof folder))) {
        bool is_whole = name[0] == '/';
        snprintf(upgrade.program, size, "%s%s%s", is_whole ? "" : folder, is_whole ? "" : "/",
                 name);
        return;
    }
    ssize_t len = readlink("/proc/self/exe", upgrade.program, size - 1);
    if (len < 0) snprintf(upgrade.program, size, "%s", name);
}

void upgrade_init(char **argv)
{
    upgrade.argv = argv;
    remember_program(argv[0]);
    int count = read_variable(SOCKETS_VARIABLE, UPGRADE_SOCKETS_MAX);
    int parent = read_variable(PARENT_VARIABLE, INT32_MAX);
    int state = read_variable(STATE_VARIABLE, FIRST_SOCKET + UPGRADE_SOCKETS_MAX);
    if (parent == 0 || getppid() != parent) return;
    upgrade.parent = parent;
    upgrade.count = count;
    for (int i = 0; i < count; i++) {
        upgrade.sockets[i] = FIRST_SOCKET + i;
        fcntl(FIRST_SOCKET + i, F_SETFD, FD_CLOEXEC);
    }
    upgrade.state = state;
    if (state) fcntl(state, F_SETFD, FD_CLOEXEC);
}

void upgrade_take_state(struct buf *out)
{
    if (upgrade.state == 0) return;
    char piece[16384];
    ssize_t n;
    lseek(upgrade.state, 0, SEEK_SET);
    while ((n = read(upgrade.state, piece, sizeof piece)) > 0)
        if (buf_append(out, piece, (size_t)n) < 0) break;
    close(upgrade.state);
    upgrade.state = 0;
}

bool upgrade_is_one(void)
{
    return upgrade.parent != 0;
}

static int port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0) return -1;
    in_port_t port = address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                   : ((struct sockaddr_in *)&address)->sin_port;
    return ntohs(port);
}

int upgrade_take_socket(int port)
{
    for (int i = 0; i < upgrade.count; i++) {
        int fd = upgrade.sockets[i];
        if (fd < 0 || (port != 0 && port_of(fd) != port)) continue;
        upgrade.sockets[i] = -1;
        return fd;
    }
    return -1;
}

void upgrade_confirm(void)
{
    for (int i = 0; i < upgrade.count; i++)
        if (upgrade.sockets[i] >= 0) close(upgrade.sockets[i]);
    upgrade.count = 0;
    if (upgrade.parent == 0) return;
    bool is_there = getppid() == upgrade.parent;
    log_info("upgraded", "parent=%d there=%s", (int)upgrade.parent, is_there ? "yes" : "no");
    if (is_there) kill(upgrade.parent, SIGTERM);
    upgrade.parent = 0;
}

static void on_child_closed(uv_handle_t *handle)
{
    (void)handle;
    upgrade.has_child = false;
}

static void on_exit_of_child(uv_process_t *child, int64_t status, int signo)
{
    log_error("the new process has ended, this one goes on", "status=%lld signal=%d",
              (long long)status, signo);
    uv_close((uv_handle_t *)child, on_child_closed);
}

/* Ours, and what the child is told. The array is the caller's, its last ADDED texts too. */
static char **make_environment(int sockets)
{
    size_t count = 0;
    while (environ[count])
        count++;
    char **all = xcalloc(count + ADDED + 1, sizeof *all);
    memcpy(all, environ, count * sizeof *all);
    char text[64];
    snprintf(text, sizeof text, SOCKETS_VARIABLE "=%d", sockets);
    all[count] = xstrdup(text);
    snprintf(text, sizeof text, PARENT_VARIABLE "=%d", (int)getpid());
    all[count + 1] = xstrdup(text);
    snprintf(text, sizeof text, STATE_VARIABLE "=%d", FIRST_SOCKET + sockets);
    all[count + 2] = xstrdup(text);
    return all;
}

static void free_environment(char **all)
{
    size_t count = 0;
    while (all[count])
        count++;
    for (size_t i = 1; i <= ADDED; i++)
        free(all[count - i]);
    free(all);
}

/* A file without a name that holds the text; negative: there is none to be had. */
static int open_state(struct str text)
{
    int fd = memfd_create("lm-proxy-state", MFD_CLOEXEC);
    size_t done = 0;
    while (fd >= 0 && done < text.len) {
        ssize_t n = write(fd, text.data + done, text.len - done);
        if (n <= 0) {
            close(fd);
            return -1;
        }
        done += (size_t)n;
    }
    return fd;
}

int upgrade_start(uv_loop_t *loop, const int *sockets, int count, struct str state,
                  struct error *err)
{
    if (upgrade.has_child) return error_set(err, E_BUSY, "an upgrade is under way");
    CHECK(count <= UPGRADE_SOCKETS_MAX);
    int state_fd = open_state(state);
    if (state_fd < 0) return error_set(err, -errno, "no memory for the state: %s", strerror(errno));
    uv_stdio_container_t stdio[FIRST_SOCKET + UPGRADE_SOCKETS_MAX + 1];
    for (int i = 0; i < FIRST_SOCKET + count; i++) {
        stdio[i].flags = UV_INHERIT_FD;
        stdio[i].data.fd = i < FIRST_SOCKET ? i : sockets[i - FIRST_SOCKET];
    }
    stdio[FIRST_SOCKET + count] = (uv_stdio_container_t){UV_INHERIT_FD, {.fd = state_fd}};
    char **environment = make_environment(count);
    uv_process_options_t options = {
        .exit_cb = on_exit_of_child,
        .file = upgrade.program,
        .args = upgrade.argv,
        .env = environment,
        .stdio_count = FIRST_SOCKET + count + 1,
        .stdio = stdio,
    };
    int rc = uv_spawn(loop, &upgrade.child, &options);
    free_environment(environment);
    close(state_fd);
    upgrade.has_child = true;
    if (rc != 0) {
        uv_close((uv_handle_t *)&upgrade.child, on_child_closed);
        return error_set(err, rc, "cannot start '%s': %s", upgrade.program, uv_strerror(rc));
    }
    uv_unref((uv_handle_t *)&upgrade.child); // no reason to stay
    log_info("upgrade begins", "program=%s child=%d sockets=%d", upgrade.program,
             (int)upgrade.child.pid, count);
    return 0;
}
