#include "shared/net/redis_url.h"

#include "shared/base/arena.h"
#include "shared/base/str.h"
#include "shared/net/http_message.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DEFAULT_PORT 6379
#define DB_MAX       65535

static bool is_host_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
}

static int copy_decoded(struct str s, char *out, size_t size)
{
    struct arena a;
    arena_init(&a);
    struct str decoded = http_percent_decode(&a, s);
    int rc = decoded.data && decoded.len < size ? 0 : E_INVALID;
    if (rc == 0) {
        memcpy(out, decoded.data, decoded.len);
        out[decoded.len] = 0;
    }
    arena_deinit(&a);
    return rc;
}

static int parse_credentials(struct str s, struct redis_url *url)
{
    const char *colon = s.len ? memchr(s.data, ':', s.len) : NULL;
    if (!colon) return E_INVALID; // a user without a password, or the other way round: unclear
    struct str user = {s.data, (size_t)(colon - s.data)};
    struct str password = {colon + 1, s.len - user.len - 1};
    if (copy_decoded(user, url->user, sizeof url->user) != 0) return E_INVALID;
    return copy_decoded(password, url->password, sizeof url->password);
}

static int parse_number(struct str s, int64_t min, int64_t max, int *out)
{
    int64_t value;
    if (str_to_int(s, &value) != 0 || value < min || value > max) return E_INVALID;
    *out = (int)value;
    return 0;
}

static int parse_host(struct str *rest, struct redis_url *url)
{
    bool v6 = rest->len > 0 && rest->data[0] == '[';
    size_t start = v6 ? 1 : 0, end = start;
    while (end < rest->len && (v6 ? is_host_char(rest->data[end]) || rest->data[end] == ':'
                                  : is_host_char(rest->data[end]))) {
        end++;
    }
    size_t len = end - start;
    if (len == 0 || len >= sizeof url->host) return E_INVALID;
    memcpy(url->host, rest->data + start, len);
    url->host[len] = 0;
    if (v6 && (end == rest->len || rest->data[end] != ']')) return E_INVALID;
    if (v6) end++;
    *rest = (struct str){rest->data + end, rest->len - end};
    return 0;
}

/* host[:port][/db] */
static int parse_place(struct str rest, struct redis_url *url)
{
    if (parse_host(&rest, url) != 0) return E_INVALID;
    const char *slash = rest.len ? memchr(rest.data, '/', rest.len) : NULL;
    struct str port = {rest.data, slash ? (size_t)(slash - rest.data) : rest.len};
    struct str db = slash ? (struct str){slash + 1, rest.len - port.len - 1} : (struct str){"", 0};
    url->port = DEFAULT_PORT;
    if (port.len > 0) {
        if (port.data[0] != ':') return E_INVALID;
        port = (struct str){port.data + 1, port.len - 1};
        if (parse_number(port, 1, 65535, &url->port) != 0) return E_INVALID;
    }
    return db.len > 0 ? parse_number(db, 0, DB_MAX, &url->db) : 0;
}

int redis_url_parse(const char *text, struct redis_url *url, struct error *err)
{
    memset(url, 0, sizeof *url);
    if (strncasecmp(text, "rediss://", 9) == 0) {
        return error_set(err, E_UNSUPPORTED, "rediss:// (Redis over TLS) is not supported");
    }
    int rc = E_INVALID;
    struct str rest = str_of(text);
    if (strncasecmp(text, "redis://", 8) == 0) {
        rest = (struct str){rest.data + 8, rest.len - 8};
        const char *at = rest.len ? memrchr(rest.data, '@', rest.len) : NULL;
        rc = 0;
        if (at) {
            struct str credentials = {rest.data, (size_t)(at - rest.data)};
            rc = parse_credentials(credentials, url);
            rest = (struct str){at + 1, rest.len - credentials.len - 1};
        }
        if (rc == 0) rc = parse_place(rest, url);
    }
    if (rc != 0) {
        const char *at = strrchr(text, '@'); // what stands before it may be a password
        return error_set(err, E_INVALID,
                         "'%s%s' is not of the form redis://[[user]:password@]host[:port][/db]",
                         at ? "redis://***" : "", at ? at : text);
    }
    snprintf(url->address, sizeof url->address, strchr(url->host, ':') ? "[%s]:%d" : "%s:%d",
             url->host, url->port);
    return 0;
}
