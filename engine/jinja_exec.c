/* jinja_exec.c - what statements do: text out, branches, loops, assignments, macros. */
#include "engine/jinja_run.h"

#include "shared/base/check.h"

static void exec_node(struct jinja_run *run, const struct jinja_node *node);

void jinja_exec(struct jinja_run *run, const struct jinja_nodes *body)
{
    for (uint32_t i = 0; i < body->count && !run->code && run->flow == JINJA_FLOW_ON; i++)
        exec_node(run, body->items[i]);
}

/* Run the body in a scope of its own and give what it writes. */
static struct jinja_value capture(struct jinja_run *run, const struct jinja_nodes *body,
                                  struct jinja_scope *scope)
{
    struct jinja_scope *outer_scope = run->scope;
    struct buf *outer_out = run->out;
    struct buf text;
    jinja_buf_init(&text);
    run->scope = scope;
    run->out = &text;
    jinja_exec(run, body);
    run->scope = outer_scope;
    run->out = outer_out;
    return jinja_buf_take(run, &text);
}

/* ---- assignments ---- */

static void assign(struct jinja_run *run, const struct jinja_node *target, struct jinja_value v)
{
    if (run->code) return;
    if (target->kind == JINJA_NAME) {
        jinja_assign(run, run->scope, target->name, v);
        return;
    }
    if (target->kind == JINJA_NAMESPACE_REF) {
        const struct jinja_value *object = jinja_lookup(run, target->name);
        if (object && object->type == JINJA_NAMESPACE)
            jinja_dict_put(run, object->dict, jinja_str(target->b->name), v);
        else
            jinja_fail(run, E_INVALID, "attributes can only be set on namespace objects");
        return;
    }
    const struct jinja_list *values = jinja_iterate(run, v);
    if (!run->code && values->count != target->list.count)
        jinja_fail(run, E_INVALID, "%u values to unpack, expected %u", values->count,
                   target->list.count);
    for (uint32_t i = 0; i < target->list.count && !run->code; i++)
        assign(run, target->list.items[i], values->items[i]);
}

static void exec_set_block(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value text = capture(run, &node->body, jinja_scope_push(run, run->scope));
    if (node->b) text = jinja_filter_text(run, node->b, text);
    assign(run, node->a, text);
}

/* ---- loops ---- */

/* Elements for which the loop's own condition holds. */
static struct jinja_list *filter_items(struct jinja_run *run, const struct jinja_node *node,
                                       const struct jinja_list *items)
{
    struct jinja_value kept = jinja_new_list(run, items->count, JINJA_KIND_LIST);
    struct jinja_scope *outer = run->scope, *inner = jinja_scope_push(run, outer);
    uint32_t count = 0;
    for (uint32_t i = 0; i < kept.list->count && !run->code; i++) {
        jinja_dict_clear(&inner->variables);
        run->scope = inner;
        assign(run, node->a, items->items[i]);
        if (!run->code && jinja_truth(jinja_eval(run, node->c)))
            kept.list->items[count++] = items->items[i];
        run->scope = outer;
    }
    kept.list->count = count;
    return kept.list;
}

