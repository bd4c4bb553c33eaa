#include "shared/net/tls.h"

#include "shared/net/http_connection.h"
#include "tests/unit/net/server_test.h"
#include "tests/unit/net/tls_test.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

static struct tls *tls;

static void start_tls(struct http_server_options options)
{
    tls = pki_tls("good", NULL);
    options.tls = tls;
    start_server(options);
}

static void stop_tls(void)
{
    stop_server();
    tls_destroy(tls);
}

/* ---- settings and files ---- */

static void expect_refused(struct tls_settings settings, const char *text)
{
    struct tls *t = NULL;
    struct error err = {0};
    EXPECT_INT(tls_create(&settings, &t, &err), E_INVALID);
    EXPECT(!t);
    if (!strstr(err.text, text)) printf("\"%s\" lacks \"%s\"\n", err.text, text);
    EXPECT(strstr(err.text, text));
}

static void test_bad_files(void)
{
    struct tls_settings s = pki_settings("good", NULL);
    s.certfile = (char *)"/nonexistent/x.pem";
    expect_refused(s, "--ssl-certfile: cannot read '/nonexistent/x.pem': No such file");
    s = pki_settings("good", NULL);
    s.keyfile = (char *)"/nonexistent/x.key";
    expect_refused(s, "--ssl-keyfile: cannot read '/nonexistent/x.key': No such file");
    s = pki_settings("good", NULL);
    s.certfile = pki_folder;
    expect_refused(s, "Is a directory");
    pki_write_text("empty", "");
    s = pki_settings("good", NULL);
    s.keyfile = (char *)pki_path("empty");
    expect_refused(s, "it is empty");
    pki_write_text("noise", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    s = pki_settings("good", NULL);
    s.certfile = (char *)pki_path("noise");
    expect_refused(s, "--ssl-certfile: no usable certificate in");
    s = pki_settings("good", NULL);
    s.keyfile = (char *)pki_path("noise");
    expect_refused(s, "--ssl-keyfile: no usable key in");
    s = pki_settings("good", NULL);
    s.keyfile = (char *)pki_path("next.key");
    expect_refused(s, "is not the key of");
    expect_refused(pki_settings("locked", NULL), "it is encrypted; give one without a password");
    s = pki_settings(NULL, "ca");
    s.ca_file = (char *)"/nonexistent/ca.pem";
    expect_refused(s, "--ssl-ca: cannot read '/nonexistent/ca.pem'");
    s.ca_file = (char *)pki_path("noise");
    expect_refused(s, "--ssl-ca: no certificates in");
}

static void test_settings(void)
{
    struct tls_settings s = {0};
    struct error err = {0};
    unsetenv("SSL_KEYFILE");
    setenv("SSL_CERTFILE", "/env/cert", 1);
    EXPECT_INT(tls_settings_complete(&s, &err), 0);
    EXPECT(!tls_settings_serve(&s) && !s.certfile); // the environment alone asks for nothing
    s.ssl = true;
    EXPECT_INT(tls_settings_complete(&s, &err), E_INVALID);
    EXPECT(strstr(err.text, "SSL_KEYFILE"));
    setenv("SSL_KEYFILE", "/env/key", 1);
    EXPECT_INT(tls_settings_complete(&s, &err), 0);
    EXPECT_STR(s.keyfile, "/env/key");
    EXPECT_STR(s.certfile, "/env/cert");
    free(s.keyfile);
    free(s.certfile);
    s = (struct tls_settings){.keyfile = xstrdup("/given/key")};
    EXPECT_INT(tls_settings_complete(&s, &err), 0);
    EXPECT(tls_settings_serve(&s) && s.ssl);
    EXPECT_STR(s.keyfile, "/given/key"); // options win
    EXPECT_STR(s.certfile, "/env/cert");
    free(s.certfile);
    s.certfile = NULL;
    unsetenv("SSL_CERTFILE");
    EXPECT_INT(tls_settings_complete(&s, &err), E_INVALID);
    EXPECT(strstr(err.text, "SSL_CERTFILE"));
    free(s.keyfile);
    unsetenv("SSL_KEYFILE");
}

/* ---- the server ---- */

static void test_requests(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    static const unsigned char protocols[] = "\x02h2\x08http/1.1";
    SSL_set_alpn_protos(p.ssl, protocols, sizeof protocols - 1);
    NEED(peer_handshake(&p));
    const unsigned char *chosen;
    unsigned len;
    SSL_get0_alpn_selected(p.ssl, &chosen, &len);
    EXPECT(len == 8 && memcmp(chosen, "http/1.1", 8) == 0);
    EXPECT_INT(SSL_version(p.ssl), TLS1_3_VERSION);
    for (int i = 0; i < 3; i++) { // on one connection
        buf_clear(&p.in);
        peer_puts(&p, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        EXPECT(SPIN_UNTIL(peer_has(&p, "[POST /a? 5:hello]"), 3000));
    }
    peer_puts(&p, "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /last? 0:]"), 3000));
    EXPECT(SPIN_UNTIL((peer_poll(&p), p.ended), 3000)); // a goodbye, not only an end
    EXPECT(SPIN_UNTIL(raw_ended(&p.raw), 3000));
    EXPECT(!p.raw.reset);
    peer_close(&p);
    stop_tls();
}

