#include "shared/net/net_socket.h"

#include "shared/base/check.h"
#include "shared/net/loop.h"
#include "tests/unit/net/net_test.h"

#include <signal.h>

/* Two ends of one connection: `socket` in the set, `peer` as raw bytes. */
static struct net_sockets *set;
static struct net_socket ends[2];
static struct buf got[2];
static int lost[2], writable[2], closed[2];
static bool pauses;               // on_data stops the reading
static struct net_socket *closes; // closed by the first on_data
static bool released;

static size_t index_of(const struct net_socket *s)
{
    return s == &ends[0] ? 0 : 1;
}

static void on_data(struct net_socket *s, const char *data, size_t len)
{
    buf_append(&got[index_of(s)], data, len);
    if (pauses) net_socket_read(s, false);
    if (closes) net_socket_close(closes, false);
    closes = NULL;
}

static void on_lost(struct net_socket *s, int status)
{
    lost[index_of(s)] = status;
}

static void on_writable(struct net_socket *s)
{
    writable[index_of(s)]++;
}

static int *connected; // on_connected's status

static void on_connected(struct net_socket *s, int status)
{
    (void)s;
    *connected = status;
}

static void on_closed(struct net_socket *s)
{
    closed[index_of(s)]++;
}

static void on_released(void *arg)
{
    (void)arg;
    released = true;
}

static const struct net_socket_events events = {.on_connected = on_connected,
                                                .on_data = on_data,
                                                .on_lost = on_lost,
                                                .on_writable = on_writable,
                                                .on_closed = on_closed};

