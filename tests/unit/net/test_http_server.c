#include "tests/unit/net/server_test.h"

#include <sys/resource.h>

#define HOST "Host: x\r\n"
#define GET  "GET / HTTP/1.1\r\n" HOST

/* ---- well-formed requests, however they are cut ---- */

static void test_simple(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST /a/b?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[POST /a/b?q=1 5:hello]"), 5000));
    EXPECT_INT(first_status(raw_text(&c)), 200);
    EXPECT(strstr(raw_text(&c), "content-type: text/plain\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "content-length: 23\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "connection:") == NULL);
    EXPECT_INT(http_server_connections(server), 1);
    raw_close(&c);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 5000));
    stop_server();
}

struct wire {
    const char *bytes, *answer;
};

static const struct wire well_formed[] = {
    {GET "\r\n", "[GET /? 0:]"},
    {"\r\n\r\n" GET "\r\n", "[GET /? 0:]"},
    {"GET /x?a=b&c HTTP/1.1\r\nhOsT: h.example:80\r\n\r\n", "[GET /x?a=b&c 0:]"},
    {"GET http://h/x?y HTTP/1.1\r\nHost: h\r\n\r\n", "[GET /x?y 0:]"},
    {"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "[GET /? 0:]"},
    {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "[OPTIONS *? 0:]"},
    {"GET / HTTP/1.0\r\n\r\n", "[GET /? 0:]"},
    {GET "X-Empty:\r\nY: 1\r\n\r\n", "[GET /? 0:]"},
    {GET "Upgrade: h2c\r\nConnection: upgrade\r\n\r\n", "[GET /? 0:]"},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", "[POST /? 0:]"},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\na\nb", "[POST /? 3:a\nb]"},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
     "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
     "[POST /? 5:abcde]"},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n"
     "A\r\n0123456789\r\n0\r\nTrailer: 1\r\nOther: 2\r\n\r\n",
     "[POST /? 10:0123456789]"},
};

/* The same bytes whole, and in two pieces cut at every place; then a second request on the
 * connection shows that nothing was left over. */
static void test_split_at_every_byte(void)
{
    start_server((struct http_server_options){0});
    for (size_t i = 0; i < ARRAY_LEN(well_formed); i++) {
        const struct wire *w = &well_formed[i];
        size_t len = strlen(w->bytes);
        for (size_t cut = 0; cut <= len; cut++) {
            struct raw_client c;
            raw_open(&c, http_server_port(server));
            raw_send(&c, w->bytes, cut);
            for (int turn = 0; turn < 3; turn++)
                uv_run(&loop, UV_RUN_NOWAIT);
            raw_send(&c, w->bytes + cut, len - cut);
            bool ok = SPIN_UNTIL(raw_has(&c, w->answer), 5000);
            EXPECT(ok);
            if (!ok) printf("cut %zu of \"%s\": \"%s\"\n", cut, w->bytes, raw_text(&c));
            if (!strstr(w->bytes, "HTTP/1.0")) {
                raw_puts(&c, "GET /again HTTP/1.1\r\n" HOST "\r\n");
                EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /again? 0:]"), 5000));
            }
            raw_close(&c);
        }
    }
    stop_server();
}

static void test_byte_by_byte(void)
{
    start_server((struct http_server_options){0});
    for (size_t i = 0; i < ARRAY_LEN(well_formed); i++) {
        const struct wire *w = &well_formed[i];
        struct raw_client c;
        raw_open(&c, http_server_port(server));
        for (size_t at = 0; w->bytes[at]; at++) {
            raw_send(&c, w->bytes + at, 1);
            uv_run(&loop, UV_RUN_NOWAIT);
        }
        EXPECT(SPIN_UNTIL(raw_has(&c, w->answer), 5000));
        raw_close(&c);
    }
    stop_server();
}

/* ---- malformed requests ---- */

struct refusal {
    const char *bytes;
    int status;
};

