#include "proxy/forward.h"

/* Three are added at most. */
static struct http_headers make_room(struct arena *a, int count)
{
    size_t size = ((size_t)count + 3) * sizeof(struct http_header);
    return (struct http_headers){.items = arena_alloc(a, size)};
}

static void push(struct http_headers *h, struct str name, struct str value)
{
    h->items[h->count++] = (struct http_header){name, value};
}

static bool has_prefix_nocase(struct str s, struct str prefix)
{
    return s.len >= prefix.len && str_equal_nocase((struct str){s.data, prefix.len}, prefix);
}

/* Connection usually says keep-alive or close, which names no header. */
static bool names_headers(struct str connection)
{
    return connection.data && !str_equal_nocase(connection, STR("keep-alive")) &&
           !str_equal_nocase(connection, STR("close"));
}

static bool connection_names(const struct http_headers *h, struct str name)
{
    for (int i = 0; i < h->count; i++) {
        if (!str_equal_nocase(h->items[i].name, STR("connection"))) continue;
        struct str rest = h->items[i].value, item;
        while (str_split(&rest, ',', &item)) {
            if (str_equal_nocase(str_trim(item), name)) return true;
        }
    }
    return false;
}

static bool crosses(const struct http_headers *h, bool connection_has_names, struct str name)
{
    if (http_header_is_hop_by_hop(name) || has_prefix_nocase(name, STR("x-lm-"))) return false;
    return !connection_has_names || !connection_names(h, name);
}

struct http_headers forward_request(struct arena *a, const struct http_request *request,
                                    struct str request_id, struct str via)
{
    const struct http_headers *from = &request->headers;
    bool named = names_headers(http_headers_get(from, "connection"));
    struct http_headers to = make_room(a, from->count);
    struct str hops = {NULL, 0};
    for (int i = 0; i < from->count; i++) {
        struct str name = from->items[i].name, value = from->items[i].value;
        if (!crosses(from, named, name) || str_equal_nocase(name, STR("x-request-id"))) continue;
        if (str_equal_nocase(name, STR("x-forwarded-for"))) {
            if (hops.data)
                value =
                    str_of(arena_printf(a, STR_FMT ", " STR_FMT, STR_ARG(hops), STR_ARG(value)));
            hops = value;
            continue;
        }
        push(&to, name, value);
    }
    push(&to, STR("x-request-id"), request_id);
    push(&to, STR("via"), via);
    struct str chain = str_of(request->peer);
    if (hops.data) chain = str_of(arena_printf(a, STR_FMT ", %s", STR_ARG(hops), request->peer));
    push(&to, STR("x-forwarded-for"), chain);
    return to;
}

static struct str copy(struct arena *a, struct str s)
{
    return (struct str){arena_strndup(a, s.data ? s.data : "", s.len), s.len};
}

struct http_headers forward_response(struct arena *a, const struct http_headers *from)
{
    bool named = names_headers(http_headers_get(from, "connection"));
    struct http_headers to = make_room(a, from->count);
    for (int i = 0; i < from->count; i++) {
        struct str name = from->items[i].name;
        if (!crosses(from, named, name) || str_equal_nocase(name, STR("x-request-id")) ||
            has_prefix_nocase(name, STR("access-control-"))) {
            continue;
        }
        push(&to, copy(a, name), copy(a, from->items[i].value));
    }
    return to;
}

int64_t forward_content_length(const struct http_headers *headers)
{
    struct str value = http_headers_get(headers, "content-length");
    int64_t length;
    if (!value.data || str_to_int(value, &length) < 0 || length < 0) return -1;
    return length;
}