static void start(int peers[2])
{
    NEED(uv_loop_init(&loop) == 0);
    set = net_sockets_ref(&loop);
    pauses = released = false;
    closes = NULL;
    for (int i = 0; i < 2; i++) {
        int pair[2];
        NEED(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
        net_socket_open(&ends[i], set, pair[0], &events);
        peers[i] = pair[1];
        buf_init(&got[i], BUF_MAX_INTERNAL);
        lost[i] = writable[i] = closed[i] = 0;
    }
}

static void stop(int peers[2])
{
    for (int i = 0; i < 2; i++) {
        net_socket_close(&ends[i], false);
        net_socket_close(&ends[i], false); // idempotent
        close(peers[i]);
        buf_deinit(&got[i]);
    }
    EXPECT(SPIN_UNTIL(closed[0] == 1 && closed[1] == 1, 1000));
    net_sockets_unref(set, on_released, NULL);
    EXPECT(SPIN_UNTIL(released, 1000));
    EXPECT_INT(uv_loop_close(&loop), 0);
}

static void put(int fd, const char *text)
{
    NEED(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void test_bytes_and_end(void)
{
    int peers[2];
    start(peers);
    put(peers[0], "before");
    spin_for(10);
    EXPECT_INT(got[0].len, 0); // nobody asked
    EXPECT(net_socket_has_input(&ends[0]));
    net_socket_read(&ends[0], true);
    EXPECT_INT(got[0].len, 0); // never from inside a call
    EXPECT(SPIN_UNTIL(got[0].len == 6, 1000));
    EXPECT(!net_socket_has_input(&ends[0]));
    put(peers[0], "last");
    close(peers[0]); // the end stands right behind the bytes: one event tells of both
    peers[0] = -1;
    EXPECT(SPIN_UNTIL(lost[0] == UV_EOF, 1000));
    EXPECT_STR(got[0].data, "beforelast");
    stop(peers);
}

/* More than a buffer's worth comes to its end though the edge is told once. */
static void test_much(void)
{
    int peers[2];
    start(peers);
    net_socket_read(&ends[0], true);
    char block[4096];
    memset(block, 'x', sizeof block);
    size_t sent = 0, total = 3 * NET_READ_BYTES + 17;
    while (got[0].len < total) {
        size_t n = total - sent < sizeof block ? total - sent : sizeof block;
        ssize_t wrote = n ? write(peers[0], block, n) : 0;
        if (wrote > 0) sent += (size_t)wrote;
        if (wrote <= 0) NEED(SPIN_UNTIL(got[0].len == sent, 5000));
    }
    EXPECT_INT(got[0].len, total);
    stop(peers);
}

static void test_pause_and_go_on(void)
{
    int peers[2];
    start(peers);
    pauses = true;
    net_socket_read(&ends[0], true);
    put(peers[0], "a");
    EXPECT(SPIN_UNTIL(got[0].len == 1, 1000));
    put(peers[0], "b");
    spin_for(10);
    EXPECT_INT(got[0].len, 1);
    net_socket_read(&ends[0], true); // no new edge comes for "b"
    EXPECT(SPIN_UNTIL(got[0].len == 2, 1000));
    close(peers[0]);
    peers[0] = -1;
    spin_for(10);
    EXPECT_INT(lost[0], 0); // paused again
    net_socket_read(&ends[0], true);
    EXPECT(SPIN_UNTIL(lost[0] == UV_EOF, 1000));
    stop(peers);
}

/* Both have an event in one batch, and the first one's callback closes the other. */
static void test_close_within_a_batch(void)
{
    int peers[2];
    start(peers);
    net_socket_read(&ends[0], true);
    net_socket_read(&ends[1], true);
    spin_for(5);
    put(peers[0], "x");
    put(peers[1], "y");
    closes = &ends[1];
    EXPECT(SPIN_UNTIL(closed[1] == 1, 1000));
    EXPECT_INT(got[0].len + got[1].len, 1);
    EXPECT_INT(lost[1], 0);
    stop(peers);
}

/* As a child that has been forked holds it until its exec: close() alone leaves it in the set. */
static void test_close_while_another_process_holds_it(void)
{
    int peers[2];
    start(peers);
    net_socket_read(&ends[0], true);
    int held = dup(ends[0].fd);
    net_socket_close(&ends[0], false);
    EXPECT(SPIN_UNTIL(closed[0] == 1, 1000));
    struct net_socket freed = ends[0];
    memset(&ends[0], 0x77, sizeof ends[0]); // would be freed by now
    struct net_socket poison = ends[0];
    put(peers[0], "late");
    spin_for(10);
    EXPECT(memcmp(&ends[0], &poison, sizeof poison) == 0);
    ends[0] = freed;
    close(held);
    stop(peers);
}

static void test_a_full_socket_tells_when_it_takes_more(void)
{
    int peers[2];
    start(peers);
    char block[4096] = "";
    struct iovec pieces[2] = {{block, sizeof block}, {block, sizeof block}};
    ssize_t taken;
    size_t total = 0;
    do {
        taken = net_socket_send(&ends[0], pieces, 2);
        NEED(taken >= 0);
        total += (size_t)taken;
    } while (taken == 2 * sizeof block);
    EXPECT(ends[0].blocked);
    EXPECT_INT(net_socket_send(&ends[0], pieces, 1), 0);
    spin_for(5);
    EXPECT_INT(writable[0], 0);
    while (total > 0) {
        ssize_t n = read(peers[0], block, sizeof block);
        NEED(n > 0);
        total -= (size_t)n;
    }
    EXPECT(SPIN_UNTIL(writable[0] == 1, 1000));
    EXPECT(!ends[0].blocked);
    close(peers[0]);
    peers[0] = -1;
    EXPECT(net_socket_send(&ends[0], pieces, 1) == -EPIPE);
    stop(peers);
}

static void test_connect(void)
{
    struct sockaddr_in nobody = {
        .sin_family = AF_INET, .sin_port = htons(1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    NEED(uv_loop_init(&loop) == 0);
    set = net_sockets_ref(&loop);
    EXPECT(net_sockets_ref(&loop) == set); // one per loop
    released = false;
    net_sockets_unref(set, on_released, NULL);
    EXPECT(released); // somebody else holds it: nothing to wait for
    int refused = 0;
    connected = &refused;
    int rc = net_socket_connect(&ends[0], set, (struct sockaddr *)&nobody, &events);
    if (rc == 0) { // else the kernel knew at once, and there is nothing to close
        EXPECT(SPIN_UNTIL(refused != 0, 1000));
        closed[0] = 0;
        net_socket_close(&ends[0], false);
        EXPECT(SPIN_UNTIL(closed[0] == 1, 1000));
    }
    EXPECT_INT(rc ? rc : refused, -ECONNREFUSED);
    released = false;
    net_sockets_unref(set, on_released, NULL);
    EXPECT(SPIN_UNTIL(released, 1000));
    EXPECT_INT(uv_loop_close(&loop), 0);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    RUN(test_bytes_and_end);
    RUN(test_much);
    RUN(test_pause_and_go_on);
    RUN(test_close_within_a_batch);
    RUN(test_close_while_another_process_holds_it);
    RUN(test_a_full_socket_tells_when_it_takes_more);
    RUN(test_connect);
    return TEST_END();
}
