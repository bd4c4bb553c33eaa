/* tokenizer_json.c - reading in three passes over the text: where its parts are, then the vocabulary
 * by id, then tokens and merges into a builder. Vocabulary and merges, a million values, never
 * become a tree. */
#include "engine/tokenizer_json.h"

#include "engine/tokenizer_json_parts.h"
#include "shared/base/check.h"
#include "shared/base/hash_map.h"
#include "shared/base/json_cursor.h"

#include <stdlib.h>

#define MERGES_MAX ((size_t)TOKENIZER_VOCAB_MAX)

struct entry {            // of the vocabulary
    uint32_t at, len;     // in the pool
    enum token_kind kind; // 0: no token has this id
    bool added_only;      // the model's vocabulary doesn't have it
};

struct added {
    struct str text;
    unsigned flags;
    bool normalized;
    int32_t id;
};

struct reading {
    struct tokenizer_json_parts parts;
    struct json *documents[8]; // owned; parts point into them
    int document_count;
    struct str vocab, merges; // JSON texts; empty: not there
    struct str unknown;       // unk_token, in `words`
    bool byte_fallback, fuse_unknown, ignore_merges;
    struct buf words, names, pool, merge_pool;
    struct entry *entries; // by id
    size_t entry_count, entry_cap;
    struct added *added;
    size_t added_count, added_cap;
    size_t text_len; // of the file
    struct error *err;
};

/* ---- where things are ---- */

static int parse_part(struct reading *r, const char *name, struct str raw, const struct json **out)
{
    struct error inner = {0};
    struct json *document = json_parse(raw.data, raw.len, &inner);
    if (!document) return error_set(r->err, inner.code, "'%s': %s", name, inner.text);
    CHECK(r->document_count < (int)ARRAY_LEN(r->documents));
    r->documents[r->document_count++] = document;
    *out = document;
    return 0;
}

/* A member of "model"; what it doesn't know must not matter, or be refused. */
static int read_model_member(struct reading *r, struct str name, struct str raw)
{
    bool empty = str_equal(raw, STR("null")) || str_equal(raw, STR("\"\""));
    bool yes = str_equal(raw, STR("true"));
    if (str_equal(name, STR("vocab")))
        r->vocab = raw;
    else if (str_equal(name, STR("merges")))
        r->merges = raw;
    else if (str_equal(name, STR("byte_fallback")))
        r->byte_fallback = yes;
    else if (str_equal(name, STR("fuse_unk")))
        r->fuse_unknown = yes;
    else if (str_equal(name, STR("ignore_merges")))
        r->ignore_merges = yes;
    else if (str_equal(name, STR("unk_token")) && !empty) {
        struct json_cursor c;
        int rc = json_cursor_init(&c, raw, &r->words, r->err);
        buf_clear(&r->words);
        if (!rc) rc = json_cursor_string(&c, &r->words);
        if (rc) return rc;
        r->unknown = buf_str(&r->words);
    } else if (str_equal(name, STR("type")) && !str_equal(raw, STR("\"BPE\"")))
        return error_set(r->err, E_UNSUPPORTED, "model %.*s is not supported (there is: BPE)",
                         (int)(raw.len < 64 ? raw.len : 64), raw.data);
    else if ((str_equal(name, STR("continuing_subword_prefix")) ||
              str_equal(name, STR("end_of_word_suffix"))) &&
             !empty)
        return error_set(r->err, E_UNSUPPORTED, "'%.*s' of the model is not supported",
                         (int)name.len, name.data);
    return 0; // dropout is for training
}

static int read_model(struct reading *r, struct json_cursor *c)
{
    struct str name, raw;
    int rc = json_cursor_open_object(c);
    while (!rc && (rc = json_cursor_next_name(c, &name)) > 0) {
        rc = json_cursor_skip(c, &raw);
        if (!rc) rc = read_model_member(r, name, raw);
    }
    return rc;
}