static const struct refusal malformed[] = {
    {"garbage\r\n\r\n", 400},
    {"GET http:// HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET http://?x HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET https:///x HTTP/1.1\r\n" HOST "\r\n", 400},
    {"\x16\x03\x01\x02", 400}, // a TLS hello
    {"GET /\r\n\r\n", 0},      // HTTP/0.9; status checked below
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505},
    {"GET / HTTP/0.9\r\n" HOST "\r\n", 505},
    {"GET / HTTP/1.2\r\n" HOST "\r\n", 505},
    {"OPTIONS * RTSP/1.0\r\n" HOST "\r\n", 400},
    {"SOURCE / ICE/1.0\r\n" HOST "\r\n", 400},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
    {"CONNECT h:443 HTTP/1.1\r\n" HOST "\r\n", 501},
    {"GET / HTTP/1.1\r\n\r\n", 400},                       // no Host
    {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400}, // two
    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
    {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1 \r\n" HOST "\r\n", 0},
    {" GET / HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET /\tHTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET x HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET /#f HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET * HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET ftp://h/ HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET /\xff HTTP/1.1\r\n" HOST "\r\n", 400},
    {"GET / HTTP/1.1\n" HOST "\r\n", 400}, // bare LF
    {GET "A: b\n\r\n", 400},
    {GET "A: b\r\n\n", 400},
    {GET "A: b\n\n", 400},
    {GET "A: b\rC: d\r\n\r\n", 400}, // lone CR
    {GET "\r\r\n", 400},
    {GET "A: b\r\n c: d\r\n\r\n", 400}, // obs-fold
    {GET "A: b\r\n\tc: d\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400},
    {GET "A : b\r\n\r\n", 400},
    {GET "A\r\n\r\n", 400},
    {GET ": b\r\n\r\n", 400},
    {GET "A(b): c\r\n\r\n", 400},
    {GET "A: b\x01\r\n\r\n", 400},
    {GET "A: b\x7f\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5 5\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\nhello", 400},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
     400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 0},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n", 501},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n", 501},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
     "0\r\n\r\n",
     0},
    {"POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;\rx\r\nabc\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\n", 400},
    {"POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\nContent-Length: 5\r\n\r\n", 417},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 67108865\r\n\r\n", 413},
    {"\r\n\r\n\r\n\r\n\r\n\r\n\r\n", 400},
};

static void check_refused(const char *bytes, size_t len, size_t cut, int status)
{
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_send(&c, bytes, cut);
    for (int turn = 0; turn < 2; turn++)
        uv_run(&loop, UV_RUN_NOWAIT);
    raw_send(&c, bytes + cut, len - cut);
    bool ended = SPIN_UNTIL(raw_ended(&c), 3000);
    int got = first_status(raw_text(&c));
    bool ok = ended && (status ? got == status : got >= 400 && got <= 505);
    ok = ok && count_of(raw_text(&c), "\nHTTP/1.1 ") == 0;
    ok = ok && strstr(raw_text(&c), "connection: close\r\n") &&
         strstr(raw_text(&c), "{\"error\":{\"message\":\"");
    EXPECT(ok);
    if (!ok)
        printf("cut %zu of \"%s\": want %d, ended %d, got \"%s\"\n", cut, bytes, status, ended,
               raw_text(&c));
    raw_close(&c);
}

static void test_malformed(void)
{
    start_server((struct http_server_options){0});
    for (size_t i = 0; i < ARRAY_LEN(malformed); i++) {
        size_t len = strlen(malformed[i].bytes);
        check_refused(malformed[i].bytes, len, 0, malformed[i].status);
        for (size_t cut = 1; cut < len; cut += 1 + len / 40) {
            check_refused(malformed[i].bytes, len, cut, malformed[i].status);
        }
    }
    EXPECT_INT(requests, 0);
    stop_server();
}

static void test_nul_bytes(void)
{
    start_server((struct http_server_options){0});
    static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\nA: b@c\r\n\r\n";
    for (size_t at = 0; at < sizeof text - 1; at++) { // a NUL at every place
        char bytes[sizeof text];
        memcpy(bytes, text, sizeof text);
        bytes[at] = 0;
        check_refused(bytes, sizeof text - 1, sizeof text - 1, 400);
    }
    EXPECT_INT(requests, 0);
    stop_server();
}

/* ---- limits ---- */

static void put_repeated(struct buf *b, const char *text, int times)
{
    for (int i = 0; i < times; i++)
        buf_append_str(b, text);
}

