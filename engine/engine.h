/* engine.h - the public boundary of the engine: open a model, submit prompts, take events, close.
 *
 * Threads: engine_open and engine_close from the owner. engine_submit, engine_cancel and
 * engine_stats from any thread. engine_next_event from one consumer thread; on_events is called
 * from the engine thread when events wait (it must only wake the consumer: uv_async_send, a
 * condition variable). The tokenizer and the chat template are immutable and may be used from any
 * thread. */
#ifndef LM_ENGINE_ENGINE_H
#define LM_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/sample.h" // struct logit_bias
#include "shared/base/error.h"

struct engine;        // opaque
struct grammar;       // engine/grammar.h
struct grammar_cache; // engine/grammar_cache.h
struct tokenizer;     // engine/tokenizer.h
struct chat_template; // engine/chat_template.h

/* What matrices of floats are kept in; quantised ones keep their format. Sums and activations are float32
 * everywhere, or int8 and int16 blocks as inputs of quantised matrices. */
enum engine_dtype {
    ENGINE_DTYPE_AUTO, // as the model's files have them
    ENGINE_DTYPE_FLOAT16,
    ENGINE_DTYPE_BFLOAT16,
    ENGINE_DTYPE_FLOAT32, // all matrices, quantised ones too: exact and slow
};
enum engine_kv_dtype {
    ENGINE_KV_AUTO,
    ENGINE_KV_F16,
    ENGINE_KV_BF16,
    ENGINE_KV_F32,
    ENGINE_KV_INT8,
};

#define ENGINE_PACE_NONE 1e9 // prompts as fast as they can be computed

struct engine_options {
    const char *model_path;
    const char *chat_template; // chat_template_choice.h's option, or NULL
    const char *backend;       // "cpu", "cuda", or "auto": the best that is usable here
    int tp;                    // ranks that the model is cut over; 0: 1
    int tp_timeout_ms;         // a rank that doesn't answer the others fails them; 0: 30 s
    bool deterministic; // a row's bits never depend on its company (backend.h rule 3), on GPUs too
    int threads;        // of all ranks; 0: all cores this process may use
    const char *cpu_list; // of all ranks; NULL: don't pin, unless ranks and NUMA nodes match
    const char *cpu_isa;  // "auto", "scalar", "avx2", "avx512"
    enum engine_dtype dtype;
    const char *model_format;      // struct weights_options.format; NULL: as the model's files say
    enum engine_kv_dtype kv_dtype; // AUTO: dtype's, f16 where that is auto
    int session_len;               // context window; 0: the model's own
    double cache_max_entry_count;  // share of free memory for KV pages
    int64_t cache_max_tokens;      // bound on KV tokens; 0: none
    int max_batch_size;            // sequences that run at once
    int max_prefill_token_num;     // prompt tokens per step
    double prefill_pace;           // steps with prompts take at most this times one without; 0: 2
    bool prefix_caching;           // keep pages of ended requests for prompts that begin alike
    double session_pin_ratio;      // share of the pages that sessions may keep from eviction
    int64_t session_host_bytes;    // memory for copies of pages that sessions had to give up
    int queue_max; // requests beside max_batch_size running ones; beyond them submit gives E_BUSY
    int pipeline_depth; // steps in flight: 0 = backend's choice (CPU 1, GPU 2), 1 or 2
    /* Find out what the model needs and what would fit: engine_info() is filled, nothing is loaded, and
     * but for engine_close() nothing else may be called. */
    bool measure_only;
    bool
        no_generation_config; // the defaults of requests are OpenAI's, whatever the model's files say
    void (*on_events)(void *arg);
    void *on_events_arg;
};

/* Loads, starts threads, runs a short self-test generation. Returns when the engine serves.
 * E_FORMAT, E_UNSUPPORTED, E_LIMIT (memory), -errno: *err has one line for the operator. */
FALLIBLE int engine_open(const struct engine_options *options, struct engine **out,
                         struct error *err);
