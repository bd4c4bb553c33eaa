#include "engine/tokenizer_json_parts.h"

#include "shared/base/check.h"

#define SEQUENCE_DEPTH_MAX 4
#define SHOWN(s)           (int)((s).len < 64 ? (s).len : 64), (s).data

bool tokenizer_json_text(const struct json *v, const char *name, struct str *out)
{
    const struct json *member = json_get(v, name);
    if (!member || json_type(member) != JSON_STRING) return false;
    out->data = json_string(member, &out->len);
    return true;
}

bool tokenizer_json_flag(const struct json *v, const char *name)
{
    const struct json *member = json_get(v, name);
    return member && json_type(member) == JSON_BOOL && json_is_true(member);
}

/* Number of a member that counts something; `otherwise` where it isn't one. */
static int count_of(const struct json *v, const char *name, int otherwise)
{
    const struct json *member = json_get(v, name);
    if (!member || json_type(member) != JSON_NUMBER || !json_is_integer(member)) return otherwise;
    double value = json_number(member);
    return value >= 0 && value <= 1000 ? (int)value : otherwise;
}

static int refuse(const char *part, struct str name, struct error *err)
{
    return error_set(err, E_UNSUPPORTED, "%s '%.*s' is not supported", part, SHOWN(name));
}

/* ---- a part, or a sequence of parts ---- */

struct reader {
    const char *part; // "normalizer", for messages
    const char *list; // name of a Sequence's list
    int (*read)(struct reader *r, struct str type, const struct json *v);
    void *into;
    struct tokenizer_json_parts *parts;
    struct error *err;
};

static int read_part(struct reader *r, const struct json *v, int depth)
{
    struct str type;
    if (!v || json_type(v) == JSON_NULL) return 0;
    if (!tokenizer_json_text(v, "type", &type))
        return error_set(r->err, E_FORMAT, "'%s' has no \"type\"", r->part);
    if (!str_equal(type, STR("Sequence"))) return r->read(r, type, v);
    const struct json *list = json_get(v, r->list);
    if (!list || json_type(list) != JSON_ARRAY || depth == SEQUENCE_DEPTH_MAX)
        return error_set(r->err, E_FORMAT, "'%s' has a Sequence without \"%s\"", r->part, r->list);
    int rc = 0;
    for (const struct json *item = json_first(list); item && !rc; item = json_next(item))
        rc = read_part(r, item, depth + 1);
    return rc;
}

/* {"pattern": {"String": ...} or {"Regex": ...}} */
static int read_pattern(struct reader *r, const struct json *v, struct str *out, bool *is_regex)
{
    const struct json *pattern = json_get(v, "pattern");
    *is_regex = tokenizer_json_text(pattern, "Regex", out);
    if (*is_regex || tokenizer_json_text(pattern, "String", out)) return 0;
    return error_set(r->err, E_FORMAT, "'%s' has a pattern that is neither String nor Regex",
                     r->part);
}

/* ---- normalizer ---- */

static int read_normalizer(struct reader *r, struct str type, const struct json *v)
{
    struct normalizer *n = r->into;
    struct str text, to = STR("");
    bool is_regex;
    if (str_equal(type, STR("NFC"))) return normalizer_add_nfc(n, r->err);
    if (str_equal(type, STR("Prepend")) && tokenizer_json_text(v, "prepend", &text))
        return normalizer_add_prepend(n, text, r->err);
    if (!str_equal(type, STR("Replace"))) return refuse(r->part, type, r->err);
    int rc = read_pattern(r, v, &text, &is_regex);
    if (rc) return rc;
    (void)tokenizer_json_text(v, "content", &to);
    return is_regex ? normalizer_add_replace_pattern(n, text, to, r->err)
                    : normalizer_add_replace(n, text, to, r->err);
}

/* ---- pre-tokenizer ---- */

static int read_behavior(struct reader *r, const struct json *v, enum split_behavior *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    struct str name = STR("Isolated");
    (void)tokenizer_json_text(v, "behavior", &name);
    for (int i = 0; i < (int)ARRAY_LEN(names); i++)
        if (str_equal(name, str_of(names[i]))) {
            *out = (enum split_behavior)i;
            return 0;
        }
    return refuse("split behavior", name, r->err);
}

static int read_split(struct reader *r, const struct json *v)
{
    enum split_behavior behavior;
    struct str pattern;
    bool is_regex, invert = tokenizer_json_flag(v, "invert");
    int rc = read_behavior(r, v, &behavior);
    if (!rc) rc = read_pattern(r, v, &pattern, &is_regex);
    if (rc) return rc;
    return is_regex ? pretokenizer_add_pattern(r->into, pattern, behavior, invert, r->err)
                    : pretokenizer_add_literal(r->into, pattern, behavior, invert, r->err);
}

