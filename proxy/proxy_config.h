/* proxy_config.h - lm-proxy's settings. Names are LMDeploy's where it has them. */
#ifndef LM_PROXY_PROXY_CONFIG_H
#define LM_PROXY_PROXY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/config.h"
#include "shared/base/error.h"
#include "shared/base/log.h"
#include "shared/net/tls.h"

struct proxy_config {
    // Server
    char *server_name;
    int64_t port;
    char *log_level;
    enum log_level log_level_value;
    int64_t threads;
    char *access_log, *state_file;
    bool trace;
    char *admin_host;
    int64_t admin_port; // -1: none
    int64_t connections_max;
    uint64_t body_bytes, body_bytes_total;
    int64_t drain_timeout_s, drain_delay_s;
    struct option_list allow_origins, allow_methods, allow_headers;
    bool allow_credentials;
    bool disable_fastapi_docs;
    struct tls_settings tls; // complete
    bool web_pages;
    // Fleet
    char *redis_url;
    char *join_key;
    char *admin_key;
    char *agent_key;
    struct option_list nodes;
    int routing_strategy; // index for route_policy_at()
    // Keys and queue
    struct option_list api_keys;
    char *api_key_file;
    bool api_keys_redis;
    int64_t queue_max, queue_timeout_s;
    uint64_t queue_bytes;
    char *priority_header;
    // Sessions
    char *session_secret, *session_header;
    bool session_cookie;
    int64_t session_ttl_s;
    // Upstream
    int64_t connect_timeout_ms;
    int64_t first_byte_timeout_s, idle_timeout_s;
    int64_t retries;
    int64_t idle_connections;
    uint64_t resume_bytes;
    int64_t prefix_table_entries;
};

extern const struct config_program proxy_program;

/* Zeroed *config in. An enum config_result, or negative: usage error with *err. proxy_config_deinit
 * in every case. */
FALLIBLE int proxy_config_parse(int argc, char **argv, struct proxy_config *config,
                                struct error *err);
void proxy_config_deinit(struct proxy_config *config);

#endif
