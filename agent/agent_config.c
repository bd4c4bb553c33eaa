#define LOG_MODULE "config"
#include "agent/agent_config.h"

#include "agent/advertise.h"
#include "agent/hub.h"
#include "agent/reply_formats.h"
#include "engine/lmdeploy_template.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "shared/net/agent_record.h"
#include "shared/net/http_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(name) offsetof(struct agent_config, name)

static const struct option options[] = {
    {"server-name", OPTION_STRING, FIELD(server_name), .def = "0.0.0.0", .arg = "HOST",
     .group = "Server", .help = "address to listen on"},
    {"server-port", OPTION_INT, FIELD(server_port), .def = "23333", .min = 0, .max = 65535,
     .arg = "PORT", .group = "Server", .help = "port to listen on; 0 picks a free one"},
    {"model-name", OPTION_STRING, FIELD(model_name), .arg = "NAME", .group = "Server",
     .help = "name that requests use; by default the file's name without .gguf, or the "
             "repository's id"},
    {"queue-max", OPTION_INT, FIELD(queue_max), .def = "256", .min = 1, .max = 65536, .arg = "N",
     .group = "Server", .help = "requests that may wait for the batch; more get 429"},
    {"max-concurrent-requests", OPTION_INT, FIELD(max_concurrent_requests), .def = "0", .min = 0,
     .max = 65536, .arg = "N", .group = "Server",
     .help = "requests that are answered at once; more wait, within --queue-max; 0 means no bound "
             "but --max-batch-size"},
    {"text-threads", OPTION_INT, FIELD(text_threads), .def = "2", .min = 1, .max = 64, .arg = "N",
     .group = "Server",
     .help =
         "threads that render chat templates and tokenise; four times as many compile grammars"},
    {"request-timeout", OPTION_INT, FIELD(request_timeout_s), .def = "0", .min = 0, .max = 86400,
     .arg = "SECONDS", .group = "Server",
     .help = "time that a request may take from its queue to its last token, then 503; 0 means no "
             "bound"},
    {"drain-timeout", OPTION_INT, FIELD(drain_timeout_s), .def = "180", .min = 0, .max = 86400,
     .arg = "SECONDS", .group = "Server",
     .help = "time that running requests get after SIGTERM; 0 means as long as they take"},
    {"allow-origins", OPTION_LIST, FIELD(allow_origins), .def = "*", .arg = "ORIGIN",
     .group = "Server", .help = "origins that browsers may call from", .many = true},
    {"allow-methods", OPTION_LIST, FIELD(allow_methods), .def = "*", .arg = "METHOD",
     .group = "Server", .help = "methods that browsers may use", .many = true},
    {"allow-headers", OPTION_LIST, FIELD(allow_headers), .def = "*", .arg = "HEADER",
     .group = "Server", .help = "request headers that browsers may send", .many = true},
    {"allow-credentials", OPTION_FLAG, FIELD(allow_credentials), .group = "Server",
     .help = "let browsers send cookies and authorisation from other origins"},
    {"api-keys", OPTION_LIST, FIELD(api_keys), .arg = "KEY", .group = "Server",
     .help = "keys of which requests must show one (Authorization: Bearer, or x-api-key); by "
             "default none is needed",
     .many = true, .secret = true},
    {"disable-fastapi-docs", OPTION_FLAG, FIELD(disable_fastapi_docs), .group = "Server",
     .help = "don't serve the API's description: /, /redoc and /openapi.json"},
    {"api-key-file", OPTION_STRING, FIELD(api_key_file), .arg = "FILE", .group = "Server",
     .help = "more of them, one a line or in the proxy's JSON; read again on SIGHUP",
     .aliases = "api-keys-file"},
    {"web-pages", OPTION_FLAG, FIELD(web_pages), .def = "true", .group = "Server",
     .help = "serve the page /chat"},
    {"log-level", OPTION_STRING, FIELD(log_level), .def = "info", .arg = "LEVEL", .group = "Server",
     .help = "error, warn, info, debug or trace; LMDeploy's names work too"},
    {"max-log-len", OPTION_INT, FIELD(max_log_len), .def = "-1", .min = -1, .max = 1e12,
     .arg = "CHARACTERS", .group = "Server",
     .help = "of each prompt and output that --log-level trace writes down; -1 means all of it"},
    {"enable-abort-handling", OPTION_FLAG, FIELD(enable_abort_handling), .group = "Server",
     .help = "serve POST /abort_request, which ends requests that run"},
    {"allow-terminate-by-client", OPTION_FLAG, FIELD(allow_terminate_by_client), .group = "Server",
     .help = "serve /terminate, which drains this agent and ends it"},

    TLS_SERVER_OPTIONS(FIELD(tls)),
    TLS_CA_OPTION(FIELD(tls), "proxies"),

    {"proxy-url", OPTION_LIST, FIELD(proxy_urls), .arg = "URL", .group = "Fleet",
     .help = "lm-proxy to register at; repeat for several"},
    {"redis-url", OPTION_STRING, FIELD(redis_url), .arg = "URL", .group = "Fleet",
     .help = "registry that proxies share, redis://[[user]:password@]host:port/db", .secret = true},
    {"advertise", OPTION_STRING, FIELD(advertise), .arg = "HOST[:PORT]", .group = "Fleet",
     .help = "address that proxies reach this agent at; by default the local address of the "
             "connection to Redis or proxy"},
    {"join-key", OPTION_STRING, FIELD(join_key), .arg = "KEY", .group = "Fleet",
     .help = "key that the proxies want from agents", .secret = true},
    {"agent-id", OPTION_STRING, FIELD(agent_id), .arg = "ID", .group = "Fleet",
     .help = "stable name in the fleet; by default host name and port"},

    {"session-ttl", OPTION_INT, FIELD(session_ttl_s), .def = "14400", .min = 1, .max = 31536000,
     .arg = "SECONDS", .group = "Sessions",
     .help = "idle time after which a conversation of /v1/chat/interactive is dropped"},
    {"session-dir", OPTION_STRING, FIELD(session_dir), .arg = "FOLDER", .group = "Sessions",
     .help = "where conversations are kept over a restart; by default nowhere"},
    {"session-secret", OPTION_STRING, FIELD(session_secret), .arg = "TEXT", .group = "Sessions",
     .help = "names conversations in Redis, the same for the whole fleet; by default one that "
             "Redis keeps",
     .secret = true},

    {"session-len", OPTION_INT, FIELD(session_len), .def = "0", .min = 0, .max = 1 << 24,
     .arg = "TOKENS", .group = "Engine",
     .help = "context window of a request; 0 means the model's own"},
    {"cache-max-entry-count", OPTION_DOUBLE, FIELD(cache_max_entry_count), .def = "0.8",
     .min = 0.001, .max = 1, .arg = "SHARE", .group = "Engine",
     .help = "share of the free memory that the KV cache may take"},
    {"cache-max-tokens", OPTION_INT, FIELD(cache_max_tokens), .def = "0", .min = 0, .max = 1e12,
     .arg = "TOKENS", .group = "Engine",
     .help = "bound on the tokens in the KV cache; 0 means no bound beyond the share"},
    {"max-batch-size", OPTION_INT, FIELD(max_batch_size), .def = "32", .min = 1, .max = 4096,
     .arg = "N", .group = "Engine", .help = "sequences that run at once"},
    {"max-prefill-token-num", OPTION_INT, FIELD(max_prefill_token_num), .def = "8192", .min = 1,
     .max = 1 << 20, .arg = "TOKENS", .group = "Engine", .help = "prompt tokens in one step"},
    {"prefill-pace", OPTION_DOUBLE, FIELD(prefill_pace), .def = "2", .min = 1.2, .max = 1e9,
     .arg = "TIMES", .group = "Engine",
     .help = "with prompts beside them, running answers may take that many times as long"},
    {"dtype", OPTION_CHOICE, FIELD(dtype), .def = "auto",
     .choices = "auto|float16|bfloat16|float32", .group = "Engine",
     .help =
         "type of the weights that aren't quantised, of the KV cache, and on a GPU of activations; "
         "auto leaves weights as they are, on a GPU float16 or else as bfloat16; float32 is of all "
         "weights, exact and slow"},
    {"model-format", OPTION_CHOICE, FIELD(model_format), .def = "auto",
     .choices = "auto|hf|awq|gptq|fp8|mxfp4", .group = "Engine",
     .help =
         "how the weights of a folder are quantised, where its config.json leaves that open; hf "
         "means not at all"},
    {"kv-dtype", OPTION_CHOICE, FIELD(kv_dtype), .def = "auto", .choices = "auto|f16|bf16|f32|int8",
     .group = "Engine",
     .help =
         "type of the KV cache; auto is that of --dtype, f16 with --dtype auto; int8 takes half "
         "of f16"},
    {"quant-policy", OPTION_CHOICE, FIELD(quant_policy), .def = "0", .choices = "0|4|8",
     .group = "Engine",
     .help = "LMDeploy's name for it: 8 is --kv-dtype int8, 0 leaves it as it "
             "is; 4 is not offered"},
    {"enable-prefix-caching", OPTION_FLAG, FIELD(enable_prefix_caching), .def = "true",
     .group = "Engine", .help = "keep the KV pages of ended requests for prompts that begin alike"},
    {"disable-prefix-caching", OPTION_FLAG, FIELD(disable_prefix_caching), .group = "Engine",
     .help = "keep nothing of a request once it has ended"},
    {"session-pin-ratio", OPTION_DOUBLE, FIELD(session_pin_ratio), .def = "0.5", .min = 0, .max = 1,
     .arg = "SHARE", .group = "Engine",
     .help = "share of the KV cache that the sessions used last keep from eviction"},
    {"session-host-bytes", OPTION_BYTES, FIELD(session_host_bytes), .def = "256M", .arg = "BYTES",
     .group = "Engine",
     .help = "memory for copies of KV pages that sessions had to give up; 0 means none"},
    {"generation-config", OPTION_CHOICE, FIELD(generation_config), .def = "auto",
     .choices = "auto|none", .group = "Engine",
     .help = "sampling of requests that don't say theirs: the model's generation_config.json, or "
             "OpenAI's defaults"},
    {"dry-run", OPTION_FLAG, FIELD(dry_run), .group = "Engine",
     .help = "print what the model is, what it needs and how many tokens fit, and exit"},
    {"revision", OPTION_STRING, FIELD(revision), .arg = "NAME", .group = "Engine",
     .help = "branch, tag or commit of a hub repository; main by default"},
    {"download-dir", OPTION_STRING, FIELD(download_dir), .arg = "FOLDER", .group = "Engine",
     .help = "where hub repositories are looked for and kept; by default the cache of Hugging "
             "Face's tools"},
    {"chat-template", OPTION_STRING, FIELD(chat_template), .arg = "NAME|FILE", .group = "Engine",
     .help = "instead of the model's own chat template: a file of Jinja or of LMDeploy's JSON, or "
             "the name of one of LMDeploy's templates"},
    {"tool-call-parser", OPTION_STRING, FIELD(tool_call_parser), .arg = "NAME", .group = "Engine",
     .help = "how the model writes calls of tools, by LMDeploy's or vLLM's names (a wrong one "
             "lists them), or none; by "
             "default as its chat template has them"},
    {"reasoning-parser", OPTION_STRING, FIELD(reasoning_parser), .arg = "NAME", .group = "Engine",
     .help = "how the model marks what it thinks before it answers, or none; by default as its "
             "chat template has it"},
    {"embedding", OPTION_CHOICE, FIELD(embedding), .def = "auto", .choices = "auto|off|mean|last",
     .group = "Engine",
     .help = "POST /v1/embeddings: how hidden states of a text's tokens become one vector; auto is "
             "what the model's files say it was trained for, or none"},
    {"list-chat-templates", OPTION_FLAG, FIELD(list_chat_templates), .group = "Engine",
     .help = "print the names that --chat-template knows, and exit"},
    {"escape-special", OPTION_FLAG, FIELD(escape_special), .group = "Engine",
     .help = "the text of a special token in messages stays text; by default it becomes the token, "
             "as in other servers"},
    {"tp", OPTION_INT, FIELD(tp), .def = "1", .min = 1, .max = 64, .arg = "RANKS",
     .group = "Engine",
     .help = "cut the model over that many ranks (tensor parallelism); on CPUs one for each NUMA "
             "node pays"},
    {"tp-timeout", OPTION_INT, FIELD(tp_timeout_s), .def = "30", .min = 1, .max = 3600,
     .arg = "SECONDS", .group = "Engine",
     .help = "a rank that doesn't answer the others for so long is lost, and the agent ends"},
    {"deterministic", OPTION_FLAG, FIELD(deterministic), .group = "Engine",
     .help = "on GPUs too, an answer has the same bits whatever else runs: own kernels and ordered "
             "sums, which are slower with long prompts and with --tp; the CPU always does so"},
    {"device", OPTION_CHOICE, FIELD(device), .def = "auto", .choices = "auto|cuda|cpu",
     .group = "Engine", .help = "what computes; auto takes the GPU where one is usable"},
    {"threads", OPTION_INT, FIELD(threads), .def = "0", .min = 0, .max = 1024, .arg = "N",
     .group = "Engine",
     .help = "compute threads of all ranks; 0 means all cores this process may use"},
    {"cpu-list", OPTION_STRING, FIELD(cpu_list), .arg = "LIST", .group = "Engine",
     .help = "cores to pin the compute threads to, as in 0-3,8; ranks share it in its order"},
    {"cpu-isa", OPTION_CHOICE, FIELD(cpu_isa), .def = "auto", .choices = "auto|scalar|avx2|avx512",
     .group = "Engine", .help = "instruction set; all give the same bits"},

    {"gpus", OPTION_STRING, FIELD(gpus), .arg = "LIST", .group = "Launcher",
     .help = "GPUs to serve on, as in 0-7: one supervised agent for each --tp of them"},
    {"replicas", OPTION_INT, FIELD(replicas), .def = "0", .min = 0, .max = 256, .arg = "N",
     .group = "Launcher",
     .help = "supervised agents to start, which divide --gpus or the cores; 0 means as many as "
             "--gpus are for, and without --gpus that this process is the agent"},
    {"ports", OPTION_STRING, FIELD(ports), .arg = "LIST", .group = "Launcher",
     .help = "ports of the replicas, as in 23333,23340-23342; by default --server-port plus 10 "
             "times the group's first GPU, or the replica's number"},
    {"restarts", OPTION_INT, FIELD(restarts), .def = "5", .min = 0, .max = 1000000, .arg = "N",
     .group = "Launcher",
     .help = "times in a row that a replica is started anew without having served for a minute; "
             "then all drain and the launcher ends with status 1; 0 means no bound"},
    {"restart-delay", OPTION_DOUBLE, FIELD(restart_delay_s), .def = "1", .min = 0.01, .max = 60,
     .arg = "SECONDS", .group = "Launcher",
     .help = "pause before the first of them, doubled each time up to a minute"},
    {"health-timeout", OPTION_DOUBLE, FIELD(health_timeout_s), .def = "30", .min = 0, .max = 86400,
     .arg = "SECONDS", .group = "Launcher",
     .help = "time for which a ready replica may fail GET /health until it is killed and started "
             "anew; 0 means for ever"},
    {"replica", OPTION_STRING, FIELD(replica), .arg = "NAME", .group = "Launcher",
     .help = "what the launcher tells its agents: be that one, and no launcher"},
};

