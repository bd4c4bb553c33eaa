#include "shared/net/sse.h"

#include <string.h>

void sse_write_data(struct buf *out, struct str data)
{
    buf_append(out, "data: ", 6);
    buf_append(out, data.data, data.len);
    buf_append(out, "\n\n", 2);
}

void sse_write_comment(struct buf *out, struct str text)
{
    buf_append(out, ": ", 2);
    buf_append(out, text.data, text.len);
    buf_append(out, "\n\n", 2);
}

void sse_parser_init(struct sse_parser *p, size_t event_max, void (*on_data)(void *, struct str),
                     void *arg)
{
    *p = (struct sse_parser){.on_data = on_data, .arg = arg};
    buf_init(&p->line, event_max);
    buf_init(&p->data, event_max);
}

void sse_parser_deinit(struct sse_parser *p)
{
    buf_deinit(&p->line);
    buf_deinit(&p->data);
}

static void end_event(struct sse_parser *p)
{
    if (p->data.len == 0) return; // no data line: nothing is dispatched
    p->on_data(p->arg, (struct str){p->data.data, p->data.len - 1});
    buf_clear(&p->data);
}

static int end_line(struct sse_parser *p, struct str line)
{
    if (line.len == 0) {
        end_event(p);
        return 0;
    }
    struct str field = line, value = {"", 0};
    const char *colon = memchr(line.data, ':', line.len);
    if (colon) {
        field.len = (size_t)(colon - line.data);
        value = (struct str){colon + 1, line.len - field.len - 1};
        if (value.len > 0 && value.data[0] == ' ')
            value = (struct str){value.data + 1, value.len - 1};
    }
    if (!str_equal(field, STR("data"))) return 0;
    int rc = buf_append(&p->data, value.data, value.len);
    return rc ? rc : buf_append_char(&p->data, '\n');
}

/* Bytes up to the next line end, without it. */
static size_t line_span(const char *data, size_t len)
{
    const char *lf = memchr(data, '\n', len);
    size_t span = lf ? (size_t)(lf - data) : len;
    const char *cr = memchr(data, '\r', span);
    return cr ? (size_t)(cr - data) : span;
}

int sse_parser_feed(struct sse_parser *p, const char *data, size_t len)
{
    if (p->failed) return E_LIMIT;
    while (len > 0) {
        if (p->skip_lf) { // the CR before it ended the line
            p->skip_lf = false;
            if (*data == '\n') {
                data++;
                len--;
                continue;
            }
        }
        size_t span = line_span(data, len);
        if (span > p->line.max) goto fail;    // however the bytes are cut
        if (span == len || p->line.len > 0) { // the line spans reads: collect it
            if (buf_append(&p->line, data, span) != 0) goto fail;
            if (span == len) return 0;
        }
        struct str line = p->line.len > 0 ? buf_str(&p->line) : (struct str){data, span};
        if (end_line(p, line) != 0) goto fail;
        buf_clear(&p->line);
        p->skip_lf = data[span] == '\r';
        data += span + 1;
        len -= span + 1;
    }
    return 0;

fail:
    p->failed = true;
    return E_LIMIT;
}
