#include "agent/stream_marks.h"

#include "tests/test.h"

static struct buf out;

static struct stream_marks marks_of(size_t known)
{
    buf_deinit(&out);
    buf_init(&out, BUF_MAX_INTERNAL);
    return (struct stream_marks){.is_on = true,
                                 .is_resumable = true,
                                 .seed = UINT64_MAX,
                                 .now_s = 7,
                                 .created_s = 8,
                                 .id = "cmpl-1",
                                 .known = known};
}

#define SEED ": lm seed=18446744073709551615 now=7 id=cmpl-1 created=8\n"

static void test_lines(void)
{
    struct stream_marks m = marks_of(0);
    stream_marks_sampled(&m, 0, (int32_t[]){5, 0}, 2);
    EXPECT_INT(out.len, 0);
    stream_marks_event(&m, &out, RESUME_BEGUN); // the role tells of no token
    stream_marks_announce(&m, &out, 4, RESUME_BEGUN);
    stream_marks_sampled(&m, 2, (int32_t[]){INT32_MAX}, 1);
    stream_marks_usage(&m, &out, 1, 2, 3);
    stream_marks_usage(&m, &out, 1, 2, 3);
    stream_marks_announce(&m, &out, 0, RESUME_FINISHED);
    stream_marks_event(&m, &out, RESUME_COMPLETE);
    EXPECT_STR(out.data, SEED ": lm t= b=0 p=1\n: lm t=5,0 b=4 p=1\n: lm u=1,2,3\n"
                              ": lm t=2147483647 b=4 p=2\n: lm t= b=4 p=4\n");
    stream_marks_deinit(&m);
}

/* Where rope tables depend on the prompt's length, what they were chosen for. */
static void test_rope(void)
{
    struct stream_marks m = marks_of(0);
    m.rope = 40000;
    stream_marks_event(&m, &out, RESUME_BEGUN);
    EXPECT(str_starts_with(buf_str(&out), STR(": lm seed=18446744073709551615 now=7 id=cmpl-1 "
                                              "created=8 rope=40000\n: lm t= ")));
    stream_marks_deinit(&m);
}

static void test_tokens_that_are_known(void)
{
    struct stream_marks m = marks_of(3);
    stream_marks_sampled(&m, 0, (int32_t[]){1, 2}, 2);
    stream_marks_sampled(&m, 2, (int32_t[]){3, 4}, 2);
    stream_marks_announce(&m, &out, 1, RESUME_BEGUN);
    EXPECT_STR(out.data, SEED ": lm t=4 b=1 p=1\n");
    stream_marks_deinit(&m);
}

/* A proxy's lines are bounded; what stands before the last one is how things stood. */
static void test_many(void)
{
    struct stream_marks m = marks_of(0);
    for (int32_t i = 0; i < 9000; i++)
        stream_marks_sampled(&m, (size_t)i, &(int32_t){INT32_MAX - i}, 1);
    stream_marks_announce(&m, &out, 50, RESUME_BEGUN);
    size_t lines = 0, ids = 0;
    for (struct str rest = buf_str(&out), line; str_split(&rest, '\n', &line); lines++) {
        EXPECT(line.len < 64 << 10);
        bool is_last = rest.len == 0;
        const char *end = is_last ? " b=50 p=1" : " b=0 p=0";
        if (lines == 0) continue; // the seed
        EXPECT(memcmp(line.data + line.len - strlen(end), end, strlen(end)) == 0);
        ids++;
        for (size_t i = 0; i < line.len; i++)
            ids += line.data[i] == ',';
    }
    EXPECT_INT(lines, 4);
    EXPECT_INT(ids, 9000);
    stream_marks_deinit(&m);
}

static void test_off(void)
{
    struct stream_marks m = marks_of(0);
    m.is_resumable = false; // several choices: the counts only
    stream_marks_sampled(&m, 0, (int32_t[]){1}, 1);
    stream_marks_announce(&m, &out, 1, RESUME_BEGUN);
    stream_marks_usage(&m, &out, 1, 2, 3);
    stream_marks_event(&m, &out, RESUME_COMPLETE);
    EXPECT_STR(out.data, ": lm u=1,2,3\n");
    stream_marks_deinit(&m);
    m = marks_of(0);
    m.is_on = false;
    stream_marks_sampled(&m, 0, (int32_t[]){1}, 1);
    stream_marks_announce(&m, &out, 1, RESUME_BEGUN);
    stream_marks_usage(&m, &out, 1, 2, 3);
    EXPECT_INT(out.len, 0);
    EXPECT(!m.ids.ids);
}

int main(void)
{
    RUN(test_lines);
    RUN(test_rope);
    RUN(test_tokens_that_are_known);
    RUN(test_many);
    RUN(test_off);
    buf_deinit(&out);
    return TEST_END();
}
