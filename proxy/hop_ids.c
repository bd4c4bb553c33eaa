#include "proxy/hop_ids.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#define ID_BYTES_MAX 5
#define CAP_MIN      64u

bool hop_budget_take(struct hop_budget *b, uint64_t bytes)
{
    uint64_t before = atomic_fetch_add(&b->used, bytes);
    if (bytes <= b->max && before <= b->max - bytes) return true;
    atomic_fetch_sub(&b->used, bytes);
    atomic_fetch_add(&b->refused, 1);
    return false;
}

void hop_budget_give(struct hop_budget *b, uint64_t bytes)
{
    uint64_t before = atomic_fetch_sub(&b->used, bytes);
    CHECK(before >= bytes);
}

void hop_ids_free(struct hop_ids *ids, struct hop_budget *budget)
{
    if (ids->cap > 0) hop_budget_give(budget, ids->cap);
    free(ids->bytes);
    *ids = (struct hop_ids){0};
}

static bool grow(struct hop_ids *ids, struct hop_budget *budget)
{
    uint32_t more = ids->cap ? ids->cap / 2 : CAP_MIN;
    if (more > UINT32_MAX - ids->cap || !hop_budget_take(budget, more)) return false;
    ids->cap += more;
    ids->bytes = xrealloc(ids->bytes, ids->cap);
    return true;
}

bool hop_ids_push(struct hop_ids *ids, struct hop_budget *budget, uint32_t id)
{
    if (ids->cap - ids->len < ID_BYTES_MAX && !grow(ids, budget)) return false;
    for (; id >= 0x80; id >>= 7)
        ids->bytes[ids->len++] = (unsigned char)(id | 0x80);
    ids->bytes[ids->len++] = (unsigned char)id;
    ids->count++;
    return true;
}

void hop_ids_commit(struct hop_ids *ids)
{
    ids->committed_len = ids->len;
    ids->committed_count = ids->count;
}

void hop_ids_rollback(struct hop_ids *ids)
{
    ids->len = ids->committed_len;
    ids->count = ids->committed_count;
}

static void print_id(struct buf *out, uint32_t id)
{
    char digits[20];
    buf_append(out, digits, (size_t)(str_put_uint(digits, id) - digits));
}

void hop_ids_print(const struct hop_ids *ids, struct buf *out)
{
    uint32_t at = 0;
    while (at < ids->committed_len) {
        uint32_t id = 0;
        if (at > 0) buf_append_char(out, ',');
        for (unsigned shift = 0;; shift += 7) {
            unsigned char byte = ids->bytes[at++];
            id |= (uint32_t)(byte & 0x7f) << shift;
            if (byte < 0x80) break;
        }
        print_id(out, id);
    }
}
