#include "proxy/proxy_config.h"

#include "proxy/route.h"
#include "shared/base/check.h"
#include "shared/net/http_client.h"

#define FIELD(name) offsetof(struct proxy_config, name)

static const struct option options[] = {
    {"server-name", OPTION_STRING, FIELD(server_name), .def = "0.0.0.0", .arg = "HOST",
     .group = "Server", .help = "address to listen on"},
    {"port", OPTION_INT, FIELD(port), .def = "8000", .min = 0, .max = 65535, .arg = "PORT",
     .group = "Server", .help = "port to listen on; 0 picks a free one", .aliases = "server-port"},
    {"threads", OPTION_INT, FIELD(threads), .def = "1", .min = 1, .max = 256, .arg = "N",
     .group = "Server",
     .help = "threads that serve, each with a listening socket of its own (SO_REUSEPORT)"},
    {"admin-port", OPTION_INT, FIELD(admin_port), .def = "-1", .min = -1, .max = 65535,
     .arg = "PORT", .group = "Server",
     .help =
         "port for /nodes/remove, /nodes/terminate and other admin routes: who reaches it, may; "
         "-1: none, 0 picks a free one"},
    {"admin-host", OPTION_STRING, FIELD(admin_host), .def = "127.0.0.1", .arg = "HOST",
     .group = "Server", .help = "address that --admin-port listens on"},
    {"access-log", OPTION_STRING, FIELD(access_log), .arg = "FILE", .group = "Server",
     .help = "one JSON object a line for each request; - is standard output"},
    {"trace", OPTION_FLAG, FIELD(trace), .def = "true", .group = "Server",
     .help = "begin a trace (W3C traceparent) for requests that bring none (--no-trace: only pass "
             "clients' own on)"},
    {"connections-max", OPTION_INT, FIELD(connections_max), .def = "16384", .min = 1,
     .max = 1 << 20, .arg = "N", .group = "Server",
     .help = "client connections; beyond it new ones wait in the kernel"},
    {"max-body", OPTION_BYTES, FIELD(body_bytes), .def = "64M", .arg = "BYTES", .group = "Server",
     .help = "largest request body; more gets 413"},
    {"max-body-total", OPTION_BYTES, FIELD(body_bytes_total), .def = "1G", .arg = "BYTES",
     .group = "Server", .help = "memory for the bodies of all requests; more gets 503"},
    {"drain-timeout", OPTION_INT, FIELD(drain_timeout_s), .def = "180", .min = 0, .max = 86400,
     .arg = "SECONDS", .group = "Server",
     .help = "time that running requests get after SIGTERM; 0 means as long as they take"},
    {"drain-delay", OPTION_INT, FIELD(drain_delay_s), .def = "0", .min = 0, .max = 3600,
     .arg = "SECONDS", .group = "Server",
     .help = "time after SIGTERM in which /ready says 503 but new requests are still taken"},
    {"allow-origins", OPTION_LIST, FIELD(allow_origins), .def = "*", .arg = "ORIGIN",
     .group = "Server", .help = "origins that browsers may call from", .many = true},
    {"allow-methods", OPTION_LIST, FIELD(allow_methods), .def = "*", .arg = "METHOD",
     .group = "Server", .help = "methods that browsers may use", .many = true},
    {"allow-headers", OPTION_LIST, FIELD(allow_headers), .def = "*", .arg = "HEADER",
     .group = "Server", .help = "request headers that browsers may send", .many = true},
    {"allow-credentials", OPTION_FLAG, FIELD(allow_credentials), .def = "true", .group = "Server",
     .help = "let browsers send cookies and authorisation from other origins"},
    {"disable-fastapi-docs", OPTION_FLAG, FIELD(disable_fastapi_docs), .group = "Server",
     .help = "don't serve the API's description: /, /redoc and /openapi.json"},
    {"web-pages", OPTION_FLAG, FIELD(web_pages), .def = "true", .group = "Server",
     .help = "serve the pages /chat and /dashboard"},
    {"log-level", OPTION_STRING, FIELD(log_level), .def = "info", .arg = "LEVEL", .group = "Server",
     .help = "error, warn, info, debug or trace; LMDeploy's names work too"},

    TLS_SERVER_OPTIONS(FIELD(tls)),
    TLS_CA_OPTION(FIELD(tls), "agents and nodes"),

    {"redis-url", OPTION_STRING, FIELD(redis_url), .arg = "URL", .group = "Fleet",
     .help = "registry that proxies share, redis://[[user]:password@]host:port/db", .secret = true},
    {"join-key", OPTION_STRING, FIELD(join_key), .arg = "KEY", .group = "Fleet",
     .help = "key that agents must show to register over HTTP", .secret = true},
    {"admin-key", OPTION_STRING, FIELD(admin_key), .arg = "KEY", .group = "Fleet",
     .help = "key for /nodes/remove and /nodes/terminate from beyond this machine", .secret = true},
    {"state-file", OPTION_STRING, FIELD(state_file), .arg = "FILE", .group = "Fleet",
     .help = "where the fleet is remembered, for starts while Redis is away and for foreign nodes"},
    {"agent-key", OPTION_STRING, FIELD(agent_key), .arg = "KEY", .group = "Fleet",
     .help = "API key that agents are shown instead of the client's", .secret = true},
    {"node", OPTION_LIST, FIELD(nodes), .arg = "URL", .group = "Fleet",
     .help = "OpenAI-compatible server that doesn't register by itself; repeat for several"},
    {"routing-strategy", OPTION_CHOICE, FIELD(routing_strategy), .def = "affinity",
     .choices = ROUTE_POLICY_NAMES, .group = "Fleet", .help = "which agent gets a request",
     .aliases = "strategy"},

    {"api-keys", OPTION_LIST, FIELD(api_keys), .arg = "KEY", .group = "Keys and queue",
     .help = "keys of which clients must show one (Authorization: Bearer, or x-api-key)",
     .many = true, .secret = true},
    {"api-key-file", OPTION_STRING, FIELD(api_key_file), .arg = "FILE", .group = "Keys and queue",
     .help = "keys, one a line, or with their models, classes and limits in JSON; read again on "
             "SIGHUP",
     .aliases = "api-keys-file"},
    {"api-keys-redis", OPTION_FLAG, FIELD(api_keys_redis), .group = "Keys and queue",
     .help = "also take keys from the hash lm:keys in Redis"},
    {"queue-max", OPTION_INT, FIELD(queue_max), .def = "1024", .min = 0, .max = 1 << 20, .arg = "N",
     .group = "Keys and queue",
     .help = "requests that may wait for an agent with room; more get 429, 0 lets none wait"},
    {"queue-bytes", OPTION_BYTES, FIELD(queue_bytes), .def = "256M", .arg = "BYTES",
     .group = "Keys and queue", .help = "bodies of the requests that wait; more get 429"},
    {"queue-timeout", OPTION_INT, FIELD(queue_timeout_s), .def = "30", .min = 1, .max = 3600,
     .arg = "SECONDS", .group = "Keys and queue", .help = "longest wait; then 503"},
    {"priority-header", OPTION_STRING, FIELD(priority_header), .def = "x-lm-priority",
     .arg = "NAME", .group = "Keys and queue",
     .help = "request header with a class: system, interactive, default or bulk"},

    {"session-secret", OPTION_STRING, FIELD(session_secret), .arg = "TEXT", .group = "Sessions",
     .help = "names sessions in Redis and signs tokens, the same for the whole fleet; by default "
             "one that Redis keeps",
     .secret = true},
    {"session-ttl", OPTION_INT, FIELD(session_ttl_s), .def = "14400", .min = 1, .max = 31536000,
     .arg = "SECONDS", .group = "Sessions",
     .help = "idle time after which it is forgotten where a conversation is; the agents' value"},
    {"session-cookie", OPTION_FLAG, FIELD(session_cookie), .def = "false", .group = "Sessions",
     .help = "give browsers the cookie lm_session, which brings them back to their agent"},
    {"session-header", OPTION_STRING, FIELD(session_header), .arg = "NAME", .group = "Sessions",
     .help = "request header that names a session, looked at before all others"},

    {"connect-timeout-ms", OPTION_INT, FIELD(connect_timeout_ms), .def = "1000", .min = 1,
     .max = 60000, .arg = "MS", .group = "Upstream", .help = "time to connect to an agent"},
    {"first-byte-timeout", OPTION_INT, FIELD(first_byte_timeout_s), .def = "600", .min = 1,
     .max = 86400, .arg = "SECONDS", .group = "Upstream",
     .help = "time from dispatch to the first byte of an answer: queue and prompt"},
    {"idle-timeout", OPTION_INT, FIELD(idle_timeout_s), .def = "120", .min = 1, .max = 86400,
     .arg = "SECONDS", .group = "Upstream", .help = "longest silence inside an answer"},
    {"retries", OPTION_INT, FIELD(retries), .def = "2", .min = 0, .max = 8, .arg = "N",
     .group = "Upstream",
     .help = "times that a request is sent again when an agent was lost before its first byte"},
    {"resume-bytes", OPTION_BYTES, FIELD(resume_bytes), .def = "256M", .arg = "BYTES",
     .group = "Upstream",
     .help = "memory for what running streams need to go on at another agent; 0: none does"},
    {"prefix-table-entries", OPTION_INT, FIELD(prefix_table_entries), .def = "1048576", .min = 1024,
     .max = 16777216, .arg = "N", .group = "Upstream",
     .help = "beginnings of prompts whose place in agents' caches is remembered, 32 bytes each"},
    {"idle-connections", OPTION_INT, FIELD(idle_connections), .def = "256", .min = 1, .max = 16384,
     .arg = "N", .group = "Upstream", .help = "unused connections kept open to each agent"},
};