static const char *const device_names[] = {"auto", "cuda", "cpu"};
static const char *const isa_names[] = {"auto", "scalar", "avx2", "avx512"};
static const char *const format_names[] = {NULL, "hf", "awq", "gptq", "fp8", "mxfp4"};

const struct config_program agent_program = {
    .name = "lm-agent",
    .usage = "lm-agent [options] MODEL",
    .summary = "Serve one model over an OpenAI-compatible HTTP API. MODEL is a GGUF file, a "
               "Hugging Face folder or the id of a hub repository (OWNER/NAME, OWNER/NAME:Q4_K_M).",
    .footer = "Examples:\n"
              "  lm-agent SmolLM2-135M-Instruct.Q4_1.gguf --server-port 23333 \\\n"
              "      --proxy-url http://127.0.0.1:8000\n"
              "  lm-agent meta-llama/Llama-3.1-8B-Instruct --gpus 0-7 --tp 2 --replicas 4 \\\n"
              "      --proxy-url http://proxy:8000\n",
    .options = options,
    .count = ARRAY_LEN(options),
    .positional_max = 1,
};

/* Without the "-00001-of-00003" of a model in several files. */
static size_t without_part(const char *name, size_t len)
{
    static const char pattern[] = "-#####-of-#####";
    size_t n = sizeof pattern - 1;
    if (len <= n) return len;
    for (size_t i = 0; i < n; i++) {
        char c = name[len - n + i];
        if (pattern[i] == '#' ? c < '0' || c > '9' : c != pattern[i]) return len;
    }
    return len - n;
}

