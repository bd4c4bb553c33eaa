#include "shared/net/digest.h"

#include "shared/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Found once: looking an algorithm up by name costs OpenSSL 3 more than hashing a short text. */
static const EVP_MD *sha256;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    CHECK(sha256);
}

void digest_sha256(struct str data, uint8_t out[DIGEST_BYTES])
{
    pthread_once(&once, fetch);
    unsigned len = 0;
    CHECK(EVP_Digest(data.data ? data.data : "", data.len, out, &len, sha256, NULL) == 1);
    CHECK(len == DIGEST_BYTES);
}

/* out[2 * count + 1] */
static void put_hex(const uint8_t *bytes, unsigned count, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < count; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = 0;
}

void digest_text(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_DIGITS + 1])
{
    put_hex(digest, DIGEST_BYTES, out);
}

/* What git puts in front of a file's content, its NUL included. */
static void add_git_header(EVP_MD_CTX *context, int64_t bytes)
{
    char header[40];
    int len = snprintf(header, sizeof header, "blob %" PRId64, bytes);
    CHECK(EVP_DigestUpdate(context, header, (size_t)len + 1) == 1);
}

static int add_content(EVP_MD_CTX *context, int file)
{
    static const size_t step = 1 << 20;
    char *piece = xmalloc(step);
    ssize_t got;
    while ((got = read(file, piece, step)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0) CHECK(EVP_DigestUpdate(context, piece, (size_t)got) == 1);
    int rc = got < 0 ? -errno : 0;
    free(piece);
    return rc;
}

int digest_file(const char *path, enum digest_kind kind, char out[DIGEST_DIGITS + 1],
                struct error *err)
{
    struct stat st;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int rc = file < 0 || fstat(file, &st) < 0 ? -errno : 0;
    if (rc == 0) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned len = 0;
        CHECK(context &&
              EVP_DigestInit_ex(context, kind == DIGEST_SHA256 ? EVP_sha256() : EVP_sha1(), NULL) ==
                  1);
        if (kind == DIGEST_GIT_BLOB) add_git_header(context, st.st_size);
        rc = add_content(context, file);
        CHECK(EVP_DigestFinal_ex(context, digest, &len) == 1 && len <= DIGEST_BYTES);
        put_hex(digest, len, out);
        EVP_MD_CTX_free(context);
    }
    if (file >= 0) close(file);
    return rc < 0 ? error_set(err, rc, "can't read '%s': %s", path, strerror(-rc)) : 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int digest_parse(struct str text, uint8_t out[DIGEST_BYTES])
{
    if (text.len != DIGEST_DIGITS) return E_FORMAT;
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        int high = hex_digit(text.data[2 * i]), low = hex_digit(text.data[2 * i + 1]);
        if (high < 0 || low < 0) return E_FORMAT;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}
