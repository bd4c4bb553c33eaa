/* grammar_intersect.c - two automata at once, by the subset construction on pairs of sets. */
#include "engine/grammar_nfa.h"

#include "engine/grammar_pace.h"
#include "shared/base/check.h"
#include "shared/base/hash_map.h"

#include <stdlib.h>
#include <string.h>

#define PAIRS_MAX  (1 << 15)
#define LOOK_EVERY 256 // steps of some 100 ns, between two looks at the pace

/* A sorted set of states, closed under epsilon. */
struct state_set {
    int32_t *state; // owned
    int count;
};

/* One automaton of the two with its scratch memory. */
struct side {
    const struct grammar_nfa *n;
    bool *seen;      // [states]
    int32_t *marked; // [states] those seen, of which the first `closed` had their edges followed
    int count;
};

static void side_init(struct side *s, const struct grammar_nfa *n)
{
    *s = (struct side){.n = n};
    s->seen = xcalloc((size_t)n->states, sizeof *s->seen);
    s->marked = xcalloc((size_t)n->states, sizeof *s->marked);
}

static void side_deinit(struct side *s)
{
    free(s->seen);
    free(s->marked);
}

static void mark(struct side *s, int state)
{
    if (s->seen[state]) return;
    s->seen[state] = true;
    s->marked[s->count++] = state;
}

