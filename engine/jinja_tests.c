/* jinja_tests.c - what may stand behind "is". */
#include "engine/jinja_run.h"

#include "engine/jinja_arith.h"
#include "engine/jinja_text.h"
#include "shared/base/check.h"

#define TEST(name)                                                                        \
    static struct jinja_value test_##name(struct jinja_run *run, struct jinja_value self, \
                                          const struct jinja_args *args)

/* Tests that look at the value alone. */
#define SIMPLE_TEST(name, condition)  \
    TEST(name)                        \
    {                                 \
        (void)run;                    \
        (void)args;                   \
        return jinja_bool(condition); \
    }

/* Tests that are an operator: "x is eq y". */
#define OPERATOR_TEST(name, op)                                            \
    TEST(name)                                                             \
    {                                                                      \
        return jinja_bool(jinja_compare_op(run, op, self, args->list[0])); \
    }

SIMPLE_TEST(defined, self.type != JINJA_UNDEFINED)
SIMPLE_TEST(undefined, self.type == JINJA_UNDEFINED)
SIMPLE_TEST(none, self.type == JINJA_NONE)
SIMPLE_TEST(boolean, self.type == JINJA_BOOL)
SIMPLE_TEST(is_true, self.type == JINJA_BOOL && self.boolean)
SIMPLE_TEST(is_false, self.type == JINJA_BOOL && !self.boolean)
SIMPLE_TEST(integer, self.type == JINJA_INT)
SIMPLE_TEST(float, self.type == JINJA_FLOAT)
SIMPLE_TEST(number, jinja_is_number(self))
SIMPLE_TEST(string, self.type == JINJA_STRING)
SIMPLE_TEST(mapping, self.type == JINJA_DICT)
SIMPLE_TEST(callable, self.type == JINJA_FUNCTION || self.type == JINJA_MACRO)
SIMPLE_TEST(escaped, false && self.type)
SIMPLE_TEST(iterable, self.type == JINJA_STRING || self.type == JINJA_LIST ||
                          self.type == JINJA_DICT || self.type == JINJA_LOOP ||
                          self.type == JINJA_UNDEFINED)
SIMPLE_TEST(sequence, self.type == JINJA_STRING || self.type == JINJA_DICT ||
                          self.type == JINJA_UNDEFINED ||
                          (self.type == JINJA_LIST && self.list->kind <= JINJA_KIND_RANGE))

OPERATOR_TEST(eq, JINJA_OP_EQ)
OPERATOR_TEST(ne, JINJA_OP_NE)
OPERATOR_TEST(lt, JINJA_OP_LT)
OPERATOR_TEST(le, JINJA_OP_LE)
OPERATOR_TEST(gt, JINJA_OP_GT)
OPERATOR_TEST(ge, JINJA_OP_GE)
OPERATOR_TEST(in, JINJA_OP_IN)

static bool divisible(struct jinja_run *run, struct jinja_value self, struct jinja_value by)
{
    return jinja_equal(run, jinja_binary_op(run, JINJA_OP_MOD, self, by), jinja_int(0));
}

TEST(even)
{
    (void)args;
    return jinja_bool(divisible(run, self, jinja_int(2)));
}

TEST(odd)
{
    (void)args;
    return jinja_bool(!divisible(run, self, jinja_int(2)));
}

TEST(divisibleby)
{
    return jinja_bool(divisible(run, self, args->list[0]));
}

/* Python's "is": the same object; equal scalars of one type are one object often enough. */
TEST(sameas)
{
    struct jinja_value other = args->list[0];
    return jinja_bool(self.type == other.type && (self.type == JINJA_LIST || self.type == JINJA_DICT
                                                      ? self.list == other.list
                                                      : jinja_equal(run, self, other)));
}

/* The text changes by `other` and not by `same`: it has letters and all are of one case. */
static struct jinja_value has_case(struct jinja_run *run, struct jinja_value self,
                                   enum jinja_case same, enum jinja_case other)
{
    struct jinja_value text = jinja_to_str(run, self);
    struct buf as_same, as_other;
    jinja_buf_init(&as_same);
    jinja_buf_init(&as_other);
    if (!run->code && jinja_step(run, text.len / JINJA_CHAR_STEP * 2)) {
        jinja_change_case(jinja_text(text), same, &as_same);
        jinja_change_case(jinja_text(text), other, &as_other);
    }
    bool holds = str_equal(buf_str(&as_same), jinja_text(text)) &&
                 !str_equal(buf_str(&as_other), jinja_text(text));
    buf_deinit(&as_same);
    buf_deinit(&as_other);
    return jinja_bool(holds);
}

TEST(lower)
{
    (void)args;
    return has_case(run, self, JINJA_LOWER, JINJA_UPPER);
}

TEST(upper)
{
    (void)args;
    return has_case(run, self, JINJA_UPPER, JINJA_LOWER);
}

TEST(filter)
{
    (void)run;
    (void)args;
    return jinja_bool(self.type == JINJA_STRING && jinja_filter(jinja_text(self)));
}

TEST(test)
{
    (void)run;
    (void)args;
    return jinja_bool(self.type == JINJA_STRING && jinja_test(jinja_text(self)));
}

static const struct jinja_builtin tests[] = {
    {"!=", test_ne, "other", 1},
    {"<", test_lt, "other", 1},
    {"<=", test_le, "other", 1},
    {"==", test_eq, "other", 1},
    {">", test_gt, "other", 1},
    {">=", test_ge, "other", 1},
    {"boolean", test_boolean, "", 0},
    {"callable", test_callable, "", 0},
    {"defined", test_defined, "", 0},
    {"divisibleby", test_divisibleby, "num", 1},
    {"eq", test_eq, "other", 1},
    {"equalto", test_eq, "other", 1},
    {"escaped", test_escaped, "", 0},
    {"even", test_even, "", 0},
    {"false", test_is_false, "", 0},
    {"filter", test_filter, "", 0},
    {"float", test_float, "", 0},
    {"ge", test_ge, "other", 1},
    {"greaterthan", test_gt, "other", 1},
    {"gt", test_gt, "other", 1},
    {"in", test_in, "seq", 1},
    {"integer", test_integer, "", 0},
    {"iterable", test_iterable, "", 0},
    {"le", test_le, "other", 1},
    {"lessthan", test_lt, "other", 1},
    {"lower", test_lower, "", 0},
    {"lt", test_lt, "other", 1},
    {"mapping", test_mapping, "", 0},
    {"ne", test_ne, "other", 1},
    {"none", test_none, "", 0},
    {"number", test_number, "", 0},
    {"odd", test_odd, "", 0},
    {"sameas", test_sameas, "other", 1},
    {"sequence", test_sequence, "", 0},
    {"string", test_string, "", 0},
    {"test", test_test, "", 0},
    {"true", test_is_true, "", 0},
    {"undefined", test_undefined, "", 0},
    {"upper", test_upper, "", 0},
};

const struct jinja_builtin *jinja_test(struct str name)
{
    return jinja_builtin_find(tests, ARRAY_LEN(tests), name);
}
