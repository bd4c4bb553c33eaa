#include "client/text_table.h"

#include "client/plain_text.h"
#include "shared/base/check.h"

#include <stdarg.h>
#include <stdlib.h>

void text_table_init(struct text_table *t, const struct text_column *columns, size_t column_count)
{
    CHECK(column_count > 0 && column_count <= TEXT_TABLE_COLUMNS_MAX);
    *t = (struct text_table){.columns = columns, .column_count = column_count};
}

void text_table_deinit(struct text_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct text_table){0};
}

void text_table_add(struct text_table *t, const char *fmt, ...)
{
    struct buf raw, plain;
    va_list args;
    buf_init(&raw, BUF_MAX_INTERNAL);
    buf_init(&plain, BUF_MAX_INTERNAL);
    va_start(args, fmt);
    buf_vprintf(&raw, fmt, args);
    va_end(args);
    plain_text_append_line(&plain, buf_str(&raw));
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 32;
        t->cells = xrealloc_array(t->cells, t->cap, sizeof *t->cells);
    }
    t->cells[t->count++] = buf_detach(&plain, NULL);
    buf_deinit(&raw);
    buf_deinit(&plain);
}

static void append_padding(struct buf *out, size_t width)
{
    for (size_t i = 0; i < width; i++)
        buf_append_char(out, ' ');
}

static void append_row(const struct text_table *t, const size_t *widths, const char *const *cells,
                       struct buf *out)
{
    for (size_t i = 0; i < t->column_count; i++) {
        size_t padding = widths[i] - plain_text_width(str_of(cells[i]));
        bool is_last = i + 1 == t->column_count;
        if (t->columns[i].right) append_padding(out, padding);
        buf_append_str(out, cells[i]);
        if (is_last) break; // no blanks at the end of a line
        if (!t->columns[i].right) append_padding(out, padding);
        append_padding(out, 2);
    }
    buf_append_char(out, '\n');
}

void text_table_print(const struct text_table *t, struct buf *out)
{
    const char *titles[TEXT_TABLE_COLUMNS_MAX];
    size_t widths[TEXT_TABLE_COLUMNS_MAX];
    CHECK(t->count % t->column_count == 0);
    for (size_t i = 0; i < t->column_count; i++) {
        titles[i] = t->columns[i].title;
        widths[i] = plain_text_width(str_of(titles[i]));
    }
    for (size_t i = 0; i < t->count; i++) {
        size_t width = plain_text_width(str_of(t->cells[i]));
        size_t *widest = &widths[i % t->column_count];
        if (width > *widest) *widest = width;
    }
    append_row(t, widths, titles, out);
    for (size_t i = 0; i < t->count; i += t->column_count)
        append_row(t, widths, (const char *const *)t->cells + i, out);
}
