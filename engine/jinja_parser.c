#include "engine/jinja_parser.h"

#include "engine/jinja_parser_internal.h"
#include "shared/base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- basics ---- */

void parse_fail(struct parser *p, int code, const char *fmt, ...)
{
    if (p->code) return;
    char text[300];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->code = error_set(p->err, code, "chat template %u:%u: %s", p->at->line, p->at->column, text);
    while (p->at->kind != JINJA_TOKEN_END)
        p->at++;
}

bool parse_enter(struct parser *p)
{
    if (++p->depth > PARSE_DEPTH_MAX)
        parse_fail(p, E_LIMIT, "more than %d levels deep", PARSE_DEPTH_MAX);
    return !p->code;
}

void parse_leave(struct parser *p)
{
    p->depth--;
}

struct jinja_node *parse_node(struct parser *p, enum jinja_node_kind kind)
{
    struct jinja_node *node = arena_alloc(p->arena, sizeof *node);
    node->kind = (uint8_t)kind;
    node->line = p->at->line;
    node->column = p->at->column;
    return node;
}

bool parse_is(const struct parser *p, enum jinja_token_kind kind, const char *text)
{
    return p->at->kind == kind && str_equal(p->at->text, str_of(text));
}

bool parse_skip(struct parser *p, enum jinja_token_kind kind, const char *text)
{
    if (!parse_is(p, kind, text)) return false;
    p->at++;
    return true;
}

/* What stands here, for error texts. */
static struct str describe(const struct jinja_token *token)
{
    switch (token->kind) {
    case JINJA_TOKEN_END:
        return STR("the end of the template");
    case JINJA_TOKEN_PRINT_END:
        return STR("}}");
    case JINJA_TOKEN_BLOCK_END:
        return STR("%}");
    case JINJA_TOKEN_PRINT_BEGIN:
        return STR("{{");
    case JINJA_TOKEN_BLOCK_BEGIN:
        return STR("{%");
    default:
        return (struct str){token->text.data, token->text.len < 40 ? token->text.len : 40};
    }
}

void parse_expect(struct parser *p, enum jinja_token_kind kind, const char *text)
{
    if (parse_skip(p, kind, text)) return;
    if (!*text) text = kind == JINJA_TOKEN_BLOCK_END ? "%}" : "}}";
    struct str found = describe(p->at);
    parse_fail(p, E_FORMAT, "expected '%s', found '%.*s'", text, (int)found.len, found.data);
}

struct str parse_name(struct parser *p)
{
    if (p->at->kind == JINJA_TOKEN_NAME) return p->at++->text;
    struct str found = describe(p->at);
    parse_fail(p, E_FORMAT, "expected a name, found '%.*s'", (int)found.len, found.data);
    return STR("");
}

void parse_append(struct parser *p, struct jinja_nodes *list, struct jinja_node *node)
{
    if ((list->count & (list->count - 1)) == 0) { // 0, 1, 2, 4, ...: full
        uint32_t cap = list->count ? list->count * 2 : 1;
        struct jinja_node **grown = arena_alloc(p->arena, cap * sizeof *grown);
        if (list->count) memcpy(grown, list->items, list->count * sizeof *grown);
        list->items = grown;
    }
    list->items[list->count++] = node;
}

/* ---- statements ---- */

static void parse_body(struct parser *p, struct jinja_nodes *body, const char *const *ends);

/* The end of a tag, a body, and the beginning of the tag that ends it; its word is skipped. */
static void parse_block(struct parser *p, struct jinja_nodes *body, const char *end)
{
    const char *const ends[] = {end, NULL};
    parse_expect(p, JINJA_TOKEN_BLOCK_END, "");
    parse_body(p, body, ends);
    parse_expect(p, JINJA_TOKEN_NAME, end);
}

static struct jinja_node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct jinja_node *node = parse_node(p, JINJA_IF);
    bool more = true;
    while (more && !p->code) {
        struct jinja_node *branch = parse_node(p, JINJA_BRANCH);
        branch->a = parse_tuple(p, false);
        parse_expect(p, JINJA_TOKEN_BLOCK_END, "");
        parse_body(p, &branch->body, ends);
        parse_append(p, &node->list, branch);
        more = parse_skip(p, JINJA_TOKEN_NAME, "elif");
    }
    if (parse_skip(p, JINJA_TOKEN_NAME, "else")) {
        struct jinja_node *branch = parse_node(p, JINJA_BRANCH);
        parse_block(p, &branch->body, "endif");
        parse_append(p, &node->list, branch);
    } else {
        parse_expect(p, JINJA_TOKEN_NAME, "endif");
    }
    return node;
}

