/* http_message.h - what an HTTP/1.1 message is to both sides: schemes, headers, statuses, limits. */
#ifndef LM_NET_HTTP_MESSAGE_H
#define LM_NET_HTTP_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/str.h"

enum http_scheme {
    HTTP_PLAIN,
    HTTP_TLS,            // the peer's certificate is verified, and names the host
    HTTP_TLS_UNVERIFIED, // encrypted with whoever it is: for what we started on this machine
};

struct http_header {
    struct str name, value; // as received; names compare without case
};

struct http_headers {
    struct http_header *items;
    int count;
};

/* First header of that name, or a str with data NULL. */
struct str http_headers_get(const struct http_headers *h, const char *name);
int http_headers_count(const struct http_headers *h, const char *name);
/* True when a comma-separated header (Connection, Accept-Encoding) holds the token, without case.
 */
bool http_headers_has_token(const struct http_headers *h, const char *name, const char *token);
/* Hop-by-hop headers (RFC 9110 7.6.1) plus Content-Length and Host: never forwarded. */
bool http_header_is_hop_by_hop(struct str name);

/* False where the text would break out of its line: control characters other than tab. */
bool http_is_line_text(struct str s);
/* How many bytes at the front aren't control characters. */
size_t http_plain_run(const char *data, size_t len);
/* "name: value\r\n" */
void http_put_header(struct buf *out, struct str name, struct str value);
void http_put_length(struct buf *out, uint64_t length); // "content-length: 42\r\n"

const char *http_status_text(int status); // "Not Found"; "" when unknown

/* Percent-decoding into the arena ("+" stays "+"). data NULL: malformed or contains NUL. */
struct str http_percent_decode(struct arena *a, struct str s);
/* Value of a query parameter, decoded; data NULL when absent. */
struct str http_query_get(struct arena *a, struct str query, const char *name);

struct http_limits {
    size_t target_bytes; // request line's target: 8 KiB by default
    size_t header_bytes; // all header lines: 32 KiB
    int header_count;    // 100
    uint64_t body_bytes; // 64 MiB
};
extern const struct http_limits http_limits_default;

#endif
