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
    vocab_deinit(&t->shown);
    added_tokens_deinit(&t->added);
    added_tokens_deinit(&t->added_normalized);
    normalizer_destroy(t->normalizer);
    pretokenizer_destroy(t->pre);
    bpe_deinit(&t->bpe);
    spm_deinit(&t->spm);
    unigram_deinit(&t->unigram);
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

/* No merge crosses from a byte into a mark where no token has the two side by side: cutting there
 * changes nothing and keeps pieces short. */
static int on_characters(void *arg, struct str piece)
{
    const struct bpe *b = &((struct bpe_sink *)arg)->t->bpe;
    size_t from = 0, at = 1;
    if (b->cuts_marks) {
        const char *mark;
        while (at < piece.len &&
               (mark = memmem(piece.data + at, piece.len - at, SPACE_MARK, 3)) != NULL) {
            at = (size_t)(mark - piece.data);
            if (!b->before_mark[(unsigned char)mark[-1]]) {
                on_bpe_piece(arg, (struct str){piece.data + from, at - from});
                from = at;
            }
            at += 3;
        }
    }
    return on_bpe_piece(arg, (struct str){piece.data + from, piece.len - from});
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
    if (t->model == TOKENIZER_UNIGRAM)
        unigram_encode(&t->unigram, &t->spm, buf_str(&spaced), sink->out);
    else
        spm_encode(&t->spm, &t->vocab, buf_str(&spaced), sink->out);
    buf_deinit(&spaced);
}

struct place {     // of a text between added tokens
    bool at_start; // nothing stands before it
    bool fresh;    // nothing but a special token does
};

static int encode_plain(const struct tokenizer *t, struct bpe_sink *sink, struct str text,
                        struct place place, struct error *err)
{
    if (!text.len) return 0;
    switch (t->model) {
    case TOKENIZER_BYTE_BPE:
        return pretokenizer_split(t->pre, text, place.at_start, on_bpe_piece, sink, err);
    case TOKENIZER_CHAR_BPE:
        return pretokenizer_split(t->pre, text, place.at_start, on_characters, sink, err);
    case TOKENIZER_SPM:
    case TOKENIZER_UNIGRAM:
        encode_spm(t, sink, text, place.fresh && t->space_prefix);
        break;
    }
    return 0;
}

/* Normalised text: the tokens that are looked for only now, and what is between them. */
static int encode_normalized(const struct tokenizer *t, struct bpe_sink *sink, struct str text,
                             struct place place, bool specials, struct error *err)
{
    size_t from = 0, at, len;
    int32_t id;
    int rc = 0;
    if (!text.len) return 0; // a normaliser may leave nothing
    while (!rc && added_tokens_next(&t->added_normalized, text, from, specials, &at, &len, &id)) {
        rc = encode_plain(t, sink, (struct str){text.data + from, at - from}, place, err);
        token_list_push(sink->out, id);
        from = at + len;
        place = (struct place){false, vocab_is_special(&t->vocab, (uint32_t)id)};
    }
    return rc ? rc
              : encode_plain(t, sink, (struct str){text.data + from, text.len - from}, place, err);
}

static int encode_between(const struct tokenizer *t, struct bpe_sink *sink, struct str text,
                          struct place place, bool specials, struct error *err)
{
    if (!text.len) return 0;
    if (!t->normalizer) return encode_normalized(t, sink, text, place, specials, err);
    struct buf normalized;
    buf_init(&normalized, TEXT_MAX);
    normalizer_apply(t->normalizer, text, &t->added_normalized, &normalized);
    int rc = normalized.overflow
                 ? error_set(err, E_LIMIT, "the normalised text has more than %zu bytes", TEXT_MAX)
                 : encode_normalized(t, sink, buf_str(&normalized), place, specials, err);
    buf_deinit(&normalized);
    return rc;
}

struct next_added { // an added token in the raw text
    size_t at, len;
    int32_t id;
};

