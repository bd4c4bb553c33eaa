#include "engine/jinja_value.h"

#include "engine/jinja_run.h"
#include "engine/jinja_text.h"
#include "shared/base/hash.h"

#include <math.h>

#define INDEX_ABOVE 8 // dicts up to this size are searched pair by pair

/* ---- making ---- */

struct jinja_value jinja_new_str(struct jinja_run *run, struct str text)
{
    char *copy = jinja_alloc(run, text.len + 1, 1);
    if (!copy) return jinja_str(STR(""));
    if (text.len) memcpy(copy, text.data, text.len);
    return jinja_str((struct str){copy, text.len});
}

struct jinja_value jinja_new_list(struct jinja_run *run, uint32_t count, enum jinja_list_kind kind)
{
    struct jinja_list *list = jinja_alloc(run, 1, sizeof *list);
    if (!list) { // somewhere to write: the run has failed and nobody will look
        list = &run->spare_list;
        *list = (struct jinja_list){NULL, 0, 0, false};
        count = 0;
    }
    list->kind = (uint8_t)kind;
    list->items = count ? jinja_alloc(run, count, sizeof *list->items) : NULL;
    list->count = list->items ? count : 0;
    return (struct jinja_value){.type = JINJA_LIST, .list = list};
}

struct jinja_value jinja_new_dict(struct jinja_run *run, enum jinja_type type)
{
    struct jinja_dict *dict = jinja_alloc(run, 1, sizeof *dict);
    if (!dict) { // as above
        dict = &run->spare_dict;
        *dict = (struct jinja_dict){0};
    }
    return (struct jinja_value){.type = (uint8_t)type, .dict = dict};
}

struct jinja_value jinja_new_pair(struct jinja_run *run, struct jinja_value first,
                                  struct jinja_value second)
{
    struct jinja_value pair = jinja_new_list(run, 2, JINJA_KIND_TUPLE);
    if (pair.list->count == 2) {
        pair.list->items[0] = first;
        pair.list->items[1] = second;
    }
    return pair;
}

/* ---- dicts ---- */

static bool is_hashable(struct jinja_value key)
{
    return key.type == JINJA_STRING || key.type == JINJA_NONE || jinja_is_number(key);
}

/* Python: 1, 1.0 and True are one key. */
static uint32_t hash_key(const struct jinja_run *run, struct jinja_value key)
{
    uint64_t number = 0x6e6f6e65; // none
    if (key.type == JINJA_STRING) return (uint32_t)hash_sip24(run->hash_key, key.text, key.len);
    if (jinja_is_integral(key))
        number = (uint64_t)jinja_integer(key);
    else if (key.type == JINJA_FLOAT && key.number == floor(key.number) && fabs(key.number) < 9e15)
        number = (uint64_t)(int64_t)key.number;
    else if (key.type == JINJA_FLOAT)
        memcpy(&number, &key.number, sizeof number);
    return (uint32_t)hash_sip24(run->hash_key, &number, sizeof number);
}

static bool same_key(struct jinja_value a, struct jinja_value b)
{
    if (a.type == JINJA_STRING || b.type == JINJA_STRING)
        return a.type == b.type && str_equal(jinja_text(a), jinja_text(b));
    if (jinja_is_integral(a) && jinja_is_integral(b)) return jinja_integer(a) == jinja_integer(b);
    if (jinja_is_number(a) && jinja_is_number(b)) return jinja_number(a) == jinja_number(b);
    return a.type == JINJA_NONE && b.type == JINJA_NONE;
}

static void index_put(const struct jinja_run *run, struct jinja_dict *d, uint32_t position)
{
    uint32_t i = hash_key(run, d->pairs[position].key) & d->mask;
    while (d->index[i])
        i = (i + 1) & d->mask;
    d->index[i] = position + 1;
}

static struct jinja_pair *find_pair(struct jinja_run *run, const struct jinja_dict *d,
                                    struct jinja_value key)
{
    if (key.type == JINJA_STRING) jinja_step(run, key.len / JINJA_TEXT_STEP);
    if (!d->index) {
        for (uint32_t i = 0; i < d->count; i++)
            if (same_key(d->pairs[i].key, key)) return &d->pairs[i];
        return NULL;
    }
    for (uint32_t i = hash_key(run, key) & d->mask; d->index[i]; i = (i + 1) & d->mask)
        if (same_key(d->pairs[d->index[i] - 1].key, key)) return &d->pairs[d->index[i] - 1];
    return NULL;
}