char *agent_model_name(const char *model_path)
{
    size_t id_len;
    if (hub_names_repository(model_path, &id_len)) return xstrndup(model_path, id_len);
    size_t len = strlen(model_path);
    while (len > 1 && model_path[len - 1] == '/')
        len--;
    size_t start = len;
    while (start > 0 && model_path[start - 1] != '/')
        start--;
    static const char suffix[] = ".gguf";
    size_t suffix_len = sizeof suffix - 1;
    if (len - start > suffix_len &&
        memcmp(model_path + len - suffix_len, suffix, suffix_len) == 0) {
        len -= suffix_len;
    }
    return xstrndup(model_path + start, without_part(model_path + start, len - start));
}

static int check_log_level(struct agent_config *c, struct error *err)
{
    if (log_level_parse(c->log_level, &c->log_level_value) == 0) return 0;
    return error_set(err, E_INVALID, "--log-level: '%s' is not error, warn, info, debug or trace",
                     c->log_level);
}

/* LMDeploy's --quant-policy is another way to say --kv-dtype. */
static int apply_quant_policy(struct agent_config *c, struct error *err)
{
    enum { POLICY_NONE, POLICY_4, POLICY_8 };

    if (c->quant_policy == POLICY_NONE) return 0;
    if (c->quant_policy == POLICY_4) {
        return error_set(err, E_UNSUPPORTED,
                         "--quant-policy: a 4-bit KV cache is not offered; use 8, or 0 for none");
    }
    if (c->kv_dtype != ENGINE_KV_AUTO && c->kv_dtype != ENGINE_KV_INT8) {
        return error_set(err, E_INVALID,
                         "--quant-policy: 8 means int8, but --kv-dtype says otherwise; give one");
    }
    c->kv_dtype = ENGINE_KV_INT8;
    return 0;
}