/* Cancels everything, joins threads, frees. NULL is fine. An engine that has lost a rank
 * (engine/executor.h) isn't freed: the process should end. */
void engine_close(struct engine *e);

struct engine_rank_info {
    size_t weights_bytes, activations_bytes, kv_block_bytes;
};

/* One vector of a whole prompt: hidden states behind the final norm, made one, of length 1. */
enum engine_pool {
    ENGINE_POOL_NONE, // generate
    ENGINE_POOL_MEAN, // of all tokens
    ENGINE_POOL_LAST, // of the last token
};

struct engine_info {
    const char *architecture; // "llama"
    const char *model_name;   // from the file's metadata; "" if it has none
    const char *backend;      // "cpu avx512+vnni, 2 threads"
    const char *format;       // how linear layers are stored: "gguf", "hf", "awq", ...
    const char *kv_dtype;     // "f16"
    int64_t parameters;
    int vocab_size;
    int hidden_size;          // floats of an embedding
    enum engine_pool pooling; // what the model's files say that it was trained for
    int context_len;          // tokens of prompt + completion that one request may have
    bool rope_by_length;      // rope tables depend on the prompt's length (engine/rope_set.h)
    size_t weights_bytes, activations_bytes; // of all ranks
    size_t kv_block_bytes;                   // of ENGINE_BLOCK_TOKENS tokens on all ranks
    int ranks;
    const struct engine_rank_info *rank; // [ranks]
    int kv_blocks;                       // 0 with measure_only: not even one fits
    int64_t kv_tokens;
    int max_batch_size;
};
const struct engine_info *engine_info(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e);
const struct chat_template *engine_chat_template(const struct engine *e);
struct grammar_cache *
engine_grammars(const struct engine *e); // grammars over the tokenizer's tokens

/* ---- requests ---- */

#define SHOWN_TOKENS_MAX 32
#define LOGIT_BIAS_MAX   4096 // tokens of one request that may have one
#define LOGPROBS_MAX     SAMPLE_LOGPROBS_MAX

/* Zero switches each of them off but top_p, which needs a number. */
struct sampling_params {
    float temperature;        // 0: greedy, ties to the lowest id
    float top_p;              // (0, 1]; at least one token is kept
    float min_p;              // [0, 1]
    int top_k;                // 0: off
    uint64_t seed;            // counter-based: same request, same tokens, whatever the batch
    uint32_t choice;          // of several answers to one prompt: part of the counter
    float repetition_penalty; // > 0, 0 and 1: off; divides (multiplies negative) logits of tokens
                              // that prompt or answer have: Keskar et al. 2019, "CTRL", section 4.1
    float presence_penalty;   // taken off the logit of each token that the answer has
    float frequency_penalty;  // likewise, times how often
    const struct logit_bias *bias; // [bias_count], copied by submit
    int bias_count;
    int logprobs; // 0: none; n <= LOGPROBS_MAX: of the sampled token and of the n - 1 likeliest
};

/* A place in a prompt that the caller has a name for: its first `tokens`, whole blocks. */
struct engine_mark {
    uint64_t name;
    int tokens; // > 0, a multiple of ENGINE_BLOCK_TOKENS
};
#define ENGINE_BLOCK_TOKENS 64
#define ENGINE_MARKS_MAX    256 // of one request

/* What counts where a request says nothing: the model's generation_config.json over OpenAI's defaults. */
const struct sampling_params *engine_sampling(const struct engine *e);

