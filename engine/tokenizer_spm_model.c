#include "engine/tokenizer_spm_model.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <stdlib.h>

/* ---- protobuf, as far as the file needs ---- */

struct field {
    uint64_t number;
    uint64_t value;   // of a varint or a 32 bit field
    struct str bytes; // of a length-delimited one
};

/* False: cut, or longer than 64 bits. */
static bool take_varint(struct str *s, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; s->len && shift < 64; shift += 7) {
        unsigned char c = (unsigned char)*s->data++;
        s->len--;
        *value |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) return true;
    }
    return false;
}

/* 1, 0 at the end, E_FORMAT. */
static int next_field(struct str *s, struct field *f, struct error *err)
{
    enum { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 };
    uint64_t tag, len;
    memset(f, 0, sizeof *f);
    if (!s->len) return 0;
    if (!take_varint(s, &tag)) goto malformed;
    f->number = tag >> 3;
    switch (tag & 7) {
    case WIRE_VARINT:
        if (!take_varint(s, &f->value)) goto malformed;
        return 1;
    case WIRE_BYTES:
        if (!take_varint(s, &len)) goto malformed;
        break;
    case WIRE_64:
        len = 8;
        break;
    case WIRE_32:
        len = 4;
        break;
    default:
        goto malformed;
    }
    if (len > s->len) goto malformed;
    f->bytes = (struct str){s->data, len};
    if ((tag & 7) == WIRE_32) memcpy(&f->value, s->data, 4); // little-endian, like this machine
    s->data += len;
    s->len -= len;
    return 1;
malformed:
    return error_set(err, E_FORMAT, "not a SentencePiece model: a field is cut or malformed");
}

/* ---- what the file says ---- */

enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { TRAINER_TYPE = 3, TRAINER_SUFFIX = 24, TRAINER_BOS = 41, TRAINER_EOS = 42 };
enum { NORMALIZER_MAP = 2, NORMALIZER_PREFIX = 3, NORMALIZER_SINGLE = 4, NORMALIZER_ESCAPE = 5 };
enum { TYPE_UNIGRAM = 1, TYPE_BPE = 2 };

struct spm_model {
    uint32_t count; // pieces
    uint64_t type;
    bool space_suffix, unescaped;
    int32_t bos, eos;
    struct sentencepiece_rules rules;
};

static int read_trainer(struct str s, struct spm_model *m, struct error *err)
{
    struct field f;
    int rc;
    while ((rc = next_field(&s, &f, err)) > 0) {
        if (f.number == TRAINER_TYPE) m->type = f.value;
        if (f.number == TRAINER_SUFFIX) m->space_suffix = f.value != 0;
        if (f.number == TRAINER_BOS) m->bos = (int32_t)f.value; // -1 comes as 64 bits
        if (f.number == TRAINER_EOS) m->eos = (int32_t)f.value;
    }
    return rc;
}

static int read_normalizer(struct str s, struct spm_model *m, struct error *err)
{
    struct field f;
    int rc;
    while ((rc = next_field(&s, &f, err)) > 0) {
        if (f.number == NORMALIZER_MAP) m->rules.charsmap = f.bytes;
        if (f.number == NORMALIZER_PREFIX) m->rules.space_prefix = f.value != 0;
        if (f.number == NORMALIZER_SINGLE) m->rules.single_spaces = f.value != 0;
        if (f.number == NORMALIZER_ESCAPE) m->unescaped = f.value == 0;
    }
    return rc;
}

static int read_model(struct str s, struct spm_model *m, struct error *err)
{
    struct field f;
    int rc;
    *m = (struct spm_model){.type = TYPE_UNIGRAM, .bos = 1, .eos = 2};
    m->rules.space_prefix = m->rules.single_spaces = true; // defaults of the format
    while ((rc = next_field(&s, &f, err)) > 0) {
        if (f.number == MODEL_PIECE && ++m->count > TOKENIZER_VOCAB_MAX)
            return error_set(err, E_LIMIT, "more than %d pieces", TOKENIZER_VOCAB_MAX);
        if (f.number == MODEL_TRAINER) rc = read_trainer(f.bytes, m, err);
        if (f.number == MODEL_NORMALIZER) rc = read_normalizer(f.bytes, m, err);
        if (rc < 0) return rc;
    }
    if (rc) return rc;
    if (!m->count) return error_set(err, E_FORMAT, "not a SentencePiece model: it has no piece");
    if (m->type != TYPE_UNIGRAM && m->type != TYPE_BPE)
        return error_set(err, E_UNSUPPORTED,
                         "model_type %llu is not supported (there is: UNIGRAM 1, BPE 2)",
                         (unsigned long long)m->type);
    if (m->space_suffix)
        return error_set(err, E_UNSUPPORTED, "treat_whitespace_as_suffix is not supported");
    if (m->unescaped)
        return error_set(err, E_UNSUPPORTED, "escape_whitespaces false is not supported");
    return 0;
}