static int check_urls(const struct agent_config *c, struct error *err)
{
    for (size_t i = 0; i < c->proxy_urls.count; i++) {
        struct http_url url;
        struct error why = {0};
        if (http_url_parse(c->proxy_urls.items[i], &url, &why) != 0) {
            return error_set(err, E_INVALID, "--proxy-url: %s", why.text);
        }
    }
    struct advertise advertise;
    return advertise_init(&advertise, c->advertise, c->server_name, (int)c->server_port, err);
}

static int check_names(const struct agent_config *c, struct error *err)
{
    const struct agent_record *record;
    size_t len = strlen(c->model_name);
    if (len == 0 || len >= sizeof record->models[0] || !utf8_is_valid(c->model_name, len)) {
        return error_set(err, E_INVALID,
                         "--model-name: '%s' is not a name of 1 to %zu bytes of UTF-8",
                         c->model_name, sizeof record->models[0] - 1);
    }
    if (!c->agent_id) return 0;
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "._:-";
    len = strlen(c->agent_id);
    if (len == 0 || len >= AGENT_ID_BYTES || strspn(c->agent_id, allowed) != len) {
        return error_set(err, E_INVALID,
                         "--agent-id: '%s' must be 1 to %d letters, digits or . _ : -", c->agent_id,
                         AGENT_ID_BYTES - 1);
    }
    return 0;
}