static int compare_states(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What was marked and what follows from it without a byte, as a set; clears the marks. */
static struct state_set take_set(struct side *s)
{
    grammar_pace_check();
    for (int i = 0; i < s->count; i++)
        for (int e = s->n->state[s->marked[i]].first; e >= 0; e = s->n->edge[e].next) {
            CHECK(s->n->edge[e].kind != NFA_CALL);
            if (s->n->edge[e].kind == NFA_EPSILON) mark(s, s->n->edge[e].target);
        }
    struct state_set set = {xmalloc((size_t)(s->count + 1) * sizeof *set.state), s->count};
    memcpy(set.state, s->marked, (size_t)s->count * sizeof *set.state);
    qsort(set.state, (size_t)set.count, sizeof *set.state, compare_states);
    for (int i = 0; i < s->count; i++)
        s->seen[s->marked[i]] = false;
    s->count = 0;
    return set;
}

static struct state_set start_set(struct side *s)
{
    mark(s, s->n->rule[0].start);
    return take_set(s);
}

static struct state_set step_set(struct side *s, const struct state_set *from, int byte)
{
    for (int i = 0; i < from->count; i++)
        for (int e = s->n->state[from->state[i]].first; e >= 0; e = s->n->edge[e].next) {
            const struct nfa_edge *edge = &s->n->edge[e];
            if (edge->kind == NFA_BYTES && edge->low <= byte && byte <= edge->high)
                mark(s, edge->target);
        }
    return take_set(s);
}

static bool set_accepts(const struct side *s, const struct state_set *set)
{
    for (int i = 0; i < set->count; i++)
        if (set->state[i] == s->n->rule[0].accept) return true;
    return false;
}

/* Bytes at which an edge of the set begins, or the byte behind one: between them all bytes are
 * alike. */
static void mark_borders(const struct side *s, const struct state_set *set, bool *border)
{
    for (int i = 0; i < set->count; i++)
        for (int e = s->n->state[set->state[i]].first; e >= 0; e = s->n->edge[e].next) {
            const struct nfa_edge *edge = &s->n->edge[e];
            if (edge->kind != NFA_BYTES) continue;
            border[edge->low] = true;
            border[edge->high + 1] = true;
        }
}

struct pair {
    struct state_set a, b;
    int32_t state; // of the result
};

struct product {
    struct side a, b;
    struct grammar_nfa *out;
    struct hash_map index; // both sets' bytes -> pair number + 1
    struct pair *pair;     // [PAIRS_MAX]; owned
    int pairs;
};

static struct str pair_key(const struct pair *p, char **memory)
{
    size_t a = (size_t)p->a.count * sizeof(int32_t), b = (size_t)p->b.count * sizeof(int32_t);
    *memory = xmalloc(a + b + sizeof(int32_t));
    memcpy(*memory, &p->a.count, sizeof(int32_t));
    memcpy(*memory + sizeof(int32_t), p->a.state, a);
    memcpy(*memory + sizeof(int32_t) + a, p->b.state, b);
    return (struct str){*memory, a + b + sizeof(int32_t)};
}

/* The result's state for a pair, which is taken over; -1: too many. */
static int state_of(struct product *p, struct state_set a, struct state_set b)
{
    struct pair pair = {a, b, 0};
    char *memory;
    struct str key = pair_key(&pair, &memory);
    struct pair *known = hash_map_get(&p->index, key);
    int state = known ? known->state : -1;
    if (!known && p->pairs < PAIRS_MAX) {
        state = pair.state = nfa_add_state(p->out);
        p->pair[p->pairs] = pair;
        hash_map_put(&p->index, key, &p->pair[p->pairs++]);
        a.state = b.state = NULL;
        if (set_accepts(&p->a, &pair.a) && set_accepts(&p->b, &pair.b))
            nfa_add_epsilon(p->out, state, p->out->rule[0].accept);
    }
    free(a.state);
    free(b.state);
    free(memory);
    return state;
}

static int expand(struct product *p, int index)
{
    const struct pair from = p->pair[index];
    bool border[257] = {[0] = true, [256] = true};
    mark_borders(&p->a, &from.a, border);
    mark_borders(&p->b, &from.b, border);
    for (int low = 0, next; low < 256; low = next) {
        for (next = low + 1; !border[next];)
            next++;
        struct state_set a = step_set(&p->a, &from.a, low), b = {0};
        if (a.count > 0) b = step_set(&p->b, &from.b, low);
        if (b.count == 0) {
            free(a.state);
            free(b.state);
            continue;
        }
        int to = state_of(p, a, b);
        if (to < 0) return E_LIMIT;
        nfa_add_bytes(p->out, from.state, low, next - 1, to);
    }
    return 0;
}

int nfa_intersect(const struct grammar_nfa *a, const struct grammar_nfa *b, struct grammar_nfa *out,
                  struct error *err)
{
    struct product p = {.out = out};
    if (a->overflow || b->overflow) return error_set(err, E_LIMIT, "the pattern is too large");
    side_init(&p.a, a);
    side_init(&p.b, b);
    hash_map_init(&p.index);
    p.pair = xcalloc(PAIRS_MAX, sizeof *p.pair);
    nfa_add_rule(out);
    nfa_add_epsilon(out, out->rule[0].start, state_of(&p, start_set(&p.a), start_set(&p.b)));
    int rc = 0;
    for (int i = 0; i < p.pairs && rc == 0; i++)
        rc = expand(&p, i);
    for (int i = 0; i < p.pairs; i++) {
        if (i % LOOK_EVERY == 0) grammar_pace_check();
        free(p.pair[i].a.state);
        free(p.pair[i].b.state);
    }
    free(p.pair);
    hash_map_deinit(&p.index);
    side_deinit(&p.a);
    side_deinit(&p.b);
    if (rc < 0 || out->overflow)
        return error_set(err, E_LIMIT, "patterns and bounds together are too large");
    return 0;
}

bool nfa_matches(const struct grammar_nfa *n, struct str text)
{
    struct side s;
    side_init(&s, n);
    struct state_set set = start_set(&s);
    for (size_t i = 0; i < text.len && set.count > 0; i++) {
        struct state_set next = step_set(&s, &set, (uint8_t)text.data[i]);
        free(set.state);
        set = next;
    }
    bool matches = set_accepts(&s, &set);
    free(set.state);
    side_deinit(&s);
    return matches;
}
