/* net_test.h - what the tests of shared/net share: one loop, raw clients that speak bytes, and
 * waiting for a condition while the loop runs. All on one thread, so that every interleaving is the
 * test's. */
#ifndef LM_NET_TEST_H
#define LM_NET_TEST_H

#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "tests/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

static uv_loop_t loop;

static inline void spin_once(void)
{
    uv_run(&loop, UV_RUN_NOWAIT);
    usleep(100);
}

/* Run the loop until the condition holds; false after `ms`. */
#define SPIN_UNTIL(cond, ms)                         \
    ({                                               \
        uint64_t end_ = clock_ms() + (uint64_t)(ms); \
        bool held_ = false;                          \
        do {                                         \
            spin_once();                             \
            held_ = (cond);                          \
        } while (!held_ && clock_ms() < end_);       \
        held_;                                       \
    })

static inline void spin_for(int ms)
{
    (void)SPIN_UNTIL(false, ms);
}

struct raw_client {
    int fd;
    struct buf in;
    bool eof, reset;
};

static inline void raw_open(struct raw_client *c, int port)
{
    *c = (struct raw_client){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    buf_init(&c->in, BUF_MAX_INTERNAL);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    NEED(c->fd >= 0);
    NEED(connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static inline void raw_close(struct raw_client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    buf_deinit(&c->in);
}

/* Close so that the peer gets a RST. */
static inline void raw_reset(struct raw_client *c)
{
    struct linger now = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    raw_close(c);
}

/* Take what has arrived. */
static inline void raw_poll(struct raw_client *c)
{
    char data[65536];
    while (!c->eof && !c->reset) {
        ssize_t n = recv(c->fd, data, sizeof data, 0);
        if (n > 0) {
            buf_append(&c->in, data, (size_t)n);
        } else if (n == 0) {
            c->eof = true;
        } else if (errno == EAGAIN) {
            return;
        } else {
            c->reset = true;
        }
    }
}

/* Send all, running the loop while the peer doesn't take it; false when the peer is gone. */
static inline bool raw_send(struct raw_client *c, const void *data, size_t len)
{
    size_t sent = 0;
    uint64_t end = clock_ms() + 10000;
    while (sent < len && clock_ms() < end) {
        ssize_t n = send(c->fd, (const char *)data + sent, len - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        if (n < 0 && errno != EAGAIN) return false;
        if (n < 0) spin_once();
    }
    return sent == len;
}

static inline bool raw_puts(struct raw_client *c, const char *text)
{
    return raw_send(c, text, strlen(text));
}

static inline const char *raw_text(struct raw_client *c)
{
    return c->in.len ? c->in.data : "";
}

static inline bool raw_has(struct raw_client *c, const char *text)
{
    raw_poll(c);
    return strstr(raw_text(c), text) != NULL;
}

static inline bool raw_ended(struct raw_client *c)
{
    raw_poll(c);
    return c->eof || c->reset;
}

static inline int count_of(const char *text, const char *needle)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, needle)); at += strlen(needle))
        count++;
    return count;
}

/* ---- a server that speaks bytes ---- */

static inline int raw_listen(int *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    NEED(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 16) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static inline bool raw_accept(int listener, struct raw_client *c)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return false;
    *c = (struct raw_client){.fd = fd};
    buf_init(&c->in, BUF_MAX_INTERNAL);
    return true;
}

/* Status of the first response in a text; 0: none. */
static inline int first_status(const char *text)
{
    int status = 0;
    if (sscanf(text, "HTTP/1.1 %d", &status) != 1) return 0;
    return status;
}

#endif
