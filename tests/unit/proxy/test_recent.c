#include "proxy/recent.h"

#include "shared/base/json.h"
#include "tests/test.h"

#include <math.h>

static struct json *print(struct recent *r, uint64_t now_ms)
{
    struct buf out;
    struct error err;
    buf_init(&out, BUF_MAX_INTERNAL);
    recent_print(r, "abc", now_ms, &out);
    struct json *v = json_parse(out.data, out.len, &err);
    NEED(v);
    buf_deinit(&out);
    return v;
}

static double number(const struct json *v, const char *name)
{
    return json_number(json_get(v, name));
}

static void test_empty(void)
{
    struct recent *r = recent_create();
    struct json *v = print(r, 5000);
    EXPECT_STR(json_string(json_get(v, "id"), NULL), "abc");
    EXPECT_INT(json_len(json_get(v, "samples")), 0);
    const struct json *bounds = json_get(v, "first_byte_le");
    EXPECT_INT(json_len(bounds), METRIC_BUCKETS);
    EXPECT(json_number(json_first(bounds)) == 0.001);
    const struct json *last = json_first(bounds);
    while (json_next(last))
        last = json_next(last);
    EXPECT(json_type(last) == JSON_NULL);
    json_destroy(v);
    recent_destroy(r);
}

/* The oldest go, and those that are left come in order. */
static void test_ring(void)
{
    struct recent *r = recent_create();
    int total = RECENT_SAMPLES * 2 + 7;
    for (int i = 0; i < total; i++) {
        struct recent_sample s = {.at_ms = 1000 + (uint64_t)i * RECENT_STEP_MS, .requests = i};
        s.first_byte[3] = (uint64_t)i;
        if (i % 2) s.inter_token_s = 0.25;
        recent_add(r, &s);
    }
    uint64_t now_ms = 1000 + (uint64_t)total * RECENT_STEP_MS;
    struct json *v = print(r, now_ms);
    const struct json *samples = json_get(v, "samples");
    EXPECT_INT(json_len(samples), RECENT_SAMPLES);
    int at = total - RECENT_SAMPLES;
    for (const struct json *s = json_first(samples); s; s = json_next(s), at++) {
        EXPECT_INT(number(s, "requests"), at);
        EXPECT(fabs(number(s, "age_s") - (total - at) * RECENT_STEP_MS / 1e3) < 1e-6);
        const struct json *bucket = json_first(json_get(s, "first_byte"));
        EXPECT_INT(json_number(json_next(json_next(json_next(bucket)))), at);
        EXPECT((json_get(s, "inter_token_s") != NULL) == (at % 2 != 0)); // unknown: left out
    }
    EXPECT_INT(at, total);
    json_destroy(v);
    recent_destroy(r);
}

int main(void)
{
    RUN(test_empty);
    RUN(test_ring);
    return TEST_END();
}
