/* bench.h - what the parts of lm-bench share: options, samples, medians, the peers.
 *
 * Every figure is a median over rounds; where a peer is given, its run and ours alternate within a
 * round, and the ratio of the medians is printed beside the figures: machines drift, ratios hold.
 */
#ifndef LM_BENCH_BENCH_H
#define LM_BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared/base/config.h"
#include "shared/base/error.h"

struct bench_options {
    char *model;
    char *peer;         // llama-bench
    char *peer_batched; // llama-batched-bench
    char *agent;        // lm-agent, for `startup`
    char *python;       // tokenizer: of the peer
    char *isa;
    char *cpu_list;
    char *prompt;                    // load: user message
    int kv_type;                     // perplexity: 0 is all, else enum kv_type + 1
    int dtype;                       // perplexity: enum compute_type
    int64_t context;                 // perplexity
    int64_t seconds, distinct, seed; // soak
    double pool;                     // soak: share of the demand
    struct option_list agent_args;   // soak: more arguments for the agent
    char *proxy, *only;              // proxy: lm-proxy to start; parts to measure
    struct option_list proxy_args;   // proxy: more arguments for lm-proxy
    int64_t streams;                 // proxy: held open at once
    bool tls;                        // proxy: also with TLS
    bool texts;                      // grammar: print the answers
    int64_t threads, rounds, prefill, decode, batch, concurrency, requests, max_tokens;
};

#define BENCH_SAMPLES_MAX 64

struct bench_samples {
    double value[BENCH_SAMPLES_MAX];
    int count;
};

void bench_samples_add(struct bench_samples *s, double value);
double bench_samples_median(const struct bench_samples *s); // 0 when empty
double bench_median(double *values, int count);             // sorts them; 0 when empty
double bench_samples_at(const struct bench_samples *s, double quantile);

/* One line: name, our median, the peer's and the ratio (when the peer has samples), spread of both.
 */
void bench_print_row(const char *name, const char *unit, const struct bench_samples *ours,
                     const struct bench_samples *peer);

/* Run a program and return its stdout (owned). E_UPSTREAM with its exit status and last stderr
 * line. */
FALLIBLE int bench_run(const char *const *argv, char **out, struct error *err);

/* One sample of llama.cpp's tools on the same file, tokens/s. */
FALLIBLE int bench_peer_prefill(const struct bench_options *o, double *rate, struct error *err);
FALLIBLE int bench_peer_decode(const struct bench_options *o, double *rate, struct error *err);
FALLIBLE int bench_peer_batch(const struct bench_options *o, double *rate, struct error *err);

/* An lm-agent on a free port of this machine that serves o->model as "bench". */
struct bench_agent {
    pid_t pid; // 0: none
    int port;
    double ready_ms; // from exec to the first 200 of /ready
};

/* `extra`: more arguments, NULL at the end, or NULL. quiet: its log goes nowhere, else to stderr. */
FALLIBLE int bench_agent_start(const struct bench_options *o, const char *const *extra, bool quiet,
                               struct bench_agent *a, struct error *err);
/* E_UPSTREAM: it did not end with status 0 after SIGTERM. */
FALLIBLE int bench_agent_stop(struct bench_agent *a, struct error *err);
/* One request on a connection of its own; the status, or -1 when nobody answers. */
int bench_agent_request(int port, const char *text);
double bench_agent_resident_mb(const struct bench_agent *a);

/* Subcommands: each prints its table and returns an exit code. */
int bench_engine(const struct bench_options *o);
int bench_cache(const struct bench_options *o);
int bench_startup(const struct bench_options *o);
int bench_load(const struct bench_options *o, const char *url);
int bench_soak(const struct bench_options *o, const char *url); // NULL: starts an agent
int bench_proxy(const struct bench_options *o);
int bench_kernels(int threads, const char *isa); // "auto": all of this machine
int bench_prefix(void);
int bench_sample(const struct bench_options *o);
/* folder: of a model; files: texts to encode. */
int bench_tokenizer(const struct bench_options *o, const char *folder, const char **files,
                    size_t count);
int bench_compile(const struct bench_options *o);
/* tokenizer: of a model folder or a GGUF. path: JSON schemas, or texts in parts and answers, one in each line. */
int bench_grammar(const struct bench_options *o, const char *tokenizer, const char *path);
int bench_perplexity(const struct bench_options *o, const char *path);

#endif
