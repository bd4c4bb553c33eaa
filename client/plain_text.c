#include "client/plain_text.h"

#include "shared/base/utf8.h"

#include <stdint.h>

static void append_control(struct buf *out, uint32_t code_point)
{
    if (code_point < 0x20) {
        buf_printf(out, "^%c", (int)('@' + code_point));
    } else if (code_point == 0x7f) {
        buf_append_str(out, "^?");
    } else {
        buf_printf(out, "\\u%04x", (unsigned)code_point);
    }
}

static void append(struct buf *out, struct str text, bool keeps_lines)
{
    for (size_t at = 0; at < text.len;) {
        uint32_t code_point;
        size_t len = utf8_decode(text.data + at, text.len - at, &code_point);
        if (len == 0) { // can't happen for text that came as JSON
            buf_append_str(out, "\xef\xbf\xbd");
            len = utf8_invalid_len(text.data + at, text.len - at);
        } else if (code_point == '\n' || code_point == '\t') {
            buf_append_char(out, keeps_lines ? (char)code_point : ' ');
        } else if (code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0)) {
            append_control(out, code_point);
        } else {
            buf_append(out, text.data + at, len);
        }
        at += len;
    }
}

void plain_text_append(struct buf *out, struct str text)
{
    append(out, text, true);
}

void plain_text_append_line(struct buf *out, struct str text)
{
    append(out, text, false);
}

size_t plain_text_width(struct str text)
{
    size_t width = 0;
    for (size_t i = 0; i < text.len; i++)
        width += ((unsigned char)text.data[i] & 0xc0) != 0x80; // not a continuation byte
    return width;
}
