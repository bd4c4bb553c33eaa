/* What peek finds of a conversation: canonical bytes, marks, fingerprint, and that they depend on what
 * is said, not on how it is spelled. */
#include "proxy/canonical.h"

#include "proxy/peek.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/rng.h"
#include "tests/test.h"

/* peek of a body, with the marks copied out of the arena. */
struct look {
    struct peek peek;
    struct prefix_mark marks[PREFIX_MARKS_MAX];
};

static struct look look_as(const struct peek_options *options, const char *text, size_t len)
{
    struct look l;
    struct arena arena;
    struct api_error error;
    arena_init(&arena);
    char *copy = len ? xmemdup(text, len) : NULL;
    int rc = peek_body(&arena, (struct str){copy, len}, options, &l.peek, &error);
    if (rc != 0) printf("  %.200s: %s\n", text, error.message);
    NEED(rc == 0);
    NEED(l.peek.mark_count <= PREFIX_MARKS_MAX);
    if (l.peek.mark_count > 0) {
        memcpy(l.marks, l.peek.marks, (size_t)l.peek.mark_count * sizeof *l.marks);
    }
    for (int i = 0; i < l.peek.mark_count; i++) {
        NEED(l.marks[i].hash != 0 && l.marks[i].bytes <= l.peek.bytes);
        NEED(l.marks[i].bytes > (i ? l.marks[i - 1].bytes : 0));
    }
    free(copy);
    arena_deinit(&arena);
    return l;
}

static struct look look_at(const char *text)
{
    struct peek_options options = {.route = PEEK_CHAT};
    return look_as(&options, text, strlen(text));
}

/* Equal in all that is hashed and counted. */
static bool same(const struct look *a, const struct look *b)
{
    return a->peek.bytes == b->peek.bytes && a->peek.fingerprint == b->peek.fingerprint &&
           a->peek.images == b->peek.images && a->peek.mark_count == b->peek.mark_count &&
           memcmp(a->marks, b->marks, (size_t)a->peek.mark_count * sizeof *a->marks) == 0;
}

/* How many marks at the front are the same. */
static int shared_marks(const struct look *a, const struct look *b)
{
    int n = 0;
    while (n < a->peek.mark_count && n < b->peek.mark_count &&
           a->marks[n].hash == b->marks[n].hash && a->marks[n].bytes == b->marks[n].bytes)
        n++;
    return n;
}

#define X50    "xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx "
#define X300   X50 X50 X50 X50 X50 X50
#define X1200  X300 X300 X300 X300
#define SYSTEM "{\"role\":\"system\",\"content\":\"" X300 "\"}"
#define USER   "{\"role\":\"user\",\"content\":\"" X1200 "\"}"

static void expect_same(const char *const *bodies, size_t count)
{
    struct look first = look_at(bodies[0]);
    EXPECT(first.peek.mark_count > 0 && first.peek.fingerprint != 0);
    for (size_t i = 1; i < count; i++) {
        struct look l = look_at(bodies[i]);
        EXPECT(same(&first, &l));
        if (!same(&first, &l)) printf("  body %zu\n", i);
    }
}

static void test_spelling_does_not_count(void)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[" SYSTEM "," USER "]}",
        "{\"messages\":[" SYSTEM "," USER "],\"model\":\"m\",\"stream\":true,\"seed\":7}",
        " {\n\"messages\" :\t[ " SYSTEM " ,\r\n" USER " ] , \"\\u006dodel\" : \"\\u006d\" }",
        "{\"model\":\"m\",\"messages\":[{\"content\":\"" X300 "\",\"role\":\"system\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"s\\u0079stem\",\"content\":\"" X300 "\"}," USER
        "]}",
        "{\"model\":\"m\",\"messages\":[" SYSTEM
        ",{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" X1200 "\"}]}]}",
        "{\"model\":\"m\",\"messages\":[" SYSTEM
        ",{\"role\":\"user\",\"content\":[{\"text\":\"" X300 "\",\"type\":\"text\"},{\"type\":"
        "\"text\",\"text\":\"" X300 X300 X300 "\"}]}]}",
        "{\"model\":\"m\",\"messages\":[" SYSTEM ",{\"role\":\"user\",\"content\":\"\\u0078xxxxxxxx"
        " xxxxxxxxx xxxxxxxxx xxxxxxxxx "
        "xxxxxxxxx " X50 X50 X50 X50 X50 X300 X300 X300 "\"}]}",
        "{\"tools\":null,\"model\":\"m\",\"messages\":[" SYSTEM "," USER "],\"functions\":[]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"name\":null,\"content\":\"" X300
        "\",\"id\":\"msg-7\"}," USER "]}",
    };
    expect_same(bodies, ARRAY_LEN(bodies));
}

