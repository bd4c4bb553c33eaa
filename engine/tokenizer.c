#include "engine/tokenizer.h"

#include "engine/tokenizer_internal.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

#define TEXT_MAX   ((size_t)1 << 29) // positions inside a piece are 32 bit
#define SPACE_MARK "\xe2\x96\x81"    // U+2581

void token_list_deinit(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){NULL, 0, 0};
}

void token_list_push(struct token_list *l, int32_t id)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->ids = xrealloc_array(l->ids, l->cap, sizeof *l->ids);
    }
    l->ids[l->count++] = id;
}

void tokenizer_destroy(struct tokenizer *t)
{
    if (!t) return;
    vocab_deinit(&t->vocab);
    added_tokens_deinit(&t->added);
    pretokenizer_destroy(t->pre);
    bpe_deinit(&t->bpe);
    spm_deinit(&t->spm);
    free(t);
}

/* ---- encoding ---- */

struct bpe_sink {
    const struct tokenizer *t;
    struct bpe_scratch scratch;
    struct token_list *out;
};

static int on_bpe_piece(void *arg, struct str piece)
{
    struct bpe_sink *sink = arg;
    bpe_encode(&sink->t->bpe, &sink->t->vocab, piece, &sink->scratch, sink->out);
    return 0;
}

/* SentencePiece sees U+2581 for spaces, one more in front where the model wants it; here it is the
 * other way round, pieces hold spaces. */
static void encode_spm(const struct tokenizer *t, struct bpe_sink *sink, struct str text,
                       bool prefix)
{
    struct buf spaced;
    buf_init(&spaced, TEXT_MAX);
    if (prefix) buf_append_char(&spaced, ' ');
    for (const char *end = text.data + text.len; text.data < end;) {
        size_t rest = (size_t)(end - text.data);
        const char *mark = memmem(text.data, rest, SPACE_MARK, 3);
        size_t plain = mark ? (size_t)(mark - text.data) : rest;
        buf_append(&spaced, text.data, plain);
        if (mark) buf_append_char(&spaced, ' ');
        text.data += plain + (mark ? 3 : 0);
    }
    spm_encode(&t->spm, &t->vocab, buf_str(&spaced), sink->out);
    buf_deinit(&spaced);
}

/* Text between added tokens; fresh: at the start or behind a special token. */
static int encode_plain(const struct tokenizer *t, struct bpe_sink *sink, struct str text,
                        bool fresh, struct error *err)
{
    if (!text.len) return 0;
    if (t->model == TOKENIZER_BYTE_BPE)
        return pretokenizer_split(t->pre, text, on_bpe_piece, sink, err);
    encode_spm(t, sink, text, fresh && t->space_prefix);
    return 0;
}

/* Everything but bos and eos. */
static int encode_text(const struct tokenizer *t, struct str text, bool specials,
                       struct token_list *out, struct error *err)
{
    struct bpe_sink sink = {.t = t, .out = out};
    size_t from = 0, at, len;
    bool fresh = true;
    int32_t id;
    int rc = 0;
    while (!rc && added_tokens_next(&t->added, text, from, specials, &at, &len, &id)) {
        rc = encode_plain(t, &sink, (struct str){text.data + from, at - from}, fresh, err);
        token_list_push(out, id);
        from = at + len;
        fresh = vocab_is_special(&t->vocab, (uint32_t)id);
    }
    if (!rc && from < text.len)
        rc = encode_plain(t, &sink, (struct str){text.data + from, text.len - from}, fresh, err);
    bpe_scratch_deinit(&sink.scratch);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    if (len > TEXT_MAX / 2) return error_set(err, E_LIMIT, "text of %zu bytes is too long", len);
    if (!utf8_is_valid(text, len))
        return error_set(err, E_FORMAT, "text is not valid UTF-8 at byte %zu",
                         utf8_valid_prefix(text, len));
    size_t count_before = out->count;
    if ((flags & TOKENIZER_ADD_BOS) && t->add_bos) token_list_push(out, t->bos);
    int rc = encode_text(t, (struct str){text, len}, flags & TOKENIZER_SPECIAL, out, err);
    if (rc) {
        out->count = count_before;
        return rc;
    }
    if ((flags & TOKENIZER_ADD_BOS) && t->add_eos) token_list_push(out, t->eos);
    return 0;
}

