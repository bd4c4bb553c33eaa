#include "tests/bench/bench_loop.h"

static void on_events(void *arg)
{
    struct bench_loop *l = arg;

    pthread_mutex_lock(&l->lock);
    l->pending = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

int bench_loop_open(struct bench_loop *l, const struct engine_options *options, struct error *err)
{
    struct engine_options with_events = *options;

    *l = (struct bench_loop){0};
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    rng_init(&l->rng, 1);
    with_events.on_events = on_events;
    with_events.on_events_arg = l;
    return engine_open(&with_events, &l->engine, err);
}

void bench_loop_close(struct bench_loop *l)
{
    engine_close(l->engine);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
}

void bench_loop_tokens(struct bench_loop *l, int32_t *ids, int count)
{
    int vocab = engine_info(l->engine)->vocab_size;

    for (int i = 0; i < count; i++)
        ids[i] = (int32_t)rng_below(&l->rng, (uint32_t)vocab);
}

int bench_loop_submit(struct bench_loop *l, const int32_t *ids, int count, int generate,
                      struct error *err)
{
    struct engine_request request = {
        .id = ++l->next_id,
        .prompt = ids,
        .prompt_count = (size_t)count,
        .sampling = {.temperature = 0, .top_p = 1},
        .max_tokens = generate,
        .ignore_eos = true,
    };
    return engine_submit(l->engine, &request, err);
}

void bench_loop_wait(struct bench_loop *l, struct engine_event *event)
{
    while (!engine_next_event(l->engine, event)) {
        pthread_mutex_lock(&l->lock);
        while (!l->pending)
            pthread_cond_wait(&l->wake, &l->lock);
        l->pending = false;
        pthread_mutex_unlock(&l->lock);
    }
}
