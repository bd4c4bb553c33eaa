#include "shared/base/config_value.h"

#include "shared/base/check.h"

#include <inttypes.h>
#include <stdlib.h>

#define VALUE_SHOWN 64 // bytes of a refused value in the error text

static void *field_of(const struct option *option, void *config)
{
    return (char *)config + option->offset;
}

static const void *const_field_of(const struct option *option, const void *config)
{
    return (const char *)config + option->offset;
}

static bool is_bounded(const struct option *option)
{
    return option->min != 0 || option->max != 0;
}

static bool is_within(const struct option *option, double value)
{
    if (!is_bounded(option)) return true;
    return value >= option->min && (option->max < option->min || value <= option->max);
}

static void append_bound(const struct option *option, double bound, struct buf *out)
{
    if (option->type != OPTION_BYTES) {
        buf_printf(out, "%.15g", bound);
        return;
    }
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    uint64_t bytes = (uint64_t)bound;
    while (unit + 1 < ARRAY_LEN(units) && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    buf_printf(out, "%" PRIu64 "%s", bytes, units[unit]);
}

static void append_choices(const struct option *option, struct buf *out)
{
    struct str left = str_of(option->choices), choice;
    const char *separator = "";
    while (str_split(&left, '|', &choice)) {
        buf_printf(out, "%s" STR_FMT, separator, STR_ARG(choice));
        separator = ", ";
    }
}

void config_value_expected(const struct option *option, struct buf *out)
{
    switch (option->type) {
    case OPTION_FLAG:
        buf_append_str(out, "true or false");
        return;
    case OPTION_CHOICE:
        buf_append_str(out, "one of ");
        append_choices(option, out);
        return;
    case OPTION_STRING:
    case OPTION_LIST:
        buf_append_str(out, "a value");
        return;
    case OPTION_BYTES:
        buf_append_str(out, "a size such as 64k, 8M or 2G");
        break;
    case OPTION_INT:
    case OPTION_DOUBLE:
        buf_append_str(out, "a number");
        break;
    }
    if (!is_bounded(option)) return;
    buf_append_str(out, option->max < option->min ? " of at least " : " from ");
    append_bound(option, option->min, out);
    if (option->max < option->min) return;
    buf_append_str(out, " to ");
    append_bound(option, option->max, out);
}

static int refuse(const struct option *option, struct str text, const char *label,
                  struct error *err)
{
    struct buf expected;
    buf_init(&expected, BUF_MAX_INTERNAL);
    config_value_expected(option, &expected);
    int rc;
    if (option->secret) {
        rc = error_set(err, E_INVALID, "%s wants %s", label, expected.data);
    } else {
        int shown = text.len > VALUE_SHOWN ? VALUE_SHOWN : (int)text.len;
        rc = error_set(err, E_INVALID, "%s wants %s, got '%.*s'", label, expected.data, shown,
                       text.data);
    }
    buf_deinit(&expected);
    return rc;
}

static int parse_flag(struct str text, bool *value)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {{"true", true},   {"1", true},  {"yes", true}, {"on", true},
                 {"false", false}, {"0", false}, {"no", false}, {"off", false}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (str_equal_nocase(text, str_of(words[i].word))) {
            *value = words[i].value;
            return 0;
        }
    }
    return E_INVALID;
}

static int parse_choice(const struct option *option, struct str text, int *value)
{
    struct str left = str_of(option->choices), choice;
    for (int i = 0; str_split(&left, '|', &choice); i++) {
        if (str_equal(choice, text)) {
            *value = i;
            return 0;
        }
    }
    return E_INVALID;
}

static int parse_int(const struct option *option, struct str text, int64_t *value)
{
    int64_t number;
    int rc = str_to_int(text, &number);
    if (rc == 0 && !is_within(option, (double)number)) rc = E_LIMIT;
    if (rc == 0) *value = number;
    return rc;
}

static int parse_double(const struct option *option, struct str text, double *value)
{
    double number;
    int rc = str_to_double(text, &number);
    if (rc == 0 && !is_within(option, number)) rc = E_LIMIT;
    if (rc == 0) *value = number;
    return rc;
}

static int parse_bytes(const struct option *option, struct str text, uint64_t *value)
{
    uint64_t number;
    int rc = str_to_bytes(text, &number);
    if (rc == 0 && !is_within(option, (double)number)) rc = E_LIMIT;
    if (rc == 0) *value = number;
    return rc;
}

static void add_item(struct option_list *list, struct str text)
{
    list->items = xrealloc_array(list->items, list->count + 1, sizeof *list->items);
    list->items[list->count++] = xstrndup(text.data, text.len);
}

int config_value_set(const struct option *option, void *config, struct str text, const char *label,
                     struct error *err)
{
    void *field = field_of(option, config);
    int rc = 0;
    switch (option->type) {
    case OPTION_FLAG:
        rc = parse_flag(text, field);
        break;
    case OPTION_INT:
        rc = parse_int(option, text, field);
        break;
    case OPTION_DOUBLE:
        rc = parse_double(option, text, field);
        break;
    case OPTION_BYTES:
        rc = parse_bytes(option, text, field);
        break;
    case OPTION_CHOICE:
        rc = parse_choice(option, text, field);
        break;
    case OPTION_STRING:
        free(*(char **)field);
        *(char **)field = xstrndup(text.data, text.len);
        break;
    case OPTION_LIST:
        add_item(field, text);
        break;
    }
    return rc < 0 ? refuse(option, text, label, err) : 0;
}

void config_value_clear(const struct option *option, void *config)
{
    if (option->type == OPTION_STRING) {
        char **text = field_of(option, config);
        free(*text);
        *text = NULL;
    } else if (option->type == OPTION_LIST) {
        struct option_list *list = field_of(option, config);
        for (size_t i = 0; i < list->count; i++)
            free(list->items[i]);
        free(list->items);
        *list = (struct option_list){0};
    }
}

static void print_choice(const struct option *option, int index, struct buf *out)
{
    struct str left = str_of(option->choices), choice = STR("");
    for (int i = 0; i <= index && str_split(&left, '|', &choice); i++)
        continue;
    buf_append(out, choice.data, choice.len);
}

static void print_text(const struct option *option, const char *text, struct buf *out)
{
    if (text) buf_append_str(out, option->secret ? "***" : text);
}

void config_value_print(const struct option *option, const void *config, struct buf *out)
{
    const void *field = const_field_of(option, config);
    const struct option_list *list = field;
    switch (option->type) {
    case OPTION_FLAG:
        buf_append_str(out, *(const bool *)field ? "true" : "false");
        break;
    case OPTION_INT:
        buf_printf(out, "%" PRId64, *(const int64_t *)field);
        break;
    case OPTION_DOUBLE:
        buf_printf(out, "%.15g", *(const double *)field);
        break;
    case OPTION_BYTES:
        buf_printf(out, "%" PRIu64, *(const uint64_t *)field);
        break;
    case OPTION_CHOICE:
        print_choice(option, *(const int *)field, out);
        break;
    case OPTION_STRING:
        print_text(option, *(char *const *)field, out);
        break;
    case OPTION_LIST:
        for (size_t i = 0; i < list->count; i++) {
            if (i > 0) buf_append_char(out, ',');
            print_text(option, list->items[i], out);
        }
        break;
    }
}
