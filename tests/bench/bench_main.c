/* lm-bench: figures with their ratio to a peer or to a limit of the machine, from the same minutes.
 */
#include <stdio.h>
#include <string.h>

#include "tests/bench/bench.h"

#include "shared/base/backtrace.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#define ARGS_MAX    16
#define FIELD(name) offsetof(struct bench_options, name)

static const struct option bench_option_table[] = {
    {"model", OPTION_STRING, FIELD(model), .arg = "FILE", .group = "Engine",
     .help = "GGUF file to measure with"},
    {"peer", OPTION_STRING, FIELD(peer), .arg = "PATH", .group = "Engine",
     .help = "llama-bench of llama.cpp, run in turns with ours on the same file; for "
             "grammar: what tests/bench/build_llama_grammar makes"},
    {"peer-batched", OPTION_STRING, FIELD(peer_batched), .arg = "PATH", .group = "Engine",
     .help = "llama-batched-bench of llama.cpp, for the parallel sequences"},
    {"threads", OPTION_INT, FIELD(threads), .def = "2", .min = 1, .max = 1024, .arg = "N",
     .group = "Engine", .help = "threads for both sides"},
    {"cpu-list", OPTION_STRING, FIELD(cpu_list), .arg = "LIST", .group = "Engine",
     .help = "cores to pin our threads to, such as 0-1"},
    {"cpu-isa", OPTION_STRING, FIELD(isa), .def = "auto", .arg = "NAME", .group = "Engine",
     .help = "instruction set: auto, scalar, avx2 or avx512; for kernels auto is all"},
    {"rounds", OPTION_INT, FIELD(rounds), .def = "5", .min = 1, .max = BENCH_SAMPLES_MAX,
     .arg = "N", .group = "Engine", .help = "rounds; medians are printed"},
    {"prefill", OPTION_INT, FIELD(prefill), .def = "512", .min = 1, .max = 1 << 20, .arg = "N",
     .group = "Engine", .help = "prompt tokens of the prefill row"},
    {"decode", OPTION_INT, FIELD(decode), .def = "128", .min = 2, .max = 1 << 20, .arg = "N",
     .group = "Engine", .help = "tokens generated in the decode rows"},
    {"batch", OPTION_INT, FIELD(batch), .def = "16", .min = 1, .max = 1024, .arg = "N",
     .group = "Engine", .help = "parallel sequences of the batch row"},
    {"kv-dtype", OPTION_CHOICE, FIELD(kv_type), .def = "all", .choices = "all|f32|f16|bf16|int8",
     .group = "Perplexity", .help = "type of the KV pages to compare with f32"},
    {"dtype", OPTION_CHOICE, FIELD(dtype), .def = "auto", .choices = "auto|float32",
     .group = "Perplexity",
     .help = "arithmetic of everything else; float32 shows what the pages alone do"},
    {"context", OPTION_INT, FIELD(context), .def = "1500", .min = 64, .max = 1 << 20, .arg = "N",
     .group = "Perplexity", .help = "positions in front of the tokens of the decode columns"},
    {"agent", OPTION_STRING, FIELD(agent), .arg = "PATH", .group = "Startup",
     .help = "lm-agent to start; default: the one beside lm-bench"},
    {"python", OPTION_STRING, FIELD(python), .def = "python3", .arg = "PATH", .group = "Tokenizer",
     .help = "Python whose tokenizers package is the peer, where it has one"},
    {"texts", OPTION_FLAG, FIELD(texts), .group = "Grammar",
     .help = "print the answers, as JSON, instead of the times"},
    {"concurrency", OPTION_INT, FIELD(concurrency), .def = "8", .min = 1, .max = 10000, .arg = "N",
     .group = "Load", .help = "streams at once"},
    {"requests", OPTION_INT, FIELD(requests), .def = "32", .min = 1, .max = 10000000, .arg = "N",
     .group = "Load", .help = "requests in all"},
    {"max-tokens", OPTION_INT, FIELD(max_tokens), .def = "64", .min = 1, .max = 1 << 20, .arg = "N",
     .group = "Load", .help = "tokens per answer"},
    {"prompt", OPTION_STRING, FIELD(prompt), .def = "Why is the sky blue?", .arg = "TEXT",
     .group = "Load", .help = "user message; a number is put before it to keep prompts apart"},
    {"seconds", OPTION_INT, FIELD(seconds), .def = "60", .min = 1, .max = 1 << 30, .arg = "N",
     .group = "Soak", .help = "time in which clients begin requests"},
    {"distinct", OPTION_INT, FIELD(distinct), .def = "48", .min = 2, .max = 100000, .arg = "N",
     .group = "Soak", .help = "requests of the set; each is answered alone first"},
    {"pool", OPTION_DOUBLE, FIELD(pool), .def = "0.25", .min = 0.01, .max = 10, .arg = "SHARE",
     .group = "Soak", .help = "KV tokens of the agent, as a share of what all clients ask for"},
    {"seed", OPTION_INT, FIELD(seed), .def = "1", .min = 0, .max = 1 << 30, .arg = "N",
     .group = "Soak", .help = "another set and another order"},
    {"agent-arg", OPTION_LIST, FIELD(agent_args), .arg = "ARG", .group = "Soak",
     .help = "one more argument for the agent, as in --agent-arg=--kv-dtype=int8; repeat it"},
    {"only", OPTION_STRING, FIELD(only), .def = "requests,paced,queued,latency,held",
     .arg = "PARTS", .group = "Proxy", .help = "what to measure, separated by commas"},
    {"streams", OPTION_INT, FIELD(streams), .def = "10000", .min = 1, .max = 1000000, .arg = "N",
     .group = "Proxy", .help = "streams held open at once, as far as descriptors allow"},
    {"proxy", OPTION_STRING, FIELD(proxy), .arg = "PATH", .group = "Proxy",
     .help = "lm-proxy to start; default: the one beside lm-bench"},
    {"tls", OPTION_FLAG, FIELD(tls), .group = "Proxy",
     .help = "each proxy a second time, with clients that speak TLS to it"},
    {"proxy-arg", OPTION_LIST, FIELD(proxy_args), .arg = "ARG", .group = "Proxy",
     .help = "one more argument for lm-proxy, as in --proxy-arg=--threads=2; repeat it"},
};

