/* tls_test.h - for tests of TLS: certificates made on the spot in a folder of their own, and a peer
 * that speaks TLS through OpenSSL's memory buffers, so that the test decides in which pieces its bytes
 * travel. */
#ifndef LM_TLS_TEST_H
#define LM_TLS_TEST_H

#include "shared/base/check.h"
#include "shared/base/str.h"
#include "shared/net/tls.h"
#include "tests/unit/net/net_test.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

/* ---- certificates ---- */

static char pki_folder[64]; // until pki_remove()

static inline const char *pki_path(const char *name)
{
    static char paths[8][128]; // so many at a time
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", pki_folder, name);
    return path;
}

static inline void pki_make_folder(void)
{
    snprintf(pki_folder, sizeof pki_folder, "/tmp/lm-tls-XXXXXX");
    NEED(mkdtemp(pki_folder));
}

static inline void pki_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", pki_folder);
    EXPECT_INT(system(command), 0);
}

struct pki {
    EVP_PKEY *key;
    X509 *certificate;
};

static inline void pki_deinit(struct pki *p)
{
    EVP_PKEY_free(p->key);
    X509_free(p->certificate);
}

static inline void pki_extend(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    NEED(e && X509_add_ext(certificate, e, -1) == 1);
    X509_EXTENSION_free(e);
}

/* issuer NULL: signed by itself, a CA. names: as in "DNS:a,IP:127.0.0.1"; NULL: none. It began to be
 * valid two hours ago and is so for `seconds` from now on. */
static inline struct pki pki_make(const char *subject, const struct pki *issuer, const char *names,
                                  long seconds)
{
    static long serial;
    struct pki p = {EVP_EC_gen("P-256"), X509_new()};
    NEED(p.key && p.certificate);
    X509_set_version(p.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(p.certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(p.certificate), -7200);
    X509_gmtime_adj(X509_getm_notAfter(p.certificate), seconds);
    X509_set_pubkey(p.certificate, p.key);
    X509_NAME *name = X509_get_subject_name(p.certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)subject, -1, -1, 0);
    X509_set_issuer_name(p.certificate, issuer ? X509_get_subject_name(issuer->certificate) : name);
    if (!issuer) pki_extend(p.certificate, NID_basic_constraints, "critical,CA:TRUE");
    if (names) pki_extend(p.certificate, NID_subject_alt_name, names);
    NEED(X509_sign(p.certificate, issuer ? issuer->key : p.key, EVP_sha256()) > 0);
    return p;
}

/* NAME.pem and NAME.key; password NULL: none. */
static inline void pki_write(const struct pki *p, const char *name, const char *password)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.pem", pki_folder, name);
    FILE *file = fopen(path, "w");
    NEED(file && PEM_write_X509(file, p->certificate) == 1);
    fclose(file);
    snprintf(path, sizeof path, "%s/%s.key", pki_folder, name);
    file = fopen(path, "w");
    NEED(file && PEM_write_PrivateKey(file, p->key, password ? EVP_aes_256_cbc() : NULL,
                                      (const unsigned char *)password,
                                      password ? (int)strlen(password) : 0, NULL, NULL) == 1);
    fclose(file);
}

static inline void pki_write_text(const char *name, const char *text)
{
    FILE *file = fopen(pki_path(name), "w");
    NEED(file && fputs(text, file) >= 0);
    fclose(file);
}

/* ca, good (localhost, 127.0.0.1, ::1), other (other.example), stranger (good, of another CA), old
 * (good until an hour ago), locked (good, its key encrypted). */
