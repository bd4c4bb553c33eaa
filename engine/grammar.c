/* grammar.c - masks of tokens by walking the vocabulary's trie beside the automaton.
 *
 * What a state allows is computed once and kept with the state. Inside a JSON string that takes any
 * characters most of the vocabulary is allowed: those tokens are known beforehand as masks by length
 * (grammar_vocab.h), and only the rest is walked.
 *
 * Behind the beginning of a tag in free text nearly every byte leads to the state that most others lead
 * to as well, its home. Where both go on to the same state they allow the same tokens, so only those
 * whose first byte tells them apart are walked, in a copy of the home's mask. */
#include "engine/grammar.h"

#include "engine/grammar_automaton.h"
#include "engine/grammar_pace.h"
#include "engine/grammar_parts.h"
#include "engine/grammar_regex.h"
#include "engine/grammar_schema.h"
#include "engine/grammar_vocab.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_EVERY 1024 // nodes, between two looks at the pace

struct grammar {
    atomic_int references;
    const struct grammar_vocab *vocab;
    struct grammar_nfa nfa;
    pthread_mutex_t lock; // guards what follows
    struct automaton *automaton;
    size_t mask_bytes; // of masks kept since mask_generation
    unsigned mask_generation;
    int32_t *path; // states of the walk, by depth
};

/* ---- sources ---- */

static int emit_schema(struct grammar_nfa *n, struct str source, struct error *err)
{
    struct json *schema = json_parse(source.data, source.len, err);
    if (!schema) return err->code;
    int rc = schema_emit(n, schema, n->rule[0].start, n->rule[0].accept, NULL, err);
    json_destroy(schema);
    return rc;
}

static int emit_regex(struct grammar_nfa *n, struct str source, struct error *err)
{
    int end;
    int rc = regex_emit(n, n->rule[0].start, source, REGEX_WHOLE, SPELLING_UTF8, &end, err);
    if (rc == 0) nfa_add_epsilon(n, end, n->rule[0].accept);
    return rc;
}

static int emit_parts(struct grammar_nfa *n, struct str source, const struct grammar_vocab *vocab,
                      struct error *err)
{
    struct json *part = json_parse(source.data, source.len, err);
    if (!part) return err->code;
    int rc = parts_emit(n, part, vocab, n->rule[0].start, n->rule[0].accept, err);
    json_destroy(part);
    return rc;
}

static int emit(enum grammar_kind kind, struct str source, const struct grammar_vocab *vocab,
                struct grammar_nfa *n, struct error *err)
{
    if (source.len > GRAMMAR_SOURCE_MAX)
        return error_set(err, E_LIMIT, "the grammar's source has more than %zu bytes",
                         GRAMMAR_SOURCE_MAX);
    nfa_add_rule(n);
    switch (kind) {
    case GRAMMAR_JSON_OBJECT:
        return emit_schema(n, STR("{\"type\":\"object\"}"), err);
    case GRAMMAR_JSON_SCHEMA:
        return emit_schema(n, source, err);
    case GRAMMAR_REGEX:
        return emit_regex(n, source, err);
    case GRAMMAR_PARTS:
        return emit_parts(n, source, vocab, err);
    }
    UNREACHABLE();
}

/* ---- references ---- */

struct grammar *grammar_ref(struct grammar *g)
{
    atomic_fetch_add(&g->references, 1);
    return g;
}

void grammar_unref(struct grammar *g)
{
    if (!g || atomic_fetch_sub(&g->references, 1) > 1) return;
    automaton_destroy(g->automaton);
    nfa_deinit(&g->nfa);
    pthread_mutex_destroy(&g->lock);
    free(g->path);
    free(g);
}

int grammar_mask_words(const struct grammar *g)
{
    return g->vocab->words;
}

/* ---- matchers ---- */

void grammar_matcher_init(struct grammar_matcher *m, struct grammar *g)
{
    *m = (struct grammar_matcher){.grammar = g ? grammar_ref(g) : NULL, .state = AUTOMATON_START};
}

void grammar_matcher_deinit(struct grammar_matcher *m)
{
    grammar_unref(m->grammar);
    free(m->text);
    *m = (struct grammar_matcher){0};
}

void grammar_matcher_restart(struct grammar_matcher *m)
{
    m->len = 0;
    m->generation = 0; // no automaton's: the state is found again
}

static int walk(struct automaton *a, int state, struct str bytes)
{
    for (size_t i = 0; i < bytes.len && state != AUTOMATON_DEAD; i++)
        state = automaton_next(a, state, (uint8_t)bytes.data[i]);
    return state;
}

/* Under the lock: m->state is one of the automaton's. */
static void refresh(struct grammar_matcher *m)
{
    struct automaton *a = m->grammar->automaton;
    automaton_reserve(a);
    if (m->generation == automaton_generation(a)) return;
    m->generation = automaton_generation(a);
    m->state = walk(a, AUTOMATON_START, (struct str){m->text, m->len});
}