static void test_head_limits(void)
{
    start_server((struct http_server_options){
        .limits = {
            .target_bytes = 100, .header_bytes = 500, .header_count = 10, .body_bytes = 1000}});
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    buf_append_str(&b, "GET /");
    put_repeated(&b, "a", 100); // one more than allowed
    buf_append_str(&b, " HTTP/1.1\r\n" HOST "\r\n");
    check_refused(b.data, b.len, 0, 414);
    check_refused(b.data, b.len, 50, 414);

    buf_clear(&b);
    put_repeated(&b, "a", 3000); // no line end at all
    check_refused(b.data, b.len, 0, 414);

    buf_clear(&b);
    buf_append_str(&b, GET "X: ");
    put_repeated(&b, "a", 600);
    buf_append_str(&b, "\r\n\r\n");
    check_refused(b.data, b.len, 0, 431);
    check_refused(b.data, b.len, 300, 431);

    buf_clear(&b);
    buf_append_str(&b, GET);
    put_repeated(&b, "X: a\r\n", 10); // with Host one too many
    buf_append_str(&b, "\r\n");
    check_refused(b.data, b.len, 0, 431);

    buf_clear(&b);
    buf_append_str(&b, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n");
    put_repeated(&b, "T: 1234567890\r\n", 60); // trailers
    check_refused(b.data, b.len, 0, 431);

    buf_clear(&b);
    buf_append_str(&b, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;");
    put_repeated(&b, "extension", 3000);
    check_refused(b.data, b.len, 0, 400);

    buf_clear(&b);
    buf_append_str(&b, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    put_repeated(&b, "64\r\n", 1);
    put_repeated(&b, "0123456789", 10);
    buf_append_str(&b, "\r\n400\r\n"); // 100 bytes, then 1,024 more
    put_repeated(&b, "0123456789", 100);
    check_refused(b.data, b.len, 0, 413);
    EXPECT_INT(requests, 0);

    struct raw_client c; // all of it at the limit passes
    buf_clear(&b);
    buf_append_str(&b, "POST /");
    put_repeated(&b, "a", 99);
    buf_append_str(&b, " HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n");
    put_repeated(&b, "X: 1\r\n", 8);
    buf_append_str(&b, "\r\n");
    put_repeated(&b, "x", 1000);
    raw_open(&c, http_server_port(server));
    raw_send(&c, b.data, b.len);
    EXPECT(SPIN_UNTIL(raw_has(&c, "HTTP/1.1 200"), 5000));
    raw_close(&c);
    buf_deinit(&b);
    stop_server();
}

/* A length above the limit is refused before the body; the answer arrives though the client goes on
 * sending. */
static void test_large_body_refused(void)
{
    start_server((struct http_server_options){.limits = {.body_bytes = 1000}});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5000000\r\n\r\n");
    char *block = calloc(1, 1 << 20);
    for (int i = 0; i < 4; i++)
        EXPECT(raw_send(&c, block, 1 << 20));
    free(block);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT_INT(first_status(raw_text(&c)), 413);
    EXPECT(c.eof && !c.reset);
    EXPECT(strstr(raw_text(&c), "the limit is 1000 bytes") != NULL);
    raw_close(&c);
    stop_server();
}

static void test_body_memory_is_bounded(void)
{
    start_server((struct http_server_options){.body_bytes_total = 3 << 20});
    struct raw_client c[4];
    char *block = calloc(1, 1 << 20);
    for (int i = 0; i < 4; i++) {
        raw_open(&c[i], http_server_port(server));
        raw_puts(&c[i], "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 2000000\r\n\r\n");
        raw_send(&c[i], block, 1 << 20);
        spin_for(10);
    }
    int busy = 0;
    for (int i = 0; i < 4; i++) {
        if (SPIN_UNTIL(raw_ended(&c[i]), 100) && first_status(raw_text(&c[i])) == 503) busy++;
        if (first_status(raw_text(&c[i])) == 503) EXPECT(raw_has(&c[i], "retry-after: 1\r\n"));
    }
    EXPECT(busy >= 1 && busy < 4);
    for (int i = 0; i < 4; i++)
        raw_close(&c[i]);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 3000));
    struct raw_client after; // what they took is free again
    raw_open(&after, http_server_port(server));
    raw_puts(&after, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1048576\r\n\r\n");
    raw_send(&after, block, 1 << 20);
    EXPECT(SPIN_UNTIL(raw_has(&after, "HTTP/1.1 200"), 3000));
    raw_close(&after);
    free(block);
    stop_server();
}

static void test_connections_max(void)
{
    start_server((struct http_server_options){.connections_max = 2});
    struct raw_client c[4];
    for (int i = 0; i < 4; i++) {
        raw_open(&c[i], http_server_port(server));
        raw_puts(&c[i], GET "\r\n");
    }
    EXPECT(SPIN_UNTIL(raw_has(&c[0], "200 OK") && raw_has(&c[1], "200 OK"), 5000));
    spin_for(30);
    EXPECT(!raw_has(&c[2], "200 OK")); // waits in the kernel
    EXPECT_INT(http_server_connections(server), 2);
    raw_close(&c[0]);
    EXPECT(SPIN_UNTIL(raw_has(&c[2], "200 OK"), 5000));
    raw_close(&c[1]);
    EXPECT(SPIN_UNTIL(raw_has(&c[3], "200 OK"), 5000));
    raw_close(&c[2]);
    raw_close(&c[3]);
    stop_server();
}

/* Idle clients must not take the descriptors that serving needs. */
static void test_connections_leave_descriptors(void)
{
    struct rlimit before, small;
    NEED(getrlimit(RLIMIT_NOFILE, &before) == 0);
    small = before;
    small.rlim_cur = 40;
    NEED(setrlimit(RLIMIT_NOFILE, &small) == 0);
    start_server((struct http_server_options){.connections_max = 1000});
    NEED(setrlimit(RLIMIT_NOFILE, &before) == 0);
    struct raw_client c[22];
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        raw_open(&c[i], http_server_port(server));
    spin_for(50);
    EXPECT_INT(http_server_connections(server), 20);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        raw_close(&c[i]);
    stop_server();
}

/* Without descriptors a client waits, the loop doesn't spin, and once there are some it is served. */
static void test_accept_without_descriptors(void)
{
    struct rlimit before, none;
    start_server((struct http_server_options){.idle_timeout_ms = 400}); // looks every 50 ms
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, GET "\r\n");
    NEED(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    none.rlim_cur = 3; // below what is open already
    NEED(setrlimit(RLIMIT_NOFILE, &none) == 0);
    uint64_t end = clock_ms() + 120;
    int turns = 0;
    for (; clock_ms() < end; turns++)
        uv_run(&loop, UV_RUN_ONCE);
    NEED(setrlimit(RLIMIT_NOFILE, &before) == 0);
    EXPECT(turns < 20);
    EXPECT(!raw_has(&c, "200 OK"));
    EXPECT(SPIN_UNTIL(raw_has(&c, "200 OK"), 5000));
    raw_close(&c);
    stop_server();
}

/* ---- bodies, Expect, HEAD, versions ---- */

static void test_large_bodies(void)
{
    start_server((struct http_server_options){0});
    size_t len = 8 << 20;
    char *body = malloc(len);
    for (size_t i = 0; i < len; i++)
        body[i] = (char)('a' + i % 26);
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST /large-echo HTTP/1.1\r\n" HOST "Content-Length: 8388608\r\n\r\n");
    EXPECT(raw_send(&c, body, len));
    EXPECT(SPIN_UNTIL((raw_poll(&c), c.in.len > len), 10000));
    EXPECT(memmem(c.in.data, c.in.len, body, len) != NULL);

    buf_clear(&c.in); // the same in chunks of odd sizes
    raw_puts(&c, "POST /large-echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0, n = 1; at < len; at += n, n = n * 2 + 1) {
        if (n > len - at) n = len - at;
        char frame[32];
        snprintf(frame, sizeof frame, "%zx\r\n", n);
        raw_puts(&c, frame);
        EXPECT(raw_send(&c, body + at, n));
        raw_puts(&c, "\r\n");
    }
    raw_puts(&c, "0\r\n\r\n");
    EXPECT(SPIN_UNTIL((raw_poll(&c), c.in.len > len), 10000));
    EXPECT(memmem(c.in.data, c.in.len, body, len) != NULL);
    raw_close(&c);
    free(body);
    stop_server();
}

static void test_expect_continue(void)
{
    start_server((struct http_server_options){.limits = {.body_bytes = 1000}});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "HTTP/1.1 100 Continue\r\n\r\n"), 5000));
    EXPECT_INT(requests, 0);
    raw_puts(&c, "hello");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[POST /? 5:hello]"), 5000));
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // refused without asking for the body
    raw_puts(&c, "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_ended(&c), 3000));
    EXPECT_INT(first_status(raw_text(&c)), 413);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // nothing to wait for
    raw_puts(&c, GET "Expect: 100-continue\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]"), 5000));
    EXPECT(strstr(raw_text(&c), " 100 ") == NULL);
    raw_close(&c);
    stop_server();
}

