#define LOG_MODULE "text"
#include "agent/text_log.h"

#include "shared/base/buf.h"
#include "shared/base/log.h"
#include "shared/base/utf8.h"

#define LINE_BYTES \
    400 // of text; escaped up to four times as many, which a line of the log has room for

bool text_log_is_on(void)
{
    return log_level_max >= LOG_TRACE;
}

/* Bytes of the characters at the front that a line takes and the bound allows. */
static size_t take_piece(struct text_log *l, struct str text)
{
    size_t len = 0;
    while (len < text.len && l->left != 0) {
        uint32_t code_point;
        size_t one = utf8_decode(text.data + len, text.len - len, &code_point);
        if (one == 0) one = 1;
        if (len + one > LINE_BYTES) break;
        len += one;
        l->left -= l->left > 0;
    }
    return len;
}

void text_log_write(struct text_log *l, const char *event, struct str request, struct str text)
{
    if (!text_log_is_on() || l->has_been_cut) return;
    while (text.len > 0) {
        struct str piece = {text.data, take_piece(l, text)};
        text = (struct str){text.data + piece.len, text.len - piece.len};
        l->has_been_cut = l->left == 0 && text.len > 0;
        log_trace(event, "id=%s request=" STR_FMT " part=%d cut=%d text=\"" STR_FMT "\"", l->id,
                  STR_ARG(request), l->part++, l->has_been_cut, STR_ARG(piece));
        if (l->has_been_cut) return;
    }
}

void text_log_tokens(struct text_log *l, const char *event, struct str request,
                     const struct tokenizer *t, const int32_t *ids, size_t count)
{
    if (!text_log_is_on()) return;
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    tokenizer_decode(t, ids, count, true, &text);
    text_log_write(l, event, request, buf_str(&text));
    buf_deinit(&text);
}
