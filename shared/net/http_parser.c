/* http_parser.c - see http_parser.h.
 *
 *   START ──byte──► HEAD ──empty line──► BODY ──┬─────────────────────────► DONE
 *                                               └─last chunk──► TRAILER ────► DONE
 *   any ──► FAILED
 *
 * Rules:
 *  1. In HEAD and TRAILER llhttp is fed only what scan() has passed, and never a byte behind the
 *     empty line in the same call, so the two can't disagree about where the head ends: if llhttp
 *     isn't through with it then, or was earlier, the message is refused.
 *  2. Every message gets a fresh llhttp; no state of one message reaches the next.
 *  3. Nothing a peer sends makes memory or framing grow beyond limits: target, header bytes and
 *     count, raw bytes of head and trailer, framing bytes per body byte. The body is the callback's
 *     to bound.
 *  4. The first failure wins and is final. */
#include "shared/net/http_parser.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define KEPT_TEXT_BYTES    ((size_t)16 << 10)
#define EMPTY_LINES_MAX    4  // before a first line: RFC 9112 2.2 wants one tolerated
#define FIRST_LINE_EXTRA   64 // method, spaces, version
#define FRAMING_FREE_BYTES (16 << 10)
#define FRAMING_PER_BYTE   16 // a one-byte chunk takes five bytes of framing

static enum http_parse fail(struct http_parser *p, int status, const char *text)
{
    if (p->phase != HTTP_PHASE_FAILED) {
        p->phase = HTTP_PHASE_FAILED;
        p->fail_status = status;
        if (text) p->fail_text = text;
    }
    return HTTP_PARSE_FAILED;
}

/* For llhttp's callbacks: record the failure, make llhttp stop. */
static int refuse(struct http_parser *p, int status, const char *text)
{
    fail(p, status, text);
    return HPE_USER;
}

/* ---- memory ---- */

void http_parser_memory_destroy(struct http_parser_memory *m)
{
    if (!m) return;
    buf_deinit(&m->text);
    free(m->spans);
    free(m->items);
    free(m);
}

static struct http_parser_memory *memory_of(struct http_parser *p)
{
    if (p->memory) return p->memory;
    if (p->spare && *p->spare) {
        p->memory = *p->spare;
        *p->spare = NULL;
    } else {
        p->memory = xcalloc(1, sizeof *p->memory);
    }
    // The sum of what the limits allow, which are looked at as it comes.
    p->memory->text.max = p->limits->target_bytes + p->limits->header_bytes;
    return p->memory;
}

static void release_memory(struct http_parser *p)
{
    struct http_parser_memory *m = p->memory;
    p->memory = NULL;
    p->text = p->target = (struct str){NULL, 0};
    p->headers = (struct http_headers){NULL, 0};
    if (m && p->spare && !*p->spare && m->text.cap <= KEPT_TEXT_BYTES) {
        buf_clear(&m->text);
        *p->spare = m;
    } else {
        http_parser_memory_destroy(m);
    }
}

static void append_text(struct http_parser *p, const char *data, size_t len)
{
    buf_append(&memory_of(p)->text, data, len);
}

/* ---- llhttp's callbacks ---- */

static int on_url(llhttp_t *llhttp, const char *data, size_t len)
{
    struct http_parser *p = llhttp->data;
    p->target_bytes += len;
    if (p->target_bytes > p->limits->target_bytes)
        return refuse(p, 414, "the request target is too long");
    append_text(p, data, len);
    return 0;
}

static int count_header_bytes(struct http_parser *p, size_t len)
{
    p->header_bytes += len;
    if (p->header_bytes > p->limits->header_bytes)
        return refuse(p, 431, "the headers are too large");
    return 0;
}