static struct jinja_node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct jinja_node *node = parse_node(p, JINJA_FOR);
    node->a = parse_target(p, false);
    parse_expect(p, JINJA_TOKEN_NAME, "in");
    node->b = parse_tuple(p, false);
    if (parse_skip(p, JINJA_TOKEN_NAME, "if")) node->c = parse_expression(p);
    if (parse_is(p, JINJA_TOKEN_NAME, "recursive"))
        parse_fail(p, E_UNSUPPORTED, "recursive loops are not supported");
    parse_expect(p, JINJA_TOKEN_BLOCK_END, "");
    p->loops++;
    parse_body(p, &node->body, ends);
    p->loops--;
    if (parse_skip(p, JINJA_TOKEN_NAME, "else"))
        parse_block(p, &node->other, "endfor");
    else
        parse_expect(p, JINJA_TOKEN_NAME, "endfor");
    return node;
}

static struct jinja_node *parse_set(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_SET);
    node->a = parse_target(p, true);
    if (parse_skip(p, JINJA_TOKEN_OP, "=")) {
        node->b = parse_tuple(p, true);
        return node;
    }
    node->kind = JINJA_SET_BLOCK;
    if (parse_skip(p, JINJA_TOKEN_OP, "|")) node->b = parse_filters(p, NULL);
    parse_block(p, &node->body, "endset");
    return node;
}

/* "(a, b=1)": NAME nodes whose a is the default. */
static void parse_parameters(struct parser *p, struct jinja_nodes *list)
{
    bool defaults = false;
    parse_expect(p, JINJA_TOKEN_OP, "(");
    while (!p->code && !parse_is(p, JINJA_TOKEN_OP, ")")) {
        struct jinja_node *parameter = parse_node(p, JINJA_NAME);
        parameter->name = parse_name(p);
        if (parse_skip(p, JINJA_TOKEN_OP, "=")) {
            parameter->a = parse_expression(p);
            defaults = true;
        } else if (defaults) {
            parse_fail(p, E_FORMAT, "a parameter without default follows one with");
        }
        parse_append(p, list, parameter);
        if (!parse_skip(p, JINJA_TOKEN_OP, ",")) break;
    }
    parse_expect(p, JINJA_TOKEN_OP, ")");
}

/* A body of its own: break doesn't reach through it, and it has its own varargs and caller. */
static void parse_macro_body(struct parser *p, struct jinja_node *macro, const char *end)
{
    struct jinja_node *outer = p->macro;
    int loops = p->loops;
    p->macro = macro;
    p->loops = 0;
    parse_block(p, &macro->body, end);
    p->macro = outer;
    p->loops = loops;
}

static struct jinja_node *parse_macro(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_MACRO_DEF);
    node->name = parse_name(p);
    parse_parameters(p, &node->list);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static struct jinja_node *parse_call_block(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_CALL_BLOCK);
    node->name = STR("caller");
    if (parse_is(p, JINJA_TOKEN_OP, "(")) parse_parameters(p, &node->list);
    node->a = parse_expression(p);
    if (node->a->kind != JINJA_CALL) parse_fail(p, E_FORMAT, "expected a call");
    parse_macro_body(p, node, "endcall");
    return node;
}

static struct jinja_node *parse_filter_block(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_FILTER_BLOCK);
    node->a = parse_filters(p, NULL);
    parse_block(p, &node->body, "endfilter");
    return node;
}

static struct jinja_node *parse_with(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_WITH);
    while (!p->code && p->at->kind != JINJA_TOKEN_BLOCK_END) {
        if (node->list.count) parse_expect(p, JINJA_TOKEN_OP, ",");
        parse_append(p, &node->list, parse_target(p, false));
        parse_expect(p, JINJA_TOKEN_OP, "=");
        parse_append(p, &node->list, parse_expression(p));
    }
    parse_block(p, &node->body, "endwith");
    return node;
}

