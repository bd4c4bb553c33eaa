/* jinja_value.h - values of a template: Python's, as far as templates can tell the difference.
 *
 * A value is 16 bytes and copied freely; what it points to lives in the rendering's arena (or, for
 * constants, in the template's) and is never changed, as in the reference's immutable sandbox; only
 * namespaces are. Strings are valid UTF-8 and index by character. */
#ifndef LM_ENGINE_JINJA_VALUE_H
#define LM_ENGINE_JINJA_VALUE_H

#include "shared/base/buf.h"
#include "shared/base/str.h"

struct jinja_run;

enum jinja_type {
    JINJA_UNDEFINED, // text: what was asked for, see enum jinja_undefined
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST, // and everything else that is iterated by position: enum jinja_list_kind
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_FUNCTION, // builtin, or a method bound to a value
    JINJA_MACRO,
    JINJA_LOOP,
};

/* Why a value is undefined; in jinja_value.why. */
enum jinja_undefined {
    JINJA_UNDEFINED_NAME,   // no variable of that name
    JINJA_UNDEFINED_MEMBER, // no attribute or element of that name
    JINJA_UNDEFINED_UNSAFE, // a method that changes its object: an error at any use
    JINJA_UNDEFINED_ABSENT, // an argument that wasn't given
};

struct jinja_value {
    uint8_t type;  // enum jinja_type
    uint8_t why;   // UNDEFINED
    uint8_t owner; // UNDEFINED_MEMBER, _UNSAFE: type of the object that lacks it
    uint32_t len;  // STRING, UNDEFINED: bytes of text
    union {
        bool boolean;
        int64_t integer;
        double number;
        const char *text;
        struct jinja_list *list;
        struct jinja_dict *dict; // DICT, NAMESPACE
        const struct jinja_function *function;
        const struct jinja_macro *macro;
        struct jinja_loop *loop;
    };
};

enum jinja_list_kind {
    JINJA_KIND_LIST,
    JINJA_KIND_TUPLE,
    JINJA_KIND_RANGE,
    JINJA_KIND_VIEW,      // dict.items() and its kin: has a length, no elements by index
    JINJA_KIND_GENERATOR, // from map, selectattr, ...: neither, and gives its elements once
};

struct jinja_list {
    struct jinja_value *items;
    uint32_t count;
    uint8_t kind;
    bool consumed; // GENERATOR
};

struct jinja_pair {
    struct jinja_value key, value;
};

struct jinja_dict { // in order of insertion
    struct jinja_pair *pairs;
    uint32_t count, cap;
    uint32_t *index; // hash table of position + 1, once there are more than a few
    uint32_t mask;
};

/* Arguments of a call. Builtins that name their parameters get one entry per parameter in `list`.
 */
struct jinja_named {
    struct str name;
    struct jinja_value value;
};
struct jinja_args {
    const struct jinja_value *list;
    uint32_t count;
    const struct jinja_named *named;
    uint32_t named_count;
};

/* A filter, test, method or global function. */
struct jinja_builtin {
    const char *name;
    struct jinja_value (*call)(struct jinja_run *run, struct jinja_value self,
                               const struct jinja_args *args);
    const char *params; // "chars" or "old new count"; NULL: takes the arguments as they come
    int required;       // how many of params must be given
};

struct jinja_function {
    const struct jinja_builtin *builtin;
    struct jinja_value self; // of a method; else undefined
};

/* ---- making ---- */

