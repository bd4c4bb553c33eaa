/* llama_grammar.cpp - the grammar sampling of llama.cpp as a program that lm-bench grammar --peer asks:
 *
 *     llama-grammar vocab.gguf
 *     > S {"type": "object"}          a schema; < O 812.5: microseconds until the sampler is there; or < E why
 *     > A 4913 220 16 92              an answer's tokens; < for each of them that the grammar takes the
 *                                     microseconds to find it among all tokens, and to check it alone
 *
 * Processor time of this thread. Built by tests/bench/build_llama_grammar. */
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "json-schema-to-grammar.h"
#include "llama.h"

static double cpu_us()
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

struct Peer {
    const llama_vocab *vocab;
    llama_sampler *sampler = nullptr;
    std::vector<llama_token_data> row;
};

static void set_schema(Peer &p, const std::string &text)
{
    if (p.sampler) llama_sampler_free(p.sampler);
    p.sampler = nullptr;
    try {
        double begun = cpu_us();
        std::string grammar = json_schema_to_grammar(common_json::parse(text));
        p.sampler = llama_sampler_init_grammar(p.vocab, grammar.c_str(), "root");
        if (!p.sampler) throw std::runtime_error("no grammar");
        printf("O %.1f\n", cpu_us() - begun);
    } catch (const std::exception &e) {
        std::string why = e.what();
        for (char &c : why)
            if (c == '\n') c = ' ';
        printf("E %s\n", why.c_str());
    }
}

static double apply(Peer &p, std::vector<llama_token_data> &row)
{
    llama_token_data_array all = {row.data(), row.size(), -1, false};
    double begun = cpu_us();
    llama_sampler_apply(p.sampler, &all);
    return cpu_us() - begun;
}

static void follow(Peer &p, std::istringstream &ids)
{
    llama_token id;
    if (p.sampler) llama_sampler_reset(p.sampler);
    while (p.sampler && ids >> id) {
        std::vector<llama_token_data> one = {{id, 0, 0}};
        for (size_t i = 0; i < p.row.size(); i++)
            p.row[i] = {(llama_token)i, 0, 0};
        double whole = apply(p, p.row), alone = apply(p, one);
        if (std::isinf(p.row[(size_t)id].logit)) break;
        printf("%.2f %.2f ", whole, alone);
        llama_sampler_accept(p.sampler, id);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: llama-grammar vocab.gguf\n");
        return 2;
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model *model = llama_model_load_from_file(argv[1], params);
    if (!model) return 1;
    Peer p;
    p.vocab = llama_model_get_vocab(model);
    p.row.resize((size_t)llama_vocab_n_tokens(p.vocab));
    printf("V %zu\n", p.row.size());
    fflush(stdout);
    for (std::string line; std::getline(std::cin, line); fflush(stdout)) {
        std::istringstream rest(line.size() > 2 ? line.substr(2) : "");
        if (line[0] == 'S')
            set_schema(p, rest.str());
        else
            follow(p, rest);
    }
    if (p.sampler) llama_sampler_free(p.sampler);
    llama_model_free(model);
}