static void test_head_has_no_body(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "HEAD / HTTP/1.1\r\n" HOST "\r\n" GET "\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]"), 5000));
    EXPECT(strstr(raw_text(&c), "content-length: 12\r\n\r\nHTTP/1.1 200 OK") != NULL);
    EXPECT(strstr(raw_text(&c), "[HEAD") == NULL);

    buf_clear(&c.in); // a stream, too
    raw_puts(&c, "HEAD /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    http_respond_write(held, "abc", 3);
    http_respond_end(held, "def", 3);
    raw_puts(&c, GET "\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]"), 5000));
    EXPECT(strstr(raw_text(&c), "abc") == NULL && strstr(raw_text(&c), "def") == NULL);
    EXPECT(strstr(raw_text(&c), "0\r\n\r\n") == NULL);
    raw_close(&c);
    stop_server();
}

static void test_http_1_0(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]"), 5000));
    EXPECT(strstr(raw_text(&c), "connection: keep-alive\r\n") != NULL);
    buf_clear(&c.in);
    raw_puts(&c, "GET / HTTP/1.0\r\n\r\n");
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT(strstr(raw_text(&c), "connection: close\r\n") != NULL);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // a stream ends with the connection
    raw_puts(&c, "GET /hold HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    http_respond_write(held, "abc", 3);
    http_respond_end(held, "def", 3);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT(c.eof);
    EXPECT(strstr(raw_text(&c), "\r\n\r\nabcdef") != NULL);
    EXPECT(strstr(raw_text(&c), "chunked") == NULL);
    raw_close(&c);
    stop_server();
}