const struct config_program proxy_program = {
    .name = "lm-proxy",
    .usage = "lm-proxy [options]",
    .summary = "Route OpenAI-compatible requests to a fleet of lm-agents.",
    .footer = "Examples:\n"
              "  lm-proxy --port 8000\n"
              "  lm-proxy --port 8000 --redis-url redis://127.0.0.1:6379/0\n",
    .options = options,
    .count = ARRAY_LEN(options),
};

static int check_log_level(struct proxy_config *c, struct error *err)
{
    if (log_level_parse(c->log_level, &c->log_level_value) == 0) return 0;
    return error_set(err, E_INVALID, "--log-level: '%s' is not error, warn, info, debug or trace",
                     c->log_level);
}

static int check_session_header(const struct proxy_config *c, struct error *err)
{
    const char *name = c->session_header;
    if (!name) return 0;
    size_t plain =
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
    if (name[0] && !name[plain]) return 0;
    return error_set(err, E_INVALID, "--session-header: '%s' is not the name of a header", name);
}

static int check_nodes(const struct proxy_config *c, struct error *err)
{
    for (size_t i = 0; i < c->nodes.count; i++) {
        struct http_url url;
        struct error why = {0};
        if (http_url_parse(c->nodes.items[i], &url, &why) != 0) {
            return error_set(err, E_INVALID, "--node: %s", why.text);
        }
    }
    return 0;
}

static int check_keys(const struct proxy_config *c, struct error *err)
{
    if (c->api_keys_redis && !c->redis_url) {
        return error_set(err, E_INVALID, "--api-keys-redis needs --redis-url");
    }
    return 0;
}

int proxy_config_parse(int argc, char **argv, struct proxy_config *config, struct error *err)
{
    int rc = config_parse(&proxy_program, argc, argv, config, NULL, NULL, err);
    if (rc == CONFIG_RUN) rc = check_log_level(config, err);
    if (rc == CONFIG_RUN) rc = check_session_header(config, err);
    if (rc == CONFIG_RUN) rc = check_nodes(config, err);
    if (rc == CONFIG_RUN) rc = check_keys(config, err);
    if (rc == CONFIG_RUN) rc = tls_settings_complete(&config->tls, err);
    return rc;
}

void proxy_config_deinit(struct proxy_config *config)
{
    config_deinit(&proxy_program, config);
}
