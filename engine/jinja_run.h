/* jinja_run.h - one rendering in progress: its memory, limits, error and scopes.
 *
 * Rules:
 *  1. Errors are sticky: jinja_fail() keeps the first one, run->code is set from then on, and
 *     whoever loops looks at it. Values made after a failure are undefined and nobody uses them.
 *  2. Everything comes from run->arena, which is bounded by JINJA_MEMORY_MAX; buffers are bounded
 *     too.
 *  3. Every node, element and stretch of text costs a step; JINJA_STEPS_MAX ends any loop.
 *  4. Recursion (nodes, macros, printing nested values) counts depth; JINJA_DEPTH_MAX is far
 *     from the end of a thread's stack. */
#ifndef LM_ENGINE_JINJA_RUN_H
#define LM_ENGINE_JINJA_RUN_H

#include "engine/jinja_ast.h"
#include "engine/jinja_value.h"
#include "shared/base/arena.h"

/* Fuzzers would only wait for the real ones. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define JINJA_MEMORY_MAX ((size_t)16 << 20)
#define JINJA_STEPS_MAX  ((uint64_t)100 * 1000)
#else
#define JINJA_MEMORY_MAX ((size_t)256 << 20)
#define JINJA_STEPS_MAX  ((uint64_t)10 * 1000 * 1000)
#endif
#define JINJA_DEPTH_MAX 600
#define JINJA_RANGE_MAX 100000 // as in the reference's sandbox
#define JINJA_TEXT_STEP 64     // bytes of text, copied or searched, that cost one step
#define JINJA_CHAR_STEP 4      // the same where characters are looked at one by one

struct jinja_scope {
    struct jinja_scope *parent; // NULL: the outermost
    struct jinja_dict variables;
};

enum jinja_flow { JINJA_FLOW_ON, JINJA_FLOW_BREAK, JINJA_FLOW_CONTINUE };

struct jinja_run {
    struct arena arena;
    int code; // 0, or the first failure
    struct error *err;
    const struct jinja_node *at; // being evaluated; its place goes into error texts
    struct buf *out;             // where statements write
    struct jinja_scope *scope;
    enum jinja_flow flow; // BREAK, CONTINUE: on the way out to the innermost loop
    uint64_t steps;
    int depth;
    int64_t now; // for strftime_now
    uint8_t hash_key[16];
    struct jinja_list spare_list; // stand-ins for what there was no memory for
    struct jinja_dict spare_dict;
};

struct jinja_macro {
    const struct jinja_node *node; // MACRO or CALL_BLOCK
    struct jinja_scope *scope;     // where it was defined
};

struct jinja_loop {
    struct jinja_list *items;
    uint32_t index;                  // 0-based
    struct jinja_value *last_change; // of loop.changed()
};

/* ---- errors and limits ---- */

/* "line:column: text"; keeps the first failure. Returns an undefined value to be returned. */
struct jinja_value jinja_fail(struct jinja_run *run, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Something undefined was used for more than printing or testing. */
struct jinja_value jinja_fail_undefined(struct jinja_run *run, struct jinja_value v);
/* False: the run has failed. */
bool jinja_step(struct jinja_run *run, uint64_t count);
bool jinja_enter(struct jinja_run *run); // depth + 1; pairs with jinja_leave whatever it returns
void jinja_leave(struct jinja_run *run);
/* NULL when memory is spent; the run has failed then. */
void *jinja_alloc(struct jinja_run *run, size_t count, size_t size);

/* ---- buffers that become values ---- */

void jinja_buf_init(struct buf *b);
/* Frees the buffer; fails the run if it overflowed. */
struct jinja_value jinja_buf_take(struct jinja_run *run, struct buf *b);

/* ---- variables ---- */

struct jinja_scope *jinja_scope_push(struct jinja_run *run, struct jinja_scope *parent);
void jinja_assign(struct jinja_run *run, struct jinja_scope *scope, struct str name,
                  struct jinja_value value);
const struct jinja_value *jinja_lookup(struct jinja_run *run, struct str name); // NULL: none

/* ---- evaluation (jinja_eval.c, jinja_exec.c) ---- */

struct jinja_value jinja_eval(struct jinja_run *run, const struct jinja_node *node);
/* Evaluate the node's arguments. */
struct jinja_args jinja_eval_args(struct jinja_run *run, const struct jinja_node *node);
struct jinja_value jinja_attribute(struct jinja_run *run, struct jinja_value object,
                                   struct str name);
struct jinja_value jinja_item(struct jinja_run *run, struct jinja_value object,
                              struct jinja_value key);
struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee,
                              const struct jinja_args *args);
struct jinja_value jinja_call_builtin(struct jinja_run *run, const struct jinja_builtin *builtin,
                                      struct jinja_value self, const struct jinja_args *args);
struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args);
void jinja_exec(struct jinja_run *run, const struct jinja_nodes *body);
/* A chain of filters without subject, applied to a block's text. */
struct jinja_value jinja_filter_text(struct jinja_run *run, const struct jinja_node *filter,
                                     struct jinja_value text);

/* ---- tables of builtins; NULL: no such name ---- */

const struct jinja_builtin *jinja_filter(struct str name); // jinja_filters.c
const struct jinja_builtin *jinja_test(struct str name);   // jinja_tests.c
const struct jinja_builtin *jinja_global(struct str name); // jinja_globals.c
const struct jinja_builtin *jinja_method(struct jinja_value object, struct str name);
/* Whether Python's object would change: the sandbox refuses such methods. */
bool jinja_method_is_unsafe(struct jinja_value object, struct str name);
const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, size_t count,
                                               struct str name);

#endif