/* ---- keep-alive and pipelining ---- */

static void test_pipeline(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    enum { COUNT = 3000 }; // more than fits into the pipeline buffer
    for (int i = 0; i < COUNT; i++) {
        buf_printf(&b, "POST /%d HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", i);
    }
    EXPECT(raw_send(&c, b.data, b.len));
    EXPECT(SPIN_UNTIL(raw_has(&c, "[POST /2999? 3:abc]"), 10000));
    EXPECT_INT(count_of(raw_text(&c), "HTTP/1.1 200 OK"), COUNT);
    const char *at = raw_text(&c);
    for (int i = 0; i < COUNT && at; i++) { // in order
        char want[32];
        snprintf(want, sizeof want, "[POST /%d? 3:abc]", i);
        at = strstr(at, want);
    }
    EXPECT(at != NULL);
    buf_deinit(&b);
    raw_close(&c);
    stop_server();
}

static void test_pipeline_waits(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n" GET "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    spin_for(20);
    EXPECT_INT(requests, 1);
    http_respond(held, 200, NULL, STR("first"));
    held = NULL;
    EXPECT_INT(requests, 1); // never from inside a call of ours
    EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]") && held != NULL, 5000));
    EXPECT_INT(requests, 3);

    /* More than the pipeline takes is left with the kernel, and picked up afterwards. */
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    for (int i = 0; i < 20000; i++)
        buf_append_str(&b, GET "\r\n");
    ssize_t sent = send(c.fd, b.data, b.len, MSG_NOSIGNAL);
    EXPECT(sent > 200000);
    spin_for(20);
    EXPECT_INT(requests, 3);
    http_respond(held, 200, NULL, STR("second"));
    EXPECT(raw_send(&c, b.data + sent, b.len - (size_t)sent));
    EXPECT(SPIN_UNTIL(requests == 20003, 20000));
    buf_deinit(&b);
    raw_close(&c);
    stop_server();
}

static void test_connection_close(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, GET "Connection: close\r\n\r\n" GET "\r\n"); // nothing behind it counts
    EXPECT(SPIN_UNTIL(raw_ended(&c), 3000));
    EXPECT_INT(count_of(raw_text(&c), "HTTP/1.1 200 OK"), 1);
    EXPECT(strstr(raw_text(&c), "connection: close\r\n") != NULL);
    EXPECT(c.eof);
    EXPECT_INT(requests, 1);
    raw_close(&c);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 1000));
    stop_server();
}

/* ---- streams ---- */

static void test_trailer(void)
{
    static const char *const versions[] = {"1.1", "1.0"};
    start_server((struct http_server_options){0});
    for (int i = 0; i < 2; i++) {
        struct raw_client c;
        char head[64];
        held = NULL;
        raw_open(&c, http_server_port(server));
        snprintf(head, sizeof head, "GET /hold HTTP/%s\r\n" HOST "\r\n", versions[i]);
        raw_puts(&c, head);
        EXPECT(SPIN_UNTIL(held != NULL, 5000));
        http_respond_begin(held, 200, "text/plain", true);
        http_respond_write(held, "abc", 3);
        http_respond_trailer(held, STR("x-a"), STR("1"));
        http_respond_end(held, "de", 2);
        if (i == 0) {
            EXPECT(SPIN_UNTIL(raw_has(&c, "3\r\nabc\r\n2\r\nde\r\n0\r\nx-a: 1\r\n\r\n"), 5000));
            buf_clear(&c.in);
            raw_puts(&c, GET "\r\n"); // the connection goes on
            EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /? 0:]"), 5000));
        } else { // has no trailers
            EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
            EXPECT(strstr(raw_text(&c), "\r\n\r\nabcde") != NULL && !strstr(raw_text(&c), "x-a"));
        }
        raw_close(&c);
    }
    stop_server();
}

