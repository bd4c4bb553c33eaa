#include "engine/jinja_arith.h"

#include "engine/jinja_run.h"

#include <math.h>

static struct jinja_value overflows(struct jinja_run *run)
{
    return jinja_fail(run, E_LIMIT, "integer is out of range");
}

static struct jinja_value by_zero(struct jinja_run *run)
{
    return jinja_fail(run, E_INVALID, "division by zero");
}

static struct jinja_value no_operator(struct jinja_run *run, const char *op, struct jinja_value a,
                                      struct jinja_value b)
{
    if (a.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, a);
    if (b.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, b);
    return jinja_fail(run, E_INVALID, "'%s' can't take '%s' and '%s'", op, jinja_type_name(a),
                      jinja_type_name(b));
}

/* ---- text and lists ---- */

static struct jinja_value join(struct jinja_run *run, struct str a, struct str b)
{
    char *text = jinja_alloc(run, a.len + b.len + 1, 1);
    if (!text) return jinja_str(STR(""));
    if (a.len) memcpy(text, a.data, a.len);
    if (b.len) memcpy(text + a.len, b.data, b.len);
    return jinja_str((struct str){text, a.len + b.len});
}

static struct jinja_value join_lists(struct jinja_run *run, const struct jinja_list *a,
                                     const struct jinja_list *b)
{
    struct jinja_value v = jinja_new_list(run, a->count + b->count, (enum jinja_list_kind)a->kind);
    if (run->code || !jinja_step(run, v.list->count)) return v;
    if (a->count) memcpy(v.list->items, a->items, a->count * sizeof *a->items);
    if (b->count) memcpy(v.list->items + a->count, b->items, b->count * sizeof *b->items);
    return v;
}

static struct jinja_value repeat(struct jinja_run *run, struct jinja_value v, int64_t times)
{
    if (times < 0) times = 0;
    size_t unit = v.type == JINJA_STRING ? v.len : v.list->count;
    if (unit && (uint64_t)times > UINT32_MAX / unit) return overflows(run);
    if (v.type == JINJA_STRING) {
        char *text = jinja_alloc(run, unit * (size_t)times + 1, 1);
        if (!text) return v;
        for (int64_t i = 0; unit && i < times; i++)
            memcpy(text + (size_t)i * unit, v.text, unit);
        return jinja_str((struct str){text, unit * (size_t)times});
    }
    struct jinja_value out =
        jinja_new_list(run, (uint32_t)(unit * (size_t)times), (enum jinja_list_kind)v.list->kind);
    jinja_step(run, out.list->count);
    for (uint32_t i = 0; i < out.list->count; i++)
        out.list->items[i] = v.list->items[i % unit];
    return out;
}

static bool is_plain_list(struct jinja_value v)
{
    return v.type == JINJA_LIST && v.list->kind <= JINJA_KIND_TUPLE;
}

/* ---- numbers ---- */

static struct jinja_value add(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    int64_t sum;
    if (a.type == JINJA_STRING && b.type == JINJA_STRING)
        return join(run, jinja_text(a), jinja_text(b));
    /* Python raises here. Clients send null contents in all sorts of members, and the rule for them
     * is that they are empty text. */
    if (a.type == JINJA_STRING && b.type == JINJA_NONE) return a;
    if (a.type == JINJA_NONE && b.type == JINJA_STRING) return b;
    if (is_plain_list(a) && is_plain_list(b) && a.list->kind == b.list->kind)
        return join_lists(run, a.list, b.list);
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "+", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT)
        return jinja_float(jinja_number(a) + jinja_number(b));
    if (__builtin_add_overflow(jinja_integer(a), jinja_integer(b), &sum)) return overflows(run);
    return jinja_int(sum);
}

static struct jinja_value subtract(struct jinja_run *run, struct jinja_value a,
                                   struct jinja_value b)
{
    int64_t difference;
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "-", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT)
        return jinja_float(jinja_number(a) - jinja_number(b));
    if (__builtin_sub_overflow(jinja_integer(a), jinja_integer(b), &difference))
        return overflows(run);
    return jinja_int(difference);
}

static struct jinja_value multiply(struct jinja_run *run, struct jinja_value a,
                                   struct jinja_value b)
{
    int64_t product;
    if (jinja_is_integral(b) && (a.type == JINJA_STRING || is_plain_list(a)))
        return repeat(run, a, jinja_integer(b));
    if (jinja_is_integral(a) && (b.type == JINJA_STRING || is_plain_list(b)))
        return repeat(run, b, jinja_integer(a));
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "*", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT)
        return jinja_float(jinja_number(a) * jinja_number(b));
    if (__builtin_mul_overflow(jinja_integer(a), jinja_integer(b), &product)) return overflows(run);
    return jinja_int(product);
}

