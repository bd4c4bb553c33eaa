/* bench_grammar_peer.h - llama.cpp's grammar sampling, asked through tests/bench/llama_grammar.cpp. */
#ifndef LM_BENCH_BENCH_GRAMMAR_PEER_H
#define LM_BENCH_BENCH_GRAMMAR_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

struct grammar_peer {
    pid_t pid; // 0: none
    FILE *in, *out;
    int vocab;
};

/* Microseconds of processor time to find a token among all, and to check it alone. */
struct grammar_peer_time {
    double whole, alone;
};

FALLIBLE int grammar_peer_open(struct grammar_peer *p, const char *path, const char *vocab,
                               struct error *err);
void grammar_peer_close(struct grammar_peer *p); // zeroed is fine
/* *us: to compile it. *taken false: it has no grammar for that. */
FALLIBLE int grammar_peer_schema(struct grammar_peer *p, struct str schema, bool *taken, double *us,
                                 struct error *err);
/* Up to the first token that its grammar doesn't take; *taken: how many it took. */
FALLIBLE int grammar_peer_follow(struct grammar_peer *p, const int32_t *ids, size_t count,
                                 struct grammar_peer_time *times, size_t *taken, struct error *err);

#endif