static int read_byte_level(struct reader *r, const struct json *v)
{
    const struct json *regex = json_get(v, "use_regex");
    int rc = 0;
    r->parts->byte_level = true;
    if (tokenizer_json_flag(v, "add_prefix_space")) rc = pretokenizer_add_space(r->into, r->err);
    if (rc || (regex && !tokenizer_json_flag(v, "use_regex"))) return rc;
    return pretokenizer_add_pattern(r->into, str_of(pretokenizer_gpt2_pattern), SPLIT_ISOLATED,
                                    false, r->err);
}

static int read_metaspace(struct reader *r, const struct json *v)
{
    struct str mark = STR("\xe2\x96\x81"), name = STR("always");
    enum space_scheme scheme = SPACE_ALWAYS;
    const struct json *split = json_get(v, "split"), *old = json_get(v, "add_prefix_space");
    (void)tokenizer_json_text(v, "replacement", &mark);
    if (old && !tokenizer_json_flag(v, "add_prefix_space")) name = STR("never");
    (void)tokenizer_json_text(v, "prepend_scheme", &name);
    if (str_equal(name, STR("first")))
        scheme = SPACE_FIRST;
    else if (str_equal(name, STR("never")))
        scheme = SPACE_NEVER;
    else if (!str_equal(name, STR("always")))
        return refuse("prepend scheme", name, r->err);
    int rc = pretokenizer_add_mark(r->into, mark, scheme, r->err);
    if (rc || (split && !tokenizer_json_flag(v, "split"))) return rc;
    return pretokenizer_add_literal(r->into, mark, SPLIT_MERGED_WITH_NEXT, false, r->err);
}

static int read_pre(struct reader *r, struct str type, const struct json *v)
{
    if (r->parts->byte_level) // it would see the letters that stand for bytes
        return error_set(r->err, E_UNSUPPORTED, "%s '%.*s' behind ByteLevel is not supported",
                         r->part, SHOWN(type));
    if (str_equal(type, STR("Split"))) return read_split(r, v);
    if (str_equal(type, STR("ByteLevel"))) return read_byte_level(r, v);
    if (str_equal(type, STR("Metaspace"))) return read_metaspace(r, v);
    if (str_equal(type, STR("Digits"))) {
        bool each = tokenizer_json_flag(v, "individual_digits");
        return pretokenizer_add_pattern(r->into, STR("\\p{N}"),
                                        each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, r->err);
    }
    if (str_equal(type, STR("Punctuation"))) {
        enum split_behavior behavior;
        int rc = read_behavior(r, v, &behavior);
        return rc ? rc
                  : pretokenizer_add_pattern(r->into, STR("[\\p{P}$+<=>^`|~]"), behavior, false,
                                             r->err);
    }
    if (str_equal(type, STR("WhitespaceSplit")))
        return pretokenizer_add_pattern(r->into, STR("\\s"), SPLIT_REMOVED, false, r->err);
    return refuse(r->part, type, r->err);
}

int tokenizer_json_pre(struct tokenizer_json_parts *parts, struct pretokenizer **out,
                       struct error *err)
{
    struct reader r = {"pre_tokenizer", "pretokenizers", read_pre, NULL, parts, err};
    r.into = *out = pretokenizer_create();
    return read_part(&r, parts->pre_tokenizer, 0);
}

/* ---- decoder ---- */

static int read_strip(struct reader *r, const struct json *v)
{
    struct tokenizer_builder *b = r->into;
    struct str content = STR("");
    int start = count_of(v, "start", 0), stop = count_of(v, "stop", 0);
    (void)tokenizer_json_text(v, "content", &content);
    if (start == 0 && stop == 0) return 0;
    if (start != 1 || stop != 0 || !str_equal(content, STR(" ")))
        return error_set(r->err, E_UNSUPPORTED,
                         "decoder 'Strip' of anything but one space in front is not supported");
    b->strip = STRIP_SPACE;
    return 0;
}

static int add_shown(struct reader *r, struct str from, struct str to)
{
    if (!from.len) return error_set(r->err, E_FORMAT, "a decoder replaces nothing");
    if (r->parts->shown_count == JSON_REPLACEMENTS_MAX)
        return error_set(r->err, E_LIMIT, "more than %d decoders replace texts",
                         JSON_REPLACEMENTS_MAX);
    r->parts->shown[r->parts->shown_count++] = (struct tokenizer_replacement){from, to};
    return 0;
}