struct engine_request {
    uint64_t id;           // chosen by the caller, unique among live requests, not 0
    const int32_t *prompt; // copied by submit
    size_t prompt_count;   // >= 1
    struct sampling_params sampling;
    /* Who waits for whom (engine/wait_queue.h). */
    uint64_t tenant;      // waiting requests of all tenants take turns
    int priority;         // the lower, the sooner; 0 is what most have
    uint64_t deadline_ms; // clock_ms() at which it fails with E_TIMEOUT; 0: never
    /* Not 0: one of several answers to the same prompt. They are submitted one after the other and
     * share one prefill, also when prefix_caching is off. */
    uint64_t group;
    /* Not 0: its pages stay for this session when it ends (engine_session_state). */
    uint64_t session;
    int max_tokens; // >= 1, or 0: until the context is full. Cut to what the context leaves.
    int min_tokens; // no stop (id or string) before that many
    /* Of the prompt's tokens, too; sampling.logprobs says how many. Then nothing of the prompt is
     * taken from the prefix cache. */
    bool prompt_logprobs;
    /* Not NONE: no answer is generated. The last event, DONE, has the embedding; sampling, limits and
     * stops don't matter. With MEAN nothing of the prompt is taken from the prefix cache. */
    enum engine_pool pool;
    const struct engine_mark *marks; // copied by submit; tokens ascending, at most prompt_count
    int mark_count;
    bool ignore_eos;
    bool skip_special;       // special tokens don't appear in the text
    const int32_t *shown;    // but these do, copied
    int shown_count;         // <= SHOWN_TOKENS_MAX
    const char *const *stop; // stop strings, copied; matched in the text, never part of it
    const size_t *stop_len;
    int stop_count;
    const int32_t *stop_ids; // extra stop tokens, copied
    int stop_id_count;
    struct grammar *grammar; // the answer's text up to its stop token matches it; NULL: any text
    /* Rope tables as for a prompt of that many tokens, where they depend on it; 0: of this prompt.
     * Not 0: of an answer that began with them. */
    int rope_positions;
    /* The answer's first tokens, copied: drawn before, maybe by another engine. Stops, penalties,
     * limits and positions go on as if they had been drawn here. The first event brings them with
     * their text, and is the last one if they are the whole answer already. With sampling.logprobs
     * those whose text isn't out yet are drawn again, so that each has its log-probabilities where
     * its text is. Not with prompt_logprobs. */
    const int32_t *resumed;
    size_t resumed_count;
};

/* E_BUSY: queue full. E_CONTEXT_LENGTH: prompt leaves no room for a token. E_INVALID: an id out of
 * range. E_UNSUPPORTED: `pool` on a backend that can't. E_CLOSED: draining or failed. On success exactly one DONE or FAILED event will follow. */
FALLIBLE int engine_submit(struct engine *e, const struct engine_request *request,
                           struct error *err);
/* The request ends with DONE and FINISH_CANCELLED within a step, unless it ended before. */
void engine_cancel(struct engine *e, uint64_t id);

/* ---- events ---- */

/* The logarithm of a token's probability, temperature 1: after logit_bias, penalties and the ban of
 * stop tokens for sampled tokens, of the bare model for the prompt's. -INFINITY: it can't be drawn. */
struct token_logprob {
    int32_t token; // -1: there were no more tokens
    float logprob;
};

enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED };

enum engine_event_kind {
    ENGINE_EVENT_TOKENS, // tokens were sampled; text may be empty while held back
    ENGINE_EVENT_DONE,   // last event of a request; may carry tokens and text too
    ENGINE_EVENT_FAILED, // last event: the engine could not go on with it
};

struct engine_event {
    uint64_t id;
    enum engine_event_kind kind;
    int32_t *tokens; // ids sampled since the last event, a closing stop token included
    int token_count;
    /* [token_count][sampling.logprobs]: the sampled token, then the likeliest, descending, ties to
     * the lowest id. NULL: none asked for. */
    struct token_logprob *logprobs;
    /* Likewise of the prompt's tokens from the second on, as far as computed since the last event;
     * all come before or with the first sampled token. */
    struct token_logprob *prompt_logprobs;
    int prompt_logprob_count; // prompt tokens
    float *embedding; // [engine_info.hidden_size] of DONE, if `pool` asked for it; else NULL
    char *text;       // text released since the last event: whole UTF-8 characters, no stop text
    size_t text_len;
    enum finish_reason finish;
    int prompt_tokens, cached_tokens,
        completion_tokens; // running totals; cached: prompt tokens reused
    int released_tokens;   // of completion_tokens, the first ones whose text is out or began to be:
                           // no stop token or string. Only with sampling.logprobs
    /* Of completion_tokens, the first ones: they came with the request, and rows of `logprobs` that
     * stand for them hold nothing. */
    int resumed_tokens;
    int error_code; // FAILED: negative code, text in `text`. E_INVALID: the answer ends before the
                    // last of the tokens that it is resumed with, or its grammar has no such answer
};

