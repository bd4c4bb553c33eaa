/* outbox.h - events from the engine thread to one consumer.
 *
 * Each request has one output that gathers what was not taken yet, so a slow consumer gets fewer,
 * larger events: memory is bounded by what its requests may generate, and nothing is lost. */
#ifndef LM_ENGINE_OUTBOX_H
#define LM_ENGINE_OUTBOX_H

#include "engine/engine.h"
#include "shared/base/list.h"
#include "shared/base/str.h"

#include <pthread.h>

struct output; // opaque

struct outbox {
    pthread_mutex_t lock;
    struct list ready; // outputs with something to take, in the order in which they got it
};

void outbox_init(struct outbox *o);
void outbox_deinit(struct outbox *o); // frees outputs whose last event nobody took

/* logprobs: log-probabilities that come with each token. */
struct output *output_create(uint64_t id, int prompt_tokens, int logprobs);
void output_destroy(struct output *out); // only before its last event was posted; NULL is fine

/* What happened since the last post. kind DONE or FAILED is the last: the output then belongs to
 * the outbox. True: nothing was ready before, so the consumer must be woken. */
struct output_update {
    enum engine_event_kind kind;
    const int32_t *tokens;
    int token_count;
    const struct token_logprob *logprobs; // of the only token; NULL: none
    int resumed_tokens, released_tokens;
    struct str text; // for FAILED: what went wrong
    enum finish_reason finish;
    int cached_tokens, completion_tokens;
    int error_code;
    float *embedding; // the event's from now on; NULL: none
};
bool outbox_post(struct outbox *o, struct output *out, const struct output_update *update);
/* The log-probabilities of the prompt's next token; it goes out with what is posted next. */
void outbox_add_prompt_logprobs(struct outbox *o, struct output *out,
                                const struct token_logprob *logprobs);

/* The consumer's side: see engine_next_event. */
bool outbox_take(struct outbox *o, struct engine_event *event);

#endif
