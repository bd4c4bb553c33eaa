#include "shared/net/http_message.h"

#include <stddef.h>
#include <string.h>

const struct http_limits http_limits_default = {
    .target_bytes = 8 << 10,
    .header_bytes = 32 << 10,
    .header_count = 100,
    .body_bytes = 64 << 20,
};

struct str http_headers_get(const struct http_headers *h, const char *name)
{
    struct str wanted = str_of(name);
    for (int i = 0; i < h->count; i++) {
        if (str_equal_nocase(h->items[i].name, wanted)) return h->items[i].value;
    }
    return (struct str){NULL, 0};
}

bool http_headers_has_token(const struct http_headers *h, const char *name, const char *token)
{
    struct str wanted = str_of(name), sought = str_of(token);
    for (int i = 0; i < h->count; i++) {
        if (!str_equal_nocase(h->items[i].name, wanted)) continue;
        struct str rest = h->items[i].value, item;
        while (str_split(&rest, ',', &item)) {
            if (str_equal_nocase(str_trim(item), sought)) return true;
        }
    }
    return false;
}

bool http_header_is_hop_by_hop(struct str name)
{
    static const char *const names[] = {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "transfer-encoding",
        "proxy-authenticate",
        "proxy-authorization",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (str_equal_nocase(name, str_of(names[i]))) return true;
    }
    return false;
}

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {425, "Too Early"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
        {529, "Site Is Overloaded"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i].status == status) return texts[i].text;
    }
    return "";
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

struct str http_percent_decode(struct arena *a, struct str s)
{
    char *out = arena_alloc(a, s.len + 1);
    size_t len = 0;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (c == '%') {
            if (s.len - i < 3) return (struct str){NULL, 0};
            int high = hex_value(s.data[i + 1]), low = hex_value(s.data[i + 2]);
            if (high < 0 || low < 0) return (struct str){NULL, 0};
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == 0) return (struct str){NULL, 0};
        out[len++] = c;
    }
    return (struct str){out, len};
}

struct str http_query_get(struct arena *a, struct str query, const char *name)
{
    struct str wanted = str_of(name), pair;
    while (str_split(&query, '&', &pair)) {
        struct str key = pair, value = {"", 0};
        const char *equals = pair.len ? memchr(pair.data, '=', pair.len) : NULL;
        if (equals) {
            key.len = (size_t)(equals - pair.data);
            value = (struct str){equals + 1, pair.len - key.len - 1};
        }
        struct str decoded = http_percent_decode(a, key);
        if (decoded.data && str_equal(decoded, wanted)) return http_percent_decode(a, value);
    }
    return (struct str){NULL, 0};
}
