#include "shared/net/http_client.h"

#include "tests/unit/net/client_test.h"
#include "tests/unit/net/tls_test.h"

static struct tls *server_tls, *client_tls;

static void start(const char *pair, const char *ca)
{
    server_tls = pair ? pki_tls(pair, NULL) : NULL;
    client_tls = pki_tls(NULL, ca);
    start_server((struct http_server_options){.tls = server_tls});
    start_client((struct http_client_options){.tls = client_tls});
}

static void stop(void)
{
    stop_client();
    stop_server();
    tls_destroy(server_tls);
    tls_destroy(client_tls);
}

static void call(struct outcome *o, enum http_scheme scheme, const char *host, int port,
                 const char *target)
{
    struct http_call_options options = options_for(o, port, target);
    options.scheme = scheme;
    options.host = host;
    o->call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(o), 10000));
}

static void expect_body(enum http_scheme scheme, const char *host, const char *body)
{
    struct outcome o;
    call(&o, scheme, host, http_server_port(server), "/x");
    EXPECT_INT(o.ends, 1);
    if (o.fails) printf("%s\n", o.failure_text);
    EXPECT_STR(body_of(&o), body);
    buf_deinit(&o.body);
}

static void expect_failure(const char *host, const char *text)
{
    struct outcome o;
    call(&o, HTTP_TLS, host, http_server_port(server), "/x");
    EXPECT_INT(o.fails, 1);
    EXPECT(!o.failure.connected && !http_failure_is_ours(&o.failure));
    if (!strstr(o.failure_text, text)) printf("\"%s\" lacks \"%s\"\n", o.failure_text, text);
    EXPECT(strstr(o.failure_text, text));
    EXPECT(strstr(o.failure_text, "connect to "));
    buf_deinit(&o.body);
}

static void test_calls_share_a_connection(void)
{
    start("good", "ca");
    for (int i = 0; i < 5; i++) {
        expect_body(HTTP_TLS, "127.0.0.1", "[GET /x? 0:]");
        EXPECT_INT(http_server_connections(server), 1);
    }
    expect_body(HTTP_TLS, "localhost", "[GET /x? 0:]"); // another name, another connection
    EXPECT_INT(http_server_connections(server), 2);
    expect_body(HTTP_TLS_UNVERIFIED, "127.0.0.1", "[GET /x? 0:]"); // and so is another trust
    EXPECT_INT(http_server_connections(server), 3);
    EXPECT_INT(requests, 7);
    stop();
}

static void test_large_both_ways(void)
{
    start("good", "ca");
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    for (int i = 0; i < 500000; i++)
        buf_printf(&body, "%07d,", i);
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/p");
    options.scheme = HTTP_TLS;
    options.method = "POST";
    options.body = buf_str(&body);
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 20000));
    EXPECT_INT(o.ends, 1);
    static const char frame[] = "[POST /p? 4000000:";
    size_t head = sizeof frame - 1;
    NEED(o.body.len == body.len + head + 1);
    EXPECT(memcmp(o.body.data, frame, head) == 0);
    EXPECT(memcmp(o.body.data + head, body.data, body.len) == 0);
    buf_deinit(&o.body);
    buf_deinit(&body);
    stop();
}

static void test_pause(void)
{
    start("good", "ca");
    struct outcome o;
    struct http_call_options options = options_for(&o, http_server_port(server), "/large");
    options.scheme = HTTP_TLS;
    o.pause_in_body = true;
    o.call = http_call_start(client, &options);
    NEED(SPIN_UNTIL(o.body.len > 0, 5000));
    spin_for(50);
    size_t seen = o.body.len;
    EXPECT(seen <= 64 << 10);
    for (int i = 0; i < 1000 && !is_done(&o); i++) { // each time it goes on where it stopped
        http_call_resume(o.call);
        EXPECT(SPIN_UNTIL(o.body.len > seen || is_done(&o), 5000));
        seen = o.body.len;
    }
    EXPECT_INT(o.ends, 1);
    EXPECT_INT(o.body.len, 8000000);
    EXPECT(memcmp(o.body.data + 8000000 - 8, "0999999,", 8) == 0);
    buf_deinit(&o.body);
    stop();
}

static void test_trust(void)
{
    start("good", "foreign");
    expect_failure("127.0.0.1", "its certificate is not trusted: unable to get local issuer");
    expect_body(HTTP_TLS_UNVERIFIED, "127.0.0.1", "[GET /x? 0:]");
    tls_take(client_tls, pki_tls(NULL, "ca")); // what was wrong is put right, without a restart
    expect_body(HTTP_TLS, "127.0.0.1", "[GET /x? 0:]");
    EXPECT_INT(requests, 2);
    stop();
    start("stranger", "ca");
    expect_failure("127.0.0.1", "its certificate is not trusted");
    stop();
    start("old", "ca");
    expect_failure("127.0.0.1", "certificate has expired");
    EXPECT_INT(requests, 0);
    stop();
    start("good", NULL); // the system's store doesn't know our CA
    expect_failure("127.0.0.1", "its certificate is not trusted");
    stop();
}

