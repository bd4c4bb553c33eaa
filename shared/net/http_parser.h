/* http_parser.h - HTTP/1.1 messages out of bytes, for both sides; internal to shared/net.
 *
 * llhttp in strict mode does the grammar. What it lets through is refused here by a scanner that
 * sees every byte of heads and trailers before llhttp does: bare LF, lone CR, obs-fold, control
 * bytes, HTTP/0.9, other protocols' versions. Both must agree where the head ends. Heads, trailers
 * and the framing of chunked bodies are bounded. */
#ifndef LM_NET_HTTP_PARSER_H
#define LM_NET_HTTP_PARSER_H

#include <llhttp.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/net/http_message.h"

enum http_parser_kind { HTTP_PARSER_REQUESTS, HTTP_PARSER_RESPONSES };

enum http_parse {
    HTTP_PARSE_MORE,   // all bytes used, the message goes on
    HTTP_PARSE_DONE,   // a message ended; bytes behind it are unused
    HTTP_PARSE_FAILED, // fail_status and fail_text say why; nothing more can be read
};

enum http_parser_phase {
    HTTP_PHASE_START,   // not a byte of the message seen
    HTTP_PHASE_HEAD,    // scanned, then parsed
    HTTP_PHASE_BODY,    // parsed
    HTTP_PHASE_TRAILER, // behind the last chunk: scanned, then parsed
    HTTP_PHASE_DONE,
    HTTP_PHASE_FAILED,
};

/* on_head: the fields below are valid. on_body: a piece of the decoded body. Both return 0, or an
 * HTTP status to fail with after setting fail_text. */
struct http_parser_callbacks {
    int (*on_head)(void *arg);
    int (*on_body)(void *arg, const char *data, size_t len);
};

struct http_span {
    uint32_t name, name_len, value, value_len; // offsets into text
};

/* Where a head is put together: taken when its first bytes come and given back behind on_head, so
 * that parsers between heads, which most of them are, have none. */
struct http_parser_memory {
    struct buf text; // target, names and values one after another
    struct http_span *spans;
    int span_cap;
    struct http_header *items;
    int item_cap;
};
void http_parser_memory_destroy(struct http_parser_memory *m);

struct http_parser {
    /* valid during on_head */
    struct str target; // requests
    struct str text;   // what target and headers point into
    struct http_headers headers;

    /* valid from on_head until the next http_parser_start */
    const char *method; // requests; static
    int status;         // responses
    int minor;          // HTTP/1.<minor>
    bool has_length;    // Content-Length is in content_length
    bool chunked;
    bool keep_alive; // as this message says
    uint64_t content_length;

    /* valid after HTTP_PARSE_FAILED */
    int fail_status;
    const char *fail_text; // static

    enum http_parser_phase phase;
    bool no_body; // responses: the request was HEAD; set after http_parser_start

    llhttp_t llhttp;
    enum http_parser_kind kind;
    const struct http_limits *limits;
    struct http_parser_memory **spare; // of all parsers that share it; NULL: none do
    const struct http_parser_callbacks *callbacks;
    void *arg;

    /* the scanner */
    uint64_t raw_bytes;    // of the head or the trailers
    size_t line_bytes;     // of the current line
    int lines;             // ended, not counting empty ones before the first
    int first_line_blanks; // llhttp takes several where one belongs
    bool after_cr;
    char first_line_end[8]; // last bytes of the first line: the version of a request

    /* head under construction */
    struct http_parser_memory *memory; // NULL: none is
    size_t target_bytes;
    size_t header_bytes;
    int span_count;
    bool in_value;

    uint64_t body_raw_bytes, body_bytes; // with and without framing
};

/* `limits` are borrowed. */
void http_parser_init(struct http_parser *p, enum http_parser_kind kind,
                      const struct http_limits *limits,
                      const struct http_parser_callbacks *callbacks, void *arg);
void http_parser_deinit(struct http_parser *p);

/* Ready for the next message. */
void http_parser_start(struct http_parser *p);

/* *used: bytes taken, len unless DONE or FAILED. */
enum http_parse http_parser_feed(struct http_parser *p, const char *data, size_t len, size_t *used);
/* The peer sent EOF: DONE where that ends the message (a response without a length), else FAILED.
 */
enum http_parse http_parser_finish(struct http_parser *p);

#endif