static void test_stream(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    EXPECT(!http_respond_has_begun(held));
    http_exchange_add_header(held, STR("x-a"), STR("1"));
    http_exchange_add_header(held, STR("x-b"), STR("evil\r\nx-c: 1")); // dropped
    http_respond_begin(held, 200, "text/event-stream", false);
    EXPECT(http_respond_has_begun(held));
    spin_for(20);
    raw_poll(&c);
    EXPECT_INT(c.in.len, 0); // the head goes with the first bytes
    http_respond_write(held, "data: 1\n\n", 9);
    http_respond_write(held, "", 0);
    EXPECT(SPIN_UNTIL(raw_has(&c, "9\r\ndata: 1\n\n\r\n"), 5000));
    EXPECT(strstr(raw_text(&c), "transfer-encoding: chunked\r\nx-a: 1\r\n\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "x-c") == NULL);
    http_respond_end(held, "data: 2\n\n", 9);
    held = NULL;
    EXPECT(SPIN_UNTIL(raw_has(&c, "9\r\ndata: 2\n\n\r\n0\r\n\r\n"), 5000));

    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n"); // the connection goes on
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    buf_clear(&c.in);
    http_respond_begin(held, 200, "text/event-stream", true);
    EXPECT(SPIN_UNTIL(raw_has(&c, "\r\n\r\n"), 5000)); // at once
    http_respond_end(held, NULL, 0);
    held = NULL;
    EXPECT(SPIN_UNTIL(raw_has(&c, "\r\n\r\n0\r\n\r\n"), 5000));
    EXPECT_INT(gone, 0);
    raw_close(&c);
    stop_server();
}

/* A client that doesn't read: what is pending is reported, on_drain comes, nothing is lost. */
static void test_back_pressure(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    char block[10000];
    size_t pending = 0, written = 0;
    for (int i = 0; i < 20000 && pending < 300000; i++) {
        memset(block, 'a' + i % 26, sizeof block);
        pending = http_respond_write(held, block, sizeof block);
        written += sizeof block;
        spin_once();
    }
    EXPECT(pending >= 300000 && pending < 300000 + 2 * sizeof block);
    EXPECT_INT(drained, 0);
    spin_for(50);
    EXPECT_INT(drained, 0);
    EXPECT(SPIN_UNTIL((raw_poll(&c), drained == 1), 10000));
    EXPECT_INT(gone, 0);
    http_respond_end(held, NULL, 0);
    held = NULL;
    EXPECT(SPIN_UNTIL(raw_has(&c, "\r\n0\r\n\r\n") || c.in.len > written, 10000));
    EXPECT(SPIN_UNTIL((raw_poll(&c), memmem(c.in.data + c.in.len - 5, 5, "0\r\n\r\n", 5) != NULL),
                      10000));
    size_t letters = 0;
    const char *body = strstr(raw_text(&c), "\r\n\r\n") + 4;
    for (size_t i = (size_t)(body - c.in.data); i < c.in.len; i++) {
        if (c.in.data[i] >= 'a' && c.in.data[i] <= 'z') letters++;
    }
    EXPECT_INT(letters, written);
    EXPECT_INT(drained, 1);
    raw_close(&c);
    stop_server();
}

static void test_abort(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    http_respond_write(held, "part", 4);
    http_respond_abort(held);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT(strstr(raw_text(&c), "4\r\npart\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "0\r\n\r\n") == NULL); // cut, and seen to be
    raw_close(&c);

    held = NULL;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_abort(held);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT_INT(first_status(raw_text(&c)), 500);
    raw_close(&c);

    held = NULL;
    raw_open(&c, http_server_port(server)); // 1.0: only a reset tells
    raw_puts(&c, "GET /hold HTTP/1.0\r\n\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    http_respond_write(held, "part", 4);
    EXPECT(SPIN_UNTIL(raw_has(&c, "part"), 5000));
    http_respond_abort(held);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 5000));
    EXPECT(c.reset);
    raw_close(&c);
    EXPECT_INT(gone, 0);
    stop_server();
}

/* ---- clients that leave ---- */

static void test_gone(void)
{
    start_server((struct http_server_options){0});
    for (int how = 0; how < 4; how++) { // close or reset, before or inside the answer
        struct raw_client c;
        raw_open(&c, http_server_port(server));
        raw_puts(&c, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi");
        EXPECT(SPIN_UNTIL(held != NULL, 5000));
        if (how >= 2) {
            http_respond_begin(held, 200, "text/plain", true);
            http_respond_write(held, "x", 1);
            EXPECT(SPIN_UNTIL(raw_has(&c, "x"), 5000));
        }
        uint64_t before = clock_ms();
        if (how % 2 == 0) {
            raw_close(&c);
        } else {
            raw_reset(&c);
        }
        EXPECT(SPIN_UNTIL(gone == how + 1, 5000));
        EXPECT(clock_ms() - before < 500);
    }
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 5000));
    stop_server();
}

/* Found by writing, with the reader stopped by a full pipeline: told later, never inside the call.
 */
static void test_gone_found_by_writing(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    char junk[40000];
    memset(junk, 'j', sizeof junk);
    raw_send(&c, junk, sizeof junk);
    spin_for(20);
    raw_reset(&c);
    usleep(20000);
    http_respond_begin(held, 200, "text/plain", false);
    for (int i = 0; i < 5 && held; i++) {
        http_respond_write(held, junk, sizeof junk);
        EXPECT_INT(gone, 0);
    }
    EXPECT(SPIN_UNTIL(gone == 1, 5000));
    stop_server();
}

static void test_gone_while_uploading(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\nhi");
    spin_for(10);
    EXPECT_INT(http_server_connections(server), 1);
    raw_close(&c);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 5000));
    EXPECT_INT(requests + gone, 0); // the handler never had it
    stop_server();
}

