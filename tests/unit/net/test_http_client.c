#include "shared/net/http_client.h"

#include "tests/unit/net/client_test.h"

static void start_both(void)
{
    start_server((struct http_server_options){0});
    start_client((struct http_client_options){0});
}

static void stop_both(void)
{
    stop_client();
    stop_server();
}

/* ---- against our own server ---- */

static void test_get_and_reuse(void)
{
    start_both();
    for (int i = 0; i < 3; i++) {
        struct outcome o;
        get(&o, http_server_port(server), "/path?q");
        EXPECT(SPIN_UNTIL(is_done(&o), 5000));
        EXPECT_INT(o.heads, 1);
        EXPECT_INT(o.ends, 1);
        EXPECT_INT(o.status, 200);
        EXPECT_STR(body_of(&o), "[GET /path?q 0:]");
        EXPECT_STR(o.local, "127.0.0.1");
        EXPECT_INT(http_server_connections(server), 1); // always the same one
        buf_deinit(&o.body);
    }
    stop_both();
}

static void test_post_with_headers(void)
{
    start_both();
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/p");
    struct http_header headers[] = {{STR("x-one"), STR("1")}, {STR("x-two"), STR("2")}};
    options.method = "POST";
    options.headers = headers;
    options.header_count = 2;
    options.body = STR("some body");
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_STR(body_of(&o), "[POST /p? 9:some body]");
    buf_deinit(&o.body);

    options = options_for(&o, http_server_port(server), "/p"); // an empty body has a length, too
    options.method = "POST";
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_STR(body_of(&o), "[POST /p? 0:]");
    buf_deinit(&o.body);

    options = options_for(&o, http_server_port(server), "/head");
    options.method = "HEAD";
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.status, 200);
    EXPECT_INT(o.ends, 1);
    EXPECT_STR(body_of(&o), "");
    buf_deinit(&o.body);
    EXPECT_INT(http_server_connections(server), 1);
    stop_both();
}

static void test_by_name(void)
{
    start_both();
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/n");
    options.host = "localhost";
    options.connect_timeout_ms = 5000;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 6000));
    EXPECT_STR(body_of(&o), "[GET /n? 0:]");
    buf_deinit(&o.body);

    options = options_for(&o, http_server_port(server), "/n");
    options.host = "no-such-host.invalid";
    options.connect_timeout_ms = 20000;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 25000));
    EXPECT_INT(o.fails, 1);
    EXPECT(!o.failure.connected);
    EXPECT(strncmp(o.failure_text, "connect to no-such-host.invalid:", 32) == 0);

    o.call = http_call_start(client, &options); // cancelled while it resolves
    http_call_cancel(o.call);
    stop_both();
}

static void test_large_both_ways(void)
{
    start_both();
    size_t len = 20 << 20;
    char *body = malloc(len);
    for (size_t i = 0; i < len; i++)
        body[i] = (char)('a' + i % 23);
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/p");
    options.method = "POST";
    options.body = (struct str){body, len};
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 20000));
    EXPECT_INT(o.ends, 1);
    EXPECT(o.body.len > len && memmem(o.body.data, o.body.len, body, len) != NULL);
    buf_deinit(&o.body);
    free(body);
    stop_both();
}

static void test_many_at_once(void)
{
    start_both();
    enum { COUNT = 200 };
    static struct outcome all[COUNT];
    for (int i = 0; i < COUNT; i++)
        get(&all[i], http_server_port(server), "/many");
    for (int i = 0; i < COUNT; i++) {
        EXPECT(SPIN_UNTIL(is_done(&all[i]), 5000));
        EXPECT_STR(body_of(&all[i]), "[GET /many? 0:]");
        buf_deinit(&all[i].body);
    }
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 64, 5000)); // what the pool keeps
    stop_both();
}

static void test_cancel_reaches_the_server(void)
{
    start_both();
    struct outcome o;
    get(&o, http_server_port(server), "/hold");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    uint64_t before = clock_ms();
    http_call_cancel(o.call);
    EXPECT(SPIN_UNTIL(gone == 1, 5000));
    EXPECT(clock_ms() - before < 500);
    EXPECT_INT(o.heads + o.ends + o.fails, 0);
    stop_both();
}

static void test_cancel_in_callbacks(void)
{
    start_both();
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/large");
    o.cancel_in_head = true;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(o.heads == 1, 5000));
    spin_for(30);
    EXPECT_INT(o.body.len + (size_t)o.ends + (size_t)o.fails, 0);

    options = options_for(&o, http_server_port(server), "/large");
    o.cancel_in_body = true;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(o.body.len > 0, 5000));
    size_t len = o.body.len;
    spin_for(30);
    EXPECT(o.body.len == len && o.ends + o.fails == 0);
    buf_deinit(&o.body);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 5000));
    stop_both();
}

