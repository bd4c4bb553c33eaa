#define LOG_MODULE "tls"
#include "shared/net/tls.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

/* Of TLS 1.2; all of 1.3's will do. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"

static const unsigned char http_1_1[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

struct tls {
    pthread_mutex_t lock; // of both: a reload exchanges them
    SSL_CTX *server;      // NULL: serves plain HTTP
    SSL_CTX *client;      // NULL: the system's store, not asked for yet
    bool serves;          // as it began; not under the lock
};

/* ---- settings ---- */

static void take_from_environment(char **path, const char *name)
{
    const char *value = getenv(name);
    if (!*path && value && value[0]) *path = xstrdup(value);
}

bool tls_settings_serve(const struct tls_settings *settings)
{
    return settings->ssl || settings->keyfile || settings->certfile;
}

int tls_settings_complete(struct tls_settings *settings, struct error *err)
{
    if (!tls_settings_serve(settings)) return 0;
    settings->ssl = true;
    take_from_environment(&settings->keyfile, "SSL_KEYFILE");
    take_from_environment(&settings->certfile, "SSL_CERTFILE");
    if (!settings->keyfile) {
        return error_set(err, E_INVALID,
                         "--ssl: no key; set SSL_KEYFILE or give --ssl-keyfile FILE");
    }
    if (!settings->certfile) {
        return error_set(err, E_INVALID,
                         "--ssl: no certificate; set SSL_CERTFILE or give --ssl-certfile FILE");
    }
    return 0;
}

/* ---- contexts ---- */

static const char *openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason ? reason : "unknown error";
}

/* OpenSSL says "system lib" where a file can't be opened. */
static int check_readable(const char *option, const char *path, struct error *err)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return error_set(err, E_INVALID, "%s: cannot read '%s': %s", option, path, strerror(errno));
    char byte;
    bool is_read = fread(&byte, 1, 1, file) == 1;
    int failure = ferror(file) ? errno : 0;
    fclose(file);
    if (is_read) return 0;
    return error_set(err, E_INVALID, "%s: cannot read '%s': %s", option, path,
                     failure ? strerror(failure) : "it is empty");
}

/* Without it OpenSSL would ask at the terminal. */
static int no_password(char *out, int size, int writes, void *arg)
{
    (void)out, (void)size, (void)writes;
    *(bool *)arg = true;
    return 0;
}

static SSL_CTX *create_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    CHECK(ctx);
    CHECK(SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1);
    CHECK(SSL_CTX_set_cipher_list(ctx, CIPHERS) == 1);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    /* Buffers are there while bytes are; what has arrived is read with one call. */
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    return ctx;
}

static int select_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *offered, unsigned int offered_len, void *arg)
{
    (void)ssl, (void)arg;
    unsigned char *chosen;
    int rc =
        SSL_select_next_proto(&chosen, out_len, http_1_1, sizeof http_1_1, offered, offered_len);
    if (rc != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void note_certificate(SSL_CTX *ctx, const char *path)
{
    const X509 *certificate = SSL_CTX_get0_certificate(ctx);
    struct tm until = {0};
    char text[32] = "?";
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &until) == 1)
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &until);
    bool is_over = X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0;
    if (is_over) {
        log_warn("certificate has expired", "file=%s until=%s", path, text);
    } else {
        log_info("certificate", "file=%s until=%s", path, text);
    }
}

static int load_pair(SSL_CTX *ctx, const struct tls_settings *settings, struct error *err)
{
    const char *certfile = settings->certfile, *keyfile = settings->keyfile;
    bool wants_password = false;
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    SSL_CTX_set_default_passwd_cb_userdata(ctx, &wants_password);
    int rc = check_readable("--ssl-certfile", certfile, err);
    if (rc == 0) rc = check_readable("--ssl-keyfile", keyfile, err);
    if (rc != 0) return rc;
    if (SSL_CTX_use_certificate_chain_file(ctx, certfile) != 1) {
        return error_set(err, E_INVALID, "--ssl-certfile: no usable certificate in '%s': %s",
                         certfile, openssl_reason());
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, keyfile, SSL_FILETYPE_PEM) != 1) {
        bool is_other = ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH;
        if (is_other) {
            return error_set(err, E_INVALID, "--ssl-keyfile: '%s' is not the key of '%s'", keyfile,
                             certfile);
        }
        return error_set(err, E_INVALID, "--ssl-keyfile: no usable key in '%s': %s", keyfile,
                         wants_password ? "it is encrypted; give one without a password"
                                        : openssl_reason());
    }
    if (SSL_CTX_check_private_key(ctx) == 1) return 0;
    return error_set(err, E_INVALID, "--ssl-keyfile: '%s' is not the key of '%s'", keyfile,
                     certfile);
}

