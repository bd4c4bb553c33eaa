#include "shared/net/http_client.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
}

static int parse_host(struct str *rest, struct http_url *url)
{
    bool v6 = rest->len > 0 && rest->data[0] == '[';
    size_t start = v6 ? 1 : 0, end = start;
    while (end < rest->len && (v6 ? rest->data[end] != ']' : is_name_char(rest->data[end])))
        end++;
    size_t len = end - start;
    if (len == 0 || len >= sizeof url->host || (v6 && end == rest->len)) return E_INVALID;
    memcpy(url->host, rest->data + start, len);
    url->host[len] = 0;
    struct sockaddr_in6 address;
    if (v6 && uv_ip6_addr(url->host, 80, &address) != 0) return E_INVALID;
    if (v6) end++;
    *rest = (struct str){rest->data + end, rest->len - end};
    return 0;
}

static int parse_port(struct str *rest, struct http_url *url)
{
    url->port = url->scheme == HTTP_PLAIN ? 80 : 443;
    if (rest->len == 0 || rest->data[0] != ':') return 0;
    size_t end = 1;
    while (end < rest->len && rest->data[end] >= '0' && rest->data[end] <= '9')
        end++;
    int64_t port;
    if (str_to_int((struct str){rest->data + 1, end - 1}, &port) != 0) return E_INVALID;
    if (port < 1 || port > 65535) return E_INVALID;
    url->port = (int)port;
    *rest = (struct str){rest->data + end, rest->len - end};
    return 0;
}

static int parse_path(struct str rest, struct http_url *url)
{
    if (rest.len > 0 && rest.data[0] != '/') return E_INVALID;
    for (size_t i = 0; i < rest.len; i++) {
        unsigned char c = (unsigned char)rest.data[i];
        if (c <= 0x20 || c >= 0x7f || c == '?' || c == '#') return E_INVALID;
    }
    while (rest.len > 0 && rest.data[rest.len - 1] == '/')
        rest.len--;
    if (rest.len >= sizeof url->path) return E_INVALID;
    if (rest.len) memcpy(url->path, rest.data, rest.len);
    url->path[rest.len] = 0;
    return 0;
}

int http_url_parse(const char *text, struct http_url *url, struct error *err)
{
    memset(url, 0, sizeof *url);
    bool is_tls = strncasecmp(text, "https://", 8) == 0;
    if (is_tls || strncasecmp(text, "http://", 7) == 0) {
        struct str rest = str_of(text + (is_tls ? 8 : 7));
        url->scheme = is_tls ? HTTP_TLS : HTTP_PLAIN;
        if (parse_host(&rest, url) == 0 && parse_port(&rest, url) == 0 &&
            parse_path(rest, url) == 0) {
            return 0;
        }
    }
    return error_set(err, E_INVALID, "'%s' is not a URL of the form http[s]://host[:port][/path]",
                     text);
}

int http_url_print_origin(char *out, size_t size, enum http_scheme scheme, const char *host,
                          int port)
{
    bool is_v6 = strchr(host, ':') != NULL;
    return snprintf(out, size, "%s://%s%s%s:%d", scheme == HTTP_PLAIN ? "http" : "https",
                    is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
}
