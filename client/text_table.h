/* text_table.h - rows of text in columns as wide as their widest cell. */
#ifndef LM_CLIENT_TEXT_TABLE_H
#define LM_CLIENT_TEXT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/buf.h"

#define TEXT_TABLE_COLUMNS_MAX 16

struct text_column {
    const char *title; // borrowed
    bool right;        // align to the right: numbers
};

struct text_table {
    const struct text_column *columns; // borrowed
    size_t column_count;               // at most TEXT_TABLE_COLUMNS_MAX
    char **cells;                      // owned, row by row
    size_t count, cap;
};

void text_table_init(struct text_table *t, const struct text_column *columns, size_t column_count);
void text_table_deinit(struct text_table *t);

/* The next cell, left to right and row by row; made one line and free of control characters. */
void text_table_add(struct text_table *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Titles, then the rows; CHECKs that the last row is whole. */
void text_table_print(const struct text_table *t, struct buf *out);

#endif
