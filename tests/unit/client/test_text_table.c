/* Tables and the text in them: widths, alignment, nothing that a terminal would obey. */
#include "client/text_table.h"

#include "client/plain_text.h"
#include "shared/base/check.h"
#include "tests/test.h"

static const struct text_column columns[] = {{"NAME", false}, {"COUNT", true}, {"NOTE", false}};

static void test_columns_fit_their_widest_cell(void)
{
    struct text_table t;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    text_table_init(&t, columns, ARRAY_LEN(columns));
    text_table_add(&t, "a-longer-name");
    text_table_add(&t, "%d", 7);
    text_table_add(&t, "x");
    text_table_add(&t, "b");
    text_table_add(&t, "%d", 123456);
    text_table_add(&t, "yy");
    text_table_print(&t, &out);
    EXPECT_STR(out.data, "NAME            COUNT  NOTE\n"
                         "a-longer-name       7  x\n"
                         "b              123456  yy\n");
    text_table_deinit(&t);
    buf_deinit(&out);
}

static void test_table_without_rows_has_titles(void)
{
    struct text_table t;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    text_table_init(&t, columns, ARRAY_LEN(columns));
    text_table_print(&t, &out);
    EXPECT_STR(out.data, "NAME  COUNT  NOTE\n");
    text_table_deinit(&t);
    buf_deinit(&out);
}

static void test_cells_count_characters_not_bytes(void)
{
    struct text_table t;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    text_table_init(&t, columns, ARRAY_LEN(columns));
    text_table_add(&t, "caf\xc3\xa9s!");
    text_table_add(&t, "1");
    text_table_add(&t, "two\nlines");
    text_table_print(&t, &out);
    EXPECT_STR(out.data, "NAME    COUNT  NOTE\n"
                         "caf\xc3\xa9s!      1  two lines\n");
    text_table_deinit(&t);
    buf_deinit(&out);
}

static const char *plain(struct buf *out, struct str text)
{
    buf_clear(out);
    plain_text_append(out, text);
    return out->data;
}

static void test_control_characters_become_visible(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    EXPECT_STR(plain(&out, STR("one\n\ttwo")), "one\n\ttwo");
    EXPECT_STR(plain(&out, STR("\033]0;title\007")), "^[]0;title^G");
    EXPECT_STR(plain(&out, STR("\x7f\r\b")), "^?^M^H");
    EXPECT_STR(plain(&out, STR("\xc2\x9b"
                               "31m")),
               "\\u009b31m");
    EXPECT_STR(plain(&out, STR("\xc2\xa0\xe4\xbd\xa0\xf0\x9f\x99\x82")),
               "\xc2\xa0\xe4\xbd\xa0\xf0\x9f\x99\x82");
    EXPECT_STR(plain(&out, STR("a\0b")), "a^@b");
    EXPECT_STR(plain(&out, STR("cut \xe4\xbd")), "cut \xef\xbf\xbd");
    buf_clear(&out);
    plain_text_append_line(&out, STR("a\nb\tc\033"));
    EXPECT_STR(out.data, "a b c^[");
    EXPECT_INT(plain_text_width(STR("\xe4\xbd\xa0\xc3\xa9!")), 3);
    buf_deinit(&out);
}

int main(void)
{
    RUN(test_columns_fit_their_widest_cell);
    RUN(test_table_without_rows_has_titles);
    RUN(test_cells_count_characters_not_bytes);
    RUN(test_control_characters_become_visible);
    return TEST_END();
}