/* False: none waits. The event's arrays belong to the caller: engine_event_deinit frees them.
 * A slow consumer gets fewer, larger events; nothing is lost and memory stays bounded by
 * max_tokens. */
bool engine_next_event(struct engine *e, struct engine_event *event);
void engine_event_deinit(struct engine_event *event);

/* ---- marks of prompts ----
 *
 * Which of the marks that requests came with could be found in the prefix cache by a request that
 * begins alike, if its length gets the same rope tables. One block may stand for many marks, and one
 * mark be reported again, for the same or another block. */

struct engine_mark_event {
    bool is_live;            // else the block is gone, and all marks that were reported for it
    uint64_t block;          // identity of the last block of what the mark covers
    struct engine_mark mark; // of live ones
};

/* One consumer, the one of engine_next_event. False: none waits, or pages aren't kept at all. */
bool engine_next_mark_event(struct engine *e, struct engine_mark_event *event);
/* Events that found no room, ever. When it has grown, every mark reported until the call may be
 * gone. */
uint64_t engine_lost_mark_events(const struct engine *e);

/* ---- sessions ----
 *
 * A session is the caller's: a key, and the ids of its turns so far. The engine only remembers for a
 * key how much of the last request's computation is still there; a request that begins with the same
 * ids finds it again, whoever sends it. Losing it costs time, never a token. */

enum engine_session_state {
    SESSION_TOKENS, // nothing is kept: the next turn computes its history again
    SESSION_HOST,   // pages were copied to host memory and come back from there
    SESSION_CACHED, // in the prefix cache, evicted when others need the room
    SESSION_HOT,    // kept from eviction, within session_pin_ratio
};
#define ENGINE_SESSION_STATES 4

/* Any thread. What a turn that came now would find, if its length gets the same rope tables. */
enum engine_session_state engine_session_state(struct engine *e, uint64_t session);
/* Any thread. Forget the key: its pages are ordinary cache from now on. */
void engine_session_release(struct engine *e, uint64_t session);

/* ---- state ---- */

struct engine_stats {
    int running, waiting;
    int64_t prefill_tokens_waiting; // prompt tokens not computed yet, but those found in the cache
    /* Blocks: held by running requests; else kept for hot sessions; else in the prefix cache, to be
     * evicted when needed; the rest is free. */
    int kv_blocks_used, kv_blocks_pinned, kv_blocks_cached, kv_blocks_total;
    int64_t kv_host_bytes;               // copies of sessions' pages in host memory
    int sessions[ENGINE_SESSION_STATES]; // keys remembered, by enum engine_session_state
    uint64_t steps, steps_ahead;         // ever; of these, begun while another one ran
    uint64_t prompt_tokens_total, generated_tokens_total, preemptions_total;
    uint64_t cached_tokens_total; // prompt tokens found in the prefix cache
    uint64_t last_step_ms;        // monotonic clock at the last finished step; for /health
    double prefill_tokens_per_s;  // engine/step_cost.h; 0 until known, like the next two
    double inter_token_s;         // average decode step
    double inter_token_slope_s;   // what one more running sequence adds to it
    bool failed;                  // a device error, or a lost rank, stopped the engine
};
void engine_stats(const struct engine *e, struct engine_stats *out);

#endif