static int read_root(struct reading *r, struct str text)
{
    struct tokenizer_json_parts *p = &r->parts;
    const struct {
        const char *name;
        const struct json **out;
    } parts[] = {
        {"normalizer", &p->normalizer},         {"pre_tokenizer", &p->pre_tokenizer},
        {"post_processor", &p->post_processor}, {"decoder", &p->decoder},
        {"added_tokens", &p->added_tokens},
    };
    struct json_cursor c;
    struct str name, raw;
    int rc = json_cursor_init(&c, text, &r->names, r->err);
    if (!rc) rc = json_cursor_open_object(&c);
    while (!rc && (rc = json_cursor_next_name(&c, &name)) > 0) {
        size_t i = 0;
        while (i < ARRAY_LEN(parts) && !str_equal(name, str_of(parts[i].name)))
            i++;
        if (str_equal(name, STR("model")))
            rc = read_model(r, &c);
        else
            rc = json_cursor_skip(&c, &raw);
        if (!rc && i < ARRAY_LEN(parts) && !*parts[i].out)
            rc = parse_part(r, parts[i].name, raw, parts[i].out);
    }
    if (!rc) rc = json_cursor_end(&c);
    if (!rc && !r->vocab.len) rc = error_set(r->err, E_FORMAT, "there is no 'model' with 'vocab'");
    return rc;
}

/* ---- the vocabulary ---- */

static int set_entry(struct reading *r, int64_t id, struct str text, enum token_kind kind)
{
    /* A file has fewer tokens than bytes: what is beyond would be holes alone. */
    if (id < 0 || id >= TOKENIZER_VOCAB_MAX || (size_t)id >= r->text_len)
        return error_set(r->err, E_FORMAT, "token '%.*s' has the id %lld",
                         (int)(text.len < 40 ? text.len : 40), text.data, (long long)id);
    while ((size_t)id >= r->entry_cap) {
        size_t cap = r->entry_cap ? 2 * r->entry_cap : 4096;
        r->entries = xrealloc_array(r->entries, cap, sizeof *r->entries);
        memset(r->entries + r->entry_cap, 0, (cap - r->entry_cap) * sizeof *r->entries);
        r->entry_cap = cap;
    }
    if ((size_t)id >= r->entry_count) r->entry_count = (size_t)id + 1;
    bool known = r->entries[id].kind != 0 && !r->entries[id].added_only;
    r->entries[id] = (struct entry){(uint32_t)r->pool.len, (uint32_t)text.len, kind,
                                    kind != TOKEN_NORMAL && !known};
    if (text.len && buf_append(&r->pool, text.data, text.len) != 0)
        return error_set(r->err, E_LIMIT, "token texts are longer than %zu bytes", r->pool.max);
    return 0;
}

static int read_vocab(struct reading *r)
{
    struct json_cursor c;
    struct str name;
    int64_t id;
    int rc = json_cursor_init(&c, r->vocab, &r->names, r->err);
    if (!rc) rc = json_cursor_open_object(&c);
    while (!rc && (rc = json_cursor_next_name(&c, &name)) > 0) {
        rc = json_cursor_int(&c, &id);
        if (!rc) rc = set_entry(r, id, name, TOKEN_NORMAL);
    }
    return rc ? error_prefix(r->err, rc, "'vocab'") : 0;
}

/* ---- added tokens ---- */

static int take_added(struct reading *r, const struct json *v, int64_t id)
{
    struct str text;
    bool special = tokenizer_json_flag(v, "special");
    if (!tokenizer_json_text(v, "content", &text) || id < 0 || id >= TOKENIZER_VOCAB_MAX)
        return error_set(r->err, E_FORMAT, "an added token has no \"content\" or no \"id\"");
    unsigned flags = special ? ADDED_SPECIAL : 0;
    if (tokenizer_json_flag(v, "lstrip")) flags |= ADDED_LSTRIP;
    if (tokenizer_json_flag(v, "rstrip")) flags |= ADDED_RSTRIP;
    if (tokenizer_json_flag(v, "single_word")) flags |= ADDED_WORD;
    if (r->added_count == r->added_cap) {
        r->added_cap = r->added_cap ? 2 * r->added_cap : 64;
        r->added = xrealloc_array(r->added, r->added_cap, sizeof *r->added);
    }
    r->added[r->added_count++] =
        (struct added){text, flags, tokenizer_json_flag(v, "normalized"), (int32_t)id};
    return 0;
}

