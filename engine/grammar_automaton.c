#include "engine/grammar_automaton.h"

#include "engine/grammar_pace.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_SIZE (4 * AUTOMATON_STATES_MAX) // of the index of states, a power of two
#define STACK_SIZE (2 * AUTOMATON_STACKS_MAX) // of the index of stacks
#define SEEN_SIZE  8192                       // of the set of threads in the making
#define STACKS_LOW (AUTOMATON_STACKS_MAX / 4) // what automaton_reserve() leaves free
#define STATES_LOW (AUTOMATON_STATES_MAX / 4)

struct stack_frame {
    int32_t back, parent; // state to return to; the stack below
};

struct automaton {
    const struct grammar_nfa *nfa;
    unsigned generation;
    struct automaton_state *state; // [AUTOMATON_STATES_MAX]
    uint16_t *state_index;         // [TABLE_SIZE] state + 1, open addressing
    int states;
    struct automaton_thread *thread; // of all states
    size_t threads, threads_cap;
    struct stack_frame *stack; // [AUTOMATON_STACKS_MAX]; 0: nothing
    int32_t *stack_index;      // [STACK_SIZE] stack + 1
    int stacks;

    /* The state in the making: */
    struct automaton_thread set[AUTOMATON_THREADS_MAX];
    int set_count;
    struct automaton_thread *todo; // seen, not followed yet
    int todo_count, todo_cap;
    struct automaton_thread seen[SEEN_SIZE]; // open addressing
    uint32_t seen_mark[SEEN_SIZE];           // == mark: taken
    uint32_t mark;
    int seen_count;
    bool accepts;
    int32_t plain_left;
};

/* ---- stacks ---- */

static int32_t push(struct automaton *a, int32_t parent, int32_t back)
{
    uint64_t h = hash_mix((uint64_t)(uint32_t)parent << 32 | (uint32_t)back);
    for (size_t i = h % STACK_SIZE;; i = (i + 1) % STACK_SIZE) {
        int32_t found = a->stack_index[i] - 1;
        if (found < 0) {
            if (a->stacks == AUTOMATON_STACKS_MAX) return -1;
            a->stack[a->stacks] = (struct stack_frame){back, parent};
            a->stack_index[i] = a->stacks + 1;
            return a->stacks++;
        }
        if (a->stack[found].back == back && a->stack[found].parent == parent) return found;
    }
}

/* ---- the set of threads that one byte leads to ---- */

static void add_thread(struct automaton *a, int32_t state, int32_t stack)
{
    if (stack < 0 || a->seen_count > SEEN_SIZE / 2) return;
    uint64_t h = hash_mix((uint64_t)(uint32_t)state << 32 | (uint32_t)stack);
    for (size_t i = h % SEEN_SIZE;; i = (i + 1) % SEEN_SIZE) {
        if (a->seen_mark[i] == a->mark) {
            if (a->seen[i].state == state && a->seen[i].stack == stack) return;
            continue;
        }
        a->seen_mark[i] = a->mark;
        a->seen[i] = (struct automaton_thread){state, stack};
        a->seen_count++;
        break;
    }
    if (a->todo_count == a->todo_cap) {
        a->todo_cap = a->todo_cap ? 2 * a->todo_cap : 64;
        a->todo = xrealloc_array(a->todo, (size_t)a->todo_cap, sizeof *a->todo);
    }
    a->todo[a->todo_count++] = (struct automaton_thread){state, stack};
}

/* Where the thread comes to without a byte; kept in the set if it can take one. */
static void follow(struct automaton *a, struct automaton_thread t)
{
    const struct nfa_state *s = &a->nfa->state[t.state];
    bool takes_bytes = false;
    if (s->roles & NFA_PLAIN && s->plain_left > a->plain_left) a->plain_left = s->plain_left;
    for (int e = s->first; e >= 0; e = a->nfa->edge[e].next) {
        const struct nfa_edge *edge = &a->nfa->edge[e];
        if (edge->kind == NFA_BYTES)
            takes_bytes = true;
        else if (edge->kind == NFA_EPSILON)
            add_thread(a, edge->target, t.stack);
        else
            add_thread(a, a->nfa->rule[edge->rule].start, push(a, t.stack, edge->target));
    }
    if (s->is_accept && t.stack == 0) a->accepts = true;
    if (s->is_accept && t.stack > 0)
        add_thread(a, a->stack[t.stack].back, a->stack[t.stack].parent);
    if (takes_bytes && a->set_count < AUTOMATON_THREADS_MAX) a->set[a->set_count++] = t;
}

static void begin_set(struct automaton *a)
{
    a->set_count = a->todo_count = a->seen_count = 0;
    a->accepts = false;
    a->plain_left = 0;
    if (++a->mark == 0) { // wrapped around
        memset(a->seen_mark, 0, sizeof a->seen_mark);
        a->mark = 1;
    }
}

static int compare_threads(const void *a, const void *b)
{
    const struct automaton_thread *x = a, *y = b;
    if (x->state != y->state) return x->state < y->state ? -1 : 1;
    return (x->stack > y->stack) - (x->stack < y->stack);
}

/* ---- states ---- */

static bool is_same(const struct automaton *a, const struct automaton_state *s)
{
    return s->threads == a->set_count && s->accepts == a->accepts &&
           !memcmp(&a->thread[s->first], a->set, (size_t)a->set_count * sizeof *a->set);
}

/* Whether a plain character (engine/grammar_vocab.h) can begin with a byte that the state takes. */
static bool takes_plain(const struct grammar_nfa *n, int state)
{
    for (int e = n->state[state].first; e >= 0; e = n->edge[e].next) {
        const struct nfa_edge *edge = &n->edge[e];
        bool is_other = edge->high < 0x20 ||
                        (edge->low == edge->high && (edge->low == '"' || edge->low == '\\'));
        if (edge->kind == NFA_BYTES && !is_other) return true;
    }
    return false;
}

