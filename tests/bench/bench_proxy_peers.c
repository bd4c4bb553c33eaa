/* bench_proxy_peers.c - the proxies of `lm-bench proxy` as child processes, each with one thread on
 * the core given, and what /proc says about them. HAProxy and nginx run from files written into a
 * folder of their own; lm-proxy learns of the mocks by POST /nodes/add, as of agents of ours. */
#include "tests/bench/bench_proxy.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/str.h"
#include "shared/net/agent_record.h"
#include "tests/bench/bench_tls.h"

#define READY_NS (15ull * 1000000000)
#define ARGS_MAX 48

const char *const bench_proxy_names[BENCH_PROXY_KINDS] = {"lm-proxy",  "haproxy",  "nginx",
                                                          "lm-p. TLS", "hap. TLS", "nginx TLS"};

/* ---- /proc ---- */

void bench_pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0) CPU_SET(cpu, &set);
    if (cpu >= 0) sched_setaffinity(0, sizeof set, &set);
}

static double first_number(const char *path, const char *format)
{
    char line[256];
    double value = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, format, &value) == 1) break;
    }
    if (f) fclose(f);
    return value;
}

uint64_t bench_process_cpu_ns(pid_t p)
{
    char path[320];
    double sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)p);
    DIR *tasks = opendir(path);
    for (struct dirent *d; tasks && (d = readdir(tasks));) {
        if (d->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)p, d->d_name);
        sum += first_number(path, "%lf");
    }
    if (tasks) closedir(tasks);
    return (uint64_t)sum;
}

double bench_process_rss_kb(pid_t p)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)p);
    return first_number(path, "VmRSS: %lf");
}

int bench_free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -1;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
        getsockname(fd, (struct sockaddr *)&a, &len) == 0) {
        port = ntohs(a.sin_port);
    }
    if (fd >= 0) close(fd);
    return port;
}

/* ---- files ---- */

static int descriptors(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (int)limit.rlim_cur : 1024;
}

static int write_file(const char *dir, const char *name, const struct buf *text, struct error *err)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    bool ok = f && fwrite(text->data, 1, text->len, f) == text->len;
    if (f && fclose(f) != 0) ok = false;
    return ok ? 0 : error_set(err, -errno, "cannot write '%s'", path);
}

/* http-no-delay: without it HAProxy lets the kernel hold small chunks back for up to 200 ms. */
static void print_haproxy(struct buf *out, const struct bench_proxy_process *p,
                          const struct bench_mocks *mocks)
{
    char tls[128] = "";
    if (bench_proxy_is_tls(p->kind)) snprintf(tls, sizeof tls, " ssl crt %s/pair.pem", p->dir);
    buf_printf(out,
               "global\n  nbthread 1\n  maxconn %d\n"
               "defaults\n  mode http\n  option http-no-delay\n  option http-keep-alive\n"
               "  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n"
               "  timeout http-keep-alive 75s\n"
               "frontend clients\n  bind 127.0.0.1:%d backlog 4096%s\n  default_backend mocks\n"
               "backend mocks\n  balance leastconn\n  http-reuse always\n",
               descriptors() / 2 - 60, p->port, tls);
    for (int i = 0; i < BENCH_MOCKS; i++)
        buf_printf(out, "  server mock%d 127.0.0.1:%d\n", i, mocks->port[i]);
}

