#include "proxy/forward.h"

#define ADDED 4 // at most, here

static struct http_headers make_room(struct arena *a, int count)
{
    size_t size = ((size_t)count + ADDED + FORWARD_EXTRA) * sizeof(struct http_header);
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
static bool names_headers(const struct http_headers *h)
{
    for (int i = 0; i < h->count; i++) {
        struct str value = h->items[i].value;
        if (!str_equal_nocase(h->items[i].name, STR("connection"))) continue;
        if (!str_equal_nocase(value, STR("keep-alive")) && !str_equal_nocase(value, STR("close")))
            return true;
    }
    return false;
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

static bool is_of_trace(struct str name)
{
    return str_equal_nocase(name, STR("traceparent")) || str_equal_nocase(name, STR("tracestate"));
}

static bool is_key(struct str name)
{
    return str_equal_nocase(name, STR("authorization")) || str_equal_nocase(name, STR("x-api-key"));
}

struct http_headers forward_request(struct arena *a, const struct http_request *request,
                                    bool keeps_authorization, struct str request_id, struct str via,
                                    const struct trace *trace)
{
    const struct http_headers *from = &request->headers;
    bool named = names_headers(from);
    struct http_headers to = make_room(a, from->count);
    struct str hops = {NULL, 0};
    for (int i = 0; i < from->count; i++) {
        struct str name = from->items[i].name, value = from->items[i].value;
        if (!crosses(from, named, name) || str_equal_nocase(name, STR("x-request-id"))) continue;
        if (!keeps_authorization && is_key(name)) continue;
        if (trace->is_discarded && is_of_trace(name)) continue;
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
    if (trace->parent.data) push(&to, STR("traceparent"), trace->parent);
    struct str chain = str_of(request->peer);
    if (hops.data) chain = str_of(arena_printf(a, STR_FMT ", %s", STR_ARG(hops), request->peer));
    push(&to, STR("x-forwarded-for"), chain);
    return to;
}

static struct str copy(struct arena *a, struct str s)
{
    return (struct str){arena_strndup(a, s.data ? s.data : "", s.len), s.len};
}

/* What an agent of ours tells its client, beside what it tells us. */
static bool is_for_client(struct str name)
{
    static const char *const names[] = {"x-lm-session-id", "x-lm-session-new", "x-lm-session-moved",
                                        "x-lm-durable"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (str_equal_nocase(name, str_of(names[i]))) return true;
    }
    return false;
}

struct http_headers forward_response(struct arena *a, const struct http_headers *from, bool is_ours)
{
    bool named = names_headers(from);
    struct http_headers to = make_room(a, from->count);
    for (int i = 0; i < from->count; i++) {
        struct str name = from->items[i].name;
        bool is_said = is_ours && is_for_client(name);
        if ((!is_said && !crosses(from, named, name)) ||
            str_equal_nocase(name, STR("x-request-id")) ||
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