static bool is_only_plain(const struct automaton *a)
{
    if (a->plain_left == 0) return false;
    for (int i = 0; i < a->set_count; i++) {
        int state = a->set[i].state;
        bool is_string = a->nfa->state[state].roles & (NFA_PLAIN | NFA_CHARACTER);
        if (!is_string && takes_plain(a->nfa, state)) return false; // the closing quote is none
    }
    return true;
}

static int make_state(struct automaton *a)
{
    int number = a->states++;
    if (a->threads + (size_t)a->set_count > a->threads_cap) {
        a->threads_cap = 2 * (a->threads + (size_t)a->set_count);
        a->thread = xrealloc_array(a->thread, a->threads_cap, sizeof *a->thread);
    }
    a->state[number] = (struct automaton_state){.first = (uint32_t)a->threads,
                                                .threads = (uint16_t)a->set_count,
                                                .accepts = a->accepts,
                                                .plain_left = a->plain_left,
                                                .only_plain = is_only_plain(a)};
    memcpy(a->thread + a->threads, a->set, (size_t)a->set_count * sizeof *a->set);
    a->threads += (size_t)a->set_count;
    return number;
}

/* The state that the set in the making is. */
static int end_set(struct automaton *a)
{
    while (a->todo_count > 0)
        follow(a, a->todo[--a->todo_count]);
    if (a->set_count == 0 && !a->accepts) return AUTOMATON_DEAD;
    qsort(a->set, (size_t)a->set_count, sizeof *a->set, compare_threads);
    uint64_t h = hash_bytes(a->set, (size_t)a->set_count * sizeof *a->set) + a->accepts;
    for (size_t i = h % TABLE_SIZE;; i = (i + 1) % TABLE_SIZE) {
        if (a->state_index[i] == 0) {
            if (a->states == AUTOMATON_STATES_MAX) return AUTOMATON_DEAD;
            a->state_index[i] = (uint16_t)(a->states + 1);
            return make_state(a);
        }
        if (is_same(a, &a->state[a->state_index[i] - 1])) return a->state_index[i] - 1;
    }
}

static void begin_anew(struct automaton *a)
{
    for (int i = 0; i < a->states; i++) {
        free(a->state[i].next);
        free(a->state[i].mask);
    }
    memset(a->state_index, 0, TABLE_SIZE * sizeof *a->state_index);
    memset(a->stack_index, 0, STACK_SIZE * sizeof *a->stack_index);
    a->states = AUTOMATON_START;
    a->state[AUTOMATON_DEAD] = (struct automaton_state){0};
    a->threads = 0;
    a->stacks = 1;
    a->generation++;
    begin_set(a);
    add_thread(a, a->nfa->rule[0].start, 0);
    int start = end_set(a);
    CHECK(start == AUTOMATON_START);
}

/* ---- public ---- */

struct automaton *automaton_create(const struct grammar_nfa *nfa)
{
    struct automaton *a = xcalloc(1, sizeof *a);
    a->nfa = nfa;
    a->state = xcalloc(AUTOMATON_STATES_MAX, sizeof *a->state);
    a->state_index = xcalloc(TABLE_SIZE, sizeof *a->state_index);
    a->threads_cap = 64;
    a->thread = xcalloc(a->threads_cap, sizeof *a->thread);
    a->stack = xcalloc(AUTOMATON_STACKS_MAX, sizeof *a->stack);
    a->stack_index = xcalloc(STACK_SIZE, sizeof *a->stack_index);
    begin_anew(a);
    return a;
}

void automaton_destroy(struct automaton *a)
{
    if (!a) return;
    for (int i = 0; i < a->states; i++) {
        free(a->state[i].next);
        free(a->state[i].mask);
    }
    free(a->state);
    free(a->state_index);
    free(a->thread);
    free(a->stack);
    free(a->stack_index);
    free(a->todo);
    free(a);
}

unsigned automaton_generation(const struct automaton *a)
{
    return a->generation;
}

void automaton_reserve(struct automaton *a)
{
    if (a->states > AUTOMATON_STATES_MAX - STATES_LOW ||
        a->stacks > AUTOMATON_STACKS_MAX - STACKS_LOW)
        begin_anew(a);
}

int automaton_next(struct automaton *a, int state, uint8_t byte)
{
    struct automaton_state *s = &a->state[state];
    if (state == AUTOMATON_DEAD) return AUTOMATON_DEAD;
    if (!s->next) s->next = xcalloc(256, sizeof *s->next);
    if (s->next[byte]) return s->next[byte] - 1;
    grammar_pace_check();
    begin_set(a);
    for (int i = 0; i < s->threads; i++) {
        struct automaton_thread t = a->thread[s->first + (uint32_t)i];
        for (int e = a->nfa->state[t.state].first; e >= 0; e = a->nfa->edge[e].next) {
            const struct nfa_edge *edge = &a->nfa->edge[e];
            if (edge->kind == NFA_BYTES && edge->low <= byte && byte <= edge->high)
                add_thread(a, edge->target, t.stack);
        }
    }
    int next = end_set(a);
    s->next[byte] = (uint16_t)(next + 1);
    return next;
}

struct automaton_state *automaton_state(struct automaton *a, int state)
{
    return &a->state[state];
}

void automaton_drop_masks(struct automaton *a)
{
    for (int i = 0; i < a->states; i++) {
        free(a->state[i].mask);
        a->state[i].mask = NULL;
    }
}