/* ---- into the builder ---- */

/* tokenizer_config.json's entries by id: they may rename pieces that were kept free, and go on where
 * the model ends. */
struct added_index {
    const struct json **entries; // owned; NULL: none for that id
    size_t cap;
    uint32_t count; // pieces, then entries without holes
};

static void index_added(struct added_index *a, const struct tokenizer_settings *settings,
                        uint32_t pieces)
{
    const struct json *added = settings ? settings->added : NULL;
    a->cap = pieces + json_len(added);
    a->entries = xcalloc(a->cap, sizeof *a->entries);
    for (const struct json *v = json_first(added); v; v = json_next(v)) {
        int64_t id;
        if (str_to_int(str_of(json_name(v)), &id) == 0 && id >= 0 && (size_t)id < a->cap)
            a->entries[id] = v;
    }
    a->count = pieces;
    while (a->count < a->cap && a->count < TOKENIZER_VOCAB_MAX && a->entries[a->count])
        a->count++;
}

static int add_piece(struct tokenizer_builder *b, struct str piece, const struct json *added,
                     struct error *err)
{
    struct field f;
    struct str text = STR("");
    uint64_t kind = TOKEN_NORMAL;
    float score = 0;
    int rc;
    while ((rc = next_field(&piece, &f, err)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == PIECE_TEXT) text = f.bytes;
        if (f.number == PIECE_SCORE) memcpy(&score, &bits, sizeof score);
        if (f.number == PIECE_TYPE) kind = f.value;
    }
    if (rc) return rc;
    const struct json *content = json_get(added, "content");
    if (content && json_type(content) == JSON_STRING) {
        const struct json *special = json_get(added, "special");
        bool is_special = special && json_type(special) == JSON_BOOL && json_is_true(special);
        text.data = json_string(content, &text.len);
        if (kind != TOKEN_UNKNOWN) kind = is_special ? TOKEN_CONTROL : TOKEN_USER;
    }
    if (kind > TOKEN_BYTE || !utf8_is_valid(text.data, text.len))
        return error_set(err, E_FORMAT, "piece %u has an unknown type or isn't UTF-8",
                         b->t->vocab.count);
    return tokenizer_builder_token(b, text, (enum token_kind)kind, score, err);
}

static int add_pieces(struct tokenizer_builder *b, struct str s, const struct added_index *added,
                      struct error *err)
{
    const struct vocab *v = &b->t->vocab;
    struct field f;
    int rc;
    while ((rc = next_field(&s, &f, err)) > 0) {
        if (f.number != MODEL_PIECE) continue;
        if ((rc = add_piece(b, f.bytes, added->entries[v->count], err)) < 0) return rc;
    }
    while (!rc && v->count < added->count)
        rc = add_piece(b, STR(""), added->entries[v->count], err);
    return rc;
}

int tokenizer_load_spm_model(struct str data, const struct tokenizer_settings *settings,
                             struct tokenizer **out, struct error *err)
{
    struct spm_model m;
    struct tokenizer_builder b;
    struct added_index added;
    int rc = read_model(data, &m, err);
    if (rc) return rc;
    index_added(&added, settings, m.count);
    tokenizer_builder_init(&b, m.type == TYPE_BPE ? TOKENIZER_SPM : TOKENIZER_UNIGRAM, added.count,
                           0);
    b.settings = settings;
    b.bos = m.bos >= 0 && (uint32_t)m.bos < m.count ? m.bos : -1;
    b.eos = m.eos >= 0 && (uint32_t)m.eos < m.count ? m.eos : -1;
    b.add_bos = true;
    b.user_normalized = true;
    b.lone_bytes = true;
    if (m.rules.single_spaces)
        b.strip = STRIP_MARKS;
    else if (m.rules.space_prefix)
        b.strip = STRIP_MARK;
    b.normalizer = normalizer_create();
    rc = normalizer_add_sentencepiece(b.normalizer, &m.rules, err);
    if (!rc) rc = add_pieces(&b, data, &added, err);
    if (!rc) rc = tokenizer_build(&b, out, err);
    tokenizer_builder_deinit(&b);
    free(added.entries);
    return rc;
}
