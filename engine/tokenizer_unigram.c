#include "engine/tokenizer_unigram.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <math.h>
#include <stdlib.h>

struct unigram_edge {
    uint32_t node; // 0: free, since no edge leads to the root
    uint32_t from;
    uint8_t byte;
};

#define UNKNOWN_PENALTY 10.0f
#define NO_NODE         UINT32_MAX

static uint32_t edge_slot(const struct unigram *u, uint32_t from, uint8_t byte)
{
    uint32_t i = (uint32_t)hash_mix((uint64_t)from << 8 | byte) & u->edge_mask;
    while (u->edges[i].node && (u->edges[i].from != from || u->edges[i].byte != byte))
        i = (i + 1) & u->edge_mask;
    return i;
}

static uint32_t child(const struct unigram *u, uint32_t from, uint8_t byte)
{
    uint32_t node = u->edges[edge_slot(u, from, byte)].node;
    return node ? node : NO_NODE;
}

static void add_piece(struct unigram *u, struct str piece, int32_t id, float score)
{
    uint32_t node = 0;
    for (size_t i = 0; i < piece.len; i++) {
        uint32_t slot = edge_slot(u, node, (uint8_t)piece.data[i]);
        if (!u->edges[slot].node)
            u->edges[slot] = (struct unigram_edge){u->node_count++, node, (uint8_t)piece.data[i]};
        node = u->edges[slot].node;
    }
    if (node == 0 || u->node_ids[node] >= 0) return; // the first of equal pieces stays
    u->node_ids[node] = id;
    u->node_scores[node] = score;
}

void unigram_init(struct unigram *u, const struct vocab *v, const float *scores)
{
    uint32_t nodes = 1;
    float lowest = INFINITY, highest = -INFINITY;
    memset(u, 0, sizeof *u);
    for (uint32_t id = 0; id < v->count; id++) {
        nodes += (uint32_t)vocab_bytes(v, id).len;
        if (v->kinds[id] != TOKEN_NORMAL) continue;
        if (scores[id] < lowest) lowest = scores[id];
        if (scores[id] > highest) highest = scores[id];
    }
    u->edge_mask = 15;
    while (u->edge_mask / 2 < nodes)
        u->edge_mask = u->edge_mask * 2 + 1;
    u->edges = xcalloc((size_t)u->edge_mask + 1, sizeof *u->edges);
    u->node_ids = xmalloc((size_t)nodes * sizeof *u->node_ids);
    memset(u->node_ids, 0xff, (size_t)nodes * sizeof *u->node_ids);
    u->node_scores = xcalloc(nodes, sizeof *u->node_scores);
    u->node_count = 1;
    u->unknown_score = lowest - UNKNOWN_PENALTY;
    for (uint32_t id = 0; id < v->count; id++) {
        struct str piece = vocab_bytes(v, id);
        if (v->kinds[id] == TOKEN_NORMAL) add_piece(u, piece, (int32_t)id, scores[id]);
        if (v->kinds[id] == TOKEN_USER) // the reference has this one in double
            add_piece(u, piece, (int32_t)id, (float)((float)piece.len * highest - 0.1));
    }
}

void unigram_deinit(struct unigram *u)
{
    free(u->edges);
    free(u->node_ids);
    free(u->node_scores);
    memset(u, 0, sizeof *u);
}

/* ---- Viterbi ---- */

struct best { // way to write the text up to here
    float score;
    int32_t id;    // last piece; -1: an unknown character
    uint32_t from; // where it begins; NO_NODE: not reached
};

static void offer(struct best *at, float score, int32_t id, uint32_t from)
{
    if (at->from == NO_NODE || score > at->score) *at = (struct best){score, id, from};
}

static size_t char_len(struct str text, size_t at)
{
    size_t n = 1;
    while (at + n < text.len && ((unsigned char)text.data[at + n] & 0xc0) == 0x80)
        n++;
    return n;
}

static void extend(const struct unigram *u, struct best *best, struct str text, size_t at)
{
    size_t one = char_len(text, at);
    bool has_one = false;
    uint32_t node = 0;
    for (size_t end = at; end < text.len;) {
        node = child(u, node, (uint8_t)text.data[end++]);
        if (node == NO_NODE) break;
        if (u->node_ids[node] < 0) continue;
        offer(&best[end], u->node_scores[node] + best[at].score, u->node_ids[node], (uint32_t)at);
        if (end - at == one) has_one = true;
    }
    if (!has_one) offer(&best[at + one], u->unknown_score + best[at].score, -1, (uint32_t)at);
}

void unigram_encode(const struct unigram *u, const struct spm *s, struct str text,
                    struct token_list *out)
{
    if (!text.len) return;
    struct best *best = xmalloc((text.len + 1) * sizeof *best);
    for (size_t i = 0; i <= text.len; i++)
        best[i].from = NO_NODE;
    best[0] = (struct best){0, -1, 0};
    for (size_t at = 0; at < text.len; at += char_len(text, at))
        extend(u, best, text, at);
    /* From the end; then the way is walked again from the front, by the ends of its pieces. */
    uint32_t *ends = xmalloc((text.len + 1) * sizeof *ends);
    size_t count = 0;
    for (size_t at = text.len; at > 0; at = best[at].from)
        ends[count++] = (uint32_t)at;
    while (count-- > 0) {
        const struct best *b = &best[ends[count]];
        if (b->id >= 0)
            token_list_push(out, b->id);
        else
            spm_push_unknown(s, (struct str){text.data + b->from, ends[count] - b->from}, out);
    }
    free(ends);
    free(best);
}