static int create_server(const struct tls_settings *settings, SSL_CTX **out, struct error *err)
{
    SSL_CTX *ctx = create_context(TLS_server_method());
    ERR_clear_error();
    int rc = load_pair(ctx, settings, err);
    ERR_clear_error();
    if (rc != 0) {
        SSL_CTX_free(ctx);
        return rc;
    }
    SSL_CTX_set_default_passwd_cb_userdata(ctx, NULL);
    /* Requests say where they end: a client that ends its side without TLS's goodbye isn't cut, and
     * may still read. */
    SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_alpn_select_cb(ctx, select_protocol, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); // tickets hold it all
    CHECK(SSL_CTX_set_num_tickets(ctx, 1) == 1);
    note_certificate(ctx, settings->certfile);
    *out = ctx;
    return 0;
}

static int create_client(const char *ca_file, SSL_CTX **out, struct error *err)
{
    if (ca_file) {
        int rc = check_readable("--ssl-ca", ca_file, err);
        if (rc != 0) return rc;
    }
    SSL_CTX *ctx = create_context(TLS_client_method());
    ERR_clear_error();
    bool is_loaded = ca_file ? SSL_CTX_load_verify_locations(ctx, ca_file, NULL) == 1
                             : SSL_CTX_set_default_verify_paths(ctx) == 1;
    if (!is_loaded) {
        error_set(err, E_INVALID, "--ssl-ca: no certificates in '%s': %s",
                  ca_file ? ca_file : "the system's store", openssl_reason());
        ERR_clear_error();
        SSL_CTX_free(ctx);
        return E_INVALID;
    }
    CHECK(SSL_CTX_set_alpn_protos(ctx, http_1_1, sizeof http_1_1) == 0);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    *out = ctx;
    return 0;
}

/* ---- life ---- */

int tls_create(const struct tls_settings *settings, struct tls **out, struct error *err)
{
    struct tls *t = xcalloc(1, sizeof *t);
    CHECK(pthread_mutex_init(&t->lock, NULL) == 0);
    int rc = 0;
    if (tls_settings_serve(settings)) rc = create_server(settings, &t->server, err);
    if (rc == 0 && settings->ca_file) rc = create_client(settings->ca_file, &t->client, err);
    if (rc != 0) {
        tls_destroy(t);
        return rc;
    }
    t->serves = t->server != NULL;
    *out = t;
    return 0;
}

static void exchange(struct tls *t, SSL_CTX **place, SSL_CTX *fresh)
{
    pthread_mutex_lock(&t->lock);
    SSL_CTX *old = *place;
    *place = fresh;
    pthread_mutex_unlock(&t->lock);
    SSL_CTX_free(old); // connections hold theirs
}

void tls_take(struct tls *t, struct tls *fresh)
{
    if (t->serves && fresh->serves) {
        exchange(t, &t->server, fresh->server);
        fresh->server = NULL;
    }
    exchange(t, &t->client, fresh->client); // NULL: the system's, as they are when one is needed
    fresh->client = NULL;
    tls_destroy(fresh);
}

void tls_destroy(struct tls *t)
{
    if (!t) return;
    SSL_CTX_free(t->server);
    SSL_CTX_free(t->client);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

bool tls_serves(const struct tls *t)
{
    return t && t->serves;
}

/* ---- sessions ---- */

SSL *tls_accept(struct tls *t)
{
    pthread_mutex_lock(&t->lock);
    SSL *ssl = SSL_new(t->server);
    pthread_mutex_unlock(&t->lock);
    CHECK(ssl); // memory
    SSL_set_accept_state(ssl);
    return ssl;
}

static bool is_address(const char *host)
{
    struct in6_addr address;
    return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

/* Whom the certificate must name; a name is also told to the peer, which may have several. */
static void expect_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (is_address(host)) {
        CHECK(X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1);
    } else {
        CHECK(SSL_set1_host(ssl, host) == 1);
        CHECK(SSL_set_tlsext_host_name(ssl, host) == 1);
    }
}

int tls_connect(struct tls *t, const char *host, bool verify, SSL **out, struct error *err)
{
    int rc = 0;
    pthread_mutex_lock(&t->lock);
    if (!t->client) rc = create_client(NULL, &t->client, err);
    *out = rc == 0 ? SSL_new(t->client) : NULL;
    pthread_mutex_unlock(&t->lock);
    if (rc != 0) return rc;
    CHECK(*out); // memory
    SSL_set_connect_state(*out);
    expect_host(*out, host);
    if (!verify) SSL_set_verify(*out, SSL_VERIFY_NONE, NULL);
    return 0;
}

void tls_discard(SSL *session)
{
    SSL_free(session);
}