static void print_nginx(struct buf *out, const struct bench_proxy_process *p,
                        const struct bench_mocks *mocks)
{
    const char *dir = p->dir;
    char tls[256] = "";
    if (bench_proxy_is_tls(p->kind)) {
        snprintf(tls, sizeof tls,
                 "    ssl_certificate %s/cert.pem;\n    ssl_certificate_key %s/key.pem;\n", dir,
                 dir);
    }
    buf_printf(out,
               "daemon off;\nmaster_process off;\nworker_processes 1;\npid %s/pid;\n"
               "error_log stderr emerg;\nworker_rlimit_nofile %d;\n"
               "events { use epoll; worker_connections %d; }\n"
               "http {\n  access_log off;\n  client_body_temp_path %s/body;\n"
               "  proxy_temp_path %s/proxy;\n  fastcgi_temp_path %s/fastcgi;\n"
               "  uwsgi_temp_path %s/uwsgi;\n  scgi_temp_path %s/scgi;\n"
               "  keepalive_requests 1000000000;\n  upstream mocks {\n    least_conn;\n",
               dir, descriptors(), descriptors() * 2, dir, dir, dir, dir, dir);
    for (int i = 0; i < BENCH_MOCKS; i++)
        buf_printf(out, "    server 127.0.0.1:%d;\n", mocks->port[i]);
    buf_printf(out,
               "    keepalive 512;\n    keepalive_requests 1000000000;\n  }\n"
               "  server {\n    listen 127.0.0.1:%d%s backlog=4096;\n%s    location / {\n"
               "      proxy_pass http://mocks;\n      proxy_http_version 1.1;\n"
               "      proxy_set_header Connection \"\";\n      proxy_buffering off;\n"
               "      proxy_read_timeout 600s;\n    }\n  }\n}\n",
               p->port, tls[0] ? " ssl" : "", tls);
}

static int write_files(struct bench_proxy_process *p, const struct bench_mocks *mocks,
                       struct error *err)
{
    snprintf(p->dir, sizeof p->dir, "/tmp/lm-bench-proxy-XXXXXX");
    if (!mkdtemp(p->dir)) {
        p->dir[0] = 0;
        return error_set(err, -errno, "cannot make a folder in /tmp: %s", strerror(errno));
    }
    int rc = bench_proxy_is_tls(p->kind) ? bench_tls_write_files(p->dir, err) : 0;
    if (rc < 0 || bench_proxy_program(p->kind) == BENCH_LM_PROXY) return rc;
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    if (bench_proxy_program(p->kind) == BENCH_HAPROXY) {
        print_haproxy(&text, p, mocks);
    } else {
        print_nginx(&text, p, mocks);
    }
    rc = write_file(p->dir, "conf", &text, err);
    buf_deinit(&text);
    return rc;
}

static void remove_files(struct bench_proxy_process *p)
{
    static const char *const names[] = {"conf", "pid"};
    static const char *const folders[] = {"body", "proxy", "fastcgi", "uwsgi", "scgi"};
    char path[128];
    if (!p->dir[0]) return;
    bench_tls_remove_files(p->dir);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", p->dir, names[i]);
        unlink(path);
    }
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", p->dir, folders[i]);
        rmdir(path);
    }
    rmdir(p->dir);
    p->dir[0] = 0;
}

/* ---- beats: what an agent of ours would say four times a second ---- */

static void print_beat(struct buf *body, int port, uint64_t sequence)
{
    struct agent_record r = {
        .model_count = 1,
        .start_ms = 1,
        .context_len = 32768,
        .capacity = 65536,
        .queue_max = 65536,
        .load = {.kv_used_share = 0.1,
                 .prefill_tokens_per_s = 20000,
                 .inter_token_s = 0.01,
                 .sequence = sequence},
    };
    snprintf(r.id, sizeof r.id, "mock-%d", port);
    snprintf(r.incarnation, sizeof r.incarnation, "1");
    snprintf(r.url, sizeof r.url, "http://127.0.0.1:%d", port);
    snprintf(r.models[0], sizeof r.models[0], "bench");
    agent_record_print_node(body, &r);
}

/* A connection that stays, as an agent's: new ones wait behind all clients that come. */
struct beats {
    int fd; // -1: none
    bool is_tls;
    SSL *ssl; // NULL: plain
};

static void hang_up(struct beats *b)
{
    bench_tls_close(b->ssl);
    b->ssl = NULL;
    if (b->fd >= 0) close(b->fd);
    b->fd = -1;
}