static void test_pause_and_resume(void)
{
    start_both();
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/large");
    o.pause_in_body = true;
    options.idle_timeout_ms = 100; // doesn't count while the call is paused
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(o.body.len > 0, 5000));
    spin_for(300);
    EXPECT(o.body.len <= 64 << 10);
    EXPECT_INT(o.ends + o.fails, 0);
    o.pause_in_body = false;
    http_call_resume(o.call);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.ends, 1);
    EXPECT_INT(o.body.len, 8000000);
    buf_deinit(&o.body);
    stop_both();
}

static void test_destroy_fails_live_calls(void)
{
    start_both();
    struct outcome o, idle;
    get(&idle, http_server_port(server), "/x");
    EXPECT(SPIN_UNTIL(is_done(&idle), 5000));
    get(&o, http_server_port(server), "/hold");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_client_destroy(client, on_client_closed, NULL);
    EXPECT_INT(o.fails, 0); // not inside the call
    EXPECT(SPIN_UNTIL(client_closed, 5000));
    EXPECT_INT(o.fails, 1);
    EXPECT_INT(o.failure.code, E_CANCELLED);
    EXPECT(SPIN_UNTIL(gone == 1, 5000));
    buf_deinit(&idle.body);
    stop_server();
}

static void test_refused_and_invalid(void)
{
    start_both();
    int port;
    int listener = raw_listen(&port);
    close(listener); // nobody listens there now
    struct outcome o;
    get(&o, port, "/");
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, -ECONNREFUSED);
    EXPECT(!o.failure.connected && !o.failure.reused && !o.failure.head_received);
    char want[64];
    snprintf(want, sizeof want, "connect to 127.0.0.1:%d: connection refused", port);
    EXPECT_STR(o.failure_text, want);

    struct http_header bad = {STR("x"), STR("a\r\nb: c")};
    struct http_call_options options = options_for(&o, http_server_port(server), "/");
    options.headers = &bad;
    options.header_count = 1;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_INVALID);
    get(&o, http_server_port(server), "/a b");
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_INVALID);
    EXPECT_INT(requests, 0);
    stop_both();
}

/* ---- against servers that speak any bytes ---- */

static int fake_listener, fake_port;

static void start_fake(struct http_client_options options)
{
    uv_loop_init(&loop);
    start_client(options);
    fake_listener = raw_listen(&fake_port);
}

static void stop_fake(void)
{
    stop_client();
    close(fake_listener);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* One call, answered by these bytes once its head is there; `then_close` ends the connection. */
static void serve(struct outcome *o, const char *answer, bool then_close)
{
    struct raw_client peer;
    get(o, fake_port, "/f");
    NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
    EXPECT(SPIN_UNTIL(raw_has(&peer, "\r\n\r\n"), 5000));
    raw_puts(&peer, answer);
    if (then_close) raw_close(&peer);
    EXPECT(SPIN_UNTIL(is_done(o), 3000));
    raw_close(&peer);
    spin_for(2);
}

struct answer {
    const char *bytes;
    bool then_close;
    int status;       // 0: fails
    const char *body; // or part of the failure's text
};

static const struct answer answers[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Test: v\r\n\r\nhi", false, 200, "hi"},
    {"HTTP/1.1 204 No Content\r\n\r\n", false, 204, ""},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, 304, ""},
    {"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false, 304, ""},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, 200, ""},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", false,
     200, "abc"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: 1\r\n\r\n", false, 200,
     "a"},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
     false, 200, "x"},
    {"HTTP/1.1 200 OK\r\n\r\nuntil close", true, 200, "until close"},
    {"HTTP/1.0 200 OK\r\n\r\nold", true, 200, "old"},
    {"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\n\r\n!", false, 503, "!"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiEXTRA", false, 200, "hi"},
    /* not a whole response */
    {"", true, 0, "connection closed before the response"},
    {"HTTP/1.1 200 OK\r\nContent-Le", true, 0, "connection closed before the response"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", true, 0,
     "connection closed inside the response"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", true, 0,
     "inside the response"},
    /* not a response at all, or one that two readers would read differently */
    {"garbage\r\n\r\n", false, 0, "bad response"},
    {"HTTP/2.0 200 OK\r\n\r\n", false, 0, "bad response"},
    {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", false, 0, "bad response: a line ends in LF"},
    {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", false, 0, "bad response: a header is folded"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", false, 0,
     "bad response"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false,
     0, "bad response"},
    {"HTTP/1.1 099 Low\r\nContent-Length: 1\r\n\r\nx", false, 0, "bad response"},
    {"HTTP/1.1 000 Low\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", false, 0,
     "bad response: the status"},
    {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, 0,
     "bad response"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx", true, 0, "bad response"},
};

static void test_answers(void)
{
    start_fake((struct http_client_options){0});
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        const struct answer *a = &answers[i];
        struct outcome o;
        serve(&o, a->bytes, a->then_close);
        bool ok = o.ends + o.fails == 1;
        if (a->status)
            ok = ok && o.ends == 1 && o.status == a->status && strcmp(body_of(&o), a->body) == 0;
        if (!a->status)
            ok = ok && o.fails == 1 && strstr(o.failure_text, a->body) && o.failure.connected;
        EXPECT(ok);
        if (!ok) {
            printf("\"%s\": status %d body \"%s\" failure \"%s\"\n", a->bytes, o.status,
                   body_of(&o), o.failure_text);
        }
        if (i == 0) EXPECT_STR(o.header, "v");
        buf_deinit(&o.body);
    }
    stop_fake();
}

static void test_dead_pooled_connection(void)
{
    start_fake((struct http_client_options){0});
    struct outcome o;
    struct raw_client peer;
    get(&o, fake_port, "/1");
    NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
    EXPECT(SPIN_UNTIL(raw_has(&peer, "\r\n\r\n"), 5000));
    raw_puts(&peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    raw_close(&peer); // while it is idle; the loop hasn't heard of it when the next call starts
    usleep(20000);
    get(&o, fake_port, "/2");
    NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000)); // a new connection
    EXPECT(SPIN_UNTIL(raw_has(&peer, "\r\n\r\n"), 5000));
    raw_puts(&peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.ends, 1);

    get(&o, fake_port, "/3"); // reused, and lost as soon as the request is out
    buf_clear(&peer.in);
    EXPECT(SPIN_UNTIL(raw_has(&peer, "GET /3"), 5000));
    raw_reset(&peer);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.fails, 1);
    EXPECT(o.failure.reused && o.failure.connected && !o.failure.head_received);
    stop_fake();
}

