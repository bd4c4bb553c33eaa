#include "engine/weights.h"

#include "engine/gguf.h"
#include "engine/gguf_split.h"
#include "engine/rope_set.h"
#include "engine/safetensors.h"
#include "engine/weights_gguf.h"
#include "engine/weights_hf.h"
#include "shared/base/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* One mapping of its own for each matrix, so that it can go as soon as it was packed. */
struct made_memory {
    struct made_memory *next;
    void *data;
    size_t bytes;
};

static int open_gguf(const char *path, const struct weights_options *options, struct weights **out,
                     struct error *err)
{
    struct gguf *g;
    int rc = gguf_split_open(path, &g, err);
    if (rc < 0) return error_prefix(err, rc, "can't read model");
    rc = weights_gguf_take(g, options, out, err);
    return rc < 0 ? error_prefix(err, rc, "can't use model '%s'", path) : 0;
}

int weights_open(const char *path, struct weights **out, struct error *err)
{
    return weights_open_with(path, &(struct weights_options){.compute = COMPUTE_F32}, out, err);
}

int weights_open_with(const char *path, const struct weights_options *options, struct weights **out,
                      struct error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return error_set(err, -errno, "can't open model '%s': %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        int rc = weights_hf_open(path, options, out, err);
        return rc < 0 ? error_prefix(err, rc, "can't use model '%s'", path) : 0;
    }
    if (str_ends_with(str_of(path), STR(".safetensors")))
        return error_set(err, E_INVALID, "model '%s' is a part of a folder: give the folder", path);
    if (options->format)
        return error_set(err, E_INVALID,
                         "model format '%s' is one of folders, but model '%s' is a file: GGUF says "
                         "itself how it is stored",
                         options->format, path);
    return open_gguf(path, options, out, err);
}

/* The whole pages of what was made: a matrix may be some rows of it (packed q, k and v), and its
 * neighbours are packed later. */
static void drop_made(const struct made_memory *made, const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)data, end = first + bytes;
    uintptr_t made_end = (uintptr_t)made->data + made->bytes;
    if (first < (uintptr_t)made->data || first >= made_end) return;
    first = (first + page - 1) / page * page;
    end = end < made_end ? end / page * page : end;
    if (first >= end) return;
    madvise((void *)first, end - first, MADV_DONTNEED);
    mprotect((void *)first, end - first, PROT_NONE); // a later reader would find zeros
}

static void drop_source(void *arg, const struct matrix *m)
{
    const struct weights *w = arg;
    size_t bytes = matrix_bytes(m);
    if (w->gguf) gguf_drop_pages(w->gguf, m->data, bytes);
    if (w->safetensors && safetensors_drop_pages(w->safetensors, m->data, bytes)) return;
    for (const struct made_memory *made = w->made; made; made = made->next)
        drop_made(made, m->data, bytes);
}

struct weights *weights_create(void)
{
    struct weights *w = xcalloc(1, sizeof *w);
    arena_init(&w->arena);
    w->params.on_source_done = drop_source;
    w->params.on_source_done_arg = w;
    return w;
}

void *weights_make(struct weights *w, size_t bytes)
{
    struct made_memory *made = arena_alloc(&w->arena, sizeof *made);
    void *data = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(data != MAP_FAILED);
    *made = (struct made_memory){w->made, data, bytes ? bytes : 1};
    w->made = made;
    return data;
}

void weights_close(struct weights *w)
{
    if (!w) return;
    for (struct made_memory *made = w->made; made; made = made->next)
        munmap(made->data, made->bytes);
    safetensors_close(w->safetensors);
    gguf_close(w->gguf);
    arena_deinit(&w->arena);
    free(w);
}

static struct rope_table make_rope(struct weights *w, const struct rope_source *source,
                                   int positions)
{
    float *inv_freq = arena_alloc(&w->arena, (size_t)source->dims / 2 * sizeof *inv_freq);
    float factor = rope_build(source, positions, inv_freq);
    return (struct rope_table){inv_freq, factor};
}

void weights_fit_rope(struct weights *w, int positions)
{
    struct model_params *p = &w->params;
    int kinds = w->config.rope_count;
    struct rope_lengths lengths = rope_lengths_of(w->config.rope, kinds);
    p->rope_table_count = kinds;
    p->rope_sets = rope_set_for(&lengths, positions) + 1;
    size_t count = (size_t)p->rope_sets * (size_t)kinds;
    struct rope_table *tables = arena_alloc(&w->arena, count * sizeof *tables);
    for (int set = 0; set < p->rope_sets; set++)
        for (int i = 0; i < kinds; i++)
            tables[set * kinds + i] =
                make_rope(w, &w->config.rope[i], rope_set_positions(&lengths, set));
    p->rope_tables = tables;
}