static void append(struct grammar_matcher *m, struct str bytes)
{
    if (m->len + bytes.len > m->cap) {
        m->cap = 2 * (m->len + bytes.len);
        m->text = xrealloc(m->text, m->cap);
    }
    if (bytes.len > 0) memcpy(m->text + m->len, bytes.data, bytes.len);
    m->len += bytes.len;
}

/* The bytes, between two of those that mark special tokens with is_special. */
static bool go_on(struct grammar_matcher *m, struct str bytes, bool is_special)
{
    static const char byte = (char)GRAMMAR_SPECIAL_MARK;
    struct str mark = {&byte, is_special ? 1 : 0};
    struct automaton *a = m->grammar->automaton;
    pthread_mutex_lock(&m->grammar->lock);
    refresh(m);
    int state = walk(a, walk(a, walk(a, m->state, mark), bytes), mark);
    if (state != AUTOMATON_DEAD) m->state = state;
    pthread_mutex_unlock(&m->grammar->lock);
    if (state == AUTOMATON_DEAD) return false;
    append(m, mark);
    append(m, bytes);
    append(m, mark);
    return true;
}

/* A byte token of the mark itself is no text, but would look like a special token's beginning. */
static bool has_mark(struct str bytes)
{
    return bytes.len > 0 && memchr(bytes.data, GRAMMAR_SPECIAL_MARK, bytes.len);
}

bool grammar_accept(struct grammar_matcher *m, struct str bytes)
{
    return !m->grammar || (!has_mark(bytes) && go_on(m, bytes, false));
}

bool grammar_accept_special(struct grammar_matcher *m, struct str text)
{
    return !m->grammar || (!has_mark(text) && go_on(m, text, true));
}

bool grammar_may_end(struct grammar_matcher *m)
{
    if (!m->grammar) return true;
    pthread_mutex_lock(&m->grammar->lock);
    refresh(m);
    bool may = automaton_state(m->grammar->automaton, m->state)->accepts;
    pthread_mutex_unlock(&m->grammar->lock);
    return may;
}

/* ---- masks ---- */

static void allow(const struct grammar_vocab *v, uint32_t *mask, int32_t token)
{
    for (; token >= 0; token = v->same[token])
        mask[token / 32] |= 1u << (token % 32);
}

/* The tokens of nodes [begin, end), where end is behind a whole subtree or several. */
static void walk_nodes(struct grammar *g, const struct token_trie *trie, int begin, int end,
                       int state, uint32_t *mask)
{
    int32_t *path = g->path;
    unsigned steps = 0;
    path[0] = state;
    for (int i = begin; i < end;) {
        const struct trie_node *node = &trie->node[i];
        if (++steps % LOOK_EVERY == 0) grammar_pace_check();
        int next = automaton_next(g->automaton, path[node->depth - 1], node->byte);
        if (next == AUTOMATON_DEAD) {
            i = node->next;
            continue;
        }
        if (node->token >= 0) allow(g->vocab, mask, node->token);
        path[node->depth] = next;
        i++;
    }
}

static void forbid_nodes(const struct grammar_vocab *v, int begin, int end, uint32_t *mask)
{
    for (int i = begin; i < end; i++)
        for (int32_t t = v->all.node[i].token; t >= 0; t = v->same[t])
            mask[t / 32] &= ~(1u << (t % 32));
}

static uint32_t *copy_mask(const struct grammar *g, const uint32_t *from)
{
    size_t words = (size_t)g->vocab->words;
    uint32_t *mask = xcalloc(words, sizeof *mask);
    if (from) memcpy(mask, from, words * sizeof *mask);
    return mask;
}

static void allow_stops(const struct grammar *g, uint32_t *mask)
{
    for (int i = 0; i < g->vocab->stop_count; i++)
        mask[g->vocab->stops[i] / 32] |= 1u << (g->vocab->stops[i] % 32);
}

/* By a walk of all that may come. */
static uint32_t *make_whole_mask(struct grammar *g, int state)
{
    const struct grammar_vocab *v = g->vocab;
    struct automaton_state s = *automaton_state(g->automaton, state);
    int chars = s.plain_left < v->plain_chars_max ? s.plain_left : v->plain_chars_max;
    uint32_t *mask = copy_mask(g, s.plain_left > 0 ? v->plain[chars] : NULL);
    const struct token_trie *trie = s.only_plain ? &v->unplain : &v->all;
    walk_nodes(g, trie, 0, trie->count, state, mask);
    if (s.accepts) allow_stops(g, mask);
    return mask;
}

