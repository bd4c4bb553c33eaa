/* soak_requests.h - the requests of `lm-bench soak` and the answers that they must get. */
#ifndef LM_BENCH_SOAK_REQUESTS_H
#define LM_BENCH_SOAK_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"

/* What counts as left over, as /metrics names it: all must be 0 when nobody asks. */
#define SOAK_IDLE_METRICS "lm_agent_running", "lm_agent_waiting", "lm_agent_kv_blocks_used"

struct soak_request {
    int index;
    bool sampled;    // temperature 0.8 with a seed, else greedy
    struct buf body; // JSON
};

/* What a stream said, put together. */
struct soak_answer {
    struct buf text;
    char finish[24];
    int64_t prompt_tokens, completion_tokens;
    bool bad; // an event was no completion chunk
};

void soak_answer_init(struct soak_answer *a, size_t max);
void soak_answer_deinit(struct soak_answer *a);
void soak_answer_move(struct soak_answer *to, struct soak_answer *from); // from: as after init
/* One event of /v1/completions; true when it brought text. */
bool soak_answer_add(struct soak_answer *a, struct str data);
bool soak_answer_equal(const struct soak_answer *a, const struct soak_answer *b);
/* Where two answers part, on stderr. */
void soak_answer_print(const struct soak_request *r, const struct soak_answer *want,
                       const struct soak_answer *got);

struct soak_set {
    struct soak_request *request; // [count]
    struct soak_answer *answer;   // [count], filled by the caller
    int count;
};

/* `count` requests, the same for the same seed: prompts of 16 to 2,000 words, most short, more than
 * half of them with a beginning that others share; 1 to 300 tokens to generate; greedy and sampled
 * in turns. */
void soak_set_init(struct soak_set *s, const char *model, int count, uint64_t seed);
void soak_set_deinit(struct soak_set *s);
void soak_set_print(const struct soak_set *s);
/* Tokens that `clients` requests of the set take on average, prompt and completion. */
int64_t soak_set_demand(const struct soak_set *s, int clients);

#endif
