/* jinja_parser_expr.c - expressions, in the reference's order of binding:
 * if-else < or < and < not < comparisons < + - < ~ < * / // % < ** < unary < . [] () < | and is. */
#include "engine/jinja_parser_internal.h"
#include "engine/jinja_run.h"

#include "shared/base/check.h"

static struct jinja_node *parse_unary(struct parser *p, bool with_filters);

static struct jinja_node *unary_node(struct parser *p, enum jinja_node_kind kind,
                                     struct jinja_node *a)
{
    struct jinja_node *node = parse_node(p, kind);
    node->a = a;
    return node;
}

/* Its place is that of its left side. */
static struct jinja_node *binary_node(struct parser *p, enum jinja_node_kind kind, enum jinja_op op,
                                      struct jinja_node *a, struct jinja_node *b)
{
    struct jinja_node *node = parse_node(p, kind);
    node->line = a->line;
    node->column = a->column;
    node->op = (uint8_t)op;
    node->a = a;
    node->b = b;
    return node;
}

/* ---- arguments ---- */

static void append_keyword(struct parser *p, struct jinja_node *call, struct str name,
                           struct jinja_node *value)
{
    if ((call->keyword_count & (call->keyword_count - 1)) == 0) { // 0, 1, 2, 4, ...: full
        uint32_t cap = call->keyword_count ? call->keyword_count * 2 : 1;
        struct jinja_keyword *grown = arena_alloc(p->arena, cap * sizeof *grown);
        if (call->keyword_count) memcpy(grown, call->keywords, call->keyword_count * sizeof *grown);
        call->keywords = grown;
    }
    call->keywords[call->keyword_count++] = (struct jinja_keyword){name, value};
}

/* "( ... )" into the node's list and keywords. */
static void parse_arguments(struct parser *p, struct jinja_node *call)
{
    parse_expect(p, JINJA_TOKEN_OP, "(");
    while (!p->code && !parse_is(p, JINJA_TOKEN_OP, ")")) {
        bool named = p->at->kind == JINJA_TOKEN_NAME && p->at[1].kind == JINJA_TOKEN_OP &&
                     str_equal(p->at[1].text, STR("="));
        if (parse_skip(p, JINJA_TOKEN_OP, "**")) {
            parse_append(p, &call->list, unary_node(p, JINJA_STAR_STAR, parse_expression(p)));
        } else if (parse_skip(p, JINJA_TOKEN_OP, "*")) {
            parse_append(p, &call->list, unary_node(p, JINJA_STAR, parse_expression(p)));
        } else if (named) {
            struct str name = parse_name(p);
            p->at++;
            append_keyword(p, call, name, parse_expression(p));
        } else {
            if (call->keyword_count)
                parse_fail(p, E_FORMAT, "a positional argument follows a named one");
            parse_append(p, &call->list, parse_expression(p));
        }
        if (!parse_skip(p, JINJA_TOKEN_OP, ",")) break;
    }
    parse_expect(p, JINJA_TOKEN_OP, ")");
}

/* ---- primaries ---- */

static struct jinja_node *const_node(struct parser *p, struct jinja_value value)
{
    struct jinja_node *node = parse_node(p, JINJA_CONST);
    node->value = value;
    return node;
}

static struct jinja_node *parse_identifier(struct parser *p)
{
    static const struct {
        const char *name;
        int value; // -1: none
    } words[] = {{"true", 1}, {"True", 1}, {"false", 0}, {"False", 0}, {"none", -1}, {"None", -1}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_equal(p->at->text, str_of(words[i].name))) {
            struct jinja_node *node =
                const_node(p, words[i].value < 0 ? jinja_none() : jinja_bool(words[i].value));
            p->at++;
            return node;
        }
    struct jinja_node *node = parse_node(p, JINJA_NAME);
    node->name = parse_name(p);
    if (p->macro) {
        p->macro->takes_varargs |= str_equal(node->name, STR("varargs"));
        p->macro->takes_kwargs |= str_equal(node->name, STR("kwargs"));
        p->macro->takes_caller |= str_equal(node->name, STR("caller"));
    }
    return node;
}

