#include "agent/session_frame.h"

#include "shared/base/check.h"
#include "shared/base/error.h"
#include "tests/test.h"

static const char *const texts[] = {"", "a", "a longer one", ""};

static struct buf print_all(void)
{
    struct buf data;
    buf_init(&data, 4096);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        session_frame_print(&data, str_of(texts[i]), (int64_t)data.len);
    return data;
}

/* Frames read until the end or damage, each as it was written; *rc: what the last call said. */
static int read_all(struct str data, int *rc)
{
    int count = 0;
    int64_t place = 0;
    struct str payload;
    while ((*rc = session_frame_next(data, &place, &payload)) == 1) {
        NEED(count < (int)ARRAY_LEN(texts));
        EXPECT(str_equal(payload, str_of(texts[count])));
        count++;
    }
    EXPECT(place >= 0 && place <= (int64_t)data.len);
    return count;
}

static void test_whole_and_cut(void)
{
    struct buf data = print_all();
    int rc, whole = 0;
    size_t end = 0;
    for (size_t len = 0; len <= data.len; len++) {
        while (whole < (int)ARRAY_LEN(texts) &&
               len >= end + SESSION_FRAME_HEAD + strlen(texts[whole])) {
            end += SESSION_FRAME_HEAD + strlen(texts[whole]);
            whole++;
        }
        EXPECT_INT(read_all((struct str){data.data, len}, &rc), whole);
        EXPECT_INT(rc, 0);
    }
    EXPECT_INT(whole, ARRAY_LEN(texts));
    for (int i = 0; i < 50; i++)
        buf_append_char(&data, 0);
    EXPECT_INT(read_all(buf_str(&data), &rc), ARRAY_LEN(texts));
    EXPECT_INT(rc, 0);
    buf_append_char(&data, 1);
    EXPECT_INT(read_all(buf_str(&data), &rc), ARRAY_LEN(texts));
    EXPECT_INT(rc, E_FORMAT);
    buf_deinit(&data);
}

static void test_damaged(void)
{
    struct buf data = print_all();
    for (size_t at = 0; at < data.len; at++) {
        int rc;
        data.data[at] ^= 0x40;
        EXPECT(read_all(buf_str(&data), &rc) < (int)ARRAY_LEN(texts));
        EXPECT_INT(rc, E_FORMAT);
        data.data[at] ^= 0x40;
    }
    buf_deinit(&data);
}

/* A frame counts only where it was written. */
static void test_moved(void)
{
    struct buf data;
    struct str payload;
    int64_t place = 0;
    buf_init(&data, 4096);
    session_frame_print(&data, STR("turn"), 24);
    EXPECT_INT(session_frame_next(buf_str(&data), &place, &payload), E_FORMAT);
    EXPECT_INT(place, 0);
    buf_deinit(&data);
}

int main(void)
{
    RUN(test_whole_and_cut);
    RUN(test_damaged);
    RUN(test_moved);
    return TEST_END();
}
