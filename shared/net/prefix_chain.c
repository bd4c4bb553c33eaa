#include "shared/net/prefix_chain.h"

#include <inttypes.h>

int prefix_hash_parse(struct str digits, uint64_t *hash)
{
    uint64_t value;
    if (str_to_hex64(digits, &value) != 0 || value == 0) return E_FORMAT;
    *hash = value;
    return 0;
}

/* Digits only: no sign, nothing around them. */
static int parse_bytes(struct str digits, uint64_t *bytes)
{
    if (digits.len == 0 || digits.len > 15) return E_FORMAT;
    uint64_t value = 0;
    for (size_t i = 0; i < digits.len; i++) {
        if (digits.data[i] < '0' || digits.data[i] > '9') return E_FORMAT;
        value = value * 10 + (uint64_t)(digits.data[i] - '0');
    }
    if (value == 0) return E_FORMAT;
    *bytes = value;
    return 0;
}

static int parse_mark(struct str text, struct prefix_mark *mark)
{
    if (text.len <= PREFIX_HASH_DIGITS || text.data[PREFIX_HASH_DIGITS] != '@') return E_FORMAT;
    struct str bytes = {text.data + PREFIX_HASH_DIGITS + 1, text.len - PREFIX_HASH_DIGITS - 1};
    if (prefix_hash_parse((struct str){text.data, PREFIX_HASH_DIGITS}, &mark->hash) != 0)
        return E_FORMAT;
    return parse_bytes(bytes, &mark->bytes);
}

int prefix_chain_parse(struct str header, struct prefix_mark *marks, int max, uint64_t *total)
{
    struct str list, text, rest = str_trim(header);
    if (!str_split(&rest, ';', &list) || parse_bytes(rest, total) != 0) return E_FORMAT;
    if (list.len > 0 && list.data[list.len - 1] == ',') return E_FORMAT;
    int count = 0;
    uint64_t before = 0;
    while (str_split(&list, ',', &text)) {
        if (count == max) return E_LIMIT;
        if (parse_mark(text, &marks[count]) != 0) return E_FORMAT;
        if (marks[count].bytes <= before || marks[count].bytes > *total) return E_FORMAT;
        before = marks[count++].bytes;
    }
    return count > 0 ? count : E_FORMAT;
}

bool prefix_chain_print(struct buf *out, const struct prefix_mark *marks, int count, uint64_t total)
{
    if (count > PREFIX_MARKS_MAX) count = PREFIX_MARKS_MAX;
    if (count <= 0 || marks[count - 1].bytes < PREFIX_BYTES_MIN) return false;
    for (int i = 0; i < count; i++) {
        buf_printf(out, "%s%016" PRIx64 "@%" PRIu64, i ? "," : "", marks[i].hash, marks[i].bytes);
    }
    buf_printf(out, ";%" PRIu64, total);
    return true;
}
