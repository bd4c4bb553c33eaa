/* A stream of messages must read the same whole and in any pieces; an accepted head must be free of
 * what two parsers read differently, judged here by plain search over its bytes. The first byte
 * chooses the side and the size of the pieces. */
#include "shared/base/check.h"
#include "shared/net/http_parser.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <string.h>

static const struct http_limits limits = {
    .target_bytes = 200, .header_bytes = 500, .header_count = 10, .body_bytes = 1000};

struct reading {
    struct http_parser parser;
    struct buf transcript;
    struct buf body; // of the current message; counts only when it ended well
};

static void put(struct buf *b, const char *name, struct str s)
{
    buf_printf(b, " %s=%zu:", name, s.len);
    buf_append(b, s.data, s.len);
}

static int on_head(void *arg)
{
    struct reading *r = arg;
    const struct http_parser *p = &r->parser;
    CHECK(p->headers.count <= limits.header_count);
    CHECK(p->target.len <= limits.target_bytes);
    CHECK(!(p->has_length && p->chunked));
    CHECK(p->minor == 0 || p->minor == 1);
    CHECK(p->kind == HTTP_PARSER_RESPONSES ? p->status >= 100 : p->target.len > 0);
    buf_printf(&r->transcript, "HEAD %s %d 1.%d", p->method, p->status, p->minor);
    buf_printf(&r->transcript, " length %d:%llu chunked %d keep %d", p->has_length,
               (unsigned long long)p->content_length, p->chunked, p->keep_alive);
    put(&r->transcript, "target", p->target);
    size_t bytes = 0;
    for (int i = 0; i < p->headers.count; i++) {
        const struct http_header *h = &p->headers.items[i];
        CHECK(h->name.len > 0 && !memchr(h->name.data, ':', h->name.len));
        CHECK(!memchr(h->name.data, ' ', h->name.len));
        CHECK(h->value.len == 0 || (!memchr(h->value.data, '\n', h->value.len) &&
                                    !memchr(h->value.data, '\r', h->value.len) &&
                                    !memchr(h->value.data, 0, h->value.len)));
        put(&r->transcript, "name", h->name);
        put(&r->transcript, "value", h->value);
        bytes += h->name.len + h->value.len;
    }
    CHECK(bytes <= limits.header_bytes);
    return p->content_length > limits.body_bytes ? 413 : 0;
}

static int on_body(void *arg, const char *data, size_t len)
{
    struct reading *r = arg;
    return buf_append(&r->body, data, len) == 0 ? 0 : 413;
}

static const struct http_parser_callbacks callbacks = {on_head, on_body};

/* The head of an accepted message: every LF behind a CR, every CR before an LF, no folding, no NUL.
 */
static void check_head(const char *data, size_t len)
{
    const char *start = data;
    while (len >= 2 && start[0] == '\r' && start[1] == '\n') {
        start += 2;
        len -= 2;
    }
    for (size_t i = 0; i < len; i++) {
        if (i >= 3 && memcmp(start + i - 3, "\r\n\r\n", 4) == 0) return;
        if (start[i] == '\n') CHECK(i > 0 && start[i - 1] == '\r');
        if (start[i] == '\n' && i + 1 < len) CHECK(start[i + 1] != ' ' && start[i + 1] != '\t');
        if (start[i] == '\r') CHECK(i + 1 < len && start[i + 1] == '\n');
        CHECK(start[i] != 0);
    }
    CHECK(false); // accepted without its end
}

static void end_message(struct reading *r)
{
    buf_append_str(&r->transcript, " body ");
    buf_append(&r->transcript, r->body.data, r->body.len);
    buf_append_str(&r->transcript, " DONE\n");
    buf_clear(&r->body);
}

static void read_all(struct reading *r, enum http_parser_kind kind, const char *data, size_t len,
                     size_t piece)
{
    memset(r, 0, sizeof *r);
    buf_init(&r->transcript, BUF_MAX_INTERNAL);
    buf_init(&r->body, limits.body_bytes);
    http_parser_init(&r->parser, kind, &limits, &callbacks, r);
    enum http_parse result = HTTP_PARSE_MORE;
    size_t message = 0;
    for (size_t at = 0; at < len && result != HTTP_PARSE_FAILED;) {
        size_t n = len - at < piece ? len - at : piece, used;
        result = http_parser_feed(&r->parser, data + at, n, &used);
        CHECK(used <= n);
        CHECK(result != HTTP_PARSE_MORE || used == n);
        at += used;
        if (result != HTTP_PARSE_DONE) continue;
        check_head(data + message, at - message);
        message = at;
        end_message(r);
        http_parser_start(&r->parser);
    }
    if (result != HTTP_PARSE_FAILED) result = http_parser_finish(&r->parser);
    if (result == HTTP_PARSE_DONE) end_message(r);
    if (result == HTTP_PARSE_FAILED) {
        CHECK(r->parser.fail_status >= 400 && r->parser.fail_status < 600);
        // on_head and on_body set only a status here; all else must say why
        CHECK(r->parser.fail_status == 413 || r->parser.fail_text[0]);
        size_t used;
        CHECK(http_parser_feed(&r->parser, "GET", 3, &used) == HTTP_PARSE_FAILED && used == 0);
    }
    buf_printf(&r->transcript, "END %d", result);
    http_parser_deinit(&r->parser);
    buf_deinit(&r->body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    enum http_parser_kind kind = data[0] & 1 ? HTTP_PARSER_RESPONSES : HTTP_PARSER_REQUESTS;
    size_t piece = (size_t)(data[0] >> 1) % 16 + 1;
    struct reading whole, pieces;
    read_all(&whole, kind, (const char *)data + 1, size - 1, size);
    read_all(&pieces, kind, (const char *)data + 1, size - 1, piece);
    if (!str_equal(buf_str(&whole.transcript), buf_str(&pieces.transcript))) {
        fprintf(stderr, "whole:\n%s\npieces:\n%s\n", whole.transcript.data, pieces.transcript.data);
        CHECK(false);
    }
    buf_deinit(&whole.transcript);
    buf_deinit(&pieces.transcript);
    return 0;
}
