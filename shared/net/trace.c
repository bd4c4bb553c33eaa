#include "shared/net/trace.h"

#include "shared/base/rng.h"

#define PARENT_LEN 55
#define ID_LEN     32
#define SPAN_LEN   16

/* Lower case only, as the standard wants it, and not all zeros. */
static bool is_number(struct str s, bool may_be_zero)
{
    bool is_zero = true;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return false;
        is_zero = is_zero && c == '0';
    }
    return may_be_zero || !is_zero;
}

static struct str part(struct str s, size_t at, size_t len)
{
    return (struct str){s.data + at, len};
}

struct str trace_parse(struct str parent)
{
    struct str none = {0}, id;
    if (parent.len < PARENT_LEN) return none;
    if (parent.data[2] != '-' || parent.data[35] != '-' || parent.data[52] != '-') return none;
    struct str version = part(parent, 0, 2);
    if (!is_number(version, true) || str_equal(version, STR("ff"))) return none;
    bool is_first = str_equal(version, STR("00"));
    if (parent.len > PARENT_LEN && (is_first || parent.data[PARENT_LEN] != '-')) return none;
    id = part(parent, 3, ID_LEN);
    bool ok = is_number(id, false) && is_number(part(parent, 36, SPAN_LEN), false) &&
              is_number(part(parent, 53, 2), true);
    return ok ? id : none;
}

/* Flags 01: whoever records traces should record this one whole. */
static struct str begin(struct arena *arena)
{
    char digits[ID_LEN + SPAN_LEN + 1];
    random_hex(digits, ID_LEN + SPAN_LEN);
    digits[0] = digits[0] == '0' ? '1' : digits[0]; // neither may be zero
    digits[ID_LEN] = digits[ID_LEN] == '0' ? '1' : digits[ID_LEN];
    char *text = arena_alloc(arena, PARENT_LEN + 1), *at = text;
    at = str_put(at, STR("00-"));
    at = str_put(at, (struct str){digits, ID_LEN});
    *at++ = '-';
    at = str_put(at, (struct str){digits + ID_LEN, SPAN_LEN});
    str_put(at, STR("-01"));
    return (struct str){text, PARENT_LEN};
}

struct trace trace_of(struct arena *arena, const struct http_headers *headers, bool begins)
{
    struct str given = http_headers_get(headers, "traceparent");
    struct trace t = {.id = {0}};
    if (given.data) t.id = trace_parse(given);
    if (t.id.data || !begins) return t;
    t.is_discarded = true; // a tracestate without its traceparent is void, too
    t.parent = begin(arena);
    t.id = part(t.parent, 3, ID_LEN);
    return t;
}
