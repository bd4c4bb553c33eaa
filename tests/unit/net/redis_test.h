/* redis_test.h - a redis-server of the test's own, on a free port, that it may stop and kill. */
#ifndef LM_REDIS_TEST_H
#define LM_REDIS_TEST_H

#include "shared/base/check.h"
#include "shared/net/redis_client.h"
#include "tests/unit/net/net_test.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>

static pid_t redis_pid;
static int redis_port;
static char redis_dir[] = "/tmp/lm-redis-XXXXXX";

static inline void need_redis_binary(void)
{
    if (system("command -v redis-server >/dev/null 2>&1") != 0)
        test_skip("redis-server is not installed");
    NEED(mkdtemp(redis_dir) != NULL);
}

/* For a server that comes later, and again: below the ports that the kernel gives to others meanwhile,
 * to servers on port 0 and to connections (which could even be one to this very port, from itself). */
static inline int free_redis_port(void)
{
    int first = 32768, fd;
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    if (file) {
        if (fscanf(file, "%d", &first) != 1) first = 32768;
        fclose(file);
    }
    for (int i = 0; i < 1000 && first > 10100; i++) {
        uint16_t number;
        if (getrandom(&number, sizeof number, 0) != sizeof number) break;
        struct sockaddr_in at = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)(10000 + number % (first - 10000))),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fd = socket(AF_INET, SOCK_STREAM, 0);
        bool is_free = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
        close(fd);
        if (is_free) return ntohs(at.sin_port);
    }
    int port;
    fd = raw_listen(&port);
    close(fd);
    return port;
}

/* password "": none. The port stays the same when the server is started again. */
static inline void start_redis(const char *password)
{
    if (redis_port == 0) redis_port = free_redis_port();
    char port[16];
    snprintf(port, sizeof port, "%d", redis_port);
    redis_pid = fork();
    NEED(redis_pid >= 0);
    if (redis_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
               "--appendonly", "no", "--logfile", "/dev/null", "--dir", redis_dir, "--requirepass",
               password, (char *)NULL);
        _exit(127);
    }
}

static inline void kill_redis(void)
{
    if (redis_pid <= 0) return;
    kill(redis_pid, SIGKILL);
    waitpid(redis_pid, NULL, 0);
    redis_pid = 0;
}

static inline void remove_redis_dir(void)
{
    kill_redis();
    rmdir(redis_dir);
}

/* What came of one command; text and items are copied. */
struct answer {
    int calls, status;
    enum redis_reply_type type;
    int64_t integer;
    char text[256];
    size_t count;
    char items[16][256];
};

static inline void copy_text(char out[256], const struct redis_reply *r)
{
    if (r->type == REDIS_INT) {
        snprintf(out, 256, "%lld", (long long)r->integer);
    } else {
        snprintf(out, 256, "%.*s", (int)r->text.len, r->text.data ? r->text.data : "");
    }
}

static inline void on_answer(void *arg, int status, const struct redis_reply *reply)
{
    struct answer *a = arg;
    a->calls++;
    a->status = status;
    if (!reply) return;
    a->type = reply->type;
    a->integer = reply->integer;
    a->count = reply->count;
    copy_text(a->text, reply);
    for (size_t i = 0; i < reply->count && i < ARRAY_LEN(a->items); i++) {
        copy_text(a->items[i], &reply->items[i]);
    }
}

static struct redis_client *redis;
static int ups, downs;
static bool redis_closed;

static inline void on_redis_state(void *arg, bool connected)
{
    (void)arg;
    if (connected) {
        ups++;
    } else {
        downs++;
    }
}

static inline void on_redis_closed(void *arg)
{
    (void)arg;
    redis_closed = true;
}

static inline void open_redis(const char *format)
{
    char url[256];
    struct error err = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(url, sizeof url, format, redis_port);
#pragma GCC diagnostic pop
    uv_loop_init(&loop);
    ups = downs = 0;
    redis_closed = false;
    struct redis_client_options options = {.url = url, .on_state = on_redis_state};
    int rc = redis_client_create(&loop, &options, &redis, &err);
    if (rc != 0) printf("%s\n", err.text);
    NEED(rc == 0);
}

static inline void close_redis(void)
{
    redis_client_destroy(redis, on_redis_closed, NULL);
    EXPECT(!redis_closed);
    EXPECT(SPIN_UNTIL(redis_closed, 5000));
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* "SET a b": words apart. */
static inline void command(struct answer *a, int deadline_ms, const char *words)
{
    struct str argv[16], rest = str_of(words);
    int argc = 0;
    while (argc < 16 && str_split(&rest, ' ', &argv[argc]))
        argc++;
    *a = (struct answer){0};
    redis_client_command(redis, deadline_ms, on_answer, a, argc, argv);
    EXPECT_INT(a->calls, 0); // never inside
}

static inline void ask(struct answer *a, const char *words)
{
    command(a, 10000, words);
    NEED(SPIN_UNTIL(a->calls == 1, 20000)); // it writes to *a
}

#endif
