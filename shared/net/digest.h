/* digest.h - SHA-256, by OpenSSL. Any thread. */
#ifndef LM_NET_DIGEST_H
#define LM_NET_DIGEST_H

#include <stdint.h>

#include "shared/base/str.h"

#define DIGEST_BYTES  32
#define DIGEST_DIGITS 64

void digest_sha256(struct str data, uint8_t out[DIGEST_BYTES]);

/* As lower-case hex, and back (either case; E_FORMAT). */
void digest_text(const uint8_t digest[DIGEST_BYTES], char out[DIGEST_DIGITS + 1]);
FALLIBLE int digest_parse(struct str text, uint8_t out[DIGEST_BYTES]);

#endif