/* Room for one more pair, and an index at most half full. False: memory is spent. */
static bool grow(struct jinja_run *run, struct jinja_dict *d)
{
    if (d->count < d->cap) return true;
    uint32_t cap = d->cap ? d->cap * 2 : 4;
    struct jinja_pair *pairs = jinja_alloc(run, cap, sizeof *pairs);
    if (!pairs) return false;
    if (d->count) memcpy(pairs, d->pairs, d->count * sizeof *pairs);
    d->pairs = pairs;
    d->cap = cap;
    if (cap <= INDEX_ABOVE) return true;
    uint32_t *index = jinja_alloc(run, (size_t)cap * 2, sizeof *index);
    if (!index) return false;
    d->index = index;
    d->mask = cap * 2 - 1;
    for (uint32_t i = 0; i < d->count; i++)
        index_put(run, d, i);
    return true;
}

void jinja_dict_put(struct jinja_run *run, struct jinja_dict *d, struct jinja_value key,
                    struct jinja_value value)
{
    if (!is_hashable(key)) {
        jinja_fail(run, E_INVALID, "unhashable type: '%s'", jinja_type_name(key));
        return;
    }
    struct jinja_pair *pair = find_pair(run, d, key);
    if (pair) {
        pair->value = value;
        return;
    }
    if (!grow(run, d)) return;
    d->pairs[d->count] = (struct jinja_pair){key, value};
    if (d->index) index_put(run, d, d->count);
    d->count++;
}

const struct jinja_value *jinja_dict_get(struct jinja_run *run, const struct jinja_dict *d,
                                         struct jinja_value key)
{
    struct jinja_pair *pair = is_hashable(key) ? find_pair(run, d, key) : NULL;
    return pair ? &pair->value : NULL;
}

void jinja_dict_clear(struct jinja_dict *d)
{
    if (d->index)
        *d = (struct jinja_dict){0};
    else
        d->count = 0;
}

/* ---- asking ---- */

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const lists[] = {"list", "tuple", "range", "dict_items", "generator"};
    switch ((enum jinja_type)v.type) {
    case JINJA_UNDEFINED:
        return "Undefined";
    case JINJA_NONE:
        return "NoneType";
    case JINJA_BOOL:
        return "bool";
    case JINJA_INT:
        return "int";
    case JINJA_FLOAT:
        return "float";
    case JINJA_STRING:
        return "str";
    case JINJA_LIST:
        return lists[v.list->kind];
    case JINJA_DICT:
        return "dict";
    case JINJA_NAMESPACE:
        return "Namespace";
    case JINJA_FUNCTION:
        return "function";
    case JINJA_MACRO:
        return "Macro";
    case JINJA_LOOP:
        return "LoopContext";
    }
    return "object";
}

bool jinja_truth(struct jinja_value v)
{
    switch ((enum jinja_type)v.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.boolean;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.number != 0;
    case JINJA_STRING:
        return v.len != 0;
    case JINJA_LIST:
        return v.list->kind == JINJA_KIND_GENERATOR || v.list->count;
    case JINJA_DICT:
        return v.dict->count != 0;
    case JINJA_NAMESPACE:
    case JINJA_FUNCTION:
    case JINJA_MACRO:
    case JINJA_LOOP:
        return true;
    }
    return false;
}

static bool equal_lists(struct jinja_run *run, const struct jinja_list *a,
                        const struct jinja_list *b)
{
    if (a == b) return true;
    if (a->kind != b->kind || a->count != b->count || a->kind >= JINJA_KIND_VIEW) return false;
    for (uint32_t i = 0; i < a->count && !run->code; i++)
        if (!jinja_equal(run, a->items[i], b->items[i])) return false;
    return true;
}

static bool equal_dicts(struct jinja_run *run, const struct jinja_dict *a,
                        const struct jinja_dict *b)
{
    if (a == b) return true;
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count && !run->code; i++) {
        const struct jinja_value *other = jinja_dict_get(run, b, a->pairs[i].key);
        if (!other || !jinja_equal(run, a->pairs[i].value, *other)) return false;
    }
    return true;
}

bool jinja_equal(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    bool equal = false;
    if (jinja_is_number(a) && jinja_is_number(b)) return same_key(a, b);
    if (a.type != b.type) return false;
    if (!jinja_enter(run) || !jinja_step(run, 1)) {
        jinja_leave(run);
        return false;
    }
    switch ((enum jinja_type)a.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        equal = true;
        break;
    case JINJA_STRING:
        if (a.len == b.len) jinja_step(run, a.len / JINJA_TEXT_STEP);
        equal = str_equal(jinja_text(a), jinja_text(b));
        break;
    case JINJA_LIST:
        equal = equal_lists(run, a.list, b.list);
        break;
    case JINJA_DICT:
        equal = equal_dicts(run, a.dict, b.dict);
        break;
    default:
        equal = a.list == b.list; // objects: the same one
    }
    jinja_leave(run);
    return equal;
}