/* The state that most tokens' first bytes lead to; AUTOMATON_DEAD: no byte leads anywhere. */
static int find_home(struct grammar *g, int state)
{
    const struct token_trie *all = &g->vocab->all;
    int target[256], weight[256], count = 0, best = AUTOMATON_DEAD, most = 0;
    for (int byte = 0; byte < 256; byte++) {
        int32_t node = all->first[byte];
        int to = node < 0 ? AUTOMATON_DEAD : automaton_next(g->automaton, state, (uint8_t)byte), i;
        if (to == AUTOMATON_DEAD) continue;
        for (i = 0; i < count && target[i] != to; i++)
            continue;
        if (i == count) weight[count++] = 0;
        target[i] = to;
        weight[i] += all->node[node].next - node;
        if (weight[i] > most) {
            most = weight[i];
            best = to;
        }
    }
    return best;
}

/* Which first bytes tell the states apart; false: too much of the vocabulary begins with them. */
static bool tells_apart(struct grammar *g, int state, int home, bool apart[256])
{
    const struct token_trie *all = &g->vocab->all;
    int weight = 0;
    for (int byte = 0; byte < 256; byte++) {
        int32_t node = all->first[byte];
        apart[byte] = node >= 0 && automaton_next(g->automaton, state, (uint8_t)byte) !=
                                       automaton_next(g->automaton, home, (uint8_t)byte);
        if (apart[byte]) weight += all->node[node].next - node;
    }
    return weight < all->count / 4;
}

static void keep_mask(struct grammar *g, int state, uint32_t *mask)
{
    size_t bytes = (size_t)g->vocab->words * sizeof *mask;
    if (g->mask_generation != automaton_generation(g->automaton)) {
        g->mask_generation = automaton_generation(g->automaton);
        g->mask_bytes = 0;
    }
    if (g->mask_bytes + bytes > GRAMMAR_MASK_BYTES) {
        automaton_drop_masks(g->automaton);
        g->mask_bytes = 0;
    }
    automaton_state(g->automaton, state)->mask = mask;
    g->mask_bytes += bytes;
}

static uint32_t *make_mask(struct grammar *g, int state)
{
    const struct token_trie *all = &g->vocab->all;
    struct automaton_state s = *automaton_state(g->automaton, state);
    bool apart[256];
    int home = s.only_plain ? AUTOMATON_DEAD : find_home(g, state);
    if (home == AUTOMATON_DEAD || home == state ||
        automaton_state(g->automaton, home)->accepts != s.accepts ||
        !tells_apart(g, state, home, apart))
        return make_whole_mask(g, state);
    if (!automaton_state(g->automaton, home)->mask) keep_mask(g, home, make_whole_mask(g, home));
    uint32_t *mask = copy_mask(g, automaton_state(g->automaton, home)->mask);
    for (int byte = 0; byte < 256; byte++) {
        if (!apart[byte]) continue;
        int begin = all->first[byte], end = all->node[begin].next;
        forbid_nodes(g->vocab, begin, end, mask);
        walk_nodes(g, all, begin, end, state, mask);
    }
    if (s.accepts) allow_stops(g, mask);
    return mask;
}

int grammar_mask(struct grammar_matcher *m, uint32_t *out)
{
    struct grammar *g = m->grammar;
    size_t words = (size_t)g->vocab->words;
    pthread_mutex_lock(&g->lock);
    refresh(m);
    if (!automaton_state(g->automaton, m->state)->mask)
        keep_mask(g, m->state, make_mask(g, m->state));
    memcpy(out, automaton_state(g->automaton, m->state)->mask, words * sizeof *out);
    pthread_mutex_unlock(&g->lock);
    uint32_t any = 0;
    for (size_t i = 0; i < words; i++)
        any |= out[i];
    return any ? 0 : E_UNSUPPORTED;
}

/* ---- compile ---- */

static int build(enum grammar_kind kind, struct str source, const struct grammar_vocab *vocab,
                 struct grammar_nfa *nfa, struct error *err)
{
    struct error own = {0};
    if (!err) err = &own;
    nfa_init(nfa);
    int rc = emit(kind, source, vocab, nfa, err);
    return rc < 0 ? rc : nfa_finish(nfa, err);
}

int grammar_check(enum grammar_kind kind, struct str source, const struct grammar_vocab *vocab,
                  struct error *err)
{
    struct grammar_nfa nfa;
    int rc = build(kind, source, vocab, &nfa, err);
    nfa_deinit(&nfa);
    return rc;
}

int grammar_compile(enum grammar_kind kind, struct str source, const struct grammar_vocab *vocab,
                    struct grammar **out, struct error *err)
{
    struct grammar_nfa nfa;
    int rc = build(kind, source, vocab, &nfa, err);
    if (rc < 0) {
        nfa_deinit(&nfa);
        return rc;
    }
    struct grammar *g = xcalloc(1, sizeof *g);
    g->references = 1;
    g->vocab = vocab;
    g->nfa = nfa;
    pthread_mutex_init(&g->lock, NULL);
    g->automaton = automaton_create(&g->nfa);
    g->path = xcalloc((size_t)vocab->all.depth_max + 1, sizeof *g->path);
    keep_mask(g, AUTOMATON_START, make_mask(g, AUTOMATON_START)); // here no answer waits for it
    *out = g;
    return 0;
}