static void test_name(void)
{
    start("other", "ca");
    expect_failure("127.0.0.1", "its certificate is another host's: IP address mismatch");
    expect_failure("localhost", "its certificate is another host's: hostname mismatch");
    EXPECT_INT(requests, 0);
    stop();
}

static void test_plain_server(void)
{
    start(NULL, "ca");
    expect_failure("127.0.0.1", "it doesn't speak TLS");
    stop();
}

static void test_no_tls_here(void)
{
    start("good", "ca");
    stop_client();
    start_client((struct http_client_options){0});
    expect_failure("127.0.0.1", "not supported");
    stop();
}

/* The connect timeout is the handshake's, too. */
static void test_silent_server(void)
{
    start("good", "ca");
    int port, listener = raw_listen(&port);
    struct outcome o;
    struct http_call_options options = options_for(&o, port, "/");
    options.scheme = HTTP_TLS;
    options.connect_timeout_ms = 100;
    o.call = http_call_start(client, &options);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT_INT(o.failure.code, E_TIMEOUT);
    EXPECT(!o.failure.connected && strstr(o.failure_text, "no answer within 100 ms"));
    buf_deinit(&o.body);
    struct raw_client peer;
    EXPECT(SPIN_UNTIL(raw_accept(listener, &peer), 5000));
    raw_close(&peer);

    options = options_for(&o, port, "/"); // and one that hangs up instead of answering
    options.scheme = HTTP_TLS;
    o.call = http_call_start(client, &options);
    NEED(SPIN_UNTIL(raw_accept(listener, &peer), 5000));
    NEED(SPIN_UNTIL((raw_poll(&peer), peer.in.len > 0), 5000));
    raw_close(&peer);
    EXPECT(SPIN_UNTIL(is_done(&o), 5000));
    EXPECT(!o.failure.connected && strstr(o.failure_text, "closed in the handshake"));
    buf_deinit(&o.body);
    close(listener);
    stop();
}

/* A body that only the end of the connection ends: with TLS's goodbye it is whole, without it may
 * have been cut by anybody. */
static void test_end_and_cut(void)
{
    start("good", "ca");
    int port, listener = raw_listen(&port);
    for (int cut = 0; cut < 2; cut++) {
        struct outcome o;
        struct tls_peer peer;
        struct http_call_options options = options_for(&o, port, "/");
        options.scheme = HTTP_TLS;
        o.call = http_call_start(client, &options);
        NEED(SPIN_UNTIL(peer_accept(&peer, listener, "good"), 5000));
        NEED(peer_handshake(&peer));
        EXPECT(SPIN_UNTIL(peer_has(&peer, "\r\n\r\n"), 5000));
        char host[64];
        snprintf(host, sizeof host, "host: 127.0.0.1:%d\r\n", port);
        EXPECT(strstr(peer.in.data, host));
        peer_puts(&peer, "HTTP/1.1 200 OK\r\n\r\nabc");
        if (!cut) {
            SSL_shutdown(peer.ssl);
            peer_put(&peer);
        }
        shutdown(peer.raw.fd, SHUT_WR);
        EXPECT(SPIN_UNTIL(is_done(&o), 5000));
        EXPECT_STR(body_of(&o), "abc");
        EXPECT_INT(o.ends, !cut);
        EXPECT(!cut || strstr(o.failure_text, "without the goodbye of TLS"));
        buf_deinit(&o.body);
        peer_close(&peer);
    }
    close(listener);
    stop();
}

/* A connection that the server ended while it rested isn't used again. */
static void test_dead_pooled_connection(void)
{
    start("good", "ca");
    int port, listener = raw_listen(&port);
    struct outcome o;
    for (int i = 0; i < 2; i++) {
        struct tls_peer peer;
        struct http_call_options options = options_for(&o, port, "/");
        options.scheme = HTTP_TLS;
        o.call = http_call_start(client, &options);
        NEED(SPIN_UNTIL(peer_accept(&peer, listener, "good"), 5000));
        NEED(peer_handshake(&peer));
        EXPECT(SPIN_UNTIL(peer_has(&peer, "\r\n\r\n"), 5000));
        peer_puts(&peer, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        EXPECT(SPIN_UNTIL(is_done(&o), 5000));
        EXPECT_INT(o.ends, 1);
        SSL_shutdown(peer.ssl); // only TLS's end: the socket stays open
        peer_put(&peer);
        EXPECT(SPIN_UNTIL((peer_poll(&peer), peer.ended), 5000)); // and ours comes back
        peer_close(&peer);
        buf_deinit(&o.body);
    }
    close(listener);
    stop();
}

int main(void)
{
    pki_open();
    RUN(test_calls_share_a_connection);
    RUN(test_large_both_ways);
    RUN(test_pause);
    RUN(test_trust);
    RUN(test_name);
    RUN(test_plain_server);
    RUN(test_no_tls_here);
    RUN(test_silent_server);
    RUN(test_end_and_cut);
    RUN(test_dead_pooled_connection);
    pki_remove();
    return TEST_END();
}
