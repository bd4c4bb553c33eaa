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
    {"log-level", OPTION_STRING, FIELD(log_level), .def = "info", .arg = "LEVEL", .group = "Server",
     .help = "error, warn, info, debug or trace; LMDeploy's names work too"},

    {"redis-url", OPTION_STRING, FIELD(redis_url), .arg = "URL", .group = "Fleet",
     .help = "registry that proxies share, redis://[[user]:password@]host:port/db", .secret = true},
    {"join-key", OPTION_STRING, FIELD(join_key), .arg = "KEY", .group = "Fleet",
     .help = "key that agents must show to register over HTTP", .secret = true},
    {"admin-key", OPTION_STRING, FIELD(admin_key), .arg = "KEY", .group = "Fleet",
     .help = "key for /nodes/remove and /nodes/terminate from beyond this machine", .secret = true},
    {"node", OPTION_LIST, FIELD(nodes), .arg = "URL", .group = "Fleet",
     .help = "OpenAI-compatible server that doesn't register by itself; repeat for several"},
    {"routing-strategy", OPTION_CHOICE, FIELD(routing_strategy), .def = "least_load",
     .choices = ROUTE_POLICY_NAMES, .group = "Fleet", .help = "which agent gets a request",
     .aliases = "strategy"},

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

int proxy_config_parse(int argc, char **argv, struct proxy_config *config, struct error *err)
{
    int rc = config_parse(&proxy_program, argc, argv, config, NULL, NULL, err);
    if (rc == CONFIG_RUN) rc = check_log_level(config, err);
    if (rc == CONFIG_RUN) rc = check_nodes(config, err);
    return rc;
}

void proxy_config_deinit(struct proxy_config *config)
{
    config_deinit(&proxy_program, config);
}
