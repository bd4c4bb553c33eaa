#include "tests/unit/net/server_test.h"

#define HOST "Host: x\r\n"
#define GET  "GET / HTTP/1.1\r\n" HOST

/* ---- well-formed requests, however they are cut ---- */

static void test_simple(void)
{
    start_server((struct http_server_options){0});
    struct raw_client c;
    raw_open(&c, http_server_port(server));
    raw_puts(&c, "POST /a/b?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT(SPIN_UNTIL(raw_has(&c, "[POST /a/b?q=1 5:hello]"), 2000));
    EXPECT_INT(first_status(raw_text(&c)), 200);
    EXPECT(strstr(raw_text(&c), "content-type: text/plain\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "content-length: 23\r\n") != NULL);
    EXPECT(strstr(raw_text(&c), "connection:") == NULL);
    EXPECT_INT(http_server_connections(server), 1);
    raw_close(&c);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 2000));
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
            bool ok = SPIN_UNTIL(raw_has(&c, w->answer), 2000);
            EXPECT(ok);
            if (!ok) printf("cut %zu of \"%s\": \"%s\"\n", cut, w->bytes, raw_text(&c));
            if (!strstr(w->bytes, "HTTP/1.0")) {
                raw_puts(&c, "GET /again HTTP/1.1\r\n" HOST "\r\n");
                EXPECT(SPIN_UNTIL(raw_has(&c, "[GET /again? 0:]"), 2000));
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
        EXPECT(SPIN_UNTIL(raw_has(&c, w->answer), 2000));
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

int main(void)
{
    RUN(test_simple);
    RUN(test_split_at_every_byte);
    RUN(test_byte_by_byte);
    RUN(test_malformed);
    RUN(test_nul_bytes);
    return TEST_END();
}
