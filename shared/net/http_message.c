#include "shared/net/http_message.h"

#include <stddef.h>
#include <string.h>

const struct http_limits http_limits_default = {
    .target_bytes = 8 << 10,
    .header_bytes = 32 << 10,
    .header_count = 100,
    .body_bytes = 64 << 20,
};

/* Nearly every name that is another one is told apart here, without a call. */
static inline bool is_named(const struct http_header *h, struct str name)
{
    return h->name.len == name.len && ((h->name.data[0] ^ name.data[0]) & ~0x20) == 0 &&
           str_equal_nocase(h->name, name);
}

struct str http_headers_get(const struct http_headers *h, const char *name)
{
    struct str wanted = str_of(name);
    for (int i = 0; i < h->count; i++) {
        if (is_named(&h->items[i], wanted)) return h->items[i].value;
    }
    return (struct str){NULL, 0};
}

int http_headers_count(const struct http_headers *h, const char *name)
{
    struct str wanted = str_of(name);
    int count = 0;
    for (int i = 0; i < h->count; i++)
        count += is_named(&h->items[i], wanted);
    return count;
}

bool http_headers_has_token(const struct http_headers *h, const char *name, const char *token)
{
    struct str wanted = str_of(name), sought = str_of(token);
    for (int i = 0; i < h->count; i++) {
        if (!is_named(&h->items[i], wanted)) continue;
        struct str rest = h->items[i].value, item;
        while (str_split(&rest, ',', &item)) {
            if (str_equal_nocase(str_trim(item), sought)) return true;
        }
    }
    return false;
}

/* Most names differ in their length already. */
bool http_header_is_hop_by_hop(struct str name)
{
#define IS(text) (name.len == sizeof text - 1 && str_equal_nocase(name, STR(text)))
    switch (name.len) {
    case 2:
        return IS("te");
    case 4:
        return IS("host");
    case 6:
        return IS("expect");
    case 7:
        return IS("trailer") || IS("upgrade");
    case 10:
        return IS("connection") || IS("keep-alive");
    case 14:
        return IS("content-length");
    case 16:
        return IS("proxy-connection");
    case 17:
        return IS("transfer-encoding");
    case 18:
        return IS("proxy-authenticate");
    case 19:
        return IS("proxy-authorization");
    default:
        return false;
    }
#undef IS
}

/* A flag in the high bit of each byte that is a control character; above the first one in memory
 * order there may be false ones. */
static inline uint64_t flag_controls(const char *data)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    uint64_t x, del;
    memcpy(&x, data, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    del = x ^ ones * 0x7f;
    return ((x - ones * 0x20) & ~x & high) | ((del - ones) & ~del & high);
}

static inline bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

size_t http_plain_run(const char *data, size_t len)
{
    size_t n = 0;
    for (; len - n >= 8; n += 8) {
        uint64_t flags = flag_controls(data + n);
        if (flags) return n + (size_t)__builtin_ctzll(flags) / 8;
    }
    while (n < len && !is_control(data[n]))
        n++;
    return n;
}

bool http_is_line_text(struct str s)
{
    size_t i = 0;
    if (s.len >= 8) { // the last eight may be looked at twice
        while (s.len - i > 8 && !flag_controls(s.data + i))
            i += 8;
        if (s.len - i <= 8 && !flag_controls(s.data + s.len - 8)) return true;
    }
    for (; i < s.len; i++) {
        if (is_control(s.data[i]) && s.data[i] != '\t') return false;
    }
    return true;
}

void http_put_header(struct buf *out, struct str name, struct str value)
{
    size_t len = name.len + value.len + 4;
    char *at = buf_reserve(out, len);
    if (!at) return;
    memcpy(at, name.data, name.len);
    memcpy(at + name.len, ": ", 2);
    if (value.len) memcpy(at + name.len + 2, value.data, value.len);
    memcpy(at + len - 2, "\r\n", 2);
    buf_commit(out, len);
}

void http_put_length(struct buf *out, uint64_t length)
{
    char digits[20];
    size_t n = sizeof digits;
    do {
        digits[--n] = (char)('0' + length % 10);
        length /= 10;
    } while (length > 0);
    http_put_header(out, STR("content-length"), (struct str){digits + n, sizeof digits - n});
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