/* Every record, of the handshake and behind it, in pieces of 1, 2, 3, ... bytes. */
static void test_fragments(void)
{
    start_tls((struct http_server_options){0});
    for (size_t piece = 1; piece < 600; piece += piece < 8 ? 1 : 61) {
        struct tls_peer p;
        peer_connect(&p, http_server_port(server));
        p.piece = piece;
        NEED(peer_handshake(&p));
        peer_puts(&p, "POST /f HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        EXPECT(SPIN_UNTIL(peer_has(&p, "[POST /f? 5:hello]"), 3000));
        peer_close(&p);
    }
    stop_tls();
}

/* What comes before the handshake is over belongs to the first request. */
static void test_request_behind_handshake(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    EXPECT(!peer_shakes(&p));
    NEED(SPIN_UNTIL((peer_take(&p), BIO_pending(SSL_get_rbio(p.ssl)) > 0), 3000));
    NEED(SPIN_UNTIL((peer_take(&p), SSL_do_handshake(p.ssl) == 1), 3000));
    NEED(SSL_write(p.ssl, GET("/a") GET("/b"), 2 * (int)strlen(GET("/a"))) > 0);
    peer_put(&p); // Finished and two requests at once
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /b? 0:]"), 3000));
    peer_close(&p);
    stop_tls();
}

static void test_refused_peers(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    SSL_set_alpn_protos(p.ssl, (const unsigned char *)"\x02h2", 3);
    EXPECT(!peer_handshake(&p));
    EXPECT_INT(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL);
    EXPECT(SPIN_UNTIL(raw_ended(&p.raw), 3000));
    peer_close(&p);

    peer_connect(&p, http_server_port(server));
    SSL_set_security_level(p.ssl, 0); // OpenSSL's own minimum is above it
    NEED(SSL_set_min_proto_version(p.ssl, TLS1_VERSION) == 1);
    NEED(SSL_set_max_proto_version(p.ssl, TLS1_1_VERSION) == 1);
    EXPECT(!peer_handshake(&p));
    EXPECT_INT(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    peer_close(&p);

    peer_connect(&p, http_server_port(server)); // RSA key exchange has no forward secrecy
    NEED(SSL_set_max_proto_version(p.ssl, TLS1_2_VERSION) == 1);
    NEED(SSL_set_cipher_list(p.ssl, "AES128-SHA256") == 1);
    EXPECT(!peer_handshake(&p));
    EXPECT_INT(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE);
    peer_close(&p);

    struct raw_client raw; // begins like TLS and goes on like nothing
    raw_open(&raw, http_server_port(server));
    EXPECT(raw_send(&raw, "\x16\x03\x01\x00\x05zzzzz", 10));
    EXPECT(SPIN_UNTIL(raw_ended(&raw), 3000));
    raw_close(&raw);
    EXPECT(SPIN_UNTIL(http_server_connections(server) == 0, 3000));
    EXPECT_INT(requests, 0);
    stop_tls();
}

static void test_tls_1_2(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(SSL_set_max_proto_version(p.ssl, TLS1_2_VERSION) == 1);
    NEED(peer_handshake(&p));
    peer_puts(&p, GET("/a"));
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /a? 0:]"), 3000));
    EXPECT_INT(SSL_renegotiate(p.ssl), 1);
    EXPECT(!peer_handshake(&p)); // no new handshake on this connection
    peer_close(&p);
    stop_tls();
}