static const struct config_program bench_program = {
    .name = "lm-bench",
    .usage =
        "lm-bench [options] engine|cache|kernels|sample|prefix|startup|perplexity FILE|tokenizer "
        "FOLDER FILE...|grammar FOLDER FILE|compile|proxy|load URL|soak [URL]",
    .summary =
        "Measure the engine, its caches, the kernels, the drawing of tokens, types of KV pages, "
        "tokenizers, grammars, a router's reading of requests, an agent's start, the proxy or a "
        "served URL, and print ratios.",
    .footer =
        "  lm-bench engine --model M.gguf --peer llama-bench --peer-batched llama-batched-bench\n"
        "  lm-bench cache --model M.gguf\n"
        "  lm-bench kernels --threads 2\n"
        "  lm-bench sample --rounds 9\n"
        "  lm-bench prefix\n"
        "  lm-bench startup --model M.gguf\n"
        "  lm-bench perplexity --model M.gguf tests/fixtures/text/harbour.txt\n"
        "  lm-bench tokenizer ~/models/Qwen3-0.6B tests/fixtures/text/harbour.txt\n"
        "  lm-bench grammar ~/models/Qwen3-0.6B schemas.jsonl\n"
        "  lm-bench proxy --rounds 3 --only requests,paced\n"
        "  lm-bench soak --model M.gguf --concurrency 64 --seconds 600\n"
        "  lm-bench load http://127.0.0.1:8000 --concurrency 16\n",
    .options = bench_option_table,
    .count = ARRAY_LEN(bench_option_table),
    .positional_max = ARGS_MAX,
};

static int usage(const char *text)
{
    fprintf(stderr, "lm-bench: %s; see lm-bench --help\n", text);
    return EXIT_USAGE;
}

static int run(const struct bench_options *o, const char **args, size_t count)
{
    if (count == 0)
        return usage("say what to measure: engine, cache, kernels, sample, prefix, startup, "
                     "perplexity, tokenizer, grammar, compile, proxy, load or soak");
    bool takes_more = !strcmp(args[0], "tokenizer") || !strcmp(args[0], "grammar");
    if (count > 2 && !takes_more) return usage("too many arguments");
    if (!strcmp(args[0], "kernels")) return bench_kernels((int)o->threads, o->isa);
    if (!strcmp(args[0], "prefix")) return bench_prefix();
    if (!strcmp(args[0], "sample")) return bench_sample(o);
    if (!strcmp(args[0], "proxy")) return bench_proxy(o);
    if (!strcmp(args[0], "tokenizer")) {
        return count > 1 ? bench_tokenizer(o, args[1], args + 2, count - 2)
                         : usage("tokenizer wants a model folder");
    }
    if (!strcmp(args[0], "grammar")) {
        return count == 3 ? bench_grammar(o, args[1], args[2])
                          : usage("grammar wants a model folder or GGUF, and a file of schemas");
    }
    if (!strcmp(args[0], "soak")) {
        return o->model || count == 2 ? bench_soak(o, count == 2 ? args[1] : NULL)
                                      : usage("soak wants --model FILE or the URL of an agent");
    }
    if (!strcmp(args[0], "load")) {
        return count == 2 ? bench_load(o, args[1])
                          : usage("load wants the URL of an agent or proxy");
    }
    bool perplexity = !strcmp(args[0], "perplexity"), compile = !strcmp(args[0], "compile");
    bool cache = !strcmp(args[0], "cache");
    if (strcmp(args[0], "engine") != 0 && strcmp(args[0], "startup") != 0 && !perplexity &&
        !cache && !compile) {
        return usage("unknown subject; it is one of engine, cache, kernels, sample, prefix, "
                     "startup, perplexity, tokenizer, grammar, compile, proxy, load, soak");
    }
    if (!o->model) return usage("--model wants a GGUF file");
    if (cache) return bench_cache(o);
    if (compile) return bench_compile(o);
    if (perplexity) {
        return count == 2 ? bench_perplexity(o, args[1]) : usage("perplexity wants a file of text");
    }
    return !strcmp(args[0], "engine") ? bench_engine(o) : bench_startup(o);
}

int main(int argc, char **argv)
{
    struct bench_options options = {0};
    const char *args[ARGS_MAX];
    size_t count = 0;
    struct error err;

    backtrace_install("lm-bench");
    log_init("lm-bench", LOG_WARN);
    int rc = config_parse(&bench_program, argc, argv, &options, args, &count, &err);
    if (rc < 0) {
        fprintf(stderr, "lm-bench: %s\n", err.text);
        return EXIT_USAGE;
    }
    int code = rc == CONFIG_EXIT ? 0 : run(&options, args, count);
    config_deinit(&bench_program, &options);
    return code;
}