static struct jinja_value divide(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "/", a, b);
    if (jinja_number(b) == 0) return by_zero(run);
    return jinja_float(jinja_number(a) / jinja_number(b));
}

/* Rounds down, unlike C. */
static struct jinja_value divide_floor(struct jinja_run *run, struct jinja_value a,
                                       struct jinja_value b)
{
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "//", a, b);
    if (jinja_number(b) == 0) return by_zero(run);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT)
        return jinja_float(floor(jinja_number(a) / jinja_number(b)));
    int64_t x = jinja_integer(a), y = jinja_integer(b);
    if (x == INT64_MIN && y == -1) return overflows(run);
    int64_t quotient = x / y;
    return jinja_int(x % y != 0 && (x < 0) != (y < 0) ? quotient - 1 : quotient);
}

/* Has the sign of the divisor, unlike C. */
static struct jinja_value modulo(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    if (a.type == JINJA_STRING) {
        bool many = b.type == JINJA_LIST && b.list->kind == JINJA_KIND_TUPLE;
        struct jinja_args args = {many ? b.list->items : &b, many ? b.list->count : 1, NULL, 0};
        return jinja_format_percent(run, jinja_text(a), &args);
    }
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "%", a, b);
    if (jinja_number(b) == 0) return by_zero(run);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) {
        double rest = fmod(jinja_number(a), jinja_number(b));
        if (rest != 0 && (rest < 0) != (jinja_number(b) < 0)) rest += jinja_number(b);
        return jinja_float(rest);
    }
    int64_t x = jinja_integer(a), y = jinja_integer(b);
    if (y == -1) return jinja_int(0);
    int64_t rest = x % y;
    return jinja_int(rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest);
}

static struct jinja_value power(struct jinja_run *run, struct jinja_value a, struct jinja_value b)
{
    if (!jinja_is_number(a) || !jinja_is_number(b)) return no_operator(run, "**", a, b);
    if (!jinja_is_integral(a) || !jinja_is_integral(b) || jinja_integer(b) < 0) {
        if (jinja_number(a) == 0 && jinja_number(b) < 0) return by_zero(run);
        return jinja_float(pow(jinja_number(a), jinja_number(b)));
    }
    int64_t result = 1, base = jinja_integer(a);
    for (int64_t left = jinja_integer(b); left > 0; left >>= 1) {
        if ((left & 1) && __builtin_mul_overflow(result, base, &result)) return overflows(run);
        if (left > 1 && __builtin_mul_overflow(base, base, &base)) return overflows(run);
    }
    return jinja_int(result);
}

struct jinja_value jinja_binary_op(struct jinja_run *run, enum jinja_op op, struct jinja_value a,
                                   struct jinja_value b)
{
    switch (op) {
    case JINJA_OP_ADD:
        return add(run, a, b);
    case JINJA_OP_SUB:
        return subtract(run, a, b);
    case JINJA_OP_MUL:
        return multiply(run, a, b);
    case JINJA_OP_DIV:
        return divide(run, a, b);
    case JINJA_OP_FLOORDIV:
        return divide_floor(run, a, b);
    case JINJA_OP_MOD:
        return modulo(run, a, b);
    case JINJA_OP_POW:
        return power(run, a, b);
    default:
        return jinja_bool(jinja_compare_op(run, op, a, b));
    }
}

bool jinja_compare_op(struct jinja_run *run, enum jinja_op op, struct jinja_value a,
                      struct jinja_value b)
{
    switch (op) {
    case JINJA_OP_EQ:
        return jinja_equal(run, a, b);
    case JINJA_OP_NE:
        return !jinja_equal(run, a, b);
    case JINJA_OP_LT:
        return jinja_compare(run, a, b) < 0;
    case JINJA_OP_LE:
        return jinja_compare(run, a, b) <= 0;
    case JINJA_OP_GT:
        return jinja_compare(run, a, b) > 0;
    case JINJA_OP_GE:
        return jinja_compare(run, a, b) >= 0;
    case JINJA_OP_IN:
        return jinja_contains(run, b, a);
    case JINJA_OP_NOT_IN:
        return !jinja_contains(run, b, a);
    default:
        jinja_fail(run, E_FORMAT, "not a comparison");
        return false;
    }
}

struct jinja_value jinja_sign(struct jinja_run *run, struct jinja_value a, bool negate)
{
    if (a.type == JINJA_UNDEFINED) return jinja_fail_undefined(run, a);
    if (!jinja_is_number(a))
        return jinja_fail(run, E_INVALID, "bad operand type for unary %c: '%s'", negate ? '-' : '+',
                          jinja_type_name(a));
    if (a.type == JINJA_FLOAT) return jinja_float(negate ? -a.number : a.number);
    int64_t i = jinja_integer(a);
    if (negate && i == INT64_MIN) return overflows(run);
    return jinja_int(negate ? -i : i);
}