static int check_parsers(const struct agent_config *c, struct error *err)
{
    const char *tools = c->tool_call_parser, *reasoning = c->reasoning_parser;
    if (tools && strcmp(tools, REPLY_PARSER_NONE) != 0 && !tool_format_find(tools)) {
        return error_set(err, E_INVALID, "--tool-call-parser: '%.64s' is not %s or none", tools,
                         tool_format_names());
    }
    if (reasoning && strcmp(reasoning, REPLY_PARSER_NONE) != 0 &&
        !reasoning_format_find(reasoning)) {
        return error_set(err, E_INVALID, "--reasoning-parser: '%.64s' is not %s or none", reasoning,
                         reasoning_format_names());
    }
    return 0;
}

static int print_chat_templates(struct error *err)
{
    struct buf names;
    buf_init(&names, BUF_MAX_INTERNAL);
    lmdeploy_template_list(&names);
    struct str left = buf_str(&names), name;
    while (str_split(&left, ',', &name))
        printf(STR_FMT "\n", STR_ARG(str_trim(name)));
    buf_deinit(&names);
    if (fflush(stdout) == 0) return CONFIG_EXIT;
    return error_set(err, -EIO, "cannot write to standard output");
}

/* What one agent can't do alone, and what only a launcher can. */
static int check_launcher(const struct agent_config *c, struct error *err)
{
    if (agent_config_is_launcher(c)) return 0;
    if (c->ports && !c->replica) {
        return error_set(err, E_INVALID,
                         "--ports are for several agents; give --replicas or --gpus with it, or "
                         "--server-port for one");
    }
    return 0;
}