/* ---- decoding ---- */

struct str tokenizer_token_bytes(const struct tokenizer *t, int32_t id, bool keep_special)
{
    if (id < 0 || (uint32_t)id >= t->vocab.count) return (struct str){"", 0};
    if (!keep_special && vocab_is_special(&t->vocab, (uint32_t)id)) return (struct str){"", 0};
    return vocab_bytes(&t->vocab, (uint32_t)id);
}

#define REPLACEMENT "\xef\xbf\xbd"

/* How many bytes one U+FFFD stands for: the longest prefix of a valid character (Unicode 15, table
 * 3-8, "maximal subpart"), which is what Rust's from_utf8_lossy does. data[0] starts no valid
 * character. */
static size_t maximal_subpart(const unsigned char *data, size_t len)
{
    unsigned char lead = data[0], low = 0x80, high = 0xbf;
    size_t want;
    if (lead >= 0xc2 && lead <= 0xdf)
        want = 2;
    else if (lead >= 0xe0 && lead <= 0xef)
        want = 3;
    else if (lead >= 0xf0 && lead <= 0xf4)
        want = 4;
    else
        return 1;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    size_t n = 1;
    for (; n < len && n < want && data[n] >= low && data[n] <= high; n++)
        low = 0x80, high = 0xbf;
    return n;
}

static void append_lossy(struct buf *out, const char *data, size_t len)
{
    while (len) {
        size_t valid = utf8_valid_prefix(data, len);
        buf_append(out, data, valid);
        data += valid, len -= valid;
        if (!len) return;
        size_t bad = maximal_subpart((const unsigned char *)data, len);
        buf_append(out, REPLACEMENT, 3);
        data += bad, len -= bad;
    }
}

/* Byte tokens of SentencePiece become characters run by run; a run that isn't valid UTF-8 becomes
 * one U+FFFD per byte, as the reference has it. */
static void append_byte_run(struct buf *out, const struct buf *run)
{
    if (utf8_is_valid(run->data, run->len))
        buf_append(out, run->data, run->len);
    else
        for (size_t i = 0; i < run->len; i++)
            buf_append(out, REPLACEMENT, 3);
}

static void decode_spm(const struct tokenizer *t, const int32_t *ids, size_t count,
                       bool keep_special, struct buf *out)
{
    struct buf run;
    buf_init(&run, BUF_MAX_INTERNAL);
    bool first = t->space_prefix;
    for (size_t i = 0; i < count; i++) {
        struct str bytes = tokenizer_token_bytes(t, ids[i], keep_special);
        if (!bytes.len) continue;
        if (first && bytes.data[0] == ' ') bytes.data++, bytes.len--;
        first = false;
        if (t->vocab.kinds[ids[i]] == TOKEN_BYTE) {
            buf_append(&run, bytes.data, bytes.len);
            continue;
        }
        append_byte_run(out, &run);
        buf_clear(&run);
        append_lossy(out, bytes.data, bytes.len);
    }
    append_byte_run(out, &run);
    buf_deinit(&run);
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
                      bool keep_special, struct buf *out)
{
    if (t->model == TOKENIZER_SPM) {
        decode_spm(t, ids, count, keep_special, out);
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

/* ---- facts ---- */

int tokenizer_vocab_size(const struct tokenizer *t)
{
    return (int)t->vocab.count;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->vocab.count && vocab_is_special(&t->vocab, (uint32_t)id);
}

bool tokenizer_is_stop(const struct tokenizer *t, int32_t id)
{
    for (int i = 0; i < t->stop_count; i++)
        if (t->stops[i] == id) return true;
    return false;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_find(const struct tokenizer *t, struct str piece)
{
    int32_t id = added_tokens_find(&t->added, piece);
    return id >= 0 ? id : vocab_find(&t->vocab, piece);
}