static int on_header_field(llhttp_t *llhttp, const char *data, size_t len)
{
    struct http_parser *p = llhttp->data;
    if (p->phase == HTTP_PHASE_TRAILER) return 0; // trailers are checked and dropped
    if (p->span_count == 0 || p->in_value) {
        if (p->span_count == p->limits->header_count) return refuse(p, 431, "too many headers");
        struct http_parser_memory *m = memory_of(p);
        if (p->span_count == m->span_cap) {
            m->span_cap = m->span_cap ? m->span_cap * 2 : 16;
            m->spans = xrealloc_array(m->spans, (size_t)m->span_cap, sizeof *m->spans);
        }
        m->spans[p->span_count++] = (struct http_span){.name = (uint32_t)m->text.len};
        p->in_value = false;
    }
    p->memory->spans[p->span_count - 1].name_len += (uint32_t)len;
    append_text(p, data, len);
    return count_header_bytes(p, len);
}

static int on_header_value(llhttp_t *llhttp, const char *data, size_t len)
{
    struct http_parser *p = llhttp->data;
    if (p->phase == HTTP_PHASE_TRAILER) return 0;
    struct http_span *span = &p->memory->spans[p->span_count - 1];
    if (!p->in_value) span->value = (uint32_t)p->memory->text.len;
    p->in_value = true;
    span->value_len += (uint32_t)len;
    append_text(p, data, len);
    return count_header_bytes(p, len);
}

/* An empty value gives no span: the next name must still open a new header. */
static int on_header_value_complete(llhttp_t *llhttp)
{
    struct http_parser *p = llhttp->data;
    if (p->phase == HTTP_PHASE_TRAILER) return 0;
    p->in_value = true;
    return 0;
}

static void build_headers(struct http_parser *p)
{
    struct http_parser_memory *m = memory_of(p);
    if (p->span_count > m->item_cap) {
        m->item_cap = p->span_count < 16 ? 16 : p->span_count;
        m->items = xrealloc_array(m->items, (size_t)m->item_cap, sizeof *m->items);
    }
    for (int i = 0; i < p->span_count; i++) {
        const struct http_span *span = &m->spans[i];
        m->items[i].name = (struct str){m->text.data + span->name, span->name_len};
        m->items[i].value = str_trim((struct str){m->text.data + span->value, span->value_len});
    }
    p->headers = (struct http_headers){m->items, p->span_count};
    p->text = buf_str(&m->text);
    p->target = (struct str){m->text.data, p->target_bytes};
}

/* llhttp takes an empty name. */
static int check_names(struct http_parser *p)
{
    for (int i = 0; i < p->headers.count; i++) {
        if (p->headers.items[i].name.len == 0) return refuse(p, 400, "a header has no name");
    }
    return 0;
}

/* How long the body is must be beyond doubt: RFC 9112 6.1 and 6.3, without their leniencies. */
static int check_framing(struct http_parser *p)
{
    int encodings = http_headers_count(&p->headers, "transfer-encoding");
    int lengths = http_headers_count(&p->headers, "content-length");
    if (lengths > 1) return refuse(p, 400, "more than one Content-Length");
    if (encodings && lengths) return refuse(p, 400, "both Content-Length and Transfer-Encoding");
    if (encodings) {
        struct str coding = http_headers_get(&p->headers, "transfer-encoding");
        if (p->minor == 0) return refuse(p, 400, "Transfer-Encoding in an HTTP/1.0 message");
        if (encodings > 1 || !str_equal_nocase(coding, STR("chunked"))) {
            return refuse(p, 501, "the only transfer coding understood is 'chunked'");
        }
    }
    p->chunked = encodings == 1;
    p->has_length = lengths == 1;
    p->content_length = p->has_length ? p->llhttp.content_length : 0;
    return 0;
}

static bool is_host_char(char c)
{
    static const bool others[128] = {
        ['-'] = true, ['.'] = true, ['_'] = true, ['~'] = true, [':'] = true, ['['] = true,
        [']'] = true, ['%'] = true, ['!'] = true, ['$'] = true, ['&'] = true, ['\''] = true,
        ['('] = true, [')'] = true, ['*'] = true, ['+'] = true, [';'] = true, ['='] = true,
    };
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return (unsigned char)c < 128 && others[(unsigned char)c];
}