/* A client that shuts its side behind the request gets nothing while it waits (it counts as gone),
 * but an answer that is complete is still delivered. */
static void test_half_close(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /large HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(requests == 1, 5000));
    shutdown(c.fd, SHUT_WR);
    EXPECT(SPIN_UNTIL(raw_ended(&c), 10000));
    EXPECT(c.eof && c.in.len > 8000000);
    raw_close(&c);
    stop_server();
}

static void test_orphan(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST /orphan HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    raw_close(&c);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 5000));
    EXPECT(str_equal(http_exchange_request(held)->body, STR("hi"))); // still ours, nobody watched
    EXPECT(http_exchange_loop(held) == &loop);
    http_respond_begin(held, 200, "text/plain", true);
    EXPECT_INT(http_respond_write(held, "x", 1), 0);
    http_respond_end(held, "y", 1);
    stop_server();
}

/* ---- deadlines ---- */

static void test_timeouts(void)
{
    start_server((struct http_server_options){.header_timeout_ms = 200,
                                              .body_timeout_ms = 200,
                                              .idle_timeout_ms = 200,
                                              .write_stall_ms = 200});
    struct raw_client c;
    raw_open(&c, http_server_port(server)); // says nothing
    EXPECT(SPIN_UNTIL(raw_ended(&c), 1000));
    EXPECT(c.eof && c.in.len == 0);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // a byte now and then, for ever
    uint64_t start = clock_ms();
    for (int i = 0; i < 100 && !raw_ended(&c); i++) {
        raw_puts(&c, i == 0 ? "GET / HTTP/1.1\r\nX: " : "a");
        spin_for(20);
    }
    EXPECT(c.eof);
    EXPECT(clock_ms() - start < 1000);
    EXPECT_INT(first_status(raw_text(&c)), 408);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // the same in the body
    raw_puts(&c, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\n");
    for (int i = 0; i < 100 && !raw_ended(&c); i++) {
        raw_puts(&c, "a");
        spin_for(20);
    }
    EXPECT_INT(first_status(raw_text(&c)), 408);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // idle behind a request
    raw_puts(&c, GET "\r\n");
    EXPECT(SPIN_UNTIL(raw_ended(&c), 1000));
    EXPECT_INT(count_of(raw_text(&c), "HTTP/1.1 "), 1);
    raw_close(&c);

    raw_open(&c, http_server_port(server)); // a handler may take longer than any of these
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 1000));
    spin_for(500);
    EXPECT(!raw_ended(&c) && gone == 0);
    http_respond_begin(held, 200, "text/plain", false); // and may hold its head back
    spin_for(500);
    EXPECT_INT(gone, 0);
    http_respond_end(held, "late", 4);
    EXPECT(SPIN_UNTIL(raw_has(&c, "late"), 1000));
    raw_close(&c);
    stop_server();
}

static void test_write_stall(void)
{
    start_server((struct http_server_options){.write_stall_ms = 300});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", false);
    char *block = calloc(1, 8 << 20);
    http_respond_write(held, block, 8 << 20);
    free(block);
    for (int i = 0; i < 20; i++) { // reading slowly is progress
        spin_for(60);
        char some[80000];
        EXPECT(recv(c.fd, some, sizeof some, 0) > 0);
    }
    EXPECT_INT(gone, 0);
    EXPECT(SPIN_UNTIL(gone == 1, 3000)); // reading nothing is not
    raw_close(&c);
    stop_server();
}

/* ---- the end ---- */

static void test_drain(void)
{
    start_server((struct http_server_options){0});
    struct raw_client idle, busy, sending;
    raw_open(&idle, http_server_port(server));
    raw_puts(&idle, GET "\r\n");
    EXPECT(SPIN_UNTIL(raw_has(&idle, "200 OK"), 5000));
    raw_open(&busy, http_server_port(server));
    raw_puts(&busy, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    raw_open(&sending, http_server_port(server));
    raw_puts(&sending, "POST / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n");
    EXPECT(SPIN_UNTIL(held != NULL && http_server_connections(server) == 3, 5000));
    spin_for(10);
    int port = http_server_port(server);
    http_server_drain(server);
    EXPECT(SPIN_UNTIL(raw_ended(&idle), 5000));
    raw_puts(&sending, "hi"); // what is under way is finished
    EXPECT(SPIN_UNTIL(raw_ended(&sending), 5000));
    EXPECT(strstr(raw_text(&sending), "connection: close\r\n") != NULL);
    EXPECT(strstr(raw_text(&sending), "2:hi]") != NULL);
    EXPECT(!raw_ended(&busy));
    http_respond(held, 200, NULL, STR("done"));
    EXPECT(SPIN_UNTIL(raw_ended(&busy), 5000));
    EXPECT(strstr(raw_text(&busy), "connection: close\r\n") != NULL);
    EXPECT(strstr(raw_text(&busy), "done") != NULL);

    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    EXPECT(connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno == ECONNREFUSED);
    close(fd);
    raw_close(&idle);
    raw_close(&busy);
    raw_close(&sending);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 3000));
    stop_server();
}