static void test_escapes_are_what_they_spell(void)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" X300
        "\\n\\t\\\"\\\\ \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80 caf\xc3\xa9\"}]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" X300
        "\\u000a\\u0009\\u0022\\u005c \\u4e2d\\u6587 \\ud83d\\ude00 caf\\u00e9\"}]}",
    };
    expect_same(bodies, ARRAY_LEN(bodies));
}

static void test_options_count_wherever_they_stand(void)
{
    static const char *const options[] = {
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]",
        "\"functions\":[{\"name\":\"f\"}]",
        "\"chat_template_kwargs\":{\"enable_thinking\":false}",
        "\"chat_template_kwargs\":{\"enable_thinking\":true}",
        "\"enable_thinking\":true",
        "\"reasoning_effort\":\"high\"",
        "\"cache_salt\":\"s\"",
        "\"adapter_name\":\"s\"",
        "\"documents\":[\"d\"]",
        "\"image_url\":\"http://x/y.png\"",
    };
    struct look seen[ARRAY_LEN(options) + 1];
    seen[0] = look_at("{\"model\":\"m\",\"messages\":[" SYSTEM "," USER "]}");
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        char before[4096], behind[4096];
        snprintf(before, sizeof before, "{\"model\":\"m\",%s,\"messages\":[" SYSTEM "," USER "]}",
                 options[i]);
        snprintf(behind, sizeof behind, "{\"messages\":[" SYSTEM "," USER "],%s,\"model\":\"m\"}",
                 options[i]);
        struct look a = look_at(before), b = look_at(behind);
        EXPECT(same(&a, &b));
        for (size_t j = 0; j <= i; j++)
            EXPECT_INT(shared_marks(&a, &seen[j]), 0);
        EXPECT(a.peek.fingerprint == seen[0].peek.fingerprint);
        seen[i + 1] = a;
    }
    struct look two = look_at(
        "{\"model\":\"m\",\"cache_salt\":\"s\",\"enable_thinking\":true,\"messages\":[" SYSTEM
        "," USER "]}");
    struct look swapped = look_at("{\"enable_thinking\":true,\"messages\":[" SYSTEM "," USER
                                  "],\"cache_salt\":\"s\",\"model\":\"m\"}");
    EXPECT(same(&two, &swapped));
    for (size_t j = 0; j < ARRAY_LEN(seen); j++)
        EXPECT_INT(shared_marks(&two, &seen[j]), 0);
}

static void test_what_is_said_counts(void)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[" SYSTEM "," USER "]}",
        "{\"model\":\"n\",\"messages\":[" SYSTEM "," USER "]}",
        "{\"model\":\"m\",\"messages\":[" USER "," SYSTEM "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" X300 "\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"content\":\"" X300 "\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"" X300 ".\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"name\":\"a\",\"content\":\"" X300
        "\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"name\":\"b\",\"content\":\"" X300
        "\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"tool_calls\":[{\"id\":\"b\"}],"
        "\"content\":\"" X300 "\"}," USER "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\","
        "\"image_url\":{\"url\":\"data:a\"}},{\"type\":\"text\",\"text\":\"" X300 "\"}]}," USER
        "]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\","
        "\"image_url\":{\"url\":\"data:b\"}},{\"type\":\"text\",\"text\":\"" X300 "\"}]}," USER
        "]}",
    };
    struct look seen[ARRAY_LEN(bodies)];
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        seen[i] = look_at(bodies[i]);
        EXPECT(seen[i].peek.mark_count > 0);
        for (size_t j = 0; j < i; j++) {
            EXPECT_INT(shared_marks(&seen[i], &seen[j]), 0);
            EXPECT(seen[i].peek.fingerprint != seen[j].peek.fingerprint);
        }
    }
    EXPECT_INT(seen[9].peek.images, 1);
    EXPECT_INT(seen[9].peek.bytes, seen[0].peek.bytes);
    struct peek_options options = {.route = PEEK_CHAT, .tenant = STR("t")};
    struct look tenant = look_as(&options, bodies[0], strlen(bodies[0]));
    EXPECT_INT(shared_marks(&seen[0], &tenant), 0);
    EXPECT_INT(tenant.peek.mark_count, seen[0].peek.mark_count);
}