static int check_request(struct http_parser *p)
{
    p->method = llhttp_method_name((llhttp_method_t)p->llhttp.method);
    if (memcmp(p->first_line_end, "HTTP/1.", 7) != 0) {
        return refuse(p, p->llhttp.http_major == 1 ? 400 : 505,
                      "the version must be HTTP/1.1 or 1.0");
    }
    if (p->first_line_blanks != 2) return refuse(p, 400, "the request line is malformed");
    if (p->llhttp.method == HTTP_CONNECT) return refuse(p, 501, "CONNECT is not supported");
    int hosts = http_headers_count(&p->headers, "host");
    if (hosts > 1) return refuse(p, 400, "more than one Host header");
    if (hosts == 0 && p->minor > 0) return refuse(p, 400, "the Host header is missing");
    struct str host = http_headers_get(&p->headers, "host");
    for (size_t i = 0; i < host.len; i++) {
        if (!is_host_char(host.data[i])) return refuse(p, 400, "the Host header is malformed");
    }
    if (p->target_bytes && memchr(p->target.data, '#', p->target.len)) {
        return refuse(p, 400, "the request target has a fragment");
    }
    return 0;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    struct http_parser *p = llhttp->data;
    if (p->phase != HTTP_PHASE_HEAD) return refuse(p, 400, "malformed request");
    if (llhttp->http_major != 1) return refuse(p, 505, "the version must be HTTP/1.1 or 1.0");
    p->minor = llhttp->http_minor;
    p->status = llhttp->status_code;
    p->keep_alive = llhttp_should_keep_alive(llhttp);
    llhttp->upgrade = 0; // Upgrade is an offer that may be ignored
    build_headers(p);
    int rc = check_names(p);
    if (rc == 0) rc = check_framing(p);
    if (rc == 0 && p->kind == HTTP_PARSER_REQUESTS) rc = check_request(p);
    // Below 100 it would be neither an interim answer nor a final one.
    if (rc == 0 && p->kind == HTTP_PARSER_RESPONSES && p->status < 100)
        rc = refuse(p, 502, "the status has no meaning");
    if (rc == 0 && p->status == 101) rc = refuse(p, 502, "switched to a protocol nobody asked for");
    if (rc != 0) return -1;

    p->phase = HTTP_PHASE_BODY;
    int status = p->callbacks->on_head ? p->callbacks->on_head(p->arg) : 0;
    release_memory(p);
    if (status != 0) {
        fail(p, status, NULL);
        return -1;
    }
    // llhttp reads a body where a 304 tells the length that a 200 would have had.
    bool bodiless = p->status / 100 == 1 || p->status == 204 || p->status == 304;
    return p->no_body || bodiless ? 1 : 0;
}

static int on_body(llhttp_t *llhttp, const char *data, size_t len)
{
    struct http_parser *p = llhttp->data;
    p->body_bytes += len;
    int status = p->callbacks->on_body(p->arg, data, len);
    return status == 0 ? 0 : refuse(p, status, NULL);
}

/* Pause behind the line of the last chunk: trailers get the same scan as heads. */
static int on_chunk_header(llhttp_t *llhttp)
{
    struct http_parser *p = llhttp->data;
    if (llhttp->content_length != 0) return 0;
    p->phase = HTTP_PHASE_TRAILER;
    p->raw_bytes = p->line_bytes = 0;
    p->lines = 1; // there is no first line, and no empty lines before it
    p->after_cr = false;
    return HPE_PAUSED;
}

static int on_message_complete(llhttp_t *llhttp)
{
    struct http_parser *p = llhttp->data;
    p->phase = HTTP_PHASE_DONE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_header = on_chunk_header,
    .on_message_complete = on_message_complete,
};

/* ---- the scanner ---- */

static int end_line(struct http_parser *p, bool *ended)
{
    *ended = p->line_bytes == 0 && p->lines > 0;
    if (p->line_bytes == 0 && p->lines == 0) {
        if (p->raw_bytes > 2 * EMPTY_LINES_MAX)
            return refuse(p, 400, "empty lines before the request");
    } else {
        p->lines++;
    }
    p->line_bytes = 0;
    p->after_cr = false;
    return 0;
}