/* True: a whole answer with status 200. */
static bool read_answer(const struct beats *b)
{
    char answer[2048] = "";
    size_t len = 0;
    for (;;) {
        size_t room = sizeof answer - 1 - len;
        ssize_t n =
            b->ssl ? SSL_read(b->ssl, answer + len, (int)room) : recv(b->fd, answer + len, room, 0);
        if (n <= 0) return false;
        len += (size_t)n;
        answer[len] = 0;
        const char *body = strstr(answer, "\r\n\r\n");
        const char *length = strcasestr(answer, "content-length: ");
        int64_t bytes = 0;
        if (!body || !length) continue;
        size_t digits = strspn(length + 16, "0123456789");
        if (str_to_int((struct str){length + 16, digits}, &bytes) < 0) return false;
        if (answer + len >= body + 4 + bytes) return strncmp(answer, "HTTP/1.1 200", 12) == 0;
    }
}

static bool dial(struct beats *b, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 3};
    b->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (b->fd < 0) return false;
    setsockopt(b->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(b->fd, (struct sockaddr *)&a, sizeof a) != 0) return false;
    if (b->is_tls) b->ssl = bench_tls_open(b->fd);
    return true;
}

static bool send_beat(const struct beats *b, const struct buf *request)
{
    ssize_t len = (ssize_t)request->len;
    if (b->ssl) return SSL_write(b->ssl, request->data, (int)len) == len;
    return send(b->fd, request->data, request->len, MSG_NOSIGNAL) == len;
}

/* False: it was not taken. */
static bool beat(struct beats *b, int proxy_port, int mock_port, uint64_t sequence)
{
    struct buf body, request;
    buf_init(&body, BUF_MAX_INTERNAL);
    buf_init(&request, BUF_MAX_INTERNAL);
    print_beat(&body, mock_port, sequence);
    buf_printf(&request,
               "POST /nodes/add HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\n\r\n",
               body.len);
    buf_append(&request, body.data, body.len);
    bool ok = (b->fd >= 0 || dial(b, proxy_port)) && send_beat(b, &request) && read_answer(b);
    if (!ok) hang_up(b);
    buf_deinit(&body);
    buf_deinit(&request);
    return ok;
}

static int start_beats(struct bench_proxy_process *p, const struct bench_mocks *mocks,
                       struct error *err)
{
    struct beats b = {.fd = -1, .is_tls = bench_proxy_is_tls(p->kind)};
    for (int i = 0; i < BENCH_MOCKS; i++) {
        if (!beat(&b, p->port, mocks->port[i], 1))
            return error_set(err, E_UPSTREAM, "POST /nodes/add was refused");
    }
    hang_up(&b);
    p->beat_pid = fork();
    if (p->beat_pid < 0) return error_set(err, -errno, "fork: %s", strerror(errno));
    if (p->beat_pid > 0) return 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t any; // a lease that runs out behind a busy load would measure nothing
    memset(&any, 0xff, sizeof any);
    sched_setaffinity(0, sizeof any, &any);
    setpriority(PRIO_PROCESS, 0, -10);
    for (uint64_t sequence = 2;; sequence++) {
        nanosleep(&(struct timespec){.tv_nsec = AGENT_LOAD_MS * 1000000}, NULL);
        for (int i = 0; i < BENCH_MOCKS; i++)
            beat(&b, p->port, mocks->port[i], sequence);
    }
}

/* ---- life ---- */

/* --proxy, or the one beside lm-bench. */
static void own_path(const struct bench_options *o, char *out, size_t size)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) *slash = 0;
    snprintf(out, size, "%s%s", o->proxy ? o->proxy : self, o->proxy ? "" : "/lm-proxy");
}

/* What the child does; it tells errno through `report` where it fails. */
_Noreturn static void become(const char *const *argv, int cpu, int report)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); // nobody is left behind, however lm-bench ends
    bench_pin(cpu);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, STDOUT_FILENO);
    execvp(argv[0], (char *const *)argv);
    int code = errno;
    (void)!write(report, &code, sizeof code);
    _exit(127);
}