/* Adjacent literals are one. */
static struct jinja_node *parse_string(struct parser *p)
{
    struct jinja_node *node = const_node(p, jinja_str(p->at->text));
    struct str text = p->at++->text;
    while (p->at->kind == JINJA_TOKEN_STRING) {
        struct str more = p->at++->text;
        char *joined = arena_alloc(p->arena, text.len + more.len + 1);
        memcpy(joined, text.data, text.len);
        memcpy(joined + text.len, more.data, more.len);
        text = (struct str){joined, text.len + more.len};
    }
    node->value = jinja_str(text);
    return node;
}

static struct jinja_node *parse_list(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_ITEMS);
    node->op = JINJA_KIND_LIST;
    parse_expect(p, JINJA_TOKEN_OP, "[");
    while (!p->code && !parse_is(p, JINJA_TOKEN_OP, "]")) {
        parse_append(p, &node->list, parse_expression(p));
        if (!parse_skip(p, JINJA_TOKEN_OP, ",")) break;
    }
    parse_expect(p, JINJA_TOKEN_OP, "]");
    return node;
}

static struct jinja_node *parse_mapping(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_MAPPING);
    parse_expect(p, JINJA_TOKEN_OP, "{");
    while (!p->code && !parse_is(p, JINJA_TOKEN_OP, "}")) {
        parse_append(p, &node->list, parse_expression(p));
        parse_expect(p, JINJA_TOKEN_OP, ":");
        parse_append(p, &node->list, parse_expression(p));
        if (!parse_skip(p, JINJA_TOKEN_OP, ",")) break;
    }
    parse_expect(p, JINJA_TOKEN_OP, "}");
    return node;
}

static struct jinja_node *parse_parentheses(struct parser *p)
{
    struct jinja_node *node;
    parse_expect(p, JINJA_TOKEN_OP, "(");
    if (parse_is(p, JINJA_TOKEN_OP, ")")) {
        node = parse_node(p, JINJA_ITEMS);
        node->op = JINJA_KIND_TUPLE;
    } else {
        node = parse_tuple(p, true);
    }
    parse_expect(p, JINJA_TOKEN_OP, ")");
    return node;
}

static struct jinja_node *parse_primary(struct parser *p)
{
    struct jinja_node *node;
    switch (p->at->kind) {
    case JINJA_TOKEN_NAME:
        return parse_identifier(p);
    case JINJA_TOKEN_STRING:
        return parse_string(p);
    case JINJA_TOKEN_INT:
        node = const_node(p, jinja_int(p->at->integer));
        p->at++;
        return node;
    case JINJA_TOKEN_FLOAT:
        node = const_node(p, jinja_float(p->at->number));
        p->at++;
        return node;
    default:
        break;
    }
    if (parse_is(p, JINJA_TOKEN_OP, "(")) return parse_parentheses(p);
    if (parse_is(p, JINJA_TOKEN_OP, "[")) return parse_list(p);
    if (parse_is(p, JINJA_TOKEN_OP, "{")) return parse_mapping(p);
    parse_fail(p, E_FORMAT, "expected an expression");
    return const_node(p, jinja_none());
}

/* ---- behind a primary ---- */

static bool ends_slice_part(const struct parser *p)
{
    return parse_is(p, JINJA_TOKEN_OP, ":") || parse_is(p, JINJA_TOKEN_OP, "]") ||
           parse_is(p, JINJA_TOKEN_OP, ",");
}

/* Behind "[": an index or "start:stop:step". */
static struct jinja_node *parse_subscript(struct parser *p, struct jinja_node *object)
{
    struct jinja_node *first = ends_slice_part(p) ? NULL : parse_expression(p), *node;
    if (!parse_skip(p, JINJA_TOKEN_OP, ":")) {
        if (!first) {
            parse_fail(p, E_FORMAT, "expected an index");
            first = object;
        }
        node = binary_node(p, JINJA_ITEM, 0, object, first);
    } else {
        node = binary_node(p, JINJA_SLICE, 0, object, first);
        if (!ends_slice_part(p)) node->c = parse_expression(p);
        if (parse_skip(p, JINJA_TOKEN_OP, ":") && !ends_slice_part(p))
            node->d = parse_expression(p);
    }
    parse_expect(p, JINJA_TOKEN_OP, "]");
    return node;
}