static inline void pki_open(void)
{
    pki_make_folder();
    struct pki ca = pki_make("test CA", NULL, NULL, 3600);
    struct pki foreign_ca = pki_make("foreign CA", NULL, NULL, 3600);
    static const char here[] = "DNS:localhost,IP:127.0.0.1,IP:::1";
    struct {
        const char *name;
        struct pki pair;
        const char *password;
    } all[] = {
        {"ca", ca, NULL},
        {"foreign", foreign_ca, NULL},
        {"good", pki_make("good", &ca, here, 3600), NULL},
        {"next", pki_make("next", &ca, here, 3600), NULL},
        {"other", pki_make("other", &ca, "DNS:other.example,IP:10.1.2.3", 3600), NULL},
        {"stranger", pki_make("stranger", &foreign_ca, here, 3600), NULL},
        {"old", pki_make("old", &ca, here, -3600), NULL},
        {"locked", pki_make("locked", &ca, here, 3600), "secret"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        pki_write(&all[i].pair, all[i].name, all[i].password);
        pki_deinit(&all[i].pair);
    }
}

/* Settings that name the files of one of these; paths are overwritten by later calls. */
static inline struct tls_settings pki_settings(const char *name, const char *ca)
{
    static char paths[3][128];
    snprintf(paths[0], sizeof paths[0], "%s/%s.key", pki_folder, name ? name : "");
    snprintf(paths[1], sizeof paths[1], "%s/%s.pem", pki_folder, name ? name : "");
    snprintf(paths[2], sizeof paths[2], "%s/%s.pem", pki_folder, ca ? ca : "");
    return (struct tls_settings){.ssl = name != NULL,
                                 .keyfile = name ? paths[0] : NULL,
                                 .certfile = name ? paths[1] : NULL,
                                 .ca_file = ca ? paths[2] : NULL};
}

static inline struct tls *pki_tls(const char *name, const char *ca)
{
    struct tls_settings settings = pki_settings(name, ca);
    struct tls *t = NULL;
    struct error err = {0};
    if (tls_create(&settings, &t, &err) != 0) printf("%s\n", err.text);
    NEED(t);
    return t;
}

/* ---- a peer ---- */

struct tls_peer {
    struct raw_client raw;
    SSL *ssl;
    SSL_CTX *ctx;
    size_t piece; // its ciphertext goes out in pieces of so many bytes; 0: whole
    struct buf in;
    int error;  // SSL_ERROR_* of the last call that didn't succeed
    bool ended; // TLS's goodbye came
};

static inline void peer_begin(struct tls_peer *p, SSL_CTX *ctx)
{
    p->ctx = ctx;
    p->ssl = SSL_new(ctx);
    SSL_set_bio(p->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    buf_init(&p->in, BUF_MAX_INTERNAL);
}

/* A client that trusts anybody. */
static inline void peer_connect(struct tls_peer *p, int port)
{
    *p = (struct tls_peer){0};
    raw_open(&p->raw, port);
    peer_begin(p, SSL_CTX_new(TLS_client_method()));
    SSL_set_connect_state(p->ssl);
}

/* A server with the pair `name`. */
static inline bool peer_accept(struct tls_peer *p, int listener, const char *name)
{
    struct raw_client raw;
    if (!raw_accept(listener, &raw)) return false;
    *p = (struct tls_peer){.raw = raw};
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    struct tls_settings s = pki_settings(name, NULL);
    NEED(SSL_CTX_use_certificate_chain_file(ctx, s.certfile) == 1);
    NEED(SSL_CTX_use_PrivateKey_file(ctx, s.keyfile, SSL_FILETYPE_PEM) == 1);
    peer_begin(p, ctx);
    SSL_set_accept_state(p->ssl);
    return true;
}

static inline void peer_close(struct tls_peer *p)
{
    SSL_free(p->ssl);
    SSL_CTX_free(p->ctx);
    raw_close(&p->raw);
    buf_deinit(&p->in);
    ERR_clear_error();
}

/* Put out what OpenSSL wants to say; false: the other side is gone. */
static inline bool peer_put(struct tls_peer *p)
{
    char data[4096];
    int n;
    bool ok = true;
    while (ok && (n = BIO_read(SSL_get_wbio(p->ssl), data, sizeof data)) > 0) {
        size_t len = (size_t)n, piece = p->piece ? p->piece : len;
        for (size_t at = 0; ok && at < len; at += piece) {
            ok = raw_send(&p->raw, data + at, piece < len - at ? piece : len - at);
            if (p->piece) spin_once();
        }
    }
    return ok;
}

static inline void peer_take(struct tls_peer *p)
{
    raw_poll(&p->raw);
    if (p->raw.in.len == 0) return;
    BIO_write(SSL_get_rbio(p->ssl), p->raw.in.data, (int)p->raw.in.len);
    buf_clear(&p->raw.in);
}

/* One step of the handshake; true: it is over. */
static inline bool peer_shakes(struct tls_peer *p)
{
    peer_take(p);
    ERR_clear_error();
    int rc = SSL_do_handshake(p->ssl);
    p->error = rc == 1 ? 0 : SSL_get_error(p->ssl, rc);
    peer_put(p);
    return rc == 1 || p->error != SSL_ERROR_WANT_READ;
}

/* True when it is done, false when it failed or took too long. */
static inline bool peer_handshake(struct tls_peer *p)
{
    return SPIN_UNTIL(peer_shakes(p), 5000) && p->error == 0;
}

static inline void peer_puts(struct tls_peer *p, const char *text)
{
    NEED(SSL_write(p->ssl, text, (int)strlen(text)) == (int)strlen(text));
    peer_put(p);
}

/* Take what has come into p->in. */
static inline void peer_poll(struct tls_peer *p)
{
    char data[16384];
    peer_take(p);
    ERR_clear_error();
    int n;
    while ((n = SSL_read(p->ssl, data, sizeof data)) > 0)
        buf_append(&p->in, data, (size_t)n);
    p->error = SSL_get_error(p->ssl, n);
    p->ended = p->ended || p->error == SSL_ERROR_ZERO_RETURN;
    peer_put(p);
}

static inline bool peer_has(struct tls_peer *p, const char *text)
{
    peer_poll(p);
    return p->in.len > 0 && strstr(p->in.data, text) != NULL;
}

#endif
