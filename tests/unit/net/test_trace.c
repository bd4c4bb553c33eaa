#include "shared/net/trace.h"

#include "shared/base/check.h"
#include "tests/test.h"

#define ID     "0af7651916cd43dd8448eb211c80319c"
#define PARENT "00-" ID "-b7ad6b7169203331-01"

static void expect_id(struct str header, const char *want)
{
    struct str id = trace_parse(header);
    if (!want) {
        EXPECT(id.data == NULL);
        return;
    }
    NEED(id.data);
    EXPECT(str_equal(id, str_of(want)));
}

static void test_parse(void)
{
    expect_id(STR(PARENT), ID);
    expect_id(STR("00-" ID "-b7ad6b7169203331-00"), ID);
    expect_id(STR("01-" ID "-b7ad6b7169203331-01-more"), ID);
    expect_id(STR(PARENT "-more"), NULL); // version 00 has no more
    expect_id(STR("01-" ID "-b7ad6b7169203331-01more"), NULL);
    expect_id(STR("ff-" ID "-b7ad6b7169203331-01"), NULL);
    expect_id(STR("00-00000000000000000000000000000000-b7ad6b7169203331-01"), NULL);
    expect_id(STR("00-" ID "-0000000000000000-01"), NULL);
    expect_id(STR("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"), NULL);
    expect_id((struct str){NULL, 0}, NULL);
    for (size_t len = 0; len < sizeof PARENT - 1; len++)
        expect_id((struct str){PARENT, len}, NULL);
    for (size_t i = 0; i < sizeof PARENT - 1; i++) { // no byte can be anything
        char text[] = PARENT;
        text[i] = '_';
        expect_id(str_of(text), NULL);
    }
}

static struct trace trace_from(struct arena *arena, struct str given, bool begins)
{
    struct http_header item = {STR("TraceParent"), given};
    struct http_headers headers = {&item, given.data != NULL};
    return trace_of(arena, &headers, begins);
}

static void test_the_clients_passes(void)
{
    struct arena arena;
    arena_init(&arena);
    for (int begins = 0; begins < 2; begins++) {
        struct trace t = trace_from(&arena, STR(PARENT), begins);
        EXPECT(str_equal(t.id, STR(ID)) && !t.parent.data && !t.is_discarded);
    }
    struct trace t = trace_from(&arena, STR("nonsense"), false);
    EXPECT(!t.id.data && !t.parent.data && !t.is_discarded); // nobody's business here
    arena_deinit(&arena);
}

static void test_one_begins(void)
{
    struct arena arena;
    arena_init(&arena);
    struct str given[] = {{NULL, 0}, STR("nonsense")};
    struct str last = {NULL, 0};
    for (int i = 0; i < 1000; i++) {
        struct trace t = trace_from(&arena, given[i % 2], true);
        NEED(t.id.data && t.parent.len == 55 && t.is_discarded);
        EXPECT(str_equal(trace_parse(t.parent), t.id));
        EXPECT(!last.data || !str_equal(last, t.id));
        last = t.id;
    }
    arena_deinit(&arena);
}

int main(void)
{
    RUN(test_parse);
    RUN(test_the_clients_passes);
    RUN(test_one_begins);
    return TEST_END();
}
