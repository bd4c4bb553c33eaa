#include "agent/advertise.h"

#include "shared/base/str.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static bool is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0 ||
           host[0] == 0;
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0 ||
           strcmp(host, "localhost") == 0;
}

static bool is_ipv6(struct str host)
{
    char text[64];
    struct in6_addr address;
    if (host.len >= sizeof text) return false;
    memcpy(text, host.data, host.len);
    text[host.len] = 0;
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* Letters, digits, '.', '-', '_' or a bare IPv6 address. */
static bool set_host(struct advertise *a, struct str host)
{
    if (is_ipv6(host)) {
        snprintf(a->host, sizeof a->host, "[" STR_FMT "]", STR_ARG(host));
        return true;
    }
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  ".-_";
    if (host.len == 0 || host.len >= sizeof a->host) return false;
    for (size_t i = 0; i < host.len; i++) {
        if (!strchr(allowed, host.data[i])) return false;
    }
    snprintf(a->host, sizeof a->host, STR_FMT, STR_ARG(host));
    return true;
}

/* Split "HOST[:PORT]"; what follows the host must be nothing or a port. */
static bool parse(struct advertise *a, const char *text)
{
    struct str host = str_of(text), rest = {0};
    if (text[0] == '[') {
        const char *end = strchr(text, ']');
        if (!end) return false;
        host = (struct str){text + 1, (size_t)(end - text - 1)};
        rest = str_of(end + 1);
        if (!is_ipv6(host)) return false;
    } else if (!is_ipv6(host)) {
        const char *colon = strchr(text, ':');
        if (colon) {
            host.len = (size_t)(colon - text);
            rest = str_of(colon);
        }
    }
    if (rest.len > 0) {
        int64_t port;
        if (rest.data[0] != ':') return false;
        if (str_to_int((struct str){rest.data + 1, rest.len - 1}, &port) != 0) return false;
        if (port < 1 || port > 65535) return false;
        a->port = (int)port;
    }
    return set_host(a, host);
}

int advertise_init(struct advertise *a, const char *text, const char *listen_host, int listen_port,
                   struct error *err)
{
    *a = (struct advertise){.port = listen_port};
    if (!text) {
        if (!is_wildcard(listen_host) && set_host(a, str_of(listen_host))) a->is_fixed = true;
        return 0;
    }
    if (!parse(a, text)) {
        return error_set(err, E_INVALID, "--advertise: '%s' is not HOST or HOST:PORT", text);
    }
    if (is_wildcard(a->host)) {
        return error_set(err, E_INVALID, "--advertise: '%s' is no address to connect to", text);
    }
    a->is_fixed = true;
    return 0;
}

bool advertise_learn(struct advertise *a, const char *address)
{
    if (a->is_fixed || !address || is_wildcard(address)) return false;
    struct advertise learned = {.port = a->port, .is_tls = a->is_tls};
    if (!set_host(&learned, str_of(address))) return false;
    bool is_better = a->host[0] == 0 || (is_loopback(a->host) && !is_loopback(learned.host));
    if (is_better) *a = learned;
    return is_better;
}

bool advertise_is_known(const struct advertise *a)
{
    return a->host[0] != 0;
}

void advertise_url(const struct advertise *a, char url[AGENT_URL_BYTES])
{
    snprintf(url, AGENT_URL_BYTES, "%s://%s:%d", a->is_tls ? "https" : "http", a->host, a->port);
}
