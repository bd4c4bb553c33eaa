#include "engine/grammar_cache.h"

#include "engine/grammar_pace.h"
#include "engine/grammar_vocab.h"
#include "shared/base/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define COMPILE_NICE 10 // a tenth of a core that others want

/* What became of a source. */
struct cache_entry {
    enum grammar_kind kind;
    char *source; // owned; NULL: the entry is free
    size_t len;
    struct grammar *grammar; // a reference; NULL: it failed, as `failure` says
    struct error *failure;   // owned
    uint64_t used;           // when, in calls
};

struct grammar_cache {
    const struct tokenizer *tokenizer;
    struct grammar_pace *pace; // borrowed, may be NULL
    pthread_mutex_t lock;
    struct grammar_vocab *vocab; // NULL until needed
    struct cache_entry entry[GRAMMAR_CACHE_MAX];
    size_t source_bytes; // of all entries
    uint64_t calls, compiled;
};

struct grammar_cache *grammar_cache_create(const struct tokenizer *t, struct grammar_pace *pace)
{
    struct grammar_cache *c = xcalloc(1, sizeof *c);
    c->tokenizer = t;
    c->pace = pace;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

/* Under the lock, like the next functions up to take_known(). */
static void clear(struct grammar_cache *c, struct cache_entry *e)
{
    c->source_bytes -= e->len;
    grammar_unref(e->grammar);
    free(e->failure);
    free(e->source);
    *e = (struct cache_entry){0};
}

void grammar_cache_destroy(struct grammar_cache *c)
{
    if (!c) return;
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++)
        clear(c, &c->entry[i]);
    grammar_vocab_destroy(c->vocab);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct cache_entry *find(struct grammar_cache *c, const struct grammar_wish *w)
{
    for (int i = 0; i < GRAMMAR_CACHE_MAX; i++) {
        struct cache_entry *e = &c->entry[i];
        if (e->source && e->kind == w->kind &&
            str_equal((struct str){e->source, e->len}, w->source))
            return e;
    }
    return NULL;
}

/* Makes room for one more. */
static struct cache_entry *make_room(struct grammar_cache *c, size_t bytes)
{
    struct cache_entry *room = NULL;
    while (!room || c->source_bytes + bytes > GRAMMAR_CACHE_SOURCES) {
        struct cache_entry *oldest = NULL;
        for (int i = 0; i < GRAMMAR_CACHE_MAX; i++) {
            struct cache_entry *e = &c->entry[i];
            if (!e->source)
                room = e;
            else if (!oldest || e->used < oldest->used)
                oldest = e;
        }
        if (room && c->source_bytes + bytes <= GRAMMAR_CACHE_SOURCES) break;
        clear(c, oldest);
    }
    return room;
}

/* g, or why there is none. */
static void add(struct grammar_cache *c, const struct grammar_wish *w, struct grammar *g,
                const struct error *failure)
{
    if (w->source.len > GRAMMAR_SOURCE_MAX || find(c, w)) return; // another thread was faster
    struct cache_entry *e = make_room(c, w->source.len);
    *e = (struct cache_entry){.kind = w->kind,
                              .source =
                                  xstrndup(w->source.data ? w->source.data : "", w->source.len),
                              .len = w->source.len,
                              .grammar = g ? grammar_ref(g) : NULL,
                              .failure = g ? NULL : xmemdup(failure, sizeof *failure),
                              .used = c->calls};
    c->source_bytes += e->len;
}

/* Whether it is known; then *out, if somebody wants it, or *failure, whose code is 0 without one. */
static bool take_known(struct grammar_cache *c, const struct grammar_wish *w, struct grammar **out,
                       struct error *failure)
{
    struct cache_entry *e = find(c, w);
    c->calls++;
    if (!e) return false;
    e->used = c->calls;
    if (e->failure) *failure = *e->failure;
    if (e->grammar && out) *out = grammar_ref(e->grammar);
    return true;
}

/* ---- compiling ---- */

struct compile_job {
    const struct grammar_wish *wish;
    struct grammar_cache *cache;
    struct grammar **out;  // NULL: it is only checked
    struct error *failure; // text without a code: it didn't fail
};

static void do_job(const struct compile_job *job)
{
    const struct grammar_wish *w = job->wish;
    const struct grammar_vocab *vocab = job->cache->vocab;
    struct grammar_pace_turn turn;
    if (job->cache->pace) grammar_pace_enter(&turn, job->cache->pace, w->since_ms);
    int rc = job->out ? grammar_compile(w->kind, w->source, vocab, job->out, job->failure)
                      : grammar_check(w->kind, w->source, vocab, job->failure);
    if (job->cache->pace) grammar_pace_leave();
    job->failure->code = rc;
}

static void *compile_main(void *arg)
{
    setpriority(PRIO_PROCESS, (id_t)gettid(), COMPILE_NICE); // of the thread, on Linux
    do_job(arg);
    return NULL;
}

/* On a thread of its own, which gives way to those that answer: a thread can't have its priority back. */
static void compile_aside(struct compile_job *job)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, compile_main, job) == 0)
        pthread_join(thread, NULL);
    else
        do_job(job);
}

/* out NULL: whether there is one. */
static int find_or_compile(struct grammar_cache *c, const struct grammar_wish *wish,
                           struct grammar **out, struct error *err)
{
    struct error failure = {0};
    pthread_mutex_lock(&c->lock);
    if (!c->vocab) c->vocab = grammar_vocab_create(c->tokenizer);
    bool is_known = take_known(c, wish, out, &failure);
    pthread_mutex_unlock(&c->lock);
    if (!is_known) {
        compile_aside(&(struct compile_job){wish, c, out, &failure});
        pthread_mutex_lock(&c->lock);
        c->compiled++;
        if (out || failure.code < 0) add(c, wish, failure.code < 0 ? NULL : *out, &failure);
        pthread_mutex_unlock(&c->lock);
    }
    return failure.code < 0 ? error_set(err, failure.code, "%s", failure.text) : 0;
}

int grammar_cache_get(struct grammar_cache *c, const struct grammar_wish *wish,
                      struct grammar **out, struct error *err)
{
    *out = NULL;
    return find_or_compile(c, wish, out, err);
}

int grammar_cache_check(struct grammar_cache *c, const struct grammar_wish *wish, struct error *err)
{
    return find_or_compile(c, wish, NULL, err);
}

uint64_t grammar_cache_compiled(struct grammar_cache *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t compiled = c->compiled;
    pthread_mutex_unlock(&c->lock);
    return compiled;
}
