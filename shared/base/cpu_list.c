#include "shared/base/cpu_list.h"

#include "shared/base/str.h"

#define CORE_MAX 65535

static int parse_core(struct str text, int *core)
{
    int64_t value;
    if (str_to_int(str_trim(text), &value) < 0 || value < 0 || value > CORE_MAX) return E_INVALID;
    *core = (int)value;
    return 0;
}

int cpu_list_parse(const char *list, int *cores, int max)
{
    struct str rest = str_of(list), item;
    int count = 0;

    while (str_split(&rest, ',', &item)) {
        struct str from;
        int first, last;
        if (!str_split(&item, '-', &from) || parse_core(from, &first) < 0) return E_INVALID;
        last = first;
        bool is_range = item.data > from.data + from.len;
        if (is_range && parse_core(item, &last) < 0) return E_INVALID;
        for (int core = first; core <= last; core++) {
            if (count == max) return E_INVALID;
            cores[count++] = core;
        }
        if (last < first) return E_INVALID;
    }
    return count > 0 ? count : E_INVALID;
}