static void test_idle_bytes_and_age(void)
{
    start_fake((struct http_client_options){.idle_timeout_ms = 300});
    struct outcome o;
    struct raw_client peer;
    for (int round = 0; round < 2; round++) {
        get(&o, fake_port, "/1");
        NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
        EXPECT(SPIN_UNTIL(raw_has(&peer, "\r\n\r\n"), 5000));
        raw_puts(&peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        EXPECT(SPIN_UNTIL(is_done(&o), 5000));
        spin_for(20);
        EXPECT(!raw_ended(&peer));
        if (round == 0) raw_puts(&peer, "HTTP/1.1 408 Timeout\r\n\r\n"); // nobody asked
        EXPECT(SPIN_UNTIL(raw_ended(&peer), 3000));                      // round 1: too old
        raw_close(&peer);
    }
    stop_fake();
}

static void test_timeouts(void)
{
    start_fake((struct http_client_options){0});
    struct outcome o;
    struct raw_client peer;
    struct http_call_options options = options_for(&o, fake_port, "/slow");
    options.head_timeout_ms = 150;
    uint64_t start = clock_ms();
    o.call = http_call_start(client, &options);
    NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_TIMEOUT);
    EXPECT(clock_ms() - start >= 150);
    EXPECT(SPIN_UNTIL(raw_ended(&peer), 1000)); // and the peer sees it at once
    raw_close(&peer);

    options = options_for(&o, fake_port, "/slow");
    options.idle_timeout_ms = 200;
    o.call = http_call_start(client, &options);
    NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
    raw_puts(&peer, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
    for (int i = 0; i < 6; i++) { // slow, but alive
        spin_for(80);
        raw_puts(&peer, "x");
    }
    EXPECT(!is_done(&o));
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_TIMEOUT);
    EXPECT(o.failure.head_received);
    EXPECT_STR(body_of(&o), "xxxxxx");
    buf_deinit(&o.body);
    raw_close(&peer);
    stop_fake();
}

/* Nobody accepts and the backlog is full: connecting hangs until its deadline. */
static void test_connect_timeout(void)
{
    uv_loop_init(&loop);
    start_client((struct http_client_options){0});
    int fd = socket(AF_INET, SOCK_STREAM, 0), port, fillers[4];
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 0) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    port = ntohs(at.sin_port);
    for (size_t i = 0; i < ARRAY_LEN(fillers); i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fillers[i], (struct sockaddr *)&at, sizeof at);
    }
    struct outcome o;
    struct http_call_options options = options_for(&o, port, "/");
    options.connect_timeout_ms = 150;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_TIMEOUT);
    EXPECT(!o.failure.connected);
    for (size_t i = 0; i < ARRAY_LEN(fillers); i++)
        close(fillers[i]);
    close(fd);
    stop_client();
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* A server that refuses a large upload early: its answer arrives although the request is cut. */
static void test_early_response(void)
{
    start_server((struct http_server_options){.limits = {.body_bytes = 1000}});
    start_client((struct http_client_options){0});
    size_t len = 8 << 20;
    char *body = calloc(1, len);
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/big");
    options.method = "POST";
    options.body = (struct str){body, len};
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.ends, 1);
    EXPECT_INT(o.status, 413);
    EXPECT(strstr(body_of(&o), "limit is 1000 bytes") != NULL);
    buf_deinit(&o.body);
    free(body);
    stop_both();
}