/* The first one behind `from` that a guard doesn't turn into text. Guards before it are done with. */
static bool find_added(const struct tokenizer *t, struct str text, size_t from, bool specials,
                       struct token_guard *guard, struct next_added *next)
{
    size_t search = from;
    while (added_tokens_next(&t->added, text, search, specials, &next->at, &next->len, &next->id)) {
        while (guard->count && *guard->at < next->at)
            guard->at++, guard->count--;
        bool begins_guarded = guard->count && *guard->at < next->at + next->len;
        if (!begins_guarded || !vocab_is_special(&t->vocab, (uint32_t)next->id)) return true;
        search = *guard->at + 1;
    }
    return false;
}

/* Everything but what stands before and behind every text. */
static int encode_text(const struct tokenizer *t, struct str text, bool specials,
                       struct token_guard guard, struct token_list *out, struct error *err)
{
    struct bpe_sink sink = {.t = t, .out = out};
    struct place place = {true, true};
    struct next_added next;
    size_t from = 0;
    int rc = 0;
    /* Behind the normaliser places are others: there a guard anywhere guards all. */
    bool specials_normalized = specials && guard.count == 0;
    while (!rc && find_added(t, text, from, specials, &guard, &next)) {
        struct str between = {text.data + from, next.at - from};
        rc = encode_between(t, &sink, between, place, specials_normalized, err);
        token_list_push(out, next.id);
        from = next.at + next.len;
        place = (struct place){false, vocab_is_special(&t->vocab, (uint32_t)next.id)};
    }
    struct str rest = {text.data + from, text.len - from};
    if (!rc) rc = encode_between(t, &sink, rest, place, specials_normalized, err);
    bpe_scratch_deinit(&sink.scratch);
    return rc;
}

static void push_fixed(struct token_list *out, const struct token_ids *fixed)
{
    for (int i = 0; i < fixed->count; i++)
        token_list_push(out, fixed->ids[i]);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                     struct token_list *out, struct error *err)
{
    return tokenizer_encode_guarded(t, text, len, flags, &(struct token_guard){NULL, 0}, out, err);
}

int tokenizer_encode_guarded(const struct tokenizer *t, const char *text, size_t len,
                             unsigned flags, const struct token_guard *guard,
                             struct token_list *out, struct error *err)
{
    if (len > TEXT_MAX / 2) return error_set(err, E_LIMIT, "text of %zu bytes is too long", len);
    if (!utf8_is_valid(text, len))
        return error_set(err, E_FORMAT, "text is not valid UTF-8 at byte %zu",
                         utf8_valid_prefix(text, len));
    size_t count_before = out->count;
    if (flags & TOKENIZER_ADD_BOS) push_fixed(out, &t->prefix);
    int rc = encode_text(t, (struct str){text, len}, flags & TOKENIZER_SPECIAL, *guard, out, err);
    if (rc) {
        out->count = count_before;
        return rc;
    }
    if (flags & TOKENIZER_ADD_BOS) push_fixed(out, &t->suffix);
    return 0;
}

size_t tokenizer_next_special(const struct tokenizer *t, struct str text, size_t from)
{
    for (size_t at = from; at < text.len; at++) {
        struct str rest = {text.data + at, text.len - at};
        if (added_tokens_special_at(&t->added, rest) ||
            added_tokens_special_at(&t->added_normalized, rest))
            return at;
    }
    return SIZE_MAX;
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

bool tokenizer_add_stop(struct tokenizer *t, int32_t id)
{
    if (tokenizer_is_stop(t, id)) return true;
    if (t->stop_count == TOKENIZER_STOPS_MAX) return false;
    t->stops[t->stop_count++] = id;
    return true;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->bos >= 0 && t->prefix.count > 0 && t->prefix.ids[0] == t->bos;
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
    if (id < 0 && t->added_normalized.count && utf8_is_valid(piece.data, piece.len)) {
        struct buf normalized;
        buf_init(&normalized, TEXT_MAX);
        normalizer_apply(t->normalizer, piece, &t->added_normalized, &normalized);
        id = added_tokens_find(&t->added_normalized, buf_str(&normalized));
        buf_deinit(&normalized);
    }
    return id >= 0 ? id : vocab_find(&t->vocab, piece);
}
