#include "shared/net/prefix_chain.h"

#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "tests/test.h"

/* The text is copied to a block of exactly its size: a read beyond it is the sanitizer's. */
static int parse(const char *text, struct prefix_mark *marks, int max, uint64_t *total)
{
    size_t len = strlen(text);
    char *copy = len ? xmemdup(text, len) : NULL;
    int rc = prefix_chain_parse((struct str){copy, len}, marks, max, total);
    free(copy);
    return rc;
}

static void test_parse(void)
{
    struct prefix_mark marks[4];
    uint64_t total = 0;
    EXPECT_INT(parse("00f3a1b2c4d5e6f7@1024,9ab4c3d2e1f00718@1530;1702", marks, 4, &total), 2);
    EXPECT(marks[0].hash == UINT64_C(0x00f3a1b2c4d5e6f7) && marks[0].bytes == 1024);
    EXPECT(marks[1].hash == UINT64_C(0x9ab4c3d2e1f00718) && marks[1].bytes == 1530);
    EXPECT_INT(total, 1702);
    EXPECT_INT(parse(" 00f3a1b2c4d5e6f7@1702;1702 ", marks, 1, &total), 1);
    EXPECT_INT(parse("00f3a1b2c4d5e6f7@1,00f3a1b2c4d5e6f8@2;2", marks, 1, &total), E_LIMIT);
}

static void test_parse_refuses(void)
{
    static const char *const rows[] = {
        "",
        ";",
        ";7",
        "00f3a1b2c4d5e6f7@1024",
        "00f3a1b2c4d5e6f7@1024;",
        "00f3a1b2c4d5e6f7@1024;1023",
        "00f3a1b2c4d5e6f7@1024,;2000",
        ",00f3a1b2c4d5e6f7@1024;2000",
        "00f3a1b2c4d5e6f7@1024,,00f3a1b2c4d5e6f8@1025;2000",
        "00f3a1b2c4d5e6f7@1024,00f3a1b2c4d5e6f8@1024;2000",
        "00f3a1b2c4d5e6f7@1024,00f3a1b2c4d5e6f8@1023;2000",
        "00f3a1b2c4d5e6f7@;2000",
        "00f3a1b2c4d5e6f7@0;2000",
        "00f3a1b2c4d5e6f7@-1;2000",
        "00f3a1b2c4d5e6f7@+1;2000",
        "00f3a1b2c4d5e6f7@1x;2000",
        "00f3a1b2c4d5e6f7@99999999999999999999;2000",
        "00f3a1b2c4d5e6f7;2000",
        "00f3a1b2c4d5e6f@1024;2000",
        "00f3a1b2c4d5e6f7a@1024;2000",
        "0000000000000000@1024;2000",
        "00f3a1b2c4d5e6g7@1024;2000",
        "00f3a1b2c4d5e6f7@1024;2000;3",
        "00f3a1b2c4d5e6f7@1024; 2000",
    };
    struct prefix_mark marks[4];
    uint64_t total;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int rc = parse(rows[i], marks, 4, &total);
        EXPECT_INT(rc, E_FORMAT);
        if (rc != E_FORMAT) printf("  %s\n", rows[i]);
    }
}

static void test_short_chains_are_not_printed(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    struct prefix_mark marks[2] = {{7, 100}, {8, 255}};
    EXPECT(!prefix_chain_print(&out, marks, 0, 3000));
    EXPECT(!prefix_chain_print(&out, marks, 2, 300));
    EXPECT_INT(out.len, 0);
    marks[1].bytes = 256;
    EXPECT(prefix_chain_print(&out, marks, 2, 300));
    EXPECT_STR(out.data, "0000000000000007@100,0000000000000008@256;300");
    buf_deinit(&out);
}

static void test_round_trip(void)
{
    struct rng rng;
    rng_init(&rng, 3);
    struct prefix_mark marks[PREFIX_MARKS_MAX], read[PREFIX_MARKS_MAX];
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    for (int round = 0; round < 300; round++) {
        int count = 1 + (int)rng_below(&rng, PREFIX_MARKS_MAX);
        if (round == 0) count = PREFIX_MARKS_MAX;
        uint64_t bytes = 0, total = 0;
        for (int i = 0; i < count; i++) {
            bytes += 256 + rng_below(&rng, 1u << 20);
            marks[i] = (struct prefix_mark){rng_u64(&rng) | 1, bytes};
        }
        buf_clear(&out);
        EXPECT(prefix_chain_print(&out, marks, count, bytes + 5));
        EXPECT(out.len <= 8192);
        EXPECT_INT(prefix_chain_parse(buf_str(&out), read, PREFIX_MARKS_MAX, &total), count);
        EXPECT_INT(total, bytes + 5);
        for (int i = 0; i < count; i++)
            EXPECT(read[i].hash == marks[i].hash && read[i].bytes == marks[i].bytes);
    }
    buf_deinit(&out);
}

int main(void)
{
    RUN(test_parse);
    RUN(test_parse_refuses);
    RUN(test_short_chains_are_not_printed);
    RUN(test_round_trip);
    return TEST_END();
}