static void test_close_with_live_exchanges(void)
{
    start_server((struct http_server_options){0});
    struct raw_client a, b;
    raw_open(&a, http_server_port(server));
    raw_puts(&a, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    raw_open(&b, http_server_port(server));
    raw_puts(&b, "GET /half");
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    spin_for(5);
    http_server_close(server, on_server_closed, NULL);
    EXPECT_INT(gone, 0); // not inside the call
    EXPECT(SPIN_UNTIL(server_closed, 5000));
    EXPECT_INT(gone, 1);
    EXPECT(raw_ended(&a) && raw_ended(&b));
    raw_close(&a);
    raw_close(&b);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

static void test_port_in_use(void)
{
    start_server((struct http_server_options){0});
    struct error err = {0};
    struct http_server *second = NULL;
    struct http_server_options options = {
        .host = "127.0.0.1", .port = http_server_port(server), .on_request = on_test_request};
    EXPECT_INT(http_server_open(&loop, &options, &second, &err), -EADDRINUSE);
    char want[100];
    snprintf(want, sizeof want, "cannot listen on 127.0.0.1:%d: address already in use",
             http_server_port(server));
    EXPECT_STR(err.text, want);
    options.host = "no-such-host.invalid";
    EXPECT(http_server_open(&loop, &options, &second, &err) < 0);
    stop_server();

    uv_loop_init(&loop); // two servers share a port when they ask for it
    struct http_server *one, *two;
    options = (struct http_server_options){
        .host = "127.0.0.1", .reuse_port = true, .on_request = on_test_request};
    NEED(http_server_open(&loop, &options, &one, &err) == 0);
    options.port = http_server_port(one);
    EXPECT_INT(http_server_open(&loop, &options, &two, &err), 0);
    http_server_close(one, NULL, NULL);
    http_server_close(two, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

/* Thousands of streams: every one gets every write. */
static void test_many_streams(void)
{
    enum { STREAMS = 400, WRITES = 20 };
    static struct raw_client c[STREAMS];
    static struct http_exchange *x[STREAMS];
    start_server((struct http_server_options){0});
    for (int i = 0; i < STREAMS; i++) {
        raw_open(&c[i], http_server_port(server));
        held = NULL;
        raw_puts(&c[i], "GET /hold HTTP/1.1\r\n" HOST "\r\n");
        NEED(SPIN_UNTIL(held != NULL, 5000));
        x[i] = held;
        http_respond_begin(x[i], 200, "text/event-stream", true);
    }
    for (int n = 0; n < WRITES; n++) {
        for (int i = 0; i < STREAMS; i++)
            http_respond_write(x[i], "data: token\n\n", 13);
        spin_once();
    }
    for (int i = 0; i < STREAMS; i++)
        http_respond_end(x[i], NULL, 0);
    for (int i = 0; i < STREAMS; i++) {
        EXPECT(SPIN_UNTIL(raw_has(&c[i], "0\r\n\r\n"), 5000));
        EXPECT_INT(count_of(raw_text(&c[i]), "d\r\ndata: token\n\n\r\n"), WRITES);
        raw_close(&c[i]);
    }
    stop_server();
}

int main(void)
{
    RUN(test_simple);
    RUN(test_split_at_every_byte);
    RUN(test_byte_by_byte);
    RUN(test_malformed);
    RUN(test_nul_bytes);
    RUN(test_head_limits);
    RUN(test_large_body_refused);
    RUN(test_body_memory_is_bounded);
    RUN(test_connections_max);
    RUN(test_connections_leave_descriptors);
    RUN(test_accept_without_descriptors);
    RUN(test_large_bodies);
    RUN(test_expect_continue);
    RUN(test_head_has_no_body);
    RUN(test_http_1_0);
    RUN(test_pipeline);
    RUN(test_pipeline_waits);
    RUN(test_connection_close);
    RUN(test_trailer);
    RUN(test_stream);
    RUN(test_back_pressure);
    RUN(test_abort);
    RUN(test_gone);
    RUN(test_gone_found_by_writing);
    RUN(test_gone_while_uploading);
    RUN(test_half_close);
    RUN(test_orphan);
    RUN(test_timeouts);
    RUN(test_write_stall);
    RUN(test_drain);
    RUN(test_close_with_live_exchanges);
    RUN(test_port_in_use);
    RUN(test_many_streams);
    return TEST_END();
}