static int spawn(const char *const *argv, int cpu, pid_t *pid, struct error *err)
{
    int report[2], code = 0;
    if (pipe2(report, O_CLOEXEC) != 0) return error_set(err, -errno, "pipe: %s", strerror(errno));
    *pid = fork();
    if (*pid == 0) become(argv, cpu, report[1]);
    close(report[1]);
    if (*pid < 0) code = errno;
    if (*pid > 0 && read(report[0], &code, sizeof code) <= 0) code = 0; // closed by exec
    close(report[0]);
    if (code == 0) return 0;
    if (*pid > 0) waitpid(*pid, NULL, 0);
    *pid = 0;
    if (code == ENOENT) return error_set(err, E_NOT_FOUND, "'%s' is not installed", argv[0]);
    return error_set(err, -code, "cannot run '%s': %s", argv[0], strerror(code));
}

static int spawn_kind(const struct bench_options *o, struct bench_proxy_process *p, int cpu,
                      struct error *err)
{
    char path[PATH_MAX + 16], conf[96], port[16], most[16];
    snprintf(conf, sizeof conf, "%s/conf", p->dir);
    snprintf(port, sizeof port, "%d", p->port);
    snprintf(most, sizeof most, "%d", descriptors());
    if (bench_proxy_program(p->kind) == BENCH_HAPROXY) {
        const char *argv[] = {"haproxy", "-q", "-db", "-f", conf, NULL};
        return spawn(argv, cpu, &p->pid, err);
    }
    if (bench_proxy_program(p->kind) == BENCH_NGINX) {
        const char *argv[] = {"nginx", "-p", p->dir, "-c", conf, NULL};
        return spawn(argv, cpu, &p->pid, err);
    }
    own_path(o, path, sizeof path);
    const char *argv[ARGS_MAX] = {path,   "--server-name",     "127.0.0.1", "--port",
                                  port,   "--connections-max", most,        "--log-level",
                                  "error"};
    size_t n = 9;
    char key[96], certificate[96];
    snprintf(key, sizeof key, "%s/key.pem", p->dir);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", p->dir);
    const char *tls[] = {"--ssl-keyfile", key, "--ssl-certfile", certificate};
    for (size_t i = 0; bench_proxy_is_tls(p->kind) && i < ARRAY_LEN(tls); i++)
        argv[n++] = tls[i];
    for (size_t i = 0; i < o->proxy_args.count && n < ARGS_MAX - 1; i++)
        argv[n++] = o->proxy_args.items[i];
    return spawn(argv, cpu, &p->pid, err);
}

static int wait_listening(struct bench_proxy_process *p, struct error *err)
{
    uint64_t start = clock_ns();
    while (clock_ns() - start < READY_NS) {
        if (waitpid(p->pid, NULL, WNOHANG) == p->pid) {
            p->pid = 0;
            return error_set(err, E_UPSTREAM, "%s ended at its start", bench_proxy_names[p->kind]);
        }
        static const char question[] =
            "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        int status = bench_proxy_is_tls(p->kind) ? bench_tls_request(p->port, question)
                                                 : bench_agent_request(p->port, question);
        if (status == 200) return 0;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return error_set(err, E_TIMEOUT, "%s did not become ready", bench_proxy_names[p->kind]);
}

int bench_proxy_start(const struct bench_options *o, enum bench_proxy_kind kind,
                      const struct bench_mocks *mocks, int cpu, struct bench_proxy_process *p,
                      struct error *err)
{
    *p = (struct bench_proxy_process){.kind = kind, .port = bench_free_port()};
    bool is_ours = bench_proxy_program(kind) == BENCH_LM_PROXY;
    int rc = kind == BENCH_LM_PROXY ? 0 : write_files(p, mocks, err);
    if (rc == 0) rc = spawn_kind(o, p, cpu, err);
    if (rc == 0) rc = wait_listening(p, err);
    if (rc == 0 && is_ours) rc = start_beats(p, mocks, err);
    if (rc < 0) bench_proxy_stop(p);
    return rc;
}

static void kill_child(pid_t *pid)
{
    if (*pid <= 0) return;
    kill(*pid, SIGKILL);
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR) {
    }
    *pid = 0;
}

void bench_proxy_stop(struct bench_proxy_process *p)
{
    kill_child(&p->beat_pid);
    kill_child(&p->pid);
    remove_files(p);
}
