/* digest.h - SHA-256 of texts and files, and git's names of files, by OpenSSL. Any thread. */
#ifndef LM_NET_DIGEST_H
#define LM_NET_DIGEST_H

#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

#define DIGEST_BYTES  32
#define DIGEST_DIGITS 64

void digest_sha256(struct str data, uint8_t out[DIGEST_BYTES]);

enum digest_kind {
    DIGEST_SHA256,   // 64 digits
    DIGEST_GIT_BLOB, // 40 digits: SHA-1 of "blob <bytes>", a NUL and the content, as git names a file
};

/* Of a whole file, as lower-case hex. Blocking. -errno. */
FALLIBLE int digest_file(const char *path, enum digest_kind kind, char out[DIGEST_DIGITS + 1],
                         struct error *err);

/* As lower-case hex, and back (either case; E_FORMAT). */
void digest_text(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_DIGITS + 1]);
FALLIBLE int digest_parse(struct str text, uint8_t out[DIGEST_BYTES]);

#endif