static void test_key_update(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    NEED(SSL_key_update(p.ssl, SSL_KEY_UPDATE_REQUESTED) == 1);
    peer_puts(&p, GET("/a"));
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /a? 0:]"), 3000));
    peer_puts(&p, GET("/b"));
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /b? 0:]"), 3000));
    peer_close(&p);
    stop_tls();
}

/* Each costs far more than its 27 bytes, and OpenSSL would read them as long as they come, while all
 * others of the loop wait. */
static void test_key_update_flood(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    bool is_up = true;
    for (int i = 0; i < 10000 && is_up; i++) {
        NEED(SSL_key_update(p.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1);
        NEED(SSL_do_handshake(p.ssl) == 1);
        is_up = peer_put(&p);
    }
    EXPECT(SPIN_UNTIL(raw_ended(&p.raw), 3000));
    EXPECT_INT(requests, 0);
    peer_close(&p);
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    for (int i = 0; i < 10; i++) { // between data they are fine, however many there are
        for (int k = 0; k < 500; k++) {
            NEED(SSL_key_update(p.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1);
            NEED(SSL_do_handshake(p.ssl) == 1);
        }
        buf_clear(&p.in);
        peer_puts(&p, GET("/a"));
        EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /a? 0:]"), 3000));
    }
    peer_close(&p);
    stop_tls();
}

static void test_handshake_deadline(void)
{
    start_tls((struct http_server_options){.header_timeout_ms = 1500, .idle_timeout_ms = 60000});
    struct raw_client silent, slow;
    raw_open(&silent, http_server_port(server));
    raw_open(&slow, http_server_port(server));
    EXPECT(raw_send(&slow, "\x16\x03\x01", 3));
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    EXPECT(SPIN_UNTIL(raw_ended(&silent) && raw_ended(&slow), 10000));
    peer_puts(&p, GET("/a")); // who has finished it has the time between requests
    EXPECT(SPIN_UNTIL(peer_has(&p, "[GET /a? 0:]"), 3000));
    raw_close(&silent);
    raw_close(&slow);
    peer_close(&p);
    stop_tls();
}

static void test_plain_to_tls(void)
{
    start_tls((struct http_server_options){0});
    struct raw_client raw;
    raw_open(&raw, http_server_port(server));
    EXPECT(raw_puts(&raw, GET("/a")));
    EXPECT(SPIN_UNTIL(raw_ended(&raw), 3000));
    EXPECT_INT(first_status(raw_text(&raw)), 400);
    EXPECT(strstr(raw_text(&raw), "this port speaks HTTPS"));
    EXPECT(strstr(raw_text(&raw), "\"error\""));
    EXPECT(!raw.reset);
    raw_close(&raw);

    raw_open(&raw, http_server_port(server)); // more than one read's worth
    static char body[300000];
    memset(body, 'x', sizeof body);
    EXPECT(raw_puts(&raw, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"));
    (void)raw_send(&raw, body, sizeof body);
    EXPECT(SPIN_UNTIL(raw_has(&raw, "this port speaks HTTPS"), 3000));
    raw_close(&raw);
    EXPECT_INT(requests, 0);
    stop_tls();
}

static void test_tls_to_plain(void)
{
    start_server((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    EXPECT(!peer_handshake(&p));
    EXPECT_INT(ERR_GET_REASON(ERR_peek_error()), SSL_R_WRONG_VERSION_NUMBER);
    peer_close(&p);
    struct raw_client raw;
    raw_open(&raw, http_server_port(server));
    EXPECT(raw_puts(&raw, "\x16\x03\x01"));
    EXPECT(SPIN_UNTIL(raw_has(&raw, "this port speaks plain HTTP"), 3000));
    EXPECT(SPIN_UNTIL(raw_ended(&raw), 3000));
    raw_close(&raw);
    stop_server();
}

/* Whoever waits for an answer and leaves is noticed, however it leaves. */
static void test_gone(void)
{
    enum { GOODBYE, END, RESET, WAYS };
    start_tls((struct http_server_options){0});
    for (int way = 0; way < WAYS; way++) {
        struct tls_peer p;
        peer_connect(&p, http_server_port(server));
        NEED(peer_handshake(&p));
        peer_puts(&p, GET("/hold"));
        NEED(SPIN_UNTIL(held != NULL, 3000));
        if (way == GOODBYE) {
            SSL_shutdown(p.ssl);
            peer_put(&p);
        } else if (way == RESET) {
            struct linger now = {1, 0};
            setsockopt(p.raw.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        if (way != GOODBYE) {
            close(p.raw.fd);
            p.raw.fd = -1;
        }
        EXPECT(SPIN_UNTIL(gone == way + 1, 3000));
        peer_close(&p);
    }
    stop_tls();
}

/* A client that has said all it has to say still gets its answer, to the last byte, whether it said
 * goodbye or only ended its side. */
static void test_half_closed(void)
{
    start_tls((struct http_server_options){0});
    for (int polite = 0; polite < 2; polite++) {
        struct tls_peer p;
        peer_connect(&p, http_server_port(server));
        NEED(peer_handshake(&p));
        NEED(SSL_write(p.ssl, GET("/large"), (int)strlen(GET("/large"))) > 0);
        if (polite) SSL_shutdown(p.ssl);
        peer_put(&p);
        if (!polite) NEED(shutdown(p.raw.fd, SHUT_WR) == 0);
        spin_for(50); // nothing is taken while the buffers fill
        EXPECT(SPIN_UNTIL(peer_has(&p, "0999999,"), 10000));
        EXPECT(SPIN_UNTIL(raw_ended(&p.raw) && (peer_poll(&p), p.ended), 3000));
        peer_close(&p);
    }
    stop_tls();
}

/* A reader that stops costs a bounded number of bytes, and goes on where it stopped. */
static void test_back_pressure(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    peer_puts(&p, GET("/hold"));
    NEED(SPIN_UNTIL(held != NULL, 3000));
    http_respond_begin(held, 200, "text/plain", true);
    static char block[50000];
    size_t total = 0, pending = 0;
    for (int i = 0; i < 1000 && pending <= 256 << 10; i++) {
        for (size_t at = 0; at < sizeof block; at++)
            block[at] = (char)('a' + (total + at) % 26);
        pending = http_respond_write(held, block, sizeof block);
        total += sizeof block;
    }
    EXPECT(pending > 256 << 10);
    EXPECT_INT(drained, 0);
    EXPECT(SPIN_UNTIL((peer_poll(&p), drained == 1), 10000));
    http_respond_end(held, "END", 3);
    EXPECT(SPIN_UNTIL(peer_has(&p, "END\r\n0\r\n\r\n"), 10000));
    size_t letters = 0;
    const char *at = strstr(p.in.data, "\r\n\r\n") + 4;
    while (*at != '0' || at[1] != '\r') { // chunks, whose sizes stand alone on their lines
        size_t len = strtoul(at, (char **)&at, 16);
        at += 2;
        for (size_t i = 0; i < len && letters < total; i++, letters++) {
            if (at[i] != (char)('a' + letters % 26)) break;
        }
        at += len + 2;
    }
    EXPECT_INT(letters, total);
    peer_close(&p);
    stop_tls();
}

/* ---- the socket alone ---- */

static void ignore(struct net_socket *s, int status)
{
    (void)s, (void)status;
}

static void ignore_room(struct net_socket *s)
{
    (void)s;
}

static bool socket_closed, set_released;

static void on_socket_closed(struct net_socket *s)
{
    (void)s;
    socket_closed = true;
}

static void on_set_released(void *arg)
{
    (void)arg;
    set_released = true;
}

static size_t read_total, read_most;

static void count_data(struct net_socket *s, const char *data, size_t len)
{
    (void)s, (void)data;
    read_total += len;
    if (len > read_most) read_most = len;
}

static const struct net_socket_events counting = {.on_connected = ignore,
                                                  .on_data = count_data,
                                                  .on_lost = ignore,
                                                  .on_writable = ignore_room,
                                                  .on_closed = on_socket_closed};

/* A socket of ours in a loop of its own, and its client: the handshake is done. */
static struct net_sockets *open_pair(struct net_socket *s, struct tls_peer *p)
{
    int pair[2];
    NEED(uv_loop_init(&loop) == 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    struct net_sockets *set = net_sockets_ref(&loop);
    tls = pki_tls("good", NULL);
    net_socket_open(s, set, pair[0], &counting);
    net_socket_secure(s, tls_accept(tls));
    net_socket_read(s, true);
    *p = (struct tls_peer){.raw.fd = pair[1]};
    buf_init(&p->raw.in, BUF_MAX_INTERNAL);
    peer_begin(p, SSL_CTX_new(TLS_client_method()));
    SSL_set_connect_state(p->ssl);
    NEED(peer_handshake(p));
    NEED(SPIN_UNTIL(!s->securing, 3000));
    socket_closed = set_released = false;
    read_total = read_most = 0;
    return set;
}

static void close_pair(struct net_socket *s, struct tls_peer *p, struct net_sockets *set)
{
    net_socket_close(s, false);
    EXPECT(SPIN_UNTIL(socket_closed, 3000));
    net_sockets_unref(set, on_set_released, NULL);
    EXPECT(SPIN_UNTIL(set_released, 3000));
    EXPECT_INT(uv_loop_close(&loop), 0);
    peer_close(p);
    tls_destroy(tls);
}

/* The end of our side comes behind what waits, TLS's goodbye before TCP's. */
static void test_shutdown_while_blocked(void)
{
    struct net_socket s;
    struct tls_peer p;
    struct net_sockets *set = open_pair(&s, &p);
    char block[1000] = "x";
    const struct iovec piece = {block, sizeof block};
    size_t total = 0;
    while (!s.blocked) {
        NEED(net_socket_send(&s, &piece, 1) == sizeof block);
        total += sizeof block;
    }
    EXPECT_INT(net_socket_send(&s, &piece, 1), 0);
    EXPECT_INT(net_socket_shutdown(&s), 0);
    EXPECT(SPIN_UNTIL((peer_poll(&p), p.ended), 3000));
    EXPECT_INT(p.in.len, total);
    EXPECT(SPIN_UNTIL(raw_ended(&p.raw), 3000));
    close_pair(&s, &p, set);
}

/* A turn is as long as what came, not as what it held: others have theirs between. */
static void test_tiny_records(void)
{
    enum { COUNT = 5000, RECORD = 5 + 1 + 1 + 16 }; // head, a byte, its type, tag
    struct net_socket s;
    struct tls_peer p;
    struct net_sockets *set = open_pair(&s, &p);
    for (int i = 0; i < COUNT; i++)
        NEED(SSL_write(p.ssl, "x", 1) == 1);
    NEED(peer_put(&p));
    EXPECT_INT(read_total, 0); // it hasn't looked in between
    EXPECT(SPIN_UNTIL(read_total == COUNT, 3000));
    EXPECT(read_most <= (NET_READ_BYTES + (20 << 10)) / RECORD);
    close_pair(&s, &p, set);
}

/* More in one go than a read takes, in records that don't divide it: what OpenSSL keeps of the last
 * one comes without another event. */
static void test_burst(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    static char record[10000], head[128];
    memset(record, 'x', sizeof record);
    snprintf(head, sizeof head, "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
             7 * sizeof record);
    NEED(SSL_write(p.ssl, head, (int)strlen(head)) > 0);
    for (int i = 0; i < 7; i++)
        NEED(SSL_write(p.ssl, record, sizeof record) > 0);
    NEED(peer_put(&p)); // the server hasn't looked in between
    EXPECT(SPIN_UNTIL(peer_has(&p, "[POST /b? 70000:"), 3000));
    peer_close(&p);
    stop_tls();
}

/* The last record of an answer waits for a client that comes back to it late. */
static void test_late_reader(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer p;
    peer_connect(&p, http_server_port(server));
    NEED(peer_handshake(&p));
    peer_puts(&p, "GET /hold HTTP/1.0\r\n\r\n"); // no framing: nothing follows the last byte
    NEED(SPIN_UNTIL(held != NULL, 3000));
    const struct http_connection *c =
        list_first(&server->connections, struct http_connection, link);
    http_respond_begin(held, 200, "text/plain", true);
    size_t total = 0, pending = 0;
    char block[1000];
    memset(block, 'x', sizeof block);
    for (; !c->socket.blocked && pending == 0; total += sizeof block)
        pending = http_respond_write(held, block, sizeof block);
    EXPECT_INT(pending, 0); // all is with TLS, which has some of it left
    http_respond_end(held, NULL, 0);
    spin_for(3000); // longer than a connection lingers
    EXPECT(SPIN_UNTIL((peer_poll(&p), p.ended), 5000));
    EXPECT(p.in.len > 0 &&
           (size_t)(p.in.len - (size_t)(strstr(p.in.data, "\r\n\r\n") + 4 - p.in.data)) == total);
    peer_close(&p);
    stop_tls();
}

static bool shows(const struct tls_peer *p, const char *name)
{
    char text[64] = "";
    X509 *certificate = SSL_get1_peer_certificate(p->ssl);
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, text,
                              sizeof text);
    X509_free(certificate);
    return strcmp(text, name) == 0;
}

static void test_reload(void)
{
    start_tls((struct http_server_options){0});
    struct tls_peer before, after;
    peer_connect(&before, http_server_port(server));
    NEED(peer_handshake(&before));
    EXPECT(shows(&before, "good"));
    tls_take(tls, pki_tls("next", NULL));
    peer_connect(&after, http_server_port(server));
    NEED(peer_handshake(&after));
    EXPECT(shows(&after, "next"));
    peer_puts(&before, GET("/a"));
    EXPECT(SPIN_UNTIL(peer_has(&before, "[GET /a? 0:]"), 3000));
    tls_take(tls, pki_tls(NULL, NULL)); // it can't stop serving TLS while it runs
    EXPECT(tls_serves(tls));
    peer_close(&before);
    peer_close(&after);
    stop_tls();
}

int main(void)
{
    pki_open();
    RUN(test_bad_files);
    RUN(test_settings);
    RUN(test_requests);
    RUN(test_fragments);
    RUN(test_request_behind_handshake);
    RUN(test_refused_peers);
    RUN(test_tls_1_2);
    RUN(test_key_update);
    RUN(test_key_update_flood);
    RUN(test_handshake_deadline);
    RUN(test_plain_to_tls);
    RUN(test_tls_to_plain);
    RUN(test_gone);
    RUN(test_half_closed);
    RUN(test_back_pressure);
    RUN(test_burst);
    RUN(test_late_reader);
    RUN(test_shutdown_while_blocked);
    RUN(test_tiny_records);
    RUN(test_reload);
    pki_remove();
    return TEST_END();
}
