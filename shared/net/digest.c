#include "shared/net/digest.h"

#include "shared/base/check.h"

#include <openssl/evp.h>
#include <pthread.h>

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

void digest_text(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_DIGITS + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < DIGEST_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[DIGEST_DIGITS] = 0;
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