static struct jinja_node *parse_member(struct parser *p, struct jinja_node *object)
{
    struct jinja_node *node;
    if (p->at->kind == JINJA_TOKEN_INT) { // list.0
        node = binary_node(p, JINJA_ITEM, 0, object, const_node(p, jinja_int(p->at->integer)));
        p->at++;
        return node;
    }
    node = parse_node(p, JINJA_ATTR);
    node->a = object;
    node->name = parse_name(p);
    return node;
}

static struct jinja_node *parse_call(struct parser *p, struct jinja_node *callee)
{
    struct jinja_node *node = unary_node(p, JINJA_CALL, callee);
    parse_arguments(p, node);
    return node;
}

static struct jinja_node *parse_postfix(struct parser *p, struct jinja_node *node)
{
    while (!p->code) {
        if (parse_skip(p, JINJA_TOKEN_OP, "."))
            node = parse_member(p, node);
        else if (parse_skip(p, JINJA_TOKEN_OP, "["))
            node = parse_subscript(p, node);
        else if (parse_is(p, JINJA_TOKEN_OP, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* "name" and "name(...)" behind "|", or where a filter block begins. */
static struct jinja_node *parse_filter(struct parser *p, struct jinja_node *subject)
{
    struct jinja_node *node = unary_node(p, JINJA_FILTER, subject);
    node->name = parse_name(p);
    node->builtin = jinja_filter(node->name);
    if (parse_is(p, JINJA_TOKEN_OP, "(")) parse_arguments(p, node);
    return node;
}

struct jinja_node *parse_filters(struct parser *p, struct jinja_node *subject)
{
    struct jinja_node *node = parse_filter(p, subject);
    while (!p->code && parse_skip(p, JINJA_TOKEN_OP, "|"))
        node = parse_filter(p, node);
    return node;
}

/* Whether the token begins the one argument of a test without parentheses: "is divisibleby 3". */
static bool begins_test_argument(const struct parser *p)
{
    static const char *const words[] = {"else", "or", "and", "is"};
    switch (p->at->kind) {
    case JINJA_TOKEN_NAME:
        for (size_t i = 0; i < ARRAY_LEN(words); i++)
            if (str_equal(p->at->text, str_of(words[i]))) return false;
        /* "x is defined if y": the reference takes "if" for an argument and fails; so do we not. */
        return !str_equal(p->at->text, STR("if")) && !str_equal(p->at->text, STR("in")) &&
               !str_equal(p->at->text, STR("not"));
    case JINJA_TOKEN_STRING:
    case JINJA_TOKEN_INT:
    case JINJA_TOKEN_FLOAT:
        return true;
    default:
        return parse_is(p, JINJA_TOKEN_OP, "[") || parse_is(p, JINJA_TOKEN_OP, "{");
    }
}

/* Behind "is". */
static struct jinja_node *parse_test(struct parser *p, struct jinja_node *subject)
{
    bool negated = parse_skip(p, JINJA_TOKEN_NAME, "not");
    struct jinja_node *node = unary_node(p, JINJA_TEST, subject);
    node->name = parse_name(p);
    node->builtin = jinja_test(node->name);
    if (parse_is(p, JINJA_TOKEN_OP, "("))
        parse_arguments(p, node);
    else if (begins_test_argument(p))
        parse_append(p, &node->list, parse_postfix(p, parse_primary(p)));
    return negated ? unary_node(p, JINJA_NOT, node) : node;
}

static struct jinja_node *parse_filters_and_tests(struct parser *p, struct jinja_node *node)
{
    while (!p->code) {
        if (parse_skip(p, JINJA_TOKEN_OP, "|"))
            node = parse_filter(p, node);
        else if (parse_skip(p, JINJA_TOKEN_NAME, "is"))
            node = parse_test(p, node);
        else if (parse_is(p, JINJA_TOKEN_OP, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* ---- operators ---- */

static struct jinja_node *parse_unary(struct parser *p, bool with_filters)
{
    struct jinja_node *node;
    if (!parse_enter(p)) {
        parse_leave(p);
        return const_node(p, jinja_none());
    }
    if (parse_skip(p, JINJA_TOKEN_OP, "-"))
        node = unary_node(p, JINJA_NEGATE, parse_unary(p, false));
    else if (parse_skip(p, JINJA_TOKEN_OP, "+"))
        node = unary_node(p, JINJA_PLUS, parse_unary(p, false));
    else
        node = parse_primary(p);
    node = parse_postfix(p, node);
    if (with_filters) node = parse_filters_and_tests(p, node);
    parse_leave(p);
    return node;
}

/* Left-associative operators of one level; the loosest is level 0. */
static const struct {
    const char *text;
    int level;
    enum jinja_op op;
} binaries[] = {
    {"+", 0, JINJA_OP_ADD},  {"-", 0, JINJA_OP_SUB}, {"*", 2, JINJA_OP_MUL},
    {"/", 2, JINJA_OP_DIV},  {"%", 2, JINJA_OP_MOD}, {"//", 2, JINJA_OP_FLOORDIV},
    {"**", 3, JINJA_OP_POW},
};
enum { LEVEL_CONCAT = 1, LEVEL_UNARY = 4 };

static bool take_binary(struct parser *p, int level, enum jinja_op *op)
{
    if (p->at->kind != JINJA_TOKEN_OP) return false;
    for (size_t i = 0; i < ARRAY_LEN(binaries); i++)
        if (binaries[i].level == level && parse_skip(p, JINJA_TOKEN_OP, binaries[i].text)) {
            *op = binaries[i].op;
            return true;
        }
    return false;
}

static struct jinja_node *parse_level(struct parser *p, int level)
{
    enum jinja_op op;
    if (level == LEVEL_UNARY) return parse_unary(p, true);
    struct jinja_node *node = parse_level(p, level + 1);
    if (level == LEVEL_CONCAT && parse_is(p, JINJA_TOKEN_OP, "~")) {
        struct jinja_node *concat = parse_node(p, JINJA_CONCAT);
        parse_append(p, &concat->list, node);
        while (!p->code && parse_skip(p, JINJA_TOKEN_OP, "~"))
            parse_append(p, &concat->list, parse_level(p, level + 1));
        return concat;
    }
    while (!p->code && take_binary(p, level, &op))
        node = binary_node(p, JINJA_BINARY, op, node, parse_level(p, level + 1));
    return node;
}

static bool take_comparison(struct parser *p, enum jinja_op *op)
{
    static const struct {
        const char *text;
        enum jinja_op op;
    } operators[] = {{"==", JINJA_OP_EQ}, {"!=", JINJA_OP_NE}, {"<=", JINJA_OP_LE},
                     {">=", JINJA_OP_GE}, {"<", JINJA_OP_LT},  {">", JINJA_OP_GT}};
    for (size_t i = 0; i < ARRAY_LEN(operators); i++)
        if (parse_skip(p, JINJA_TOKEN_OP, operators[i].text)) {
            *op = operators[i].op;
            return true;
        }
    if (parse_skip(p, JINJA_TOKEN_NAME, "in")) {
        *op = JINJA_OP_IN;
        return true;
    }
    if (parse_is(p, JINJA_TOKEN_NAME, "not") && p->at[1].kind == JINJA_TOKEN_NAME &&
        str_equal(p->at[1].text, STR("in"))) {
        p->at += 2;
        *op = JINJA_OP_NOT_IN;
        return true;
    }
    return false;
}

static struct jinja_node *parse_comparison(struct parser *p)
{
    struct jinja_node *node = parse_level(p, 0);
    enum jinja_op op;
    if (!take_comparison(p, &op)) return node;
    struct jinja_node *compare = binary_node(p, JINJA_COMPARE, 0, node, NULL);
    do {
        struct jinja_node *operand = parse_node(p, JINJA_COMPARISON);
        operand->op = (uint8_t)op;
        operand->a = parse_level(p, 0);
        parse_append(p, &compare->list, operand);
    } while (!p->code && take_comparison(p, &op));
    return compare;
}

static struct jinja_node *parse_not(struct parser *p)
{
    if (!parse_is(p, JINJA_TOKEN_NAME, "not")) return parse_comparison(p);
    p->at++;
    struct jinja_node *node = NULL;
    if (parse_enter(p)) node = parse_not(p);
    parse_leave(p);
    return unary_node(p, JINJA_NOT, node ? node : const_node(p, jinja_none()));
}

static struct jinja_node *parse_and(struct parser *p)
{
    struct jinja_node *node = parse_not(p);
    while (!p->code && parse_skip(p, JINJA_TOKEN_NAME, "and"))
        node = binary_node(p, JINJA_AND, 0, node, parse_not(p));
    return node;
}

static struct jinja_node *parse_or(struct parser *p)
{
    struct jinja_node *node = parse_and(p);
    while (!p->code && parse_skip(p, JINJA_TOKEN_NAME, "or"))
        node = binary_node(p, JINJA_OR, 0, node, parse_and(p));
    return node;
}

struct jinja_node *parse_expression(struct parser *p)
{
    struct jinja_node *node = NULL;
    if (!parse_enter(p)) {
        parse_leave(p);
        return const_node(p, jinja_none());
    }
    node = parse_or(p);
    while (!p->code && parse_skip(p, JINJA_TOKEN_NAME, "if")) {
        node = binary_node(p, JINJA_IF_ELSE, 0, node, parse_or(p));
        if (parse_skip(p, JINJA_TOKEN_NAME, "else")) node->c = parse_expression(p);
    }
    parse_leave(p);
    return node;
}

/* ---- tuples and targets ---- */

static bool ends_tuple(const struct parser *p)
{
    return p->at->kind == JINJA_TOKEN_PRINT_END || p->at->kind == JINJA_TOKEN_BLOCK_END ||
           parse_is(p, JINJA_TOKEN_OP, ")") || parse_is(p, JINJA_TOKEN_NAME, "in") ||
           parse_is(p, JINJA_TOKEN_NAME, "recursive");
}

/* first has been parsed and a comma follows: the rest of the tuple. */
static struct jinja_node *tuple_from(struct parser *p, struct jinja_node *first,
                                     struct jinja_node *(*element)(struct parser *p))
{
    struct jinja_node *tuple = parse_node(p, JINJA_ITEMS);
    tuple->op = JINJA_KIND_TUPLE;
    parse_append(p, &tuple->list, first);
    while (!p->code && parse_skip(p, JINJA_TOKEN_OP, ",")) {
        if (ends_tuple(p)) break;
        parse_append(p, &tuple->list, element(p));
    }
    return tuple;
}

struct jinja_node *parse_tuple(struct parser *p, bool with_if)
{
    struct jinja_node *(*element)(struct parser *) = with_if ? parse_expression : parse_or;
    struct jinja_node *first = element(p);
    return parse_is(p, JINJA_TOKEN_OP, ",") ? tuple_from(p, first, element) : first;
}

static struct jinja_node *parse_target_name(struct parser *p)
{
    if (parse_skip(p, JINJA_TOKEN_OP, "(")) {
        struct jinja_node *inner = NULL;
        if (parse_enter(p)) inner = parse_target(p, false);
        parse_leave(p);
        parse_expect(p, JINJA_TOKEN_OP, ")");
        return inner ? inner : parse_node(p, JINJA_NAME);
    }
    struct jinja_node *node = parse_node(p, JINJA_NAME);
    node->name = parse_name(p);
    return node;
}

struct jinja_node *parse_target(struct parser *p, bool with_namespace)
{
    struct jinja_node *first = parse_target_name(p);
    if (with_namespace && first->kind == JINJA_NAME && parse_skip(p, JINJA_TOKEN_OP, ".")) {
        struct jinja_node *node = parse_node(p, JINJA_NAMESPACE_REF);
        node->name = first->name;
        node->b = parse_node(p, JINJA_NAME);
        node->b->name = parse_name(p);
        return node;
    }
    return parse_is(p, JINJA_TOKEN_OP, ",") ? tuple_from(p, first, parse_target_name) : first;
}