int agent_config_parse(int argc, char **argv, struct agent_config *config, struct error *err)
{
    const char *positional[1] = {NULL};
    size_t positional_count = 0;
    int rc = config_parse(&agent_program, argc, argv, config, positional, &positional_count, err);
    if (rc != CONFIG_RUN) return rc;
    if (config->list_chat_templates) return print_chat_templates(err);
    if (positional_count == 0) {
        return error_set(err, E_INVALID, "no model given: lm-agent [options] MODEL");
    }
    config->model_path = positional[0];
    config->argc = argc;
    config->argv = argv;
    if (!config->model_name) config->model_name = agent_model_name(config->model_path);
    if ((rc = check_log_level(config, err)) != 0 || (rc = check_urls(config, err)) != 0 ||
        (rc = check_names(config, err)) != 0 || (rc = apply_quant_policy(config, err)) != 0 ||
        (rc = check_parsers(config, err)) != 0 || (rc = check_launcher(config, err)) != 0 ||
        (rc = tls_settings_complete(&config->tls, err)) != 0) {
        return rc;
    }
    return CONFIG_RUN;
}

void agent_config_deinit(struct agent_config *config)
{
    config_deinit(&agent_program, config);
}

void agent_config_reload(const struct agent_config *config, agent_config_take *take, void *arg)
{
    struct agent_config fresh = {0};
    struct error err = {0};
    int rc = agent_config_parse(config->argc, config->argv, &fresh, &err);
    if (rc == CONFIG_RUN && take) rc = take(arg, &fresh, &err);
    if (rc == CONFIG_RUN) {
        log_level_max = fresh.log_level_value;
        log_info("reloaded", "log_level=%s", fresh.log_level);
    } else {
        log_error("reload refused, nothing has changed", "reason=\"%s\"", err.text);
    }
    agent_config_deinit(&fresh);
}

bool agent_config_is_launcher(const struct agent_config *config)
{
    return !config->replica && (config->gpus || config->replicas > 0);
}

bool agent_config_keeps_prefixes(const struct agent_config *config)
{
    return config->enable_prefix_caching && !config->disable_prefix_caching;
}

enum engine_pool agent_config_pool(const struct agent_config *config, enum engine_pool of_model)
{
    const enum engine_pool pools[] = {of_model, ENGINE_POOL_NONE, ENGINE_POOL_MEAN,
                                      ENGINE_POOL_LAST};
    return pools[config->embedding];
}

void agent_config_engine_options(const struct agent_config *config, struct engine_options *out)
{
    *out = (struct engine_options){
        .model_path = config->model_path,
        .chat_template = config->chat_template,
        .no_generation_config = config->generation_config == 1,
        .tp = (int)config->tp,
        .tp_timeout_ms = (int)config->tp_timeout_s * 1000,
        .deterministic = config->deterministic,
        .backend = device_names[config->device],
        .threads = (int)config->threads,
        .cpu_list = config->cpu_list,
        .cpu_isa = isa_names[config->cpu_isa],
        .dtype = (enum engine_dtype)config->dtype,
        .model_format = format_names[config->model_format],
        .kv_dtype = (enum engine_kv_dtype)config->kv_dtype,
        .session_len = (int)config->session_len,
        .cache_max_entry_count = config->cache_max_entry_count,
        .cache_max_tokens = config->cache_max_tokens,
        .max_batch_size = (int)config->max_batch_size,
        .max_prefill_token_num = (int)config->max_prefill_token_num,
        .prefill_pace = config->prefill_pace,
        .prefix_caching = agent_config_keeps_prefixes(config),
        .session_pin_ratio = config->session_pin_ratio,
        .session_host_bytes = config->session_host_bytes > INT64_MAX
                                  ? INT64_MAX
                                  : (int64_t)config->session_host_bytes,
        .queue_max = (int)config->queue_max,
    };
}