/* A token that the vocabulary has keeps its id there, whatever else is said of it. */
static void find_in_vocab(struct reading *r, size_t from)
{
    struct hash_map by_text;
    hash_map_init(&by_text);
    for (size_t i = from; i < r->added_count; i++)
        hash_map_put(&by_text, r->added[i].text, &r->added[i]);
    for (size_t id = 0; id < r->entry_count; id++) {
        const struct entry *e = &r->entries[id];
        struct added *a =
            e->kind ? hash_map_get(&by_text, (struct str){r->pool.data + e->at, e->len}) : NULL;
        if (a) a->id = (int32_t)id;
    }
    hash_map_deinit(&by_text);
}

static int set_added(struct reading *r, size_t from)
{
    find_in_vocab(r, from);
    for (size_t i = from; i < r->added_count; i++) {
        const struct added *a = &r->added[i];
        enum token_kind kind = a->flags & ADDED_SPECIAL ? TOKEN_CONTROL : TOKEN_USER;
        int rc = set_entry(r, a->id, a->text, kind);
        if (rc) return rc;
    }
    return 0;
}

static bool is_added(const struct reading *r, int64_t id)
{
    if (id < 0 || (size_t)id >= r->entry_count) return false;
    return r->entries[id].kind == TOKEN_CONTROL || r->entries[id].kind == TOKEN_USER;
}

/* Those of tokenizer.json, then what tokenizer_config.json has beyond them. */
static int read_added(struct reading *r, const struct tokenizer_settings *settings)
{
    int rc = 0;
    const struct json *v = json_first(r->parts.added_tokens);
    for (; v && !rc; v = json_next(v)) {
        const struct json *id = json_get(v, "id");
        bool whole = id && json_type(id) == JSON_NUMBER && json_is_integer(id);
        rc = take_added(r, v, whole ? (int64_t)json_number(id) : -1);
    }
    if (!rc) rc = set_added(r, 0);
    size_t own = r->added_count;
    for (v = settings ? json_first(settings->added) : NULL; v && !rc; v = json_next(v)) {
        int64_t id;
        if (str_to_int(str_of(json_name(v)), &id) != 0) id = -1;
        if (!is_added(r, id)) rc = take_added(r, v, id);
    }
    if (!rc) rc = set_added(r, own);
    return rc ? error_prefix(r->err, rc, "'added_tokens'") : 0;
}

/* ---- into the builder ---- */

/* By id: the normalised texts of added tokens that want it, which the reference prints instead. */
static struct str *normalized_texts(struct reading *r, const struct tokenizer_builder *b)
{
    struct str *texts = xcalloc(r->entry_count + 1, sizeof *texts);
    for (size_t i = 0; i < r->added_count && b->normalizer; i++) {
        const struct added *a = &r->added[i];
        struct buf text;
        if (!a->normalized || texts[a->id].data) continue;
        buf_init(&text, BUF_MAX_INTERNAL);
        normalizer_apply(b->normalizer, a->text, NULL, &text);
        texts[a->id].data = buf_detach(&text, &texts[a->id].len);
    }
    return texts;
}

static int add_tokens(struct reading *r, struct tokenizer_builder *b)
{
    struct str *shown = normalized_texts(r, b);
    int rc = 0;
    for (size_t id = 0; id < r->entry_count && !rc; id++) {
        const struct entry *e = &r->entries[id];
        struct str text = {r->pool.data + e->at, e->len};
        if (!e->kind) text = STR("");
        if (r->unknown.len && e->kind && str_equal(text, r->unknown)) b->unknown = (int32_t)id;
        if (b->model == TOKENIZER_BYTE_BPE && shown[id].data) text = shown[id];
        b->shown_text = shown[id];
        b->hide_token = e->added_only;
        rc = tokenizer_builder_token(b, text, e->kind ? e->kind : TOKEN_UNUSED, 0, r->err);
    }
    for (size_t i = 0; i < r->added_count && !rc; i++) {
        const struct added *a = &r->added[i];
        tokenizer_builder_added(b, a->text, a->id, a->flags, a->normalized);
    }
    for (size_t id = 0; id < r->entry_count; id++)
        free((char *)shown[id].data);
    free(shown);
    return rc;
}

