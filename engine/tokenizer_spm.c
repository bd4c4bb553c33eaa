#include "engine/tokenizer_spm.h"

#include "shared/base/check.h"
#include "shared/base/min_heap.h"

#include <math.h>
#include <stdlib.h>

#define NO_KEY      UINT32_MAX
#define SPLIT_DEPTH 200

void spm_init(struct spm *s, uint32_t count)
{
    memset(s, 0, sizeof *s);
    s->scores = xcalloc((size_t)count + 1, sizeof *s->scores);
    s->unknown = -1;
}

void spm_deinit(struct spm *s)
{
    free(s->scores);
    memset(s, 0, sizeof *s);
}

void spm_index(struct spm *s, const struct vocab *v)
{
    for (int i = 0; i < 256; i++)
        s->byte_ids[i] = -1;
    for (uint32_t id = 0; id < v->count; id++) {
        struct str bytes = vocab_bytes(v, id);
        if (v->kinds[id] == TOKEN_BYTE && bytes.len == 1) {
            s->byte_ids[(unsigned char)*bytes.data] = (int32_t)id;
            s->has_bytes = true;
        }
        if (v->kinds[id] == TOKEN_UNKNOWN && s->unknown < 0) s->unknown = (int32_t)id;
    }
}

/* Scores as unsigned numbers that sort the other way round: the best is the smallest. */
static uint32_t score_key(float score)
{
    uint32_t bits;
    if (isnan(score)) return NO_KEY - 1;
    memcpy(&bits, &score, sizeof bits);
    bits = bits >> 31 ? bits : ~bits & 0x7fffffff;
    return bits == NO_KEY ? NO_KEY - 1 : bits;
}

/* A piece that merging may produce, or -1. */
static int32_t find_piece(const struct vocab *v, struct str text)
{
    int32_t id = vocab_find(v, text);
    if (id < 0) return -1;
    enum token_kind kind = (enum token_kind)v->kinds[id];
    return kind == TOKEN_NORMAL || kind == TOKEN_USER || kind == TOKEN_UNUSED ? id : -1;
}

/* ---- merging ---- */

struct node { // a symbol as it is or was; those that merged live on as parts of another
    uint32_t start, len;
    int32_t left, right; // parts; -1: a single character
};

struct symbol {
    int32_t node;
    int32_t previous, next; // -1: none
    uint32_t key;           // of the pair (this, next); NO_KEY: none, or this was merged away
};

struct merging {
    const struct spm *spm;
    const struct vocab *v;
    struct str text;
    struct node *nodes;
    int32_t node_count;
    struct symbol *symbols;
    int32_t symbol_count;
    struct min_heap heap; // key << 32 | position
    struct token_list *out;
};

static void rank_pair(struct merging *m, int32_t at)
{
    struct symbol *s = &m->symbols[at];
    s->key = NO_KEY;
    if (s->next < 0) return;
    const struct node *a = &m->nodes[s->node], *b = &m->nodes[m->symbols[s->next].node];
    int32_t id = find_piece(m->v, (struct str){m->text.data + a->start, a->len + b->len});
    if (id < 0) return;
    s->key = score_key(m->spm->scores[id]);
    min_heap_push(&m->heap, (uint64_t)s->key << 32 | (uint32_t)at);
}

static void merge_pair(struct merging *m, int32_t at)
{
    struct symbol *left = &m->symbols[at], *right = &m->symbols[left->next];
    const struct node *a = &m->nodes[left->node], *b = &m->nodes[right->node];
    m->nodes[m->node_count] = (struct node){a->start, a->len + b->len, left->node, right->node};
    left->node = m->node_count++;
    left->next = right->next;
    right->key = NO_KEY;
    if (left->next >= 0) m->symbols[left->next].previous = at;
    rank_pair(m, at);
    if (left->previous >= 0) rank_pair(m, left->previous);
}

/* ---- output ---- */

void spm_push_unknown(const struct spm *s, struct str text, struct token_list *out)
{
    if (!s->has_bytes) {
        /* Neighbouring unknown characters are one unknown token. */
        bool follows = out->count && out->ids[out->count - 1] == s->unknown;
        if (s->unknown >= 0 && !follows) token_list_push(out, s->unknown);
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        int32_t id = s->byte_ids[(unsigned char)text.data[i]];
        if (id < 0) id = s->unknown;
        if (id >= 0) token_list_push(out, id);
    }
}

/* Pieces marked as unused take part in merging but fall apart again into what they were made of. */
static void push_node(struct merging *m, int32_t index, int depth)
{
    const struct node *n = &m->nodes[index];
    struct str text = {m->text.data + n->start, n->len};
    int32_t id = find_piece(m->v, text);
    bool unused = id >= 0 && m->v->kinds[id] == TOKEN_UNUSED;
    if (unused && n->left >= 0 && depth < SPLIT_DEPTH) {
        push_node(m, n->left, depth + 1);
        push_node(m, n->right, depth + 1);
    } else if (id >= 0) {
        token_list_push(m->out, id);
    } else {
        spm_push_unknown(m->spm, text, m->out);
    }
}

static size_t char_len(struct str text, size_t at)
{
    size_t n = 1;
    while (at + n < text.len && ((unsigned char)text.data[at + n] & 0xc0) == 0x80)
        n++;
    return n;
}

void spm_encode(const struct spm *s, const struct vocab *v, struct str text, struct token_list *out)
{
    if (!text.len) return;
    struct merging m = {.spm = s, .v = v, .text = text, .out = out};
    m.nodes = xmalloc(2 * text.len * sizeof *m.nodes);
    m.symbols = xmalloc(text.len * sizeof *m.symbols);
    m.heap.keys = xmalloc(3 * text.len * sizeof *m.heap.keys);
    for (size_t at = 0, n; at < text.len; at += n) {
        n = char_len(text, at);
        m.nodes[m.node_count] = (struct node){(uint32_t)at, (uint32_t)n, -1, -1};
        m.symbols[m.symbol_count] =
            (struct symbol){m.node_count, m.symbol_count - 1, m.symbol_count + 1, NO_KEY};
        m.node_count++;
        m.symbol_count++;
    }
    m.symbols[m.symbol_count - 1].next = -1;
    for (int32_t i = 0; i < m.symbol_count; i++)
        rank_pair(&m, i);
    while (m.heap.count) {
        uint64_t key = min_heap_pop(&m.heap);
        if (m.symbols[(uint32_t)key].key == key >> 32) merge_pair(&m, (int32_t)(uint32_t)key);
    }
    for (int32_t i = 0; i >= 0; i = m.symbols[i].next)
        push_node(&m, m.symbols[i].node, 0);
    free(m.nodes);
    free(m.symbols);
    free(m.heap.keys);
}
