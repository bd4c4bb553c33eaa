#include "engine/grammar_nfa.h"

#include "engine/grammar_pace.h"
#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define LOOK_EVERY 256 // states, between two looks at the pace

void nfa_init(struct grammar_nfa *n)
{
    *n = (struct grammar_nfa){0};
}

void nfa_deinit(struct grammar_nfa *n)
{
    free(n->state);
    free(n->edge);
    free(n->rule);
    *n = (struct grammar_nfa){0};
}

/* ---- building ---- */

static int grown(int cap)
{
    return cap ? 2 * cap : 64;
}

int nfa_add_state(struct grammar_nfa *n)
{
    if (n->states == NFA_STATES_MAX) {
        n->overflow = true;
        return 0;
    }
    if (n->states == n->states_cap) {
        n->states_cap = grown(n->states_cap);
        n->state = xrealloc_array(n->state, (size_t)n->states_cap, sizeof *n->state);
    }
    if (n->states % LOOK_EVERY == 0) grammar_pace_check();
    n->state[n->states] = (struct nfa_state){.first = -1};
    return n->states++;
}

int nfa_add_rule(struct grammar_nfa *n)
{
    if (n->rules == NFA_RULES_MAX) {
        n->overflow = true;
        return 0;
    }
    if (n->rules == n->rules_cap) {
        n->rules_cap = grown(n->rules_cap);
        n->rule = xrealloc_array(n->rule, (size_t)n->rules_cap, sizeof *n->rule);
    }
    int start = nfa_add_state(n), accept = nfa_add_state(n);
    n->state[accept].is_accept = true;
    n->rule[n->rules] = (struct nfa_rule){start, accept};
    return n->rules++;
}

static void add_edge(struct grammar_nfa *n, int from, struct nfa_edge edge)
{
    if (n->edges == NFA_EDGES_MAX) n->overflow = true;
    if (n->overflow) return;
    if (n->edges == n->edges_cap) {
        n->edges_cap = grown(n->edges_cap);
        n->edge = xrealloc_array(n->edge, (size_t)n->edges_cap, sizeof *n->edge);
    }
    edge.next = n->state[from].first;
    n->edge[n->edges] = edge;
    n->state[from].first = n->edges++;
}

void nfa_add_bytes(struct grammar_nfa *n, int from, int low, int high, int to)
{
    add_edge(n, from,
             (struct nfa_edge){
                 .target = to, .kind = NFA_BYTES, .low = (uint8_t)low, .high = (uint8_t)high});
}

void nfa_add_epsilon(struct grammar_nfa *n, int from, int to)
{
    add_edge(n, from, (struct nfa_edge){.target = to, .kind = NFA_EPSILON});
}

void nfa_add_call(struct grammar_nfa *n, int from, int rule, int to)
{
    add_edge(n, from, (struct nfa_edge){.target = to, .rule = rule, .kind = NFA_CALL});
}

int nfa_emit_text(struct grammar_nfa *n, int from, struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        int to = nfa_add_state(n);
        nfa_add_bytes(n, from, (uint8_t)text.data[i], (uint8_t)text.data[i], to);
        from = to;
    }
    return from;
}

int nfa_emit_call(struct grammar_nfa *n, int from, int rule)
{
    int to = nfa_add_state(n);
    nfa_add_call(n, from, rule, to);
    return to;
}

int nfa_emit_copy(struct grammar_nfa *n, int from, const struct grammar_nfa *part)
{
    int base = n->states;
    for (int i = 0; i < part->states; i++)
        nfa_add_state(n);
    if (n->overflow) return 0;
    for (int i = 0; i < part->states; i++)
        for (int e = part->state[i].first; e >= 0; e = part->edge[e].next) {
            struct nfa_edge edge = part->edge[e];
            CHECK(edge.kind != NFA_CALL);
            edge.target += base;
            add_edge(n, base + i, edge);
        }
    nfa_add_epsilon(n, from, base + part->rule[0].start);
    return base + part->rule[0].accept;
}

/* ---- trimming ---- */

/* Marks the states from which the accept state of their rule can be reached, given which rules match
 * anything; true: something was marked. Edges point forward, so this walks backward until nothing
 * changes: states were mostly added in the order of reading, so few rounds do. */
static bool mark_live(const struct grammar_nfa *n, bool *live)
{
    bool changed = false;
    for (int s = n->states - 1; s >= 0; s--) {
        if (s % LOOK_EVERY == 0) grammar_pace_check();
        bool is_live = live[s] || n->state[s].is_accept;
        for (int e = n->state[s].first; e >= 0 && !is_live; e = n->edge[e].next) {
            const struct nfa_edge *edge = &n->edge[e];
            is_live =
                live[edge->target] && (edge->kind != NFA_CALL || live[n->rule[edge->rule].start]);
        }
        changed |= is_live != live[s];
        live[s] = is_live;
    }
    return changed;
}

static void drop_dead_edges(struct grammar_nfa *n, const bool *live)
{
    for (int s = 0; s < n->states; s++) {
        if (s % LOOK_EVERY == 0) grammar_pace_check();
        int32_t *at = &n->state[s].first;
        while (*at >= 0) {
            const struct nfa_edge *edge = &n->edge[*at];
            bool is_live =
                live[edge->target] && (edge->kind != NFA_CALL || live[n->rule[edge->rule].start]);
            if (is_live)
                at = &n->edge[*at].next;
            else
                *at = edge->next;
        }
    }
}