/* What the first line has besides its length: blanks, and how it ends. */
static int scan_first_line(struct http_parser *p, const char *data, size_t len)
{
    size_t size = sizeof p->first_line_end;
    for (size_t i = 0; i < len; i++)
        p->first_line_blanks += data[i] == ' ' || data[i] == '\t';
    if (len >= size) {
        memcpy(p->first_line_end, data + len - size, size);
    } else {
        memmove(p->first_line_end, p->first_line_end + len, size - len);
        memcpy(p->first_line_end + size - len, data, len);
    }
    if (p->line_bytes > p->limits->target_bytes + FIRST_LINE_EXTRA) {
        return refuse(p, 414, "the request target is too long");
    }
    return 0;
}

/* Bytes of a line that are neither CR nor LF. */
static int scan_text(struct http_parser *p, const char *data, size_t len)
{
    bool begins = p->line_bytes == 0;
    if (begins && p->lines > 0 && (data[0] == ' ' || data[0] == '\t')) {
        return refuse(p, 400, "a header is folded over several lines");
    }
    p->line_bytes += len;
    return p->lines > 0 ? 0 : scan_first_line(p, data, len);
}

/* Pass bytes up to and including the empty line that ends the head or the trailers. Returns how
 * many, or -1 after a failure. */
static long scan(struct http_parser *p, const char *data, size_t len, bool *ended)
{
    *ended = false;
    uint64_t max = p->limits->header_bytes + 4 * (uint64_t)p->limits->header_count;
    if (p->phase == HTTP_PHASE_HEAD) max += p->limits->target_bytes + FIRST_LINE_EXTRA;
    for (size_t i = 0; i < len;) {
        size_t run = p->after_cr ? 0 : http_plain_run(data + i, len - i);
        if (run == 0 && !p->after_cr && data[i] == '\t') run = 1;
        if (run > 0 && scan_text(p, data + i, run) != 0) return -1;
        p->raw_bytes += run;
        i += run;
        if (p->raw_bytes > max) return refuse(p, 431, "the headers are too large"), -1;
        if (run > 0) continue; // llhttp judges obs-text
        char c = data[i++];
        if (++p->raw_bytes > max) return refuse(p, 431, "the headers are too large"), -1;
        if (p->after_cr) {
            if (c != '\n') return refuse(p, 400, "CR without LF"), -1;
            if (end_line(p, ended) != 0) return -1;
            if (*ended) return (long)i;
        } else if (c == '\r') {
            p->after_cr = true;
        } else {
            const char *what =
                c == '\n' ? "a line ends in LF without CR" : "control byte in the head";
            return refuse(p, 400, what), -1;
        }
    }
    return (long)len;
}

/* ---- feeding ---- */

static const char *describe(llhttp_errno_t code)
{
    switch (code) {
    case HPE_INVALID_METHOD:
        return "the method is unknown";
    case HPE_INVALID_URL:
        return "the request target is malformed";
    case HPE_INVALID_VERSION:
        return "the version must be HTTP/1.1 or 1.0";
    case HPE_INVALID_HEADER_TOKEN:
        return "a header is malformed";
    case HPE_INVALID_CONTENT_LENGTH:
    case HPE_UNEXPECTED_CONTENT_LENGTH:
        return "the Content-Length is malformed or contradicted";
    case HPE_INVALID_TRANSFER_ENCODING:
        return "the Transfer-Encoding is malformed or contradicted";
    case HPE_INVALID_CHUNK_SIZE:
        return "a chunk is malformed";
    case HPE_INVALID_EOF_STATE:
        return "the message is cut";
    default:
        return "malformed HTTP";
    }
}

/* Run llhttp over bytes; returns how many it used, or -1 after a failure. */
static long run(struct http_parser *p, const char *data, size_t len)
{
    llhttp_errno_t code = llhttp_execute(&p->llhttp, data, len);
    if (code == HPE_OK) return (long)len;
    if (code == HPE_PAUSED && p->phase != HTTP_PHASE_FAILED) {
        const char *stop = llhttp_get_error_pos(&p->llhttp);
        llhttp_resume(&p->llhttp);
        return stop - data;
    }
    int status = code == HPE_INVALID_VERSION || code == HPE_PAUSED_H2_UPGRADE ? 505 : 400;
    fail(p, status, describe(code));
    return -1;
}