static inline struct jinja_value jinja_none(void)
{
    return (struct jinja_value){.type = JINJA_NONE};
}
static inline struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){.type = JINJA_BOOL, .boolean = b};
}
static inline struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){.type = JINJA_INT, .integer = i};
}
static inline struct jinja_value jinja_float(double d)
{
    return (struct jinja_value){.type = JINJA_FLOAT, .number = d};
}
static inline struct jinja_value jinja_str(struct str s) // borrows
{
    return (struct jinja_value){.type = JINJA_STRING, .len = (uint32_t)s.len, .text = s.data};
}
static inline struct jinja_value jinja_undefined(enum jinja_undefined why, struct str name)
{
    return (struct jinja_value){
        .type = JINJA_UNDEFINED, .why = (uint8_t)why, .len = (uint32_t)name.len, .text = name.data};
}
static inline struct str jinja_text(struct jinja_value v) // of STRING or UNDEFINED
{
    return (struct str){v.text, v.len};
}
static inline bool jinja_is(struct jinja_value v, enum jinja_type type)
{
    return v.type == type;
}
static inline bool jinja_given(struct jinja_value v) // an optional argument
{
    return v.type != JINJA_UNDEFINED || v.why != JINJA_UNDEFINED_ABSENT;
}
/* Anything that counts as a number: Python's bool is one. */
static inline bool jinja_is_integral(struct jinja_value v)
{
    return v.type == JINJA_INT || v.type == JINJA_BOOL;
}
static inline bool jinja_is_number(struct jinja_value v)
{
    return jinja_is_integral(v) || v.type == JINJA_FLOAT;
}
static inline int64_t jinja_integer(struct jinja_value v) // of an integral value
{
    return v.type == JINJA_BOOL ? v.boolean : v.integer;
}
static inline double jinja_number(struct jinja_value v) // of a number
{
    return v.type == JINJA_FLOAT ? v.number : (double)jinja_integer(v);
}

/* New objects fail the run (see jinja_run.h) and come back empty when memory is spent. */
struct jinja_value jinja_new_str(struct jinja_run *run, struct str text); // copies
struct jinja_value jinja_new_list(struct jinja_run *run, uint32_t count, enum jinja_list_kind kind);
struct jinja_value jinja_new_dict(struct jinja_run *run, enum jinja_type type);
struct jinja_value jinja_new_pair(struct jinja_run *run, struct jinja_value first,
                                  struct jinja_value second); // a tuple

/* Set a key; fails the run for keys that can't be hashed. */
void jinja_dict_put(struct jinja_run *run, struct jinja_dict *d, struct jinja_value key,
                    struct jinja_value value);
/* NULL: absent, also for keys that can't be hashed. */
const struct jinja_value *jinja_dict_get(struct jinja_run *run, const struct jinja_dict *d,
                                         struct jinja_value key);
void jinja_dict_clear(struct jinja_dict *d); // for scopes only: values don't change

/* ---- asking ---- */

const char *jinja_type_name(struct jinja_value v); // Python's: "str", "dict", "NoneType", ...
bool jinja_truth(struct jinja_value v);
bool jinja_equal(struct jinja_run *run, struct jinja_value a, struct jinja_value b);
/* <0, 0, >0; fails the run where Python has no order. */
int jinja_compare(struct jinja_run *run, struct jinja_value a, struct jinja_value b);
/* a in b */
bool jinja_contains(struct jinja_run *run, struct jinja_value b, struct jinja_value a);
/* Length in characters or elements; -1: has none (a generator, a number). */
int64_t jinja_length(struct jinja_value v);
/* The elements that a for loop sees: of lists as they are, keys of a dict, characters of a string.
 * Fails the run for what can't be iterated. */
struct jinja_list *jinja_iterate(struct jinja_run *run, struct jinja_value v);

/* ---- printing (jinja_print.c) ---- */

/* Python's str(): what {{ v }} writes. */
void jinja_print(struct jinja_run *run, struct jinja_value v, struct buf *out);
struct jinja_value jinja_to_str(struct jinja_run *run, struct jinja_value v);

struct jinja_json_style {
    int indent;              // -1: one line
    struct str item, member; // separators: ", " and ": "
    bool ascii, sort_keys;
};
/* Python's json.dumps; fails the run for what isn't JSON. */
void jinja_print_json(struct jinja_run *run, struct jinja_value v,
                      const struct jinja_json_style *style, struct buf *out);

#endif