static void exec_for(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value over = jinja_eval(run, node->b);
    if (run->code) return;
    struct jinja_list *items = jinja_iterate(run, over);
    if (node->c && !run->code) items = filter_items(run, node, items);
    struct jinja_scope *outer = run->scope, *inner = jinja_scope_push(run, outer);
    struct jinja_loop *loop = jinja_alloc(run, 1, sizeof *loop);
    if (run->code) return;
    loop->items = items;
    for (uint32_t i = 0; i < items->count && jinja_step(run, 1); i++) {
        loop->index = i;
        jinja_dict_clear(&inner->variables); // what the body sets doesn't reach its next turn
        run->scope = inner;
        jinja_assign(run, inner, STR("loop"),
                     (struct jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign(run, node->a, items->items[i]);
        jinja_exec(run, &node->body);
        run->scope = outer;
        enum jinja_flow flow = run->flow;
        run->flow = JINJA_FLOW_ON;
        if (flow == JINJA_FLOW_BREAK) break;
    }
    if (!items->count) {
        run->scope = inner;
        jinja_exec(run, &node->other);
        run->scope = outer;
    }
}

/* ---- macros ---- */

static struct jinja_value new_macro(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_macro *macro = jinja_alloc(run, 1, sizeof *macro);
    if (!macro) return jinja_none();
    *macro = (struct jinja_macro){node, run->scope};
    return (struct jinja_value){.type = JINJA_MACRO, .macro = macro};
}

static const struct jinja_value *find_named(const struct jinja_args *args, struct str name)
{
    for (uint32_t i = 0; i < args->named_count; i++)
        if (str_equal(args->named[i].name, name)) return &args->named[i].value;
    return NULL;
}

static bool is_parameter(const struct jinja_node *macro, struct str name)
{
    for (uint32_t i = 0; i < macro->list.count; i++)
        if (str_equal(macro->list.items[i]->name, name)) return true;
    return false;
}

/* Arguments beyond the parameters: into varargs, kwargs and caller where the body uses them. */
static void bind_rest(struct jinja_run *run, const struct jinja_node *macro,
                      const struct jinja_args *args)
{
    uint32_t named = macro->list.count;
    if (args->count > named && !macro->takes_varargs)
        jinja_fail(run, E_INVALID, "macro '%.*s' takes not more than %u arguments",
                   (int)macro->name.len, macro->name.data, named);
    uint32_t rest = args->count > named ? args->count - named : 0;
    struct jinja_value varargs = jinja_new_list(run, rest, JINJA_KIND_TUPLE);
    for (uint32_t i = 0; i < varargs.list->count; i++)
        varargs.list->items[i] = args->list[named + i];
    struct jinja_value kwargs = jinja_new_dict(run, JINJA_DICT);
    for (uint32_t i = 0; i < args->named_count && !run->code; i++) {
        struct str name = args->named[i].name;
        if (is_parameter(macro, name)) continue;
        if (str_equal(name, STR("caller")))
            jinja_assign(run, run->scope, name, args->named[i].value);
        else if (macro->takes_kwargs)
            jinja_dict_put(run, kwargs.dict, jinja_str(name), args->named[i].value);
        else
            jinja_fail(run, E_INVALID, "macro '%.*s' takes no argument '%.*s'",
                       (int)macro->name.len, macro->name.data, (int)(name.len < 60 ? name.len : 60),
                       name.data);
    }
    if (macro->takes_varargs) jinja_assign(run, run->scope, STR("varargs"), varargs);
    if (macro->takes_kwargs) jinja_assign(run, run->scope, STR("kwargs"), kwargs);
}

/* run->scope is the macro's own: defaults may refer to parameters in front of them. */
static void bind_parameters(struct jinja_run *run, const struct jinja_node *macro,
                            const struct jinja_args *args)
{
    for (uint32_t i = 0; i < macro->list.count && !run->code; i++) {
        const struct jinja_node *parameter = macro->list.items[i];
        const struct jinja_value *named = find_named(args, parameter->name);
        struct jinja_value v = jinja_undefined(JINJA_UNDEFINED_NAME, parameter->name);
        if (i < args->count && named)
            jinja_fail(run, E_INVALID, "argument '%.*s' is given twice", (int)parameter->name.len,
                       parameter->name.data);
        else if (i < args->count)
            v = args->list[i];
        else if (named)
            v = *named;
        else if (parameter->a)
            v = jinja_eval(run, parameter->a);
        jinja_assign(run, run->scope, parameter->name, v);
    }
    if (!run->code) bind_rest(run, macro, args);
}

struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args)
{
    struct jinja_value text = jinja_str(STR(""));
    struct jinja_scope *outer = run->scope;
    if (jinja_enter(run) && jinja_step(run, 1)) {
        struct jinja_scope *inner = run->scope = jinja_scope_push(run, macro->scope);
        if (inner) bind_parameters(run, macro->node, args);
        if (!run->code) text = capture(run, &macro->node->body, inner);
    }
    jinja_leave(run);
    run->scope = outer;
    return text;
}

static void exec_call_block(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(run, node->a->a);
    struct jinja_args args = jinja_eval_args(run, node->a);
    struct jinja_named *named = jinja_alloc(run, (size_t)args.named_count + 1, sizeof *named);
    if (!named) return;
    if (args.named_count) memcpy(named, args.named, args.named_count * sizeof *named);
    named[args.named_count++] = (struct jinja_named){STR("caller"), new_macro(run, node)};
    args.named = named;
    if (!run->code) jinja_print(run, jinja_call(run, callee, &args), run->out);
}

/* ---- the rest ---- */

struct jinja_value jinja_filter_text(struct jinja_run *run, const struct jinja_node *filter,
                                     struct jinja_value text)
{
    if (filter->a) text = jinja_filter_text(run, filter->a, text);
    if (!filter->builtin)
        return jinja_fail(run, E_UNSUPPORTED, "no filter named '%.*s'",
                          (int)(filter->name.len < 60 ? filter->name.len : 60), filter->name.data);
    struct jinja_args args = jinja_eval_args(run, filter);
    return jinja_call_builtin(run, filter->builtin, text, &args);
}

static void exec_if(struct jinja_run *run, const struct jinja_node *node)
{
    for (uint32_t i = 0; i < node->list.count && !run->code; i++) {
        const struct jinja_node *branch = node->list.items[i];
        if (branch->a && !jinja_truth(jinja_eval(run, branch->a))) continue;
        if (!run->code) jinja_exec(run, &branch->body);
        return;
    }
}

static void exec_inner(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_scope *outer = run->scope, *inner = jinja_scope_push(run, outer);
    if (!inner) return;
    for (uint32_t i = 0; i + 1 < node->list.count && !run->code; i += 2) { // of "with"
        struct jinja_value v = jinja_eval(run, node->list.items[i + 1]);
        run->scope = inner;
        assign(run, node->list.items[i], v);
        run->scope = outer;
    }
    run->scope = inner;
    jinja_exec(run, &node->body);
    run->scope = outer;
}

static void exec_statement(struct jinja_run *run, const struct jinja_node *node)
{
    struct jinja_value v;
    switch ((enum jinja_node_kind)node->kind) {
    case JINJA_TEXT:
        jinja_print(run, node->value, run->out);
        break;
    case JINJA_PRINT:
        v = jinja_eval(run, node->a);
        if (!run->code) jinja_print(run, v, run->out);
        break;
    case JINJA_IF:
        exec_if(run, node);
        break;
    case JINJA_FOR:
        exec_for(run, node);
        break;
    case JINJA_SET:
        assign(run, node->a, jinja_eval(run, node->b));
        break;
    case JINJA_SET_BLOCK:
        exec_set_block(run, node);
        break;
    case JINJA_MACRO_DEF:
        jinja_assign(run, run->scope, node->name, new_macro(run, node));
        break;
    case JINJA_CALL_BLOCK:
        exec_call_block(run, node);
        break;
    case JINJA_FILTER_BLOCK:
        v = capture(run, &node->body, jinja_scope_push(run, run->scope));
        v = jinja_filter_text(run, node->a, v);
        if (!run->code) jinja_print(run, v, run->out);
        break;
    case JINJA_WITH:
    case JINJA_BLOCK:
        exec_inner(run, node);
        break;
    case JINJA_BREAK:
        run->flow = JINJA_FLOW_BREAK;
        break;
    case JINJA_CONTINUE:
        run->flow = JINJA_FLOW_CONTINUE;
        break;
    default:
        jinja_fail(run, E_FORMAT, "not a statement");
    }
}

static void exec_node(struct jinja_run *run, const struct jinja_node *node)
{
    const struct jinja_node *outer = run->at;
    run->at = node;
    if (jinja_enter(run) && jinja_step(run, 1)) exec_statement(run, node);
    jinja_leave(run);
    run->at = outer;
}
