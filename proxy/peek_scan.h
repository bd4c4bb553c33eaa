/* peek_scan.h - the words of JSON in raw bytes: strings, numbers, literals, blanks (RFC 8259, valid
 * UTF-8, no \u0000). What they mean is peek.c's. Any thread. */
#ifndef LM_PROXY_PEEK_SCAN_H
#define LM_PROXY_PEEK_SCAN_H

#include "proxy/canonical.h"
#include "shared/net/api_error.h"

struct peek_scan {
    const char *at, *end, *start;
    struct api_error *error;
};

/* Where decoded text goes: to one of the two. */
struct peek_sink {
    struct canonical *text;
    struct text_digest *digest;
};

/* -1, with *error naming the byte. */
int peek_scan_fail(struct peek_scan *s, const char *what);

static inline void peek_skip_blanks(struct peek_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

static inline int peek_next_char(const struct peek_scan *s) // -1: the end
{
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

/* From the opening quote to behind the closing one. *raw: what stands between them. */
FALLIBLE int peek_scan_string(struct peek_scan *s, struct str *raw, bool *escaped);
/* The same, with what it spells written to the sink. */
FALLIBLE int peek_scan_text(struct peek_scan *s, const struct peek_sink *sink);
FALLIBLE int peek_scan_number(struct peek_scan *s, struct str *raw);
FALLIBLE int peek_scan_word(struct peek_scan *s, struct str word);

/* What a scanned string spells. `out` holds raw.len bytes: decoding never grows. */
size_t peek_decode(struct str raw, char *out);

#endif