static int read_decoder(struct reader *r, struct str type, const struct json *v)
{
    struct tokenizer_builder *b = r->into;
    struct str from = STR("\xe2\x96\x81"), to = STR("");
    bool is_regex;
    if (str_equal(type, STR("ByteLevel"))) {
        if (b->model == TOKENIZER_BYTE_BPE) return 0;
        return error_set(r->err, E_UNSUPPORTED,
                         "decoder 'ByteLevel' without such a pre-tokenizer is not supported");
    }
    if (str_equal(type, STR("Fuse"))) return 0;
    if (b->model == TOKENIZER_BYTE_BPE) return refuse("byte-level decoder", type, r->err);
    if (str_equal(type, STR("ByteFallback"))) {
        b->byte_tokens = true;
        return 0;
    }
    if (str_equal(type, STR("Strip"))) return read_strip(r, v);
    if (str_equal(type, STR("Replace"))) {
        int rc = read_pattern(r, v, &from, &is_regex);
        (void)tokenizer_json_text(v, "content", &to);
        if (!rc && is_regex) rc = refuse(r->part, STR("Replace with Regex"), r->err);
        return rc ? rc : add_shown(r, from, to);
    }
    if (!str_equal(type, STR("Metaspace"))) return refuse(r->part, type, r->err);
    struct str scheme = STR("always");
    (void)tokenizer_json_text(v, "replacement", &from);
    (void)tokenizer_json_text(v, "prepend_scheme", &scheme);
    if (!str_equal(scheme, STR("never"))) b->strip = STRIP_SPACES;
    return add_shown(r, from, STR(" "));
}

/* ---- post-processor ---- */

/* {"SpecialToken": {"id": NAME}}: the ids that NAME stands for. */
static int read_special(const struct json *template, struct str name, struct token_ids *out,
                        struct error *err)
{
    const struct json *tokens = json_get(template, "special_tokens"), *t = json_first(tokens);
    while (t && !str_equal(str_of(json_name(t)), name))
        t = json_next(t);
    const struct json *ids = json_get(t, "ids");
    for (const struct json *id = json_first(ids); id; id = json_next(id)) {
        if (json_type(id) != JSON_NUMBER || !json_is_integer(id) || json_number(id) < 0 ||
            json_number(id) > TOKENIZER_VOCAB_MAX)
            return error_set(err, E_FORMAT, "'post_processor' has an id that isn't one");
        if (out->count == TOKENIZER_FIXED_MAX)
            return error_set(err, E_LIMIT, "'post_processor' adds more than %d tokens",
                             TOKENIZER_FIXED_MAX);
        out->ids[out->count++] = (int32_t)json_number(id);
    }
    if (json_len(ids)) return 0;
    return error_set(err, E_FORMAT, "'post_processor' doesn't say what '%.*s' is", SHOWN(name));
}

static int read_post(struct reader *r, struct str type, const struct json *v)
{
    struct tokenizer_builder *b = r->into;
    if (str_equal(type, STR("ByteLevel"))) return 0; // offsets only
    if (!str_equal(type, STR("TemplateProcessing"))) return refuse(r->part, type, r->err);
    struct token_ids *into = &b->prefix;
    b->has_template = true;
    for (const struct json *item = json_first(json_get(v, "single")); item;
         item = json_next(item)) {
        struct str name;
        if (json_get(item, "Sequence")) {
            into = &b->suffix;
        } else if (tokenizer_json_text(json_get(item, "SpecialToken"), "id", &name)) {
            int rc = read_special(v, name, into, r->err);
            if (rc) return rc;
        } else {
            return error_set(r->err, E_FORMAT, "'post_processor' has neither token nor text");
        }
    }
    return 0;
}

int tokenizer_json_rest(struct tokenizer_json_parts *parts, struct tokenizer_builder *b,
                        struct error *err)
{
    struct reader normalizer = {"normalizer", "normalizers", read_normalizer, NULL, parts, err};
    struct reader decoder = {"decoder", "decoders", read_decoder, b, parts, err};
    struct reader post = {"post_processor", "processors", read_post, b, parts, err};
    int rc = 0;
    if (parts->normalizer && json_type(parts->normalizer) != JSON_NULL) {
        normalizer.into = b->normalizer = normalizer_create();
        rc = read_part(&normalizer, parts->normalizer, 0);
    }
    if (!rc && (!parts->decoder || json_type(parts->decoder) == JSON_NULL))
        rc = error_set(err, E_UNSUPPORTED, "a tokenizer without 'decoder' is not supported");
    if (!rc) rc = read_part(&decoder, parts->decoder, 0);
    if (!rc) rc = read_part(&post, parts->post_processor, 0);
    b->shown = parts->shown;
    b->shown_count = parts->shown_count;
    return rc;
}