static int compare_text(struct str a, struct str b) // bytes of UTF-8 order as characters do
{
    size_t shorter = a.len < b.len ? a.len : b.len;
    int order = shorter ? memcmp(a.data, b.data, shorter) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_lists(struct jinja_run *run, const struct jinja_list *a,
                         const struct jinja_list *b)
{
    for (uint32_t i = 0; i < a->count && i < b->count && !run->code; i++)
        if (!jinja_equal(run, a->items[i], b->items[i]))
            return jinja_compare(run, a->items[i], b->items[i]);
    return (a->count > b->count) - (a->count < b->count);
}

int jinja_compare(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    if (jinja_is_integral(a) && jinja_is_integral(b))
        return (jinja_integer(a) > jinja_integer(b)) - (jinja_integer(a) < jinja_integer(b));
    if (jinja_is_number(a) && jinja_is_number(b))
        return (jinja_number(a) > jinja_number(b)) - (jinja_number(a) < jinja_number(b));
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
        jinja_step(run, (a.len < b.len ? a.len : b.len) / JINJA_TEXT_STEP);
        return compare_text(jinja_text(a), jinja_text(b));
    }
    if (a.type == JINJA_LIST && b.type == JINJA_LIST && a.list->kind == b.list->kind &&
        a.list->kind <= JINJA_KIND_TUPLE) {
        int order = jinja_enter(run) ? compare_lists(run, a.list, b.list) : 0;
        jinja_leave(run);
        return order;
    }
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED)
        jinja_fail_undefined(run, a.type == JINJA_UNDEFINED ? a : b);
    else
        jinja_fail(run, E_INVALID, "'%s' and '%s' have no order", jinja_type_name(a),
                   jinja_type_name(b));
    return 0;
}

bool jinja_contains(struct jinja_run *run, struct jinja_value b, struct jinja_value a)
{
    if (b.type == JINJA_UNDEFINED && b.why != JINJA_UNDEFINED_UNSAFE) return false;
    if (b.type == JINJA_DICT) return jinja_dict_get(run, b.dict, a) != NULL;
    if (b.type == JINJA_STRING) {
        if (a.type == JINJA_STRING) {
            jinja_step(run, b.len / JINJA_TEXT_STEP);
            return jinja_find(jinja_text(b), jinja_text(a), 0) >= 0;
        }
        jinja_fail(run, E_INVALID, "'in <string>' requires a string, not '%s'", jinja_type_name(a));
        return false;
    }
    if (b.type != JINJA_LIST) {
        jinja_fail(run, E_INVALID, "'%s' is not iterable", jinja_type_name(b));
        return false;
    }
    const struct jinja_list *list = jinja_iterate(run, b);
    for (uint32_t i = 0; i < list->count && !run->code; i++)
        if (jinja_equal(run, list->items[i], a)) return true;
    return false;
}

int64_t jinja_length(struct jinja_value v)
{
    switch ((enum jinja_type)v.type) {
    case JINJA_UNDEFINED:
        return v.why == JINJA_UNDEFINED_UNSAFE ? -1 : 0;
    case JINJA_STRING:
        return (int64_t)jinja_chars(jinja_text(v));
    case JINJA_LIST:
        return v.list->kind == JINJA_KIND_GENERATOR ? -1 : (int64_t)v.list->count;
    case JINJA_DICT:
        return v.dict->count;
    case JINJA_LOOP:
        return v.loop->items->count;
    default:
        return -1;
    }
}

static struct jinja_list *characters(struct jinja_run *run, struct str text)
{
    struct jinja_value list = jinja_new_list(run, (uint32_t)jinja_chars(text), JINJA_KIND_LIST);
    for (uint32_t i = 0; i < list.list->count; i++) {
        struct str c = jinja_char_at(text, 0);
        list.list->items[i] = jinja_str(c);
        text.data += c.len, text.len -= c.len;
    }
    return list.list;
}

struct jinja_list *jinja_iterate(struct jinja_run *run, struct jinja_value v)
{
    if (v.type == JINJA_STRING) return characters(run, jinja_text(v));
    if (v.type == JINJA_LIST && (v.list->kind != JINJA_KIND_GENERATOR || !v.list->consumed)) {
        if (v.list->kind == JINJA_KIND_GENERATOR) v.list->consumed = true;
        return v.list;
    }
    struct jinja_value list =
        jinja_new_list(run, v.type == JINJA_DICT ? v.dict->count : 0, JINJA_KIND_LIST);
    if (v.type == JINJA_DICT) {
        for (uint32_t i = 0; i < list.list->count; i++)
            list.list->items[i] = v.dict->pairs[i].key;
    } else if (v.type == JINJA_UNDEFINED) {
        if (v.why == JINJA_UNDEFINED_UNSAFE) jinja_fail_undefined(run, v);
    } else if (v.type != JINJA_LIST) {
        jinja_fail(run, E_INVALID, "'%s' object is not iterable", jinja_type_name(v));
    }
    return list.list;
}
