#include "engine/tokenizer_load.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

/* ---- how formats spell bytes ---- */

/* GPT-2's byte-level letters: printable Latin-1 stands for itself, the other 68 bytes for U+0100
 * and following. Returns the byte of a letter, or -1. */
static int letter_byte(uint32_t letter)
{
    if ((letter >= 33 && letter <= 126) || (letter >= 161 && letter <= 172) ||
        (letter >= 174 && letter <= 255))
        return (int)letter;
    if (letter < 256 || letter >= 256 + 68) return -1;
    letter -= 256;
    if (letter < 33) return (int)letter;           // 0..32
    if (letter < 33 + 34) return (int)letter + 94; // 127..160
    return 173;
}

/* The bytes of a byte-level text; a text with any other character stands for itself. */
static struct str spelled_bytes(struct str text, struct buf *scratch)
{
    buf_clear(scratch);
    for (size_t i = 0; i < text.len;) {
        uint32_t letter;
        size_t n = utf8_decode(text.data + i, text.len - i, &letter);
        int byte = n ? letter_byte(letter) : -1;
        if (byte < 0) return text;
        buf_append_char(scratch, (char)byte);
        i += n;
    }
    return buf_str(scratch);
}

#define SPACE_MARK "\xe2\x96\x81" // U+2581

