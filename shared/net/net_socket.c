/* net_socket.c - see net_socket.h.
 *
 * Rules:
 *  1. Edge-triggered: an event is told once. What it says is kept in the socket (readable, hung_up)
 *     until a read has found nothing more: a read that didn't fill the buffer, unless the end is
 *     known to stand behind it.
 *  2. A socket that has more than one buffer's worth, and one whose reading goes on while input
 *     waits, goes on the due list and has its turn behind the others.
 *  3. A batch of events is noted in its sockets first and served then, so that whoever looks at
 *     another socket in a callback sees what has arrived there. Connections that came are served
 *     before those that we made: what one peer process gets is sent close together, while it is
 *     awake. A sleeping one costs its sender more than the bytes do.
 *  4. A closed socket stays in memory until the batch is over: an event of it may still be in there.
 */
#include "shared/net/net_socket.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/net/net_tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH     256
#define POLLED_MS 5 // what the loop heard that long ago at most is news; its clock is as coarse

struct net_sockets {
    struct net_sockets *next; // all of the process
    uv_loop_t *loop;
    int refs;
    int epoll;
    int count; // open sockets: they keep the loop running
    int handles_open;
    uv_poll_t poll; // of `epoll`
    uv_idle_t turn; // what is due or closed outside of a batch
    struct list due, closed;
    bool serving;                   // in a batch: its end does what `turn` would
    void (*on_released)(void *arg); // of the last holder
    void *on_released_arg;
    char buffer[NET_READ_BYTES];
};

static pthread_mutex_t sets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct net_sockets *sets;

/* ---- serving ---- */

static void fail_connect(struct net_socket *s)
{
    int status = 0;
    socklen_t len = sizeof status;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &status, &len) != 0) status = errno;
    s->connecting = false;
    s->events->on_connected(s, status ? -status : UV_ECONNABORTED);
}

/* True: done, and the user may have what comes. */
static bool shake_hands(struct net_socket *s)
{
    int rc = net_tls_handshake(s);
    if (rc == UV_EAGAIN) return false;
    s->securing = false;
    if (rc == UV_EPROTONOSUPPORT) net_tls_destroy(s, true);
    s->events->on_connected(s, rc);
    return rc == 0 && s->fd >= 0;
}

static void read_tls(struct net_socket *s)
{
    ssize_t n = net_tls_read(s, s->set->buffer, sizeof s->set->buffer);
    if (n > 0) s->events->on_data(s, s->set->buffer, (size_t)n);
    if (n > 0 || n == UV_EAGAIN) return;
    s->reading = false;
    s->events->on_lost(s, (int)n);
}

static void read_once(struct net_socket *s)
{
    struct net_sockets *set = s->set;
    if (s->tls) {
        read_tls(s);
        return;
    }
    ssize_t n = recv(s->fd, set->buffer, sizeof set->buffer, 0);
    if (n > 0) {
        if ((size_t)n < sizeof set->buffer && !s->hung_up) s->readable = false;
        s->events->on_data(s, set->buffer, (size_t)n);
        return;
    }
    if (n < 0 && errno == EINTR) return;
    s->readable = false;
    if (n < 0 && errno == EAGAIN) return;
    s->reading = false;
    s->events->on_lost(s, n == 0 ? UV_EOF : -errno);
}

static void be_due(struct net_socket *s)
{
    list_remove(&s->link);
    list_push_back(&s->set->due, &s->link);
}

static void serve(struct net_socket *s)
{
    bool is_ready = !s->securing || shake_hands(s);
    if (is_ready && s->readable && s->reading) read_once(s);
    if (s->fd >= 0 && s->readable && s->reading && !s->securing) be_due(s); // rule 2
}

static void on_event(struct net_socket *s, uint32_t events)
{
    if (s->fd < 0) return; // rule 4
    if (s->listens) {
        s->events->on_acceptable(s);
        return;
    }
    if (s->connecting) {
        if (events & (EPOLLERR | EPOLLHUP)) {
            fail_connect(s);
            return;
        }
        if (!(events & EPOLLOUT)) return;
        s->connecting = false;
        if (!s->securing) s->events->on_connected(s, 0);
        if (s->fd < 0) return;
    }
    if (s->blocked && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        s->blocked = s->tls && !net_tls_flush(s);
        if (!s->blocked && !s->securing) s->events->on_writable(s);
        if (s->fd < 0) return;
    }
    serve(s);
}

