/* exchange_spares.c - what a request needs until its answer streams is taken from the last one that
 * needed it no longer: two structs of a kilobyte or two that malloc would search for and clear for
 * each request. At most SPARES_MAX of each are kept. In sanitizer builds none is, so that who
 * touches one too late is found out. */
#include "proxy/exchange_state.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define SPARES_MAX 0
#else
#define SPARES_MAX 128
#endif

union spare_affinity {
    struct affinity affinity;
    union spare_affinity *next;
};

struct exchange_spares {
    struct exchange_prelude *preludes;
    union spare_affinity *affinities;
    int prelude_count, affinity_count;
};

struct exchange_spares *exchange_spares_create(void)
{
    return xcalloc(1, sizeof(struct exchange_spares));
}

static void destroy_prelude(struct exchange_prelude *pre)
{
    arena_deinit(&pre->arena);
    free(pre);
}

void exchange_spares_destroy(struct exchange_spares *s)
{
    while (s->preludes) {
        struct exchange_prelude *pre = s->preludes;
        s->preludes = pre->next_spare;
        destroy_prelude(pre);
    }
    while (s->affinities) {
        union spare_affinity *a = s->affinities;
        s->affinities = a->next;
        free(a);
    }
    free(s);
}

struct exchange_prelude *exchange_spares_take_prelude(struct exchange_spares *s)
{
    struct exchange_prelude *pre = s->preludes;
    if (!pre) return xcalloc(1, sizeof *pre);
    s->preludes = pre->next_spare;
    s->prelude_count--;
    struct arena arena = pre->arena;
    memset(pre, 0, sizeof *pre);
    pre->arena = arena;
    return pre;
}

void exchange_spares_give_prelude(struct exchange_spares *s, struct exchange_prelude *pre)
{
    if (s->prelude_count >= SPARES_MAX) {
        destroy_prelude(pre);
        return;
    }
    arena_reset(&pre->arena);
    pre->next_spare = s->preludes;
    s->preludes = pre;
    s->prelude_count++;
}

struct affinity *exchange_spares_take_affinity(struct exchange_spares *s)
{
    union spare_affinity *a = s->affinities;
    if (!a) return xcalloc(1, sizeof *a);
    s->affinities = a->next;
    s->affinity_count--;
    memset(a, 0, sizeof *a);
    return &a->affinity;
}

void exchange_spares_give_affinity(struct exchange_spares *s, struct affinity *affinity)
{
    union spare_affinity *a = (union spare_affinity *)affinity;
    if (s->affinity_count >= SPARES_MAX) {
        free(a);
        return;
    }
    a->next = s->affinities;
    s->affinities = a;
    s->affinity_count++;
}