static void test_response_split_at_every_byte(void)
{
    start_fake((struct http_client_options){0});
    static const char bytes[] =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Test: y\r\n"
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;e\r\nd\r\n0\r\nT: t\r\n\r\n";
    for (size_t cut = 0; cut < sizeof bytes; cut++) {
        struct outcome o;
        struct raw_client peer;
        struct http_call_options options = options_for(&o, fake_port, "/");
        options.fresh = true;
        o.call = http_call_start(client, &options);
        NEED(SPIN_UNTIL(raw_accept(fake_listener, &peer), 5000));
        raw_send(&peer, bytes, cut);
        for (int turn = 0; turn < 2; turn++)
            uv_run(&loop, UV_RUN_NOWAIT);
        raw_send(&peer, bytes + cut, sizeof bytes - 1 - cut);
        EXPECT(SPIN_UNTIL(is_done(&o), 5000));
        EXPECT_INT(o.ends, 1);
        EXPECT_INT(o.heads, 1);
        EXPECT_STR(body_of(&o), "abcd");
        EXPECT_STR(o.header, "y");
        raw_close(&peer);
        buf_deinit(&o.body);
    }
    stop_fake();
}

static void test_url(void)
{
    struct http_url url;
    struct error err;
    EXPECT_INT(http_url_parse("http://10.0.0.5:23333", &url, &err), 0);
    EXPECT_STR(url.host, "10.0.0.5");
    EXPECT_INT(url.port, 23333);
    EXPECT_STR(url.path, "");
    EXPECT_INT(http_url_parse("HTTP://a-b.example/base/path//", &url, &err), 0);
    EXPECT_STR(url.host, "a-b.example");
    EXPECT_INT(url.port, 80);
    EXPECT_STR(url.path, "/base/path");
    EXPECT_INT(http_url_parse("http://[::1]:8000/", &url, &err), 0);
    EXPECT_STR(url.host, "::1");
    EXPECT_STR(url.path, "");
    static const char *const bad[] = {
        "",
        "http://",
        "http:///x",
        "localhost:80",
        "http://a:0",
        "http://a:",
        "http://a:65536",
        "http://a:8x",
        "http://[::1",
        "http://[x]:80",
        "http://a b",
        "http://u:p@host",
        "http://a/b?c",
        "http://a/b#c",
        "http://a/b c",
        "ftp://a",
        "https://",
        "https:/a",
        "httpss://a",
        "http://a:80:80",
        "http://a\r\nb",
        "http://[1.2.3.4]/",
        "http://a:99999999999",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        bool refused = http_url_parse(bad[i], &url, &err) == E_INVALID;
        EXPECT(refused);
        if (!refused) printf("accepted: %s\n", bad[i]);
    }
    EXPECT_INT(http_url_parse("http://a", &url, &err), 0);
    EXPECT_INT(url.scheme, HTTP_PLAIN);
    EXPECT_INT(http_url_parse("HTTPS://a/v1", &url, &err), 0);
    EXPECT_INT(url.scheme, HTTP_TLS);
    EXPECT_INT(url.port, 443);
    EXPECT_INT(http_url_parse("https://[::1]:8443", &url, &err), 0);
    EXPECT_INT(url.port, 8443);
    char origin[64];
    http_url_print_origin(origin, sizeof origin, url.scheme, url.host, url.port);
    EXPECT_STR(origin, "https://[::1]:8443");
    http_url_print_origin(origin, sizeof origin, HTTP_PLAIN, "a", 80);
    EXPECT_STR(origin, "http://a:80");
}

int main(void)
{
    RUN(test_get_and_reuse);
    RUN(test_post_with_headers);
    RUN(test_by_name);
    RUN(test_large_both_ways);
    RUN(test_many_at_once);
    RUN(test_cancel_reaches_the_server);
    RUN(test_cancel_in_callbacks);
    RUN(test_pause_and_resume);
    RUN(test_destroy_fails_live_calls);
    RUN(test_refused_and_invalid);
    RUN(test_answers);
    RUN(test_dead_pooled_connection);
    RUN(test_idle_bytes_and_age);
    RUN(test_timeouts);
    RUN(test_connect_timeout);
    RUN(test_early_response);
    RUN(test_response_split_at_every_byte);
    RUN(test_url);
    return TEST_END();
}