static struct str spaced_bytes(struct str text, struct buf *scratch)
{
    buf_clear(scratch);
    for (size_t i = 0; i < text.len;) {
        bool mark = text.len - i >= 3 && !memcmp(text.data + i, SPACE_MARK, 3);
        buf_append_char(scratch, mark ? ' ' : text.data[i]);
        i += mark ? 3 : 1;
    }
    return buf_str(scratch);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int byte_token_value(struct str text) // "<0x0A>" -> 10, else -1
{
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ---- builder ---- */

#define STR_CUT(s) (int)((s).len < 40 ? (s).len : 40), (s).data

void tokenizer_builder_init(struct tokenizer_builder *b, enum tokenizer_model model,
                            uint32_t token_count, size_t merges_max)
{
    static const char *const none[] = {NULL};
    *b = (struct tokenizer_builder){.model = model, .patterns = none};
    b->bos = b->eos = b->eot = b->eom = b->unknown = -1;
    b->t = xcalloc(1, sizeof *b->t);
    vocab_init(&b->t->vocab, token_count);
    added_tokens_init(&b->t->added);
    added_tokens_init(&b->t->added_normalized);
    if (model == TOKENIZER_CHAR_BPE) vocab_init(&b->t->shown, token_count);
    if (model == TOKENIZER_SPM || model == TOKENIZER_UNIGRAM) spm_init(&b->t->spm, token_count);
    buf_init(&b->scratch, BUF_MAX_INTERNAL);
    b->merge_cap = merges_max;
    if (merges_max) b->merges = xmalloc(merges_max * sizeof *b->merges);
}

void tokenizer_builder_deinit(struct tokenizer_builder *b)
{
    tokenizer_destroy(b->t);
    pretokenizer_destroy(b->pre);
    normalizer_destroy(b->normalizer);
    free(b->merges);
    buf_deinit(&b->scratch);
    memset(b, 0, sizeof *b);
}

/* What a token of a character-level vocabulary prints as. */
static void add_shown(struct tokenizer_builder *b, struct str text, enum token_kind kind)
{
    char byte = (char)byte_token_value(text);
    struct buf from, to;
    buf_init(&from, BUF_MAX_INTERNAL);
    buf_init(&to, BUF_MAX_INTERNAL);
    if (kind == TOKEN_BYTE)
        buf_append_char(&from, byte);
    else
        buf_append(&from, text.data, text.len);
    for (int i = 0; i < b->shown_count; i++) {
        const struct tokenizer_replacement *r = &b->shown[i];
        buf_clear(&to);
        for (size_t at = 0; at < from.len;) {
            bool found = str_starts_with((struct str){from.data + at, from.len - at}, r->from);
            buf_append(&to, found ? r->to.data : from.data + at, found ? r->to.len : 1);
            at += found ? r->from.len : 1;
        }
        struct buf swap = from;
        from = to, to = swap;
    }
    vocab_add(&b->t->shown, buf_str(&from), kind);
    buf_deinit(&from);
    buf_deinit(&to);
}

static int token_bytes(struct tokenizer_builder *b, struct str text, enum token_kind *kind,
                       char *byte, struct str *bytes, struct error *err)
{
    int value = byte_token_value(text);
    *bytes = text;
    switch (b->model) {
    case TOKENIZER_BYTE_BPE:
        *bytes = spelled_bytes(text, &b->scratch);
        break;
    case TOKENIZER_CHAR_BPE:
        if (*kind == TOKEN_NORMAL && b->byte_tokens && value >= 0) *kind = TOKEN_BYTE;
        break;
    case TOKENIZER_SPM:
    case TOKENIZER_UNIGRAM:
        if (*kind != TOKEN_BYTE) {
            *bytes = spaced_bytes(text, &b->scratch);
            break;
        }
        if (value < 0)
            return error_set(err, E_FORMAT, "byte token %u isn't spelled <0xNN>",
                             b->t->vocab.count);
        *byte = (char)value;
        *bytes = (struct str){byte, 1};
        break;
    }
    return 0;
}

void tokenizer_builder_added(struct tokenizer_builder *b, struct str text, int32_t id,
                             unsigned flags, bool normalized)
{
    if (!normalized || !b->normalizer) {
        added_tokens_add(&b->t->added, text, id, flags);
        return;
    }
    struct buf changed;
    buf_init(&changed, BUF_MAX_INTERNAL);
    normalizer_apply(b->normalizer, text, NULL, &changed);
    added_tokens_add(&b->t->added_normalized, buf_str(&changed), id, flags);
    buf_deinit(&changed);
}

int tokenizer_builder_token(struct tokenizer_builder *b, struct str text, enum token_kind kind,
                            float score, struct error *err)
{
    struct vocab *v = &b->t->vocab;
    uint32_t id = v->count;
    struct str bytes;
    char byte;
    if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE)
        return error_set(err, E_FORMAT, "token %u has unknown type %d", id, (int)kind);
    b->bytes += text.len;
    if (b->bytes > (size_t)1 << 30)
        return error_set(err, E_LIMIT, "token texts are longer than 1 GiB");
    int rc = token_bytes(b, text, &kind, &byte, &bytes, err);
    if (rc) return rc;
    if (b->t->spm.scores) b->t->spm.scores[id] = score;
    vocab_add(v, bytes, kind);
    if (b->hide_token) vocab_hide_last(v);
    if (b->model == TOKENIZER_CHAR_BPE)
        add_shown(b, b->shown_text.data ? b->shown_text : text, kind);
    if (b->explicit_added) return 0;
    if (kind == TOKEN_USER) { // stands in the text as it will be printed
        struct added_tokens *set = b->user_normalized ? &b->t->added_normalized : &b->t->added;
        bool spelled = b->model == TOKENIZER_BYTE_BPE;
        added_tokens_add(set, spelled ? text : vocab_bytes(v, id), (int32_t)id, 0);
    } else if (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN) {
        added_tokens_add(&b->t->added, text, (int32_t)id, ADDED_SPECIAL);
    }
    return 0;
}

void tokenizer_builder_merge(struct tokenizer_builder *b, struct str left, struct str right)
{
    if (b->merge_count == b->merge_cap) {
        b->merge_cap = b->merge_cap ? b->merge_cap * 2 : 64;
        b->merges = xrealloc_array(b->merges, b->merge_cap, sizeof *b->merges);
    }
    b->merges[b->merge_count++] = (struct tokenizer_merge){left, right};
}

/* Ids of a merge's two parts and of their concatenation; false where the vocabulary lacks one. */
static bool merge_ids(struct tokenizer_builder *b, const struct tokenizer_merge *m, int32_t ids[3])
{
    const struct vocab *v = &b->t->vocab;
    struct buf whole;
    buf_init(&whole, BUF_MAX_INTERNAL);
    bool spelled = b->model == TOKENIZER_BYTE_BPE;
    struct str part = spelled ? spelled_bytes(m->left, &b->scratch) : m->left;
    ids[0] = vocab_find(v, part);
    buf_append(&whole, part.data, part.len);
    part = spelled ? spelled_bytes(m->right, &b->scratch) : m->right;
    ids[1] = vocab_find(v, part);
    buf_append(&whole, part.data, part.len);
    ids[2] = vocab_find(v, buf_str(&whole));
    buf_deinit(&whole);
    return m->left.len && m->right.len && ids[0] >= 0 && ids[1] >= 0 && ids[2] >= 0;
}

/* Which bytes stand before a mark inside of a token that merging may give. */
static void note_marks(struct bpe *bpe, struct str token)
{
    for (size_t i = 1; i + 3 <= token.len; i++)
        if (!memcmp(token.data + i, SPACE_MARK, 3))
            bpe->before_mark[(unsigned char)token.data[i - 1]] = true;
}

static int build_merges(struct tokenizer_builder *b, struct error *err)
{
    struct bpe *bpe = &b->t->bpe;
    bool characters = b->model == TOKENIZER_CHAR_BPE;
    bpe_init(bpe, &b->t->vocab, b->merge_count, characters);
    bpe->ignore_merges = b->ignore_merges;
    bpe->fuse_unknown = b->fuse_unknown;
    bpe->unknown = b->unknown;
    bpe->cuts_marks =
        characters && !b->ignore_merges && vocab_find(&b->t->vocab, STR(SPACE_MARK)) >= 0;
    for (int i = 0; i < 256 && characters && !b->byte_fallback; i++)
        bpe->byte_ids[i] = -1;
    for (size_t i = 0; i < b->merge_count; i++) {
        const struct tokenizer_merge *m = &b->merges[i];
        int32_t ids[3];
        if (!merge_ids(b, m, ids))
            return error_set(
                err, E_FORMAT,
                "merge %zu ('%.*s' with '%.*s') has a part that isn't in the vocabulary", i,
                STR_CUT(m->left), STR_CUT(m->right));
        bpe_add_merge(bpe, ids[0], ids[1], ids[2], (uint32_t)i);
        if (characters) note_marks(bpe, vocab_bytes(&b->t->vocab, (uint32_t)ids[2]));
    }
    return 0;
}

/* ---- which tokens end a turn ---- */

/* What chat templates put behind an assistant's turn, for files that don't declare it: GGUF has
 * keys for end of turn (eot) and end of message (eom), and many writers set only eos. */
static const char *const turn_ends[] = {
    "<|im_end|>", "<|eot_id|>",    "<|eom_id|>",      "<|end|>", "<|return|>",
    "<|call|>",   "<end_of_turn>", "<turn|>",         "<|eot|>", "<|END_OF_TURN_TOKEN|>",
    "<EOT>",      "[EOT]",         "<|end_of_turn|>",
};

/* The end of a document: a model that writes one has nothing more to say in this turn either. */
static const char *const text_ends[] = {
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
};

static void add_stop(struct tokenizer *t, int32_t id)
{
    if (id >= 0) (void)tokenizer_add_stop(t, id);
}

static void add_stop_text(struct tokenizer *t, const char *text)
{
    add_stop(t, added_tokens_find(&t->added, str_of(text)));
}

static void build_stops(struct tokenizer_builder *b)
{
    struct tokenizer *t = b->t;
    add_stop(t, b->eos);
    add_stop(t, b->eot);
    add_stop(t, b->eom);
    for (size_t i = 0; i < ARRAY_LEN(text_ends); i++)
        add_stop_text(t, text_ends[i]);
    if (b->eot >= 0) return;
    /* Harmony (gpt-oss): <|end|> only ends a message there, the turn goes on until return or call.
     */
    bool harmony = added_tokens_find(&t->added, STR("<|return|>")) >= 0;
    for (size_t i = 0; i < ARRAY_LEN(turn_ends); i++)
        if (!harmony || strcmp(turn_ends[i], "<|end|>") != 0) add_stop_text(t, turn_ends[i]);
}

static int check_id(const struct tokenizer_builder *b, const char *what, int32_t id,
                    struct error *err)
{
    if (id < (int32_t)b->t->vocab.count) return 0;
    return error_set(err, E_FORMAT, "%s token id %d is beyond the vocabulary of %u", what, (int)id,
                     b->t->vocab.count);
}

static int check_ids(const struct tokenizer_builder *b, struct error *err)
{
    int rc = check_id(b, "bos", b->bos, err);
    if (!rc) rc = check_id(b, "eos", b->eos, err);
    if (!rc) rc = check_id(b, "eot", b->eot, err);
    if (!rc) rc = check_id(b, "eom", b->eom, err);
    for (int i = 0; i < b->prefix.count && !rc; i++)
        rc = check_id(b, "the template's", b->prefix.ids[i], err);
    for (int i = 0; i < b->suffix.count && !rc; i++)
        rc = check_id(b, "the template's", b->suffix.ids[i], err);
    return rc ? rc : check_id(b, "unknown", b->unknown, err);
}

static int find_token(const struct tokenizer *t, const char *what, struct str text, int32_t *id,
                      struct error *err)
{
    if (!text.len) return 0;
    *id = tokenizer_find(t, text);
    if (*id >= 0) return 0;
    return error_set(err, E_FORMAT, "%s '%.*s' isn't in the vocabulary", what, STR_CUT(text));
}

static bool setting(enum tokenizer_setting said, bool otherwise)
{
    return said == SETTING_UNSAID ? otherwise : said == SETTING_YES;
}

/* What the files beside say wins over what the tokenizer's own file says, but for its template. */
static int apply_settings(struct tokenizer_builder *b, struct error *err)
{
    const struct tokenizer_settings *s = b->settings;
    if (!s) return 0;
    int rc = find_token(b->t, "bos_token", s->bos, &b->bos, err);
    if (!rc) rc = find_token(b->t, "eos_token", s->eos, &b->eos, err);
    if (rc) return rc;
    b->add_bos = setting(s->add_bos, b->add_bos);
    b->add_eos = setting(s->add_eos, b->add_eos);
    if (s->rules_template && (s->add_bos || s->add_eos)) b->has_template = false;
    for (int i = 0; i < s->stop_count; i++)
        if (s->stops[i] >= 0 && (uint32_t)s->stops[i] < b->t->vocab.count)
            add_stop(b->t, s->stops[i]);
    return 0;
}

static void build_fixed(struct tokenizer_builder *b)
{
    struct tokenizer *t = b->t;
    if (b->has_template) {
        t->prefix = b->prefix;
        t->suffix = b->suffix;
        return;
    }
    if (b->add_bos && b->bos >= 0) t->prefix = (struct token_ids){{b->bos}, 1};
    if (b->add_eos && b->eos >= 0) t->suffix = (struct token_ids){{b->eos}, 1};
}

static int build_pretokenizer(struct tokenizer_builder *b, struct error *err)
{
    struct tokenizer *t = b->t;
    int rc = 0;
    t->pre = b->pre ? b->pre : pretokenizer_create();
    b->pre = NULL;
    for (const char *const *p = b->patterns; *p && !rc; p++)
        rc = pretokenizer_add_pattern(t->pre, str_of(*p), SPLIT_ISOLATED, false, err);
    return rc;
}

int tokenizer_build(struct tokenizer_builder *b, struct tokenizer **out, struct error *err)
{
    struct tokenizer *t = b->t;
    bool merges = b->model == TOKENIZER_BYTE_BPE || b->model == TOKENIZER_CHAR_BPE;
    vocab_index(&t->vocab);
    added_tokens_index(&t->added);
    added_tokens_index(&t->added_normalized);
    int rc = apply_settings(b, err);
    if (!rc) rc = check_ids(b, err);
    if (!rc && merges) rc = build_pretokenizer(b, err);
    if (!rc && merges) rc = build_merges(b, err);
    if (rc) return rc;
    t->model = b->model;
    t->space_prefix = b->space_prefix;
    t->strip = b->strip;
    t->lone_bytes = b->lone_bytes;
    t->bos = b->bos;
    t->eos = b->eos;
    t->normalizer = b->normalizer;
    b->normalizer = NULL;
    build_fixed(b);
    build_stops(b);
    if (!merges) spm_index(&t->spm, &t->vocab);
    if (b->model == TOKENIZER_UNIGRAM) unigram_init(&t->unigram, &t->vocab, t->spm.scores);
    b->t = NULL;
    *out = t;
    return 0;
}
