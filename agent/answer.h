/* answer.h - the choices of one answer: which engine requests they take, what the engine's events add
 * up to, and what is printed of them, whole or as a stream, and when. Knows no connection, no engine and
 * no route's shapes (agent/response.h). Loop thread only. */
#ifndef LM_AGENT_ANSWER_H
#define LM_AGENT_ANSWER_H

#include "agent/chat_request.h"
#include "agent/prompt_build.h"
#include "agent/reply.h"
#include "agent/response.h"
#include "agent/stream_marks.h"
#include "engine/engine.h"

/* Rows of log-probabilities, one for a token. */
struct score_list {
    struct token_logprob *rows; // owned; [cap][width]
    size_t count, cap;
};

/* What is known of one answer in the making; several may compete for one choice (best_of). */
struct candidate {
    struct reply reply;       // whole: all of it; stream: what wasn't printed yet
    struct token_list tokens; // likewise; kept only for return_token_ids
    struct score_list scores; // likewise; kept only for logprobs
    size_t released;          // of scores, those whose text is out
    size_t printed_scores;    // stream: removed from scores
    int64_t offset;           // characters before the first of scores
    double logprob_sum;       // of completion_tokens
    enum finish_reason finish;
    bool has_begun;    // stream: its first event was printed
    bool has_finished; // stream: its last event was printed
    int cached_tokens, completion_tokens;
};

struct answer {
    struct response_head head;
    const struct prompt_set *prompts; // borrowed
    int n, per_prompt;                // choices and candidates for each prompt
    bool echo, scores_prompt;         // both: the prompt's tokens have log-probabilities
    bool is_empty;                    // max_tokens 0
    int width;                        // log-probabilities a token; 0: none are printed
    int max_tokens;
    uint64_t seed;
    bool keep_special;
    struct candidate *candidates;     // owned; prompt by prompt
    size_t count, open;               // open: their last event hasn't come
    struct score_list *prompt_scores; // owned; [prompts->count], with scores_prompt
    struct stream_marks marks;
    /* Of an answer that began elsewhere: */
    const struct resume_record *resumed; // borrowed; NULL: it begins here
    bool is_contradicted;                // the record isn't of this answer
};

/* head: without `state` and what is said by the request and the plan of its prompts, which comes from
 * here. The request isn't needed afterwards, the prompts are. */
void answer_init(struct answer *a, const struct response_head *head, const struct chat_request *r,
                 const struct prompt_set *prompts, const struct tokenizer *tokenizer);
void answer_deinit(struct answer *a); // zeroed is fine

/* A stream with a single choice, whose text is the model's: what marks can describe. */
bool answer_is_resumable(const struct answer *a);
/* The stream gets marks. now_s: what the prompt was built with; rope_by_length as in struct
 * engine_info. */
void answer_mark(struct answer *a, int64_t now_s, bool rope_by_length);
/* The stream goes on where the record says; only if answer_is_resumable. Before answer_request. */
void answer_resume(struct answer *a, const struct resume_record *record);

/* Complete what sampling_fields_apply() filled in with what this candidate's is. False: there is
 * nothing to compute for it, no event will come. */
bool answer_request(struct answer *a, size_t index, struct engine_request *out);

/* A TOKENS or DONE event of a candidate. Sets is_contradicted. */
void answer_record(struct answer *a, size_t index, const struct engine_event *event);

struct response_usage answer_usage(const struct answer *a);

/* All are complete: the body, with the best of the candidates. */
void answer_print_whole(struct answer *a, struct buf *out);
/* What is new since the last call, as events; with open == 0 usage and [DONE], too. */
void answer_print_events(struct answer *a, struct buf *out);

#endif
