/* tokenizer_decode.c - token ids back to text, as the reference's decoders print them. */
#include "engine/tokenizer_internal.h"
#include "shared/base/utf8.h"

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    if (id < 0 || (uint32_t)id >= t->vocab.count) return (struct str){"", 0};
    if (!keep_special && vocab_is_special(&t->vocab, (uint32_t)id)) return (struct str){"", 0};
    return vocab_bytes(t->shown.count ? &t->shown : &t->vocab, (uint32_t)id);
}

#define REPLACEMENT "\xef\xbf\xbd"

static void append_lossy(struct buf *out, const char *data, size_t len)
{
    while (len) {
        size_t valid = utf8_valid_prefix(data, len);
        buf_append(out, data, valid);
        data += valid, len -= valid;
        if (!len) return;
        size_t bad = utf8_invalid_len(data, len);
        buf_append(out, REPLACEMENT, 3);
        data += bad, len -= bad;
    }
}

/* A run of byte tokens: characters where it is valid UTF-8. */
static void append_byte_run(const struct tokenizer *t, struct buf *out, const struct buf *run)
{
    struct str rest = buf_str(run);
    if (!t->lone_bytes && !utf8_is_valid(rest.data, rest.len)) {
        for (size_t i = 0; i < rest.len; i++)
            buf_append(out, REPLACEMENT, 3);
        return;
    }
    while (rest.len) {
        size_t valid = utf8_valid_prefix(rest.data, rest.len);
        buf_append(out, rest.data, valid);
        rest.data += valid, rest.len -= valid;
        if (!rest.len) return;
        buf_append(out, REPLACEMENT, 3);
        rest.data++, rest.len--;
    }
}

/* The token's text without what encoding put in front; *strip: what is still to be taken off. */
static struct str strip_token(struct str bytes, bool is_byte, enum token_strip *strip)
{
    enum token_strip how = *strip;
    if (how == STRIP_NONE || !bytes.len) return bytes;
    if (how != STRIP_MARKS) *strip = STRIP_NONE;
    if (is_byte && how != STRIP_SPACE) {
        *strip = STRIP_NONE;
        return bytes;
    }
    size_t most = how == STRIP_SPACES ? bytes.len : 1;
    for (; most && bytes.len && *bytes.data == ' '; most--)
        bytes.data++, bytes.len--;
    if (bytes.len) *strip = STRIP_NONE;
    return bytes;
}

static void decode_runs(const struct tokenizer *t, const int32_t *ids, size_t count,
                        bool keep_special, struct buf *out)
{
    enum token_strip strip = t->strip;
    struct buf run;
    buf_init(&run, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < count; i++) {
        struct str bytes = tokenizer_token_bytes(t, ids[i], keep_special);
        if (!bytes.len) continue;
        bool is_byte = t->vocab.kinds[ids[i]] == TOKEN_BYTE;
        bytes = strip_token(bytes, is_byte, &strip);
        if (is_byte) {
            buf_append(&run, bytes.data, bytes.len);
            continue;
        }
        append_byte_run(t, out, &run);
        buf_clear(&run);
        append_lossy(out, bytes.data, bytes.len);
    }
    append_byte_run(t, out, &run);
    buf_deinit(&run);
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
                      bool keep_special, struct buf *out)
{
    if (t->model != TOKENIZER_BYTE_BPE) {
        decode_runs(t, ids, count, keep_special, out);
        return;
    }
    struct buf bytes;
    buf_init(&bytes, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < count; i++) {
        struct str piece = tokenizer_token_bytes(t, ids[i], keep_special);
        buf_append(&bytes, piece.data, piece.len);
    }
    append_lossy(out, bytes.data, bytes.len);
    buf_deinit(&bytes);
}
