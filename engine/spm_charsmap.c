#include "engine/spm_charsmap.h"

static uint32_t unit_at(struct str map, size_t index)
{
    const unsigned char *p = (const unsigned char *)map.data + 4 + 4 * index;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static size_t unit_count(struct str map)
{
    const unsigned char *p = (const unsigned char *)map.data;
    return ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24) / 4;
}

int spm_charsmap_check(struct str map, struct error *err)
{
    if (map.len >= 12 && unit_count(map) >= 1 && unit_count(map) * 4 < map.len - 4 &&
        map.data[map.len - 1] == 0)
        return 0;
    return error_set(err, E_FORMAT, "precompiled_charsmap of %zu bytes isn't a table of characters",
                     map.len);
}

/* A unit: bit 8: a value hangs below; bits 0-7 and 31: the byte that leads here; bits 10-30: where
 * the children are, in units of 256 if bit 9 is set. */
static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
}

bool spm_charsmap_find(struct str map, struct str text, struct str *part, size_t *taken)
{
    size_t units = unit_count(map), node = unit_offset(unit_at(map, 0));
    const char *texts = map.data + 4 + 4 * units;
    size_t texts_len = map.len - 4 - 4 * units;
    *taken = 0;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        node ^= byte;
        if (node >= units) break;
        uint32_t unit = unit_at(map, node);
        if ((unit & 0x800000ff) != byte) break;
        node ^= unit_offset(unit);
        if (!(unit & 0x100)) continue;
        if (node >= units) break;
        size_t value = unit_at(map, node) & 0x7fffffff;
        if (value >= texts_len) break;
        *part = str_of(texts + value);
        *taken = i + 1;
    }
    return *taken > 0;
}
