#include "tests/bench/bench_tls.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "shared/base/check.h"
#include "shared/base/str.h"

static const char *const names[] = {"key.pem", "cert.pem", "pair.pem"};

static bool write_file(const char *dir, const char *name, EVP_PKEY *key, X509 *certificate)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    bool ok = f && (!certificate || PEM_write_X509(f, certificate) == 1) &&
              (!key || PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1);
    if (f && fclose(f) != 0) ok = false;
    return ok;
}

int bench_tls_write_files(const char *dir, struct error *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    CHECK(key && certificate);
    X509_NAME *name = X509_get_subject_name(certificate);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 24 * 3600);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"lm-bench", -1, -1,
                               0);
    X509_set_issuer_name(certificate, name);
    X509_set_pubkey(certificate, key);
    CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
    bool ok = write_file(dir, names[0], key, NULL) &&
              write_file(dir, names[1], NULL, certificate) &&
              write_file(dir, names[2], key, certificate);
    EVP_PKEY_free(key);
    X509_free(certificate);
    return ok ? 0 : error_set(err, E_INVALID, "cannot write a certificate into '%s'", dir);
}

void bench_tls_remove_files(const char *dir)
{
    char path[128];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
}

SSL *bench_tls_open(int fd)
{
    static SSL_CTX *ctx; // of the process
    if (!ctx) {
        ctx = SSL_CTX_new(TLS_client_method());
        CHECK(ctx);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    }
    SSL *ssl = SSL_new(ctx);
    CHECK(ssl && SSL_set_fd(ssl, fd) == 1);
    SSL_set_connect_state(ssl);
    return ssl;
}

void bench_tls_close(SSL *ssl)
{
    SSL_free(ssl);
}

int bench_tls_request(int port, const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char answer[256] = "";
    int64_t value;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status = -1;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        SSL *ssl = bench_tls_open(fd);
        if (SSL_write(ssl, text, (int)strlen(text)) > 0 &&
            SSL_read(ssl, answer, sizeof answer - 1) > 12 &&
            str_to_int((struct str){answer + 9, 3}, &value) == 0)
            status = (int)value;
        bench_tls_close(ssl);
    }
    if (fd >= 0) close(fd);
    return status;
}
