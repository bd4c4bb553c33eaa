#include "shared/base/arena.h"

#include "shared/base/check.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MIN   ((size_t)1000) // with its head within what malloc keeps at hand
#define CHUNK_SMALL ((size_t)4 << 10)
#define CHUNK_MAX   ((size_t)256 << 10)
#define ALIGN       ((size_t)16)

struct arena_chunk {
    struct arena_chunk *next; // older
    size_t size;              // bytes of data
    size_t used;
    _Alignas(16) char data[];
};

void arena_init(struct arena *a)
{
    *a = (struct arena){0};
}

void arena_deinit(struct arena *a)
{
    for (struct arena_chunk *chunk = a->chunks; chunk;) {
        struct arena_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    arena_init(a);
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *first = a->chunks;
    if (!first) return;
    struct arena_chunk *chunk = first->next;
    while (chunk) {
        struct arena_chunk *next = chunk->next;
        if (next) {
            free(chunk);
        } else { // the oldest is the smallest
            free(first);
            first = chunk;
        }
        chunk = next;
    }
    if (first->size > CHUNK_SMALL) {
        free(first);
        arena_init(a);
        return;
    }
    memset(first->data, 0, first->used);
    first->used = 0;
    first->next = NULL;
    *a = (struct arena){.chunks = first};
}

static struct arena_chunk *add_chunk(struct arena *a, size_t size)
{
    // calloc: fresh pages come zeroed from the kernel, so zeroing costs nothing where it is large.
    // Where it is small malloc is much quicker at handing out again what has just been freed.
    CHECK(size < SIZE_MAX / 2);
    bool small = size <= CHUNK_SMALL;
    struct arena_chunk *chunk =
        small ? xmalloc(sizeof *chunk + size) : xcalloc(1, sizeof *chunk + size);
    if (small) memset(chunk, 0, sizeof *chunk + size);
    chunk->size = size;
    struct arena_chunk *newest = a->chunks;
    if (newest && size > CHUNK_MAX) { // one large thing: go on filling the chunk at the front
        chunk->next = newest->next;
        newest->next = chunk;
    } else {
        chunk->next = newest;
        a->chunks = chunk;
    }
    return chunk;
}

void *arena_alloc(struct arena *a, size_t size)
{
    CHECK(size < SIZE_MAX / 2);
    size_t rounded = size ? (size + ALIGN - 1) & ~(ALIGN - 1) : ALIGN;
    struct arena_chunk *chunk = a->chunks;
    if (!chunk || rounded > chunk->size - chunk->used) {
        // Small pieces as long as it is small: a request that waits or streams wastes little.
        size_t wanted = a->bytes < CHUNK_SMALL ? CHUNK_MIN : a->bytes;
        if (wanted > CHUNK_MAX) wanted = CHUNK_MAX;
        chunk = add_chunk(a, rounded > wanted ? rounded : wanted);
    }
    void *ptr = chunk->data + chunk->used;
    chunk->used += rounded;
    a->bytes += rounded;
    return ptr;
}

char *arena_strndup(struct arena *a, const char *text, size_t len)
{
    char *copy = arena_alloc(a, len + 1);
    if (len) memcpy(copy, text, len);
    return copy;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    CHECK(len >= 0);
    char *text = arena_alloc(a, (size_t)len + 1);
    vsnprintf(text, (size_t)len + 1, fmt, again);
    va_end(again);
    return text;
}
