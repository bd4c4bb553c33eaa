#include "agent/tool_list.h"

#include "shared/base/check.h"

#include <stdlib.h>

const struct tool *tool_list_find(const struct tool_list *l, struct str name)
{
    for (size_t i = 0; i < l->count; i++)
        if (str_equal(l->items[i].name, name)) return &l->items[i];
    return NULL;
}

/* Printed and parsed again. NULL where the text is beyond what is parsed: then it types nothing. */
static struct json *copy_document(const struct json *document)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(document, &text, false);
    struct json *copy = json_parse(text.data, text.len, NULL);
    buf_deinit(&text);
    return copy;
}

struct tool_list *tool_list_create_copy(const struct tool_list *l, bool with_parameters)
{
    struct tool_list *copy = xmalloc(sizeof *copy);
    *copy = *l;
    struct tool *items = xcalloc(l->count ? l->count : 1, sizeof *items);
    for (size_t i = 0; i < l->count; i++) {
        items[i] = l->items[i];
        items[i].name.data = xstrndup(l->items[i].name.data, l->items[i].name.len);
        items[i].parameters = with_parameters && l->items[i].parameters
                                  ? copy_document(l->items[i].parameters)
                                  : NULL;
    }
    copy->items = items;
    return copy;
}

void tool_list_destroy_copy(struct tool_list *copy)
{
    if (!copy) return;
    for (size_t i = 0; i < copy->count; i++) {
        free((char *)copy->items[i].name.data);
        json_destroy((struct json *)copy->items[i].parameters);
    }
    free((struct tool *)copy->items);
    free(copy);
}
