/* agent_config.h - lm-agent's settings. Names and meanings are LMDeploy's where it has them. */
#ifndef LM_AGENT_AGENT_CONFIG_H
#define LM_AGENT_AGENT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "shared/base/config.h"
#include "shared/base/error.h"
#include "shared/base/log.h"
#include "shared/net/tls.h"

enum agent_device { AGENT_DEVICE_AUTO, AGENT_DEVICE_CUDA, AGENT_DEVICE_CPU };

struct agent_config {
    const char *model_path; // borrowed from argv
    int argc;               // what was parsed, borrowed, for SIGHUP
    char **argv;
    // Server
    char *server_name;
    int64_t server_port;
    char *model_name; // never NULL after agent_config_parse
    struct option_list allow_origins, allow_methods, allow_headers;
    bool allow_credentials;
    bool disable_fastapi_docs;
    bool web_pages;
    int64_t queue_max;
    int64_t max_concurrent_requests; // 0: no bound
    int64_t text_threads;
    int64_t request_timeout_s;
    int64_t drain_timeout_s;
    char *log_level;
    enum log_level log_level_value;
    int64_t max_log_len; // -1: no bound
    bool enable_abort_handling, allow_terminate_by_client;
    struct option_list api_keys;
    char *api_key_file;
    struct tls_settings tls; // complete
    // Fleet
    struct option_list proxy_urls;
    char *redis_url;
    char *advertise;
    char *join_key;
    char *agent_id;
    // Sessions
    int64_t session_ttl_s;
    char *session_dir;
    char *session_secret;
    // Engine
    int64_t session_len;
    double cache_max_entry_count;
    int64_t cache_max_tokens;
    int64_t max_batch_size;
    int64_t max_prefill_token_num;
    int dtype;        // enum engine_dtype
    int model_format; // 0: auto; 1: hf, ...
    int kv_dtype;     // enum engine_kv_dtype, --quant-policy taken in
    int quant_policy;
    double prefill_pace;
    bool enable_prefix_caching, disable_prefix_caching;
    double session_pin_ratio;
    uint64_t session_host_bytes;
    char *revision, *download_dir; // of a hub repository; NULL: its main branch, the shared cache
    bool dry_run;
    int generation_config; // 0: auto, 1: none
    char *chat_template;
    char *tool_call_parser, *reasoning_parser; // NULL: by the chat template; "none"
    int embedding;                             // index of --embedding's choices
    bool list_chat_templates;
    bool escape_special;
    int device; // enum agent_device
    int64_t tp; // ranks
    int64_t tp_timeout_s;
    bool deterministic;
    int64_t threads;
    char *cpu_list;
    int cpu_isa;
    // Launcher
    char *gpus;
    int64_t replicas;
    char *ports;
    int64_t restarts;
    double restart_delay_s;
    double health_timeout_s;
    char *replica; // of a launcher, this one; NULL: of none
};

extern const struct config_program agent_program;

/* Zeroed *config in. An enum config_result, or negative: usage error with *err. agent_config_deinit
 * in every case. */
FALLIBLE int agent_config_parse(int argc, char **argv, struct agent_config *config,
                                struct error *err);
void agent_config_deinit(struct agent_config *config);

/* What else is taken from a reload; NULL: nothing. Negative and *err: nothing has changed. */
typedef int agent_config_take(void *arg, const struct agent_config *fresh, struct error *err);
/* SIGHUP: reads command line, environment and file again and takes --log-level from them, and what
 * `take` wants; the rest stays as it is until a restart. A mistake in them changes nothing and is in
 * the log. */
void agent_config_reload(const struct agent_config *config, agent_config_take *take, void *arg);

/* The process starts and watches agents instead of being one. */
bool agent_config_is_launcher(const struct agent_config *config);

/* Pages of ended requests are kept for prompts that begin alike. */
bool agent_config_keeps_prefixes(const struct agent_config *config);

/* How /v1/embeddings pools: as --embedding says, else as the model's files do. */
enum engine_pool agent_config_pool(const struct agent_config *config, enum engine_pool of_model);

/* Strings are borrowed from config. */
void agent_config_engine_options(const struct agent_config *config, struct engine_options *out);

/* "--model-name", else what the path's last part is without ".gguf". Owned. */
char *agent_model_name(const char *model_path);

#endif
