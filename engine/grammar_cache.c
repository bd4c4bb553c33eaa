#include "engine/grammar_cache.h"

#include "engine/grammar_vocab.h"
#include "shared/base/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define COMPILE_NICE 10 // a tenth of a core that others want

struct cache_entry {
    enum grammar_kind kind;
    char *source; // owned
    size_t len;
    struct grammar *grammar; // a reference; NULL: the entry is free
    uint64_t used;           // when, in calls
};

struct grammar_cache {
    const struct tokenizer *tokenizer;
    pthread_mutex_t lock;
    struct grammar_vocab *vocab; // NULL until needed
    struct cache_entry entry[GRAMMAR_CACHE_MAX];
    uint64_t calls;
};

struct grammar_cache *grammar_cache_create(const struct tokenizer *t)
{
    struct grammar_cache *c = xcalloc(1, sizeof *c);
    c->tokenizer = t;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void clear(struct cache_entry *e)
{
    grammar_unref(e->grammar);
    free(e->source);
    *e = (struct cache_entry){0};
}

void grammar_cache_destroy(struct grammar_cache *c)
{
    if (!c) return;
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++)
        clear(&c->entry[i]);
    grammar_vocab_destroy(c->vocab);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Under the lock, like the next two. */
static struct cache_entry *find(struct grammar_cache *c, enum grammar_kind kind, struct str source)
{
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++) {
        struct cache_entry *e = &c->entry[i];
        if (e->grammar && e->kind == kind && str_equal((struct str){e->source, e->len}, source))
            return e;
    }
    return NULL;
}

static void add(struct grammar_cache *c, enum grammar_kind kind, struct str source,
                struct grammar *g)
{
    struct cache_entry *oldest = &c->entry[0];
    for (int i = 1; i < GRAMMAR_CACHE_MAX; i++)
        if (c->entry[i].used < oldest->used) oldest = &c->entry[i];
    clear(oldest);
    *oldest = (struct cache_entry){.kind = kind,
                                   .source = xstrndup(source.data ? source.data : "", source.len),
                                   .len = source.len,
                                   .grammar = grammar_ref(g),
                                   .used = c->calls};
}

static struct grammar *take_known(struct grammar_cache *c, enum grammar_kind kind,
                                  struct str source)
{
    struct cache_entry *e = find(c, kind, source);
    c->calls++;
    if (!e) return NULL;
    e->used = c->calls;
    return grammar_ref(e->grammar);
}

struct compile_job {
    enum grammar_kind kind;
    struct str source;
    const struct grammar_vocab *vocab;
    struct grammar **out; // NULL: it is only checked
    struct error *err;
    int rc;
};

static int do_job(const struct compile_job *job)
{
    if (!job->out) return grammar_check(job->kind, job->source, job->vocab, job->err);
    return grammar_compile(job->kind, job->source, job->vocab, job->out, job->err);
}

static void *compile_main(void *arg)
{
    struct compile_job *job = arg;
    setpriority(PRIO_PROCESS, (id_t)gettid(), COMPILE_NICE); // of the thread, on Linux
    job->rc = do_job(job);
    return NULL;
}

/* On a thread of its own, which gives way to those that answer: a thread can't have its priority back. */
static int compile_aside(struct compile_job *job)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, compile_main, job) != 0) return do_job(job);
    pthread_join(thread, NULL);
    return job->rc;
}

int grammar_cache_check(struct grammar_cache *c, enum grammar_kind kind, struct str source,
                        struct error *err)
{
    pthread_mutex_lock(&c->lock);
    if (!c->vocab) c->vocab = grammar_vocab_create(c->tokenizer);
    pthread_mutex_unlock(&c->lock);
    return compile_aside(&(struct compile_job){kind, source, c->vocab, NULL, err, 0});
}

int grammar_cache_get(struct grammar_cache *c, enum grammar_kind kind, struct str source,
                      struct grammar **out, struct error *err)
{
    pthread_mutex_lock(&c->lock);
    if (!c->vocab) c->vocab = grammar_vocab_create(c->tokenizer);
    *out = take_known(c, kind, source);
    pthread_mutex_unlock(&c->lock);
    if (*out) return 0;
    int rc = compile_aside(&(struct compile_job){kind, source, c->vocab, out, err, 0});
    if (rc < 0) return rc;
    pthread_mutex_lock(&c->lock);
    if (!find(c, kind, source)) add(c, kind, source, *out); // or another thread was faster
    pthread_mutex_unlock(&c->lock);
    return 0;
}