/* ---- rules that call themselves first ---- */

/* Which rules match the empty text: a fixed point over states reached without a byte. */
static void find_nullable(const struct grammar_nfa *n, bool *nullable, bool *reaches)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (int s = n->states - 1; s >= 0; s--) {
            if (s % LOOK_EVERY == 0) grammar_pace_check();
            bool r = reaches[s] || n->state[s].is_accept;
            for (int e = n->state[s].first; e >= 0 && !r; e = n->edge[e].next) {
                const struct nfa_edge *edge = &n->edge[e];
                if (edge->kind == NFA_BYTES) continue;
                r = reaches[edge->target] && (edge->kind == NFA_EPSILON || nullable[edge->rule]);
            }
            changed |= r != reaches[s];
            reaches[s] = r;
        }
        for (int i = 0; i < n->rules; i++) {
            changed |= nullable[i] != reaches[n->rule[i].start];
            nullable[i] = reaches[n->rule[i].start];
        }
    }
}

/* An edge that can be passed without a byte, number `way` of its two: 0 enters the rule that is called,
 * 1 goes to the target. -1: can't. */
static int open_target(const struct grammar_nfa *n, const bool *nullable, int e, int way)
{
    const struct nfa_edge *edge = &n->edge[e];
    if (edge->kind == NFA_EPSILON) return way == 1 ? edge->target : -1;
    if (edge->kind == NFA_BYTES) return -1;
    if (way == 0) return n->rule[edge->rule].start;
    return nullable[edge->rule] ? edge->target : -1;
}

struct tarjan_frame {
    int32_t state, edge, way;
};

struct tarjan {
    const struct grammar_nfa *n;
    const bool *nullable;
    int32_t *order, *low; // [states]; order 0: not seen yet
    int32_t *component;   // [states]; 0: still open
    int32_t *open;        // stack of states without a component
    struct tarjan_frame *frame;
    int depth, opened, seen, components;
};

static void enter(struct tarjan *t, int s)
{
    t->order[s] = t->low[s] = ++t->seen;
    if (t->seen % LOOK_EVERY == 0) grammar_pace_check();
    t->open[t->opened++] = s;
    t->frame[t->depth++] = (struct tarjan_frame){s, t->n->state[s].first, 0};
}

static void leave(struct tarjan *t, int s)
{
    t->depth--;
    if (t->depth > 0) {
        int above = t->frame[t->depth - 1].state;
        if (t->low[s] < t->low[above]) t->low[above] = t->low[s];
    }
    if (t->low[s] != t->order[s]) return;
    t->components++;
    int last;
    do {
        last = t->open[--t->opened];
        t->component[last] = t->components;
    } while (last != s);
}

/* R. Tarjan, "Depth-first search and linear graph algorithms", 1972, with a stack of our own. */
static void find_components(struct tarjan *t, int root)
{
    enter(t, root);
    while (t->depth > 0) {
        struct tarjan_frame *f = &t->frame[t->depth - 1];
        if (f->edge < 0) {
            leave(t, f->state);
            continue;
        }
        int from = f->state, to = open_target(t->n, t->nullable, f->edge, f->way);
        if (f->way++ == 1) {
            f->edge = t->n->edge[f->edge].next;
            f->way = 0;
        }
        if (to < 0) continue;
        if (!t->order[to])
            enter(t, to);
        else if (!t->component[to] && t->order[to] < t->low[from])
            t->low[from] = t->order[to];
    }
}

/* Whether a rule can be called again, from inside itself, before it has matched a byte: a call within
 * a cycle of what can be passed without one. */
static bool calls_itself_first(const struct grammar_nfa *n, const bool *nullable)
{
    size_t states = (size_t)n->states;
    int32_t *memory = xcalloc(4 * states, sizeof *memory);
    struct tarjan t = {.n = n,
                       .nullable = nullable,
                       .order = memory,
                       .low = memory + states,
                       .component = memory + 2 * states,
                       .open = memory + 3 * states,
                       .frame = xcalloc(states, sizeof *t.frame)};
    for (int s = 0; s < n->states; s++)
        if (!t.order[s]) find_components(&t, s);
    bool found = false;
    for (int s = 0; s < n->states; s++)
        for (int e = n->state[s].first; e >= 0; e = n->edge[e].next)
            found |= n->edge[e].kind == NFA_CALL &&
                     t.component[n->rule[n->edge[e].rule].start] == t.component[s];
    free(memory);
    free(t.frame);
    return found;
}

int nfa_finish(struct grammar_nfa *n, struct error *err)
{
    if (n->overflow) return error_set(err, E_LIMIT, "the grammar is too large");
    bool *live = xcalloc((size_t)n->states, sizeof *live);
    while (mark_live(n, live))
        continue;
    bool is_empty = !live[n->rule[0].start];
    drop_dead_edges(n, live);
    bool *nullable = xcalloc((size_t)n->rules, sizeof *nullable);
    memset(live, 0, (size_t)n->states * sizeof *live);
    find_nullable(n, nullable, live);
    bool is_endless = !is_empty && calls_itself_first(n, nullable);
    free(live);
    free(nullable);
    if (is_empty) return error_set(err, E_INVALID, "nothing can satisfy it");
    if (is_endless) return error_set(err, E_INVALID, "it refers to itself without end");
    return 0;
}
