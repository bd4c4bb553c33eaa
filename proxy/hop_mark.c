#include "proxy/hop_mark.h"

#include <string.h>

/* Digits from *at, of a number of at most `max`. */
static bool read_number(const char **at, const char *end, uint64_t max, uint64_t *out)
{
    const char *p = *at;
    uint64_t value = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        unsigned digit = (unsigned)(*p - '0');
        if (value > max / 10 || value * 10 > max - digit) return false;
        value = value * 10 + digit;
    }
    bool any = p > *at;
    *at = p;
    *out = value;
    return any;
}

static bool read_whole(struct str value, uint64_t max, uint64_t *out)
{
    const char *at = value.data, *end = at + value.len;
    return read_number(&at, end, max, out) && at == end;
}

static bool read_seconds(struct str value, int64_t *out)
{
    uint64_t seconds;
    if (!read_whole(value, INT64_MAX, &seconds)) return false;
    *out = (int64_t)seconds;
    return true;
}

static bool read_usage(struct str value, struct hop_mark *out)
{
    uint64_t *const numbers[] = {&out->prompt, &out->completion, &out->cached};
    const char *at = value.data, *end = at + value.len;
    for (int i = 0; i < 3; i++) {
        if (i > 0 && (at == end || *at++ != ',')) return false;
        if (!read_number(&at, end, INT64_MAX, numbers[i])) return false;
    }
    out->has_usage = true;
    return at == end;
}

/* False: a known key with a value that isn't one. */
static bool read_field(struct str key, struct str value, struct hop_mark *out)
{
    if (str_equal(key, STR("t"))) {
        out->has_ids = true;
        out->ids = value;
        return true;
    }
    if (str_equal(key, STR("b"))) return out->has_bytes = read_whole(value, INT64_MAX, &out->bytes);
    if (str_equal(key, STR("p"))) return out->has_phase = read_whole(value, 9, &out->phase);
    if (str_equal(key, STR("u"))) return read_usage(value, out);
    if (str_equal(key, STR("seed")))
        return out->has_seed = read_whole(value, UINT64_MAX, &out->seed);
    if (str_equal(key, STR("now"))) return read_seconds(value, &out->now_s);
    if (str_equal(key, STR("created"))) return read_seconds(value, &out->created_s);
    if (str_equal(key, STR("rope"))) return read_whole(value, INT32_MAX, &out->rope);
    if (str_equal(key, STR("id"))) out->id = value;
    return true;
}

bool hop_mark_parse(struct str line, struct hop_mark *out)
{
    *out = (struct hop_mark){.now_s = -1, .created_s = -1};
    const char *at = line.data, *end = at + line.len;
    while (at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        const char *stop = space ? space : end;
        const char *equals = memchr(at, '=', (size_t)(stop - at));
        if (!equals) return false;
        struct str key = {at, (size_t)(equals - at)};
        if (!read_field(key, (struct str){equals + 1, (size_t)(stop - equals) - 1}, out))
            return false;
        at = space ? space + 1 : end;
    }
    return true;
}

bool hop_mark_next_id(struct str *ids, uint32_t *id, bool *is_bad)
{
    const char *at = ids->data, *end = at + ids->len;
    uint64_t number;
    *is_bad = false;
    if (at == end) return false;
    /* "1," has an id missing at its end. */
    if (!read_number(&at, end, INT32_MAX, &number) || (at < end && (*at++ != ',' || at == end))) {
        *is_bad = true;
        return false;
    }
    *ids = (struct str){at, (size_t)(end - at)};
    *id = (uint32_t)number;
    return true;
}