/* One head or trailer piece; false: failed. */
static bool feed_scanned(struct http_parser *p, const char *data, size_t len, size_t *used)
{
    enum http_parser_phase phase = p->phase;
    bool ended;
    long passed = scan(p, data, len, &ended);
    if (passed < 0) return false;
    long taken = run(p, data, (size_t)passed);
    if (taken < 0) return false;
    // The two parsers must agree: llhttp leaves the phase exactly when the scanner saw its end.
    if (ended == (p->phase == phase) || taken != passed) {
        fail(p, 400, "malformed HTTP");
        return false;
    }
    *used += (size_t)taken;
    return true;
}

static bool feed_body(struct http_parser *p, const char *data, size_t len, size_t *used)
{
    long taken = run(p, data, len);
    if (taken < 0) return false;
    *used += (size_t)taken;
    p->body_raw_bytes += (uint64_t)taken;
    if (p->chunked &&
        p->body_raw_bytes - p->body_bytes > FRAMING_FREE_BYTES + FRAMING_PER_BYTE * p->body_bytes) {
        fail(p, 400, "more chunk framing than data");
        return false;
    }
    return true;
}

enum http_parse http_parser_feed(struct http_parser *p, const char *data, size_t len, size_t *used)
{
    *used = 0;
    while (*used < len) {
        bool ok = false;
        switch (p->phase) {
        case HTTP_PHASE_START:
            p->phase = HTTP_PHASE_HEAD;
            ok = true;
            break;
        case HTTP_PHASE_HEAD:
        case HTTP_PHASE_TRAILER:
            ok = feed_scanned(p, data + *used, len - *used, used);
            break;
        case HTTP_PHASE_BODY:
            ok = feed_body(p, data + *used, len - *used, used);
            break;
        case HTTP_PHASE_DONE:
            return HTTP_PARSE_DONE;
        case HTTP_PHASE_FAILED:
            break;
        }
        if (!ok) return HTTP_PARSE_FAILED;
    }
    return p->phase == HTTP_PHASE_DONE ? HTTP_PARSE_DONE : HTTP_PARSE_MORE;
}

enum http_parse http_parser_finish(struct http_parser *p)
{
    if (p->phase == HTTP_PHASE_DONE) return HTTP_PARSE_DONE;
    if (p->phase == HTTP_PHASE_FAILED) return HTTP_PARSE_FAILED;
    if (p->phase != HTTP_PHASE_BODY || p->chunked || p->has_length) {
        return fail(p, 400, "the message is cut");
    }
    llhttp_finish(&p->llhttp);
    return p->phase == HTTP_PHASE_DONE ? HTTP_PARSE_DONE : fail(p, 400, "the message is cut");
}

void http_parser_init(struct http_parser *p, enum http_parser_kind kind,
                      const struct http_limits *limits,
                      const struct http_parser_callbacks *callbacks, void *arg)
{
    memset(p, 0, sizeof *p);
    p->kind = kind;
    p->limits = limits;
    p->callbacks = callbacks;
    p->arg = arg;
    http_parser_start(p);
}

void http_parser_deinit(struct http_parser *p)
{
    release_memory(p);
}

void http_parser_start(struct http_parser *p)
{
    llhttp_init(&p->llhttp, p->kind == HTTP_PARSER_REQUESTS ? HTTP_REQUEST : HTTP_RESPONSE,
                &settings);
    p->llhttp.data = p;
    release_memory(p);
    p->method = "";
    p->status = p->minor = p->fail_status = 0;
    p->fail_text = "";
    p->has_length = p->chunked = p->keep_alive = p->no_body = p->in_value = p->after_cr = false;
    p->content_length = p->raw_bytes = p->body_raw_bytes = p->body_bytes = 0;
    p->line_bytes = p->target_bytes = p->header_bytes = 0;
    p->lines = p->first_line_blanks = p->span_count = 0;
    memset(p->first_line_end, 0, sizeof p->first_line_end);
    p->phase = HTTP_PHASE_START;
}
