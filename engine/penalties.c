#include "engine/penalties.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <stdlib.h>

bool penalties_are_on(const struct sampling_params *params)
{
    return params->presence_penalty != 0 || params->frequency_penalty != 0 ||
           (params->repetition_penalty != 0 && params->repetition_penalty != 1);
}

void token_history_deinit(struct token_history *h)
{
    free(h->item);
    free(h->slot);
    *h = (struct token_history){0};
}

/* The token's slot, or the empty one where it belongs. */
static uint32_t *find_slot(const struct token_history *h, int32_t token)
{
    uint32_t at = (uint32_t)hash_mix((uint32_t)token);
    for (;; at++) {
        uint32_t *slot = &h->slot[at & (h->slots - 1)];
        if (*slot == 0 || h->item[*slot - 1].token == token) return slot;
    }
}

/* At most half of the slots are taken: searches stay short. */
static void grow(struct token_history *h)
{
    free(h->slot);
    h->slots = h->slots ? 2 * h->slots : 64;
    h->slot = xcalloc(h->slots, sizeof *h->slot);
    h->cap = (int)(h->slots / 2);
    h->item = xrealloc_array(h->item, (size_t)h->cap, sizeof *h->item);
    for (int i = 0; i < h->count; i++)
        *find_slot(h, h->item[i].token) = (uint32_t)i + 1;
}

static struct token_count *find_or_add(struct token_history *h, int32_t token)
{
    if (h->count == h->cap) grow(h);
    uint32_t *slot = find_slot(h, token);
    if (*slot == 0) {
        h->item[h->count++] = (struct token_count){.token = token};
        *slot = (uint32_t)h->count;
    }
    return &h->item[*slot - 1];
}

void token_history_add_prompt(struct token_history *h, const int32_t *tokens, int count)
{
    for (int i = 0; i < count; i++)
        find_or_add(h, tokens[i]);
}

void token_history_add(struct token_history *h, int32_t token)
{
    find_or_add(h, token)->answer++;
}