/* A conversation that grows keeps its marks and its fingerprint. */
static void test_growing(void)
{
    struct rng rng;
    rng_init(&rng, 11);
    for (int round = 0; round < 50; round++) {
        struct buf b;
        buf_init(&b, BUF_MAX_INTERNAL);
        buf_append_str(&b, "{\"model\":\"m\",\"messages\":[");
        struct look before = {.peek = {.mark_count = 0}};
        for (int turn = 0; turn < 20; turn++) {
            buf_printf(&b, "%s{\"role\":\"%s\",\"content\":\"", turn ? "," : "",
                       turn % 2 ? "assistant" : "user");
            for (uint32_t n = rng_below(&rng, round % 2 ? 50 : 4000); n > 0; n--)
                buf_append_char(&b, (char)('a' + rng_below(&rng, 26)));
            buf_append_str(&b, "\"}");
            size_t len = b.len;
            buf_append_str(&b, "]}");
            struct peek_options options = {.route = PEEK_CHAT};
            struct look now = look_as(&options, b.data, b.len);
            EXPECT_INT(shared_marks(&before, &now), before.peek.mark_count);
            EXPECT(now.peek.bytes -
                       (now.peek.mark_count ? now.marks[now.peek.mark_count - 1].bytes : 0) <
                   256);
            if (turn > 0) EXPECT(now.peek.fingerprint == before.peek.fingerprint);
            before = now;
            b.len = len;
        }
        buf_deinit(&b);
    }
}

static void test_tools_have_a_mark_of_their_own(void)
{
    const char *tools = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                        "\"description\":\"" X300 "\"}}]";
    char body[4096];
    snprintf(body, sizeof body,
             "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
             "{\"role\":\"user\",\"content\":\"" X300 "\"}],%s}",
             tools);
    struct look a = look_at(body);
    snprintf(body, sizeof body,
             "{\"model\":\"m\",%s,\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
             "{\"role\":\"user\",\"content\":\"Another question.\"}]}",
             tools);
    struct look b = look_at(body);
    EXPECT_INT(a.peek.mark_count, 2);
    EXPECT_INT(b.peek.mark_count, 1);
    EXPECT_INT(shared_marks(&a, &b), 1);
    EXPECT(a.marks[0].bytes > 300 && a.marks[0].bytes < 450);
    snprintf(body, sizeof body,
             "{\"model\":\"m\",%s,\"messages\":[{\"role\":\"system\",\"content\":\"Be long.\"},"
             "{\"role\":\"user\",\"content\":\"Another question.\"}]}",
             tools);
    struct look c = look_at(body);
    EXPECT_INT(shared_marks(&a, &c), 0);
}

static void test_prompts(void)
{
    struct peek_options text = {.route = PEEK_COMPLETIONS}, talk = {.route = PEEK_INTERACTIVE};
    const char *one = "{\"model\":\"m\",\"prompt\":\"" X1200 "\"}";
    const char *list = "{\"model\":\"m\",\"prompt\":[\"" X1200 "\"]}";
    const char *many = "{\"model\":\"m\",\"prompt\":[\"" X1200 "\",\"" X1200 "\",\"" X300 "\"]}";
    struct look a = look_as(&text, one, strlen(one)), b = look_as(&text, list, strlen(list));
    EXPECT(same(&a, &b));
    EXPECT_INT(a.peek.bytes, 1200);
    EXPECT_INT(a.peek.mark_count, 1); // 1 KiB; what is left is less than 256
    struct look c = look_as(&text, many, strlen(many));
    EXPECT_INT(shared_marks(&a, &c), 1);
    EXPECT_INT(c.peek.mark_count, 1); // the second prompt is no continuation of the first
    EXPECT_INT(c.peek.bytes, 2700);

    const char *tokens = "{\"model\":\"m\",\"prompt\":[[1,2,3],[4,5]]}";
    EXPECT_INT(look_as(&text, tokens, strlen(tokens)).peek.tokens_given, 5);
    const char *flat = "{\"model\":\"m\",\"prompt\":[1,2,3],\"messages\":[{\"content\":\"no\"}]}";
    struct look f = look_as(&text, flat, strlen(flat));
    EXPECT_INT(f.peek.tokens_given, 3);
    EXPECT_INT(f.peek.bytes, 0);

    const char *turn =
        "{\"session_id\":7,\"interactive_mode\":true,\"prompt\":[" SYSTEM "," USER "]}";
    talk.default_model = STR("m");
    struct look d = look_as(&talk, turn, strlen(turn));
    struct look e = look_at("{\"model\":\"m\",\"messages\":[" SYSTEM "," USER "]}");
    EXPECT(same(&d, &e));
    EXPECT(d.peek.model.data == NULL);

    struct peek_options other = {.route = PEEK_OTHER};
    const char *input = "{\"model\":\"m\",\"input\":[\"" X1200 "\",\"" X300 "\"]}";
    struct look g = look_as(&other, input, strlen(input));
    EXPECT_INT(g.peek.bytes, 1500);
    EXPECT_INT(g.peek.mark_count, 0);
}

