/* arena.h - bump allocator for one conversation: everything of a request lives in one arena and is
 * freed in one place. Nothing inside is freed singly. One thread at a time. */
#ifndef LM_BASE_ARENA_H
#define LM_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks; // newest first
    size_t bytes;               // handed out so far
};

void arena_init(struct arena *a);
void arena_deinit(struct arena *a);
/* Empty again, but what it took first stays at hand: for an arena that is filled over and over. */
void arena_reset(struct arena *a);

void *arena_alloc(struct arena *a, size_t size); // 16-byte aligned, zeroed, never NULL
char *arena_strndup(struct arena *a, const char *text, size_t len);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