/* ["left", "right"], or "left right", split at the only space. */
static int read_merge(struct reading *r, struct json_cursor *c, struct tokenizer_builder *b)
{
    size_t at = r->merge_pool.len, left_len = 0;
    int rc = 0;
    if (json_cursor_peek(c) == '"') {
        rc = json_cursor_string(c, &r->merge_pool);
        struct str left, both = {r->merge_pool.data + at, r->merge_pool.len - at};
        if (!rc && (!str_split(&both, ' ', &left) || !left.len || !both.len))
            rc = error_set(r->err, E_FORMAT, "merge %zu isn't two pieces and a space",
                           b->merge_count);
        if (!rc) tokenizer_builder_merge(b, left, both);
        return rc;
    }
    int parts = 0;
    rc = json_cursor_open_array(c);
    while (!rc && (rc = json_cursor_next_item(c)) > 0) {
        rc = json_cursor_string(c, &r->merge_pool);
        if (++parts == 1) left_len = r->merge_pool.len - at;
    }
    if (!rc && parts != 2)
        rc = error_set(r->err, E_FORMAT, "merge %zu isn't two pieces", b->merge_count);
    const char *left = r->merge_pool.data + at;
    if (!rc)
        tokenizer_builder_merge(b, (struct str){left, left_len},
                                (struct str){left + left_len, r->merge_pool.len - at - left_len});
    return rc;
}

static int read_merges(struct reading *r, struct tokenizer_builder *b)
{
    struct json_cursor c;
    if (!r->merges.len) return 0;
    /* Pieces are pointed at as they come: the pool must not move. Unescaped they're no longer. */
    buf_init(&r->merge_pool, r->merges.len + 1);
    CHECK(buf_reserve(&r->merge_pool, r->merges.len));
    int rc = json_cursor_init(&c, r->merges, &r->names, r->err);
    if (!rc) rc = json_cursor_open_array(&c);
    while (!rc && (rc = json_cursor_next_item(&c)) > 0) {
        rc = read_merge(r, &c, b);
        if (!rc && b->merge_count > MERGES_MAX)
            rc = error_set(r->err, E_LIMIT, "more than %zu merges", MERGES_MAX);
    }
    return rc ? error_prefix(r->err, rc, "'merges'") : 0;
}

static int build(struct reading *r, const struct tokenizer_settings *settings,
                 struct tokenizer **out)
{
    struct tokenizer_builder b;
    struct pretokenizer *pre = NULL;
    int rc = tokenizer_json_pre(&r->parts, &pre, r->err);
    if (rc) {
        pretokenizer_destroy(pre);
        return rc;
    }
    tokenizer_builder_init(&b, r->parts.byte_level ? TOKENIZER_BYTE_BPE : TOKENIZER_CHAR_BPE,
                           (uint32_t)r->entry_count, 0);
    b.pre = pre;
    b.explicit_added = true;
    b.settings = settings;
    b.byte_fallback = r->byte_fallback;
    b.fuse_unknown = r->fuse_unknown;
    b.ignore_merges = r->ignore_merges;
    rc = tokenizer_json_rest(&r->parts, &b, r->err);
    if (!rc) rc = add_tokens(r, &b);
    if (!rc) rc = read_merges(r, &b);
    if (!rc) rc = tokenizer_build(&b, out, r->err);
    tokenizer_builder_deinit(&b);
    return rc;
}

int tokenizer_load_json(struct str text, const struct tokenizer_settings *settings,
                        struct tokenizer **out, struct error *err)
{
    struct error own = {0};
    struct reading r = {.text_len = text.len, .err = err ? err : &own};
    buf_init(&r.words, BUF_MAX_INTERNAL);
    buf_init(&r.names, BUF_MAX_INTERNAL);
    buf_init(&r.pool, BUF_MAX_INTERNAL);
    buf_init(&r.merge_pool, 0);
    int rc = read_root(&r, text);
    if (!rc) rc = read_vocab(&r);
    if (!rc) rc = read_added(&r, settings);
    if (!rc) rc = build(&r, settings, out);
    for (int i = 0; i < r.document_count; i++)
        json_destroy(r.documents[i]);
    buf_deinit(&r.words);
    buf_deinit(&r.names);
    buf_deinit(&r.pool);
    buf_deinit(&r.merge_pool);
    free(r.entries);
    free(r.added);
    return rc;
}
