/* model_stats.h - what requests of a model are like, learned from finished ones: bytes per prompt
 * token and tokens per answer, so that the proxy needs no tokenizer. Both are weighted averages
 * that forget: the last few dozens of answers count. A fixed table; the model asked for the longest
 * time ago makes room. Any thread; names are those of a fleet's models, so nobody aims at a slot. */
#ifndef LM_PROXY_MODEL_STATS_H
#define LM_PROXY_MODEL_STATS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/str.h"

#define MODEL_STATS_SETS            256
#define MODEL_STATS_WAYS            4
#define MODEL_STATS_BYTES_PER_TOKEN 4.0 // before anything is known
#define MODEL_STATS_OUTPUT_TOKENS   128.0
#define MODEL_STATS_IMAGE_TOKENS    600.0

struct model_estimate {
    double bytes_per_token, output_tokens;
};

struct model_stats {
    pthread_mutex_t lock;
    uint64_t uses; // a clock of look-ups
    struct model_stats_slot {
        uint64_t name_hash; // 0: free
        uint64_t used;
        double bytes, tokens; // fading sums
        double output_tokens;
    } slots[MODEL_STATS_SETS][MODEL_STATS_WAYS];
};

void model_stats_init(struct model_stats *s);
void model_stats_deinit(struct model_stats *s);
struct model_estimate model_stats_get(struct model_stats *s, struct str model);
/* A request has finished: canonical bytes of its prompt, and its usage. Zeros: not known. */
void model_stats_note(struct model_stats *s, struct str model, double prompt_bytes,
                      double prompt_tokens, double output_tokens);

/* Tokens of a prompt. */
double model_estimate_prompt(const struct model_estimate *e, double prompt_bytes, int images);
/* Tokens of an answer whose request limits it; max_tokens <= 0: it doesn't. */
double model_estimate_output(const struct model_estimate *e, double max_tokens);

#endif
