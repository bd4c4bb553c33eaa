#include "proxy/model_stats.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"

#include <string.h>

#define FADE              (15.0 / 16) // of what was known, per answer
#define PRIOR_TOKENS      500.0       // the weight of not knowing
#define BYTES_PER_MIN     0.25        // beyond these somebody's usage is wrong
#define BYTES_PER_MAX     64.0
#define OUTPUT_MAX        1e6
#define PROMPT_TOKENS_MIN 1.0

void model_stats_init(struct model_stats *s)
{
    memset(s, 0, sizeof *s);
    CHECK(pthread_mutex_init(&s->lock, NULL) == 0);
}

void model_stats_deinit(struct model_stats *s)
{
    pthread_mutex_destroy(&s->lock);
}

/* The model's slot, made if it isn't there; under the lock. */
static struct model_stats_slot *find_slot(struct model_stats *s, struct str model)
{
    uint64_t name_hash = hash_bytes(model.data, model.len) | 1;
    struct model_stats_slot *set = s->slots[(name_hash >> 32) % MODEL_STATS_SETS];
    struct model_stats_slot *oldest = &set[0];
    for (int i = 0; i < MODEL_STATS_WAYS; i++) {
        if (set[i].name_hash == name_hash) {
            set[i].used = ++s->uses;
            return &set[i];
        }
        if (set[i].used < oldest->used) oldest = &set[i];
    }
    *oldest = (struct model_stats_slot){
        .name_hash = name_hash,
        .used = ++s->uses,
        .bytes = PRIOR_TOKENS * MODEL_STATS_BYTES_PER_TOKEN,
        .tokens = PRIOR_TOKENS,
        .output_tokens = MODEL_STATS_OUTPUT_TOKENS,
    };
    return oldest;
}

struct model_estimate model_stats_get(struct model_stats *s, struct str model)
{
    pthread_mutex_lock(&s->lock);
    const struct model_stats_slot *slot = find_slot(s, model);
    struct model_estimate e = {
        .bytes_per_token = slot->bytes / slot->tokens,
        .output_tokens = slot->output_tokens,
    };
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* Sums that fade, not a mean of ratios: a long prompt says more about its tokenizer than a short
 * one, most of whose tokens are its template's. */
void model_stats_note(struct model_stats *s, struct str model, double prompt_bytes,
                      double prompt_tokens, double output_tokens)
{
    bool has_prompt = prompt_bytes > 0 && prompt_tokens > 0 &&
                      prompt_bytes >= prompt_tokens * BYTES_PER_MIN &&
                      prompt_bytes <= prompt_tokens * BYTES_PER_MAX;
    pthread_mutex_lock(&s->lock);
    struct model_stats_slot *slot = find_slot(s, model);
    if (has_prompt) {
        slot->bytes = slot->bytes * FADE + prompt_bytes;
        slot->tokens = slot->tokens * FADE + prompt_tokens;
    }
    if (output_tokens > 0) {
        double bounded = output_tokens < OUTPUT_MAX ? output_tokens : OUTPUT_MAX;
        slot->output_tokens += (1 - FADE) * (bounded - slot->output_tokens);
    }
    pthread_mutex_unlock(&s->lock);
}

double model_estimate_prompt(const struct model_estimate *e, double prompt_bytes, int images)
{
    double tokens = prompt_bytes / e->bytes_per_token + images * MODEL_STATS_IMAGE_TOKENS;
    return tokens > PROMPT_TOKENS_MIN ? tokens : PROMPT_TOKENS_MIN;
}

double model_estimate_output(const struct model_estimate *e, double max_tokens)
{
    return max_tokens > 0 && max_tokens < e->output_tokens ? max_tokens : e->output_tokens;
}