static void test_marks_are_bounded(void)
{
    struct buf b;
    buf_init(&b, BUF_MAX_INTERNAL);
    buf_append_str(&b, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 64 << 10; i++) {
        char *room = buf_reserve(&b, 1024);
        memset(room, 'a' + i % 26, 1024);
        buf_commit(&b, 1024);
    }
    buf_append_str(&b, "\"}]}");
    struct peek_options options = {.route = PEEK_CHAT};
    struct look l = look_as(&options, b.data, b.len);
    EXPECT_INT(l.peek.bytes, 64 << 20);
    EXPECT(l.peek.mark_count > 128 && l.peek.mark_count <= PREFIX_MARKS_MAX);
    EXPECT_INT(l.marks[127].bytes, 128 << 10);
    EXPECT_INT(l.marks[128].bytes, 130 << 10);
    EXPECT_INT(l.marks[131].bytes, 136 << 10);
    EXPECT_INT(l.marks[132].bytes, 140 << 10);
    // what the last mark leaves uncovered is a fifth at most
    EXPECT(l.marks[l.peek.mark_count - 1].bytes > l.peek.bytes / 5 * 4);

    // many messages, each of which would close: they don't eat up the marks either
    buf_clear(&b);
    buf_append_str(&b, "{\"model\":\"m\",\"messages\":[");
    for (int i = 0; i < 60000; i++)
        buf_printf(&b, "%s{\"role\":\"user\",\"content\":\"%d" X1200 "\"}", i ? "," : "", i);
    buf_append_str(&b, "]}");
    l = look_as(&options, b.data, b.len);
    EXPECT(l.peek.mark_count > 128 && l.peek.mark_count <= PREFIX_MARKS_MAX);
    EXPECT(l.marks[l.peek.mark_count - 1].bytes > l.peek.bytes / 5 * 4);
    buf_deinit(&b);
}

static void test_digest_depends_on_text_only(void)
{
    struct rng rng;
    rng_init(&rng, 5);
    static char text[5000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)rng_below(&rng, 256);
    for (size_t len = 0; len < sizeof text; len += 1 + rng_below(&rng, 60)) {
        struct text_digest whole, pieces;
        text_digest_init(&whole);
        text_digest_write(&whole, text, len);
        text_digest_init(&pieces);
        for (size_t at = 0; at < len;) {
            size_t n = 1 + rng_below(&rng, 1500);
            if (n > len - at) n = len - at;
            text_digest_write(&pieces, text + at, n);
            at += n;
        }
        EXPECT(text_digest_value(&whole) == text_digest_value(&pieces));
        EXPECT_INT(pieces.bytes, len);
    }
}

/* Fixed for good: proxies of one fleet, of one version or the next, name prefixes by these. */
static void test_marks_never_change(void)
{
    struct look l =
        look_at("{\"model\":\"m\",\"cache_salt\":\"s\",\"messages\":[" SYSTEM "," USER "]}");
    EXPECT_INT(l.peek.mark_count, 2);
    EXPECT(l.marks[0].hash == 0x8ea3c9e569d8c7dcull);
    EXPECT(l.marks[1].hash == 0x62ad0c2d723f2256ull);
    EXPECT(l.peek.fingerprint == 0xa0a668ffba7c064cull);
}

int main(void)
{
    RUN(test_marks_never_change);
    RUN(test_spelling_does_not_count);
    RUN(test_escapes_are_what_they_spell);
    RUN(test_options_count_wherever_they_stand);
    RUN(test_what_is_said_counts);
    RUN(test_growing);
    RUN(test_tools_have_a_mark_of_their_own);
    RUN(test_prompts);
    RUN(test_marks_are_bounded);
    RUN(test_digest_depends_on_text_only);
    return TEST_END();
}