/* Those that are due now, then the end of those that are closed. */
static void take_turn(struct net_sockets *set)
{
    struct list now;
    list_init(&now);
    while (!list_is_empty(&set->due)) {
        struct list *item = set->due.next;
        list_remove(item);
        list_push_back(&now, item);
    }
    while (!list_is_empty(&now)) {
        struct net_socket *s = list_first(&now, struct net_socket, link);
        list_remove(&s->link);
        serve(s);
    }
    while (!list_is_empty(&set->closed)) {
        struct net_socket *s = list_first(&set->closed, struct net_socket, link);
        list_remove(&s->link);
        s->events->on_closed(s);
    }
}

static void on_turn(uv_idle_t *turn)
{
    struct net_sockets *set = turn->data;
    set->serving = true;
    take_turn(set);
    set->serving = false;
    if (list_is_empty(&set->due) && list_is_empty(&set->closed)) uv_idle_stop(turn);
}

static void need_turn(struct net_sockets *set)
{
    if (!set->serving) uv_idle_start(&set->turn, on_turn);
}

static void serve_side(const struct epoll_event *batch, int n, bool is_outgoing)
{
    for (int i = 0; i < n; i++) {
        struct net_socket *s = batch[i].data.ptr;
        if (s->is_outgoing == is_outgoing) on_event(s, batch[i].events);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct net_sockets *set = poll->data;
    struct epoll_event batch[BATCH];
    (void)events;
    int n = status == 0 ? epoll_wait(set->epoll, batch, BATCH, 0) : 0;
    set->serving = true;
    for (int i = 0; i < n; i++) { // rule 3
        struct net_socket *s = batch[i].data.ptr;
        if (batch[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) s->readable = true;
        if (batch[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) s->hung_up = true;
    }
    serve_side(batch, n, false);
    serve_side(batch, n, true);
    if (!list_is_empty(&set->closed) || !list_is_empty(&set->due)) take_turn(set);
    set->serving = false;
    if (!list_is_empty(&set->closed) || !list_is_empty(&set->due)) need_turn(set);
}

/* ---- sets ---- */

struct net_sockets *net_sockets_ref(uv_loop_t *loop)
{
    pthread_mutex_lock(&sets_lock);
    struct net_sockets *set = sets;
    while (set && set->loop != loop)
        set = set->next;
    if (set) set->refs++;
    pthread_mutex_unlock(&sets_lock);
    if (set) return set;
    set = xcalloc(1, sizeof *set);
    set->loop = loop;
    set->refs = 1;
    list_init(&set->due);
    list_init(&set->closed);
    set->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(set->epoll >= 0);
    CHECK(uv_poll_init(loop, &set->poll, set->epoll) == 0);
    CHECK(uv_idle_init(loop, &set->turn) == 0);
    CHECK(uv_poll_start(&set->poll, UV_READABLE, on_poll) == 0);
    uv_unref((uv_handle_t *)&set->poll);
    set->poll.data = set->turn.data = set;
    set->handles_open = 2;
    pthread_mutex_lock(&sets_lock);
    set->next = sets;
    sets = set;
    pthread_mutex_unlock(&sets_lock);
    return set;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct net_sockets *set = handle->data;
    if (--set->handles_open > 0) return;
    void (*on_released)(void *) = set->on_released;
    void *arg = set->on_released_arg;
    close(set->epoll);
    free(set);
    on_released(arg);
}

void net_sockets_unref(struct net_sockets *set, void (*on_released)(void *arg), void *arg)
{
    pthread_mutex_lock(&sets_lock);
    bool last = --set->refs == 0;
    struct net_sockets **at = &sets;
    while (last && *at != set)
        at = &(*at)->next;
    if (last) *at = set->next;
    pthread_mutex_unlock(&sets_lock);
    if (!last) {
        on_released(arg);
        return;
    }
    CHECK(set->count == 0);
    set->on_released = on_released;
    set->on_released_arg = arg;
    uv_close((uv_handle_t *)&set->poll, on_handle_closed);
    uv_close((uv_handle_t *)&set->turn, on_handle_closed);
}

/* ---- sockets ---- */

static void add(struct net_socket *s, struct net_sockets *set, int fd,
                const struct net_socket_events *events, uint32_t mask)
{
    s->events = events;
    s->set = set;
    s->fd = fd;
    list_init(&s->link);
    if (set->count++ == 0) uv_ref((uv_handle_t *)&set->poll);
    struct epoll_event e = {.events = mask, .data.ptr = s};
    CHECK(epoll_ctl(set->epoll, EPOLL_CTL_ADD, fd, &e) == 0);
}

#define EDGES (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

void net_socket_open(struct net_socket *s, struct net_sockets *set, int fd,
                     const struct net_socket_events *events)
{
    *s = (struct net_socket){.fd = -1};
    add(s, set, fd, events, EDGES);
}

int net_socket_connect(struct net_socket *s, struct net_sockets *set,
                       const struct sockaddr *address, const struct net_socket_events *events)
{
    *s = (struct net_socket){.fd = -1};
    list_init(&s->link);
    int one = 1;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    socklen_t len =
        address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (connect(fd, address, len) != 0 && errno != EINPROGRESS) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    s->connecting = s->is_outgoing = true;
    add(s, set, fd, events, EDGES);
    return 0;
}

void net_socket_secure(struct net_socket *s, struct ssl_st *session)
{
    s->tls = net_tls_create(s, session);
    s->securing = true;
}

const char *net_socket_why(const struct net_socket *s)
{
    return s->tls ? s->tls->why : NULL;
}

void net_listener_open(struct net_socket *s, struct net_sockets *set, int fd,
                       const struct net_socket_events *events)
{
    *s = (struct net_socket){.fd = -1, .listens = true};
    add(s, set, fd, events, EPOLLIN);
}

int net_listener_accept(struct net_socket *s, struct sockaddr_storage *peer)
{
    socklen_t len = sizeof *peer;
    int fd;
    do {
        fd = accept4(s->fd, (struct sockaddr *)peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd >= 0 ? fd : -errno;
}

void net_listener_pause(struct net_socket *s, bool on)
{
    if (s->fd < 0) return;
    struct epoll_event e = {.events = on ? 0 : EPOLLIN, .data.ptr = s};
    CHECK(epoll_ctl(s->set->epoll, EPOLL_CTL_MOD, s->fd, &e) == 0);
}

void net_socket_read(struct net_socket *s, bool on)
{
    if (s->fd < 0 || s->reading == on) return;
    s->reading = on;
    if (!on || !s->readable || s->connecting || s->securing) return;
    be_due(s);
    need_turn(s->set);
}

ssize_t net_socket_send(struct net_socket *s, const struct iovec *pieces, int count)
{
    if (s->blocked) return 0;
    if (s->tls) return net_tls_send(s, pieces, count);
    ssize_t total = 0, n;
    for (int i = 0; i < count; i++)
        total += (ssize_t)pieces[i].iov_len;
    if (total == 0) return 0;
    struct msghdr message = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = (size_t)count};
    do {
        n = count == 1 ? send(s->fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL)
                       : sendmsg(s->fd, &message, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) return -errno;
    if (n < total) s->blocked = true;
    return n < 0 ? 0 : n;
}

int net_socket_shutdown(struct net_socket *s)
{
    if (s->tls) return net_tls_shutdown(s);
    return shutdown(s->fd, SHUT_WR) == 0 ? 0 : -errno;
}

void net_socket_close(struct net_socket *s, bool reset)
{
    if (s->fd < 0) return;
    if (s->tls) net_tls_destroy(s, reset);
    s->securing = false;
    struct linger now = {1, 0};
    if (reset) setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    struct net_sockets *set = s->set;
    /* Closing takes it out of the set only where nobody else holds the file: a listener may have been
     * handed to another process, and a process that is being forked holds everything. */
    epoll_ctl(set->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    close(s->fd);
    s->fd = -1;
    s->reading = false;
    if (--set->count == 0) uv_unref((uv_handle_t *)&set->poll);
    list_remove(&s->link);
    list_push_back(&set->closed, &s->link);
    need_turn(set);
}

bool net_socket_has_input(const struct net_socket *s)
{
    if (s->readable || s->fd < 0) return true;
    if (clock_ms() <= uv_now(s->set->loop) + POLLED_MS) return false;
    char byte;
    return recv(s->fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN;
}