/* Marks what an assistant wrote, for training; the text is the same with and without. */
static struct jinja_node *parse_generation(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_BLOCK);
    parse_block(p, &node->body, "endgeneration");
    return node;
}

static struct jinja_node *parse_break(struct parser *p)
{
    if (!p->loops) parse_fail(p, E_FORMAT, "'break' outside of a loop");
    return parse_node(p, JINJA_BREAK);
}

static struct jinja_node *parse_continue(struct parser *p)
{
    if (!p->loops) parse_fail(p, E_FORMAT, "'continue' outside of a loop");
    return parse_node(p, JINJA_CONTINUE);
}

/* "print a, b" writes one after the other, unlike "{{ a, b }}". */
static struct jinja_node *parse_print(struct parser *p)
{
    struct jinja_node *node = parse_node(p, JINJA_PRINT);
    node->a = parse_node(p, JINJA_CONCAT);
    do {
        parse_append(p, &node->a->list, parse_expression(p));
    } while (!p->code && parse_skip(p, JINJA_TOKEN_OP, ","));
    return node;
}

static struct jinja_node *parse_statement(struct parser *p)
{
    static const struct {
        const char *word;
        struct jinja_node *(*parse)(struct parser *p); // behind the word
    } statements[] = {
        {"if", parse_if},           {"for", parse_for},
        {"set", parse_set},         {"macro", parse_macro},
        {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},       {"generation", parse_generation},
        {"break", parse_break},     {"continue", parse_continue},
        {"print", parse_print},
    };
    for (size_t i = 0; i < ARRAY_LEN(statements); i++)
        if (parse_skip(p, JINJA_TOKEN_NAME, statements[i].word)) return statements[i].parse(p);
    static const char *const files[] = {"include", "import", "from", "extends", "block"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (parse_is(p, JINJA_TOKEN_NAME, files[i]))
            parse_fail(p, E_UNSUPPORTED, "'%s' is not supported: templates stand alone", files[i]);
    struct str found = describe(p->at);
    parse_fail(p, E_FORMAT, "unknown tag '%.*s'", (int)found.len, found.data);
    return parse_node(p, JINJA_BLOCK);
}

/* At "{%": whether one of the words follows that end the body. */
static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (p->at[1].kind == JINJA_TOKEN_NAME && str_equal(p->at[1].text, str_of(*ends)))
            return true;
    return false;
}

/* Text and tags up to "{%" and one of `ends`; the parser then stands at that word. ends NULL: up to
 * the end of the template. */
static void parse_body(struct parser *p, struct jinja_nodes *body, const char *const *ends)
{
    if (!parse_enter(p)) {
        parse_leave(p);
        return;
    }
    for (;;) {
        struct jinja_node *node;
        if (p->at->kind == JINJA_TOKEN_TEXT) {
            node = parse_node(p, JINJA_TEXT);
            node->value = jinja_str(p->at->text);
            p->at++;
        } else if (p->at->kind == JINJA_TOKEN_PRINT_BEGIN) {
            p->at++;
            node = parse_node(p, JINJA_PRINT);
            node->a = parse_tuple(p, true);
            parse_expect(p, JINJA_TOKEN_PRINT_END, "");
        } else if (p->at->kind == JINJA_TOKEN_BLOCK_BEGIN) {
            bool ends_here = at_end(p, ends);
            p->at++;
            if (ends_here) break;
            node = parse_statement(p);
            parse_expect(p, JINJA_TOKEN_BLOCK_END, "");
        } else {
            if (ends) parse_fail(p, E_FORMAT, "'%s' is missing", ends[0]);
            break;
        }
        parse_append(p, body, node);
    }
    parse_leave(p);
}

int jinja_parse_source(struct str source, struct arena *arena, struct jinja_nodes *out,
                       struct error *err)
{
    struct jinja_tokens tokens;
    int rc = jinja_lex(source, arena, &tokens, err);
    if (!rc) {
        struct parser p = {.tokens = tokens.list, .at = tokens.list, .arena = arena, .err = err};
        *out = (struct jinja_nodes){NULL, 0};
        parse_body(&p, out, NULL);
        rc = p.code;
    }
    free(tokens.list);
    return rc;
}
