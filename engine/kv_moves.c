#include "engine/kv_moves.h"

#include "shared/base/check.h"

#include <stdlib.h>

struct host_page *host_page_create(size_t rank_bytes, int ranks)
{
    struct host_page *page = xmalloc(sizeof *page + rank_bytes * (size_t)ranks);
    page->refs = 1;
    page->rank_bytes = rank_bytes;
    return page;
}

struct host_page *host_page_ref(struct host_page *page)
{
    page->refs++;
    return page;
}

void host_page_unref(struct host_page *page)
{
    if (page && --page->refs == 0) free(page);
}

static void push(struct kv_moves *m, struct kv_move move)
{
    if (m->count == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 16;
        m->move = xrealloc_array(m->move, (size_t)m->cap, sizeof *m->move);
    }
    m->move[m->count++] = move;
}

void kv_moves_clear(struct kv_moves *m)
{
    for (int i = 0; i < m->count; i++)
        host_page_unref(m->move[i].page);
    m->count = 0;
}

void kv_moves_deinit(struct kv_moves *m)
{
    kv_moves_clear(m);
    free(m->move);
    *m = (struct kv_moves){0};
}

void kv_moves_copy(struct kv_moves *m, int32_t from, int32_t to, int tokens)
{
    if (from == to) return; // evicted, and taken again for what begins like it
    push(m, (struct kv_move){.kind = KV_MOVE_COPY, .from = from, .to = to, .tokens = tokens});
}

void kv_moves_save(struct kv_moves *m, int32_t from, int tokens, struct host_page *page)
{
    push(m, (struct kv_move){.kind = KV_MOVE_SAVE,
                             .from = from,
                             .to = -1,
                             .tokens = tokens,
                             .page = host_page_ref(page)});
}

void kv_moves_restore(struct kv_moves *m, struct host_page *page, int32_t to, int tokens)
{
    push(m, (struct kv_move){.kind = KV_MOVE_RESTORE,
                             .from = -1,
                             .to = to,
                             .tokens = tokens,
                             .page = host_page_ref(page)});
}

void kv_moves_hand_over(struct kv_moves *from, struct kv_moves *to)
{
    for (int i = 0; i < from->count; i++)
        push(to, from->move[i]);
    from->count = 0;
}
