/* A stream with marks is built next to the same stream without them; whatever happens to the first,
 * what comes out must be the second, or a part of it that ends between two events. */
#include "proxy/hop_mark.h"
#include "proxy/hop_stream.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "shared/base/rng.h"
#include "tests/test.h"

#include <inttypes.h>
#include <string.h>

#define EVENTS_MAX 64
#define SEED       "18446744073709551615"

/* A recorded stream. piece[i] are the marks and the event number i. */
struct recording {
    struct buf marked, plain;
    size_t marked_begin[EVENTS_MAX + 1], plain_end[EVENTS_MAX + 1]; // [0]: nothing yet
    int bytes[EVENTS_MAX + 1], phase[EVENTS_MAX + 1], ids[EVENTS_MAX + 1];
    int count, next_id;
};

static void recording_init(struct recording *r)
{
    *r = (struct recording){.next_id = 1};
    buf_init(&r->marked, BUF_MAX_INTERNAL);
    buf_init(&r->plain, BUF_MAX_INTERNAL);
    buf_printf(&r->marked,
               ": lm seed=" SEED " now=1700000000 id=chatcmpl-abc created=1700000001 rope=40000\n");
}

static void recording_deinit(struct recording *r)
{
    buf_deinit(&r->marked);
    buf_deinit(&r->plain);
}

static void put_both(struct recording *r, const char *text)
{
    buf_append_str(&r->marked, text);
    buf_append_str(&r->plain, text);
}

/* An event that stands for `ids` more tokens, in as many mark lines as it has. */
static void record_event(struct recording *r, int ids, int bytes, int phase, const char *event)
{
    int i = r->count++;
    NEED(r->count <= EVENTS_MAX);
    r->bytes[i + 1] = r->bytes[i] + bytes;
    r->phase[i + 1] = phase;
    r->ids[i + 1] = r->ids[i] + ids;
    r->marked_begin[i] = i == 0 ? 0 : r->marked.len;
    for (int k = 0; k < ids - 1; k++) // text was held back
        buf_printf(&r->marked, ": lm t=%d b=%d p=%d\n", r->next_id++ * 7, r->bytes[i], r->phase[i]);
    buf_printf(&r->marked, ": lm t=");
    if (ids > 0) buf_printf(&r->marked, "%d", r->next_id++ * 7);
    buf_printf(&r->marked, " b=%d p=%d\n", r->bytes[i + 1], phase);
    put_both(r, event);
    r->plain_end[i + 1] = r->plain.len;
    r->marked_begin[i + 1] = r->marked.len;
}

static void record_sse(struct recording *r)
{
    recording_init(r);
    record_event(r, 0, 0, 1, "data: {\"role\":\"assistant\"}\n\n");
    record_event(r, 1, 5, 1, "data: {\"content\":\"Hello\"}\n\n");
    record_event(r, 3, 8, 1, "data: {\"content\":\": lm t=1 b=9 p=4\"}\n\n");
    put_both(r, ": ping\n\n"); // a comment changes nothing
    r->plain_end[r->count] = r->plain.len;
    record_event(r, 1, 4, 1, "event: x\r\ndata: one\r\ndata: two\r\n\r\n");
    record_event(r, 1, 4, 1, "data: a\rdata: b\r\r");
    record_event(r, 2, 9, 1, "data: first\n: lm t=3 b=99 p=4\n: lm garbage\ndata: last\n\n");
    record_event(r, 1, 2, 1, ": lmx\ndata: begins like a mark\n\n");
    record_event(r, 1, 2, 1, ":\ndata\nid: 4\n\n");
    buf_append_str(&r->marked, ": lm u=11,12,3 later=unknown\n");
    record_event(r, 1, 0, 2, "data: {\"finish_reason\":\"stop\"}\n\n");
    record_event(r, 0, 0, 3, "data: {\"usage\":{}}\n\n");
    record_event(r, 0, 0, 4, "data: [DONE]\n\n");
}

static void record_ndjson(struct recording *r)
{
    recording_init(r);
    record_event(r, 1, 5, 1, "{\"text\":\"Hello\"}\n");
    record_event(r, 2, 5, 1, "{\"text\":\": lm t=1\"}\r\n");
    record_event(r, 1, 1, 1, "{}\n");
    buf_append_str(&r->marked, ": lm u=11,12,3\n");
    record_event(r, 1, 0, 4, "{\"finish_reason\":\"stop\"}\n");
}

static struct hop_budget roomy(void)
{
    return (struct hop_budget){.max = 1 << 20};
}

static void collect(void *arg, const char *data, size_t len)
{
    EXPECT(len > 0);
    buf_append(arg, data, len);
}

/* All that can be asked of a stream, as text. */
static void describe(const struct hop_stream *h, struct buf *out)
{
    buf_printf(out, "%d %d %d %u ", hop_stream_can_resume(h), hop_stream_is_complete(h),
               hop_stream_is_untouched(h), hop_stream_token_count(h));
    const struct hop_usage *u = hop_stream_usage(h);
    if (u) buf_printf(out, "%" PRId64 " %" PRId64 " %" PRId64, u->prompt, u->completion, u->cached);
    if (hop_stream_can_resume(h)) hop_stream_print_resume(h, out);
}

static void feed_in_two(const struct recording *r, enum hop_framing framing, size_t cut,
                        struct buf *out, struct buf *state)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    hop_stream_init(&h, framing, &budget);
    hop_stream_feed(&h, r->marked.data, cut, collect, out);
    hop_stream_feed(&h, r->marked.data + cut, r->marked.len - cut, collect, out);
    describe(&h, state);
    hop_stream_deinit(&h);
    EXPECT_INT(budget.used, 0);
}

static void check_splits(const struct recording *r, enum hop_framing framing)
{
    struct buf out, state, want;
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_init(&state, BUF_MAX_INTERNAL);
    buf_init(&want, BUF_MAX_INTERNAL);
    for (size_t cut = 0; cut <= r->marked.len; cut++) {
        buf_clear(&out);
        buf_clear(&state);
        feed_in_two(r, framing, cut, &out, cut == 0 ? &want : &state);
        EXPECT(str_equal(buf_str(&out), buf_str(&r->plain)));
        EXPECT(cut == 0 || str_equal(buf_str(&state), buf_str(&want)));
    }
    EXPECT_STR(want.data, framing == HOP_SSE ? "0 1 0 11 11 12 3" : "0 1 0 5 11 12 3");
    buf_deinit(&out);
    buf_deinit(&state);
    buf_deinit(&want);
}

static void test_every_split(void)
{
    struct recording r;
    record_sse(&r);
    check_splits(&r, HOP_SSE);
    recording_deinit(&r);
    record_ndjson(&r);
    check_splits(&r, HOP_NDJSON);
    recording_deinit(&r);
}

/* The event that the output of `len` bytes ends with, or -1: it ends in the middle of one. */
static int find_border(const struct recording *r, size_t len)
{
    for (int i = r->count; i >= 0; i--) {
        if (r->plain_end[i] == len) return i;
        // Before the comment, or between a CR and the LF behind it.
        if (i > 0 && r->plain_end[i] > len && r->plain_end[i - 1] < len) {
            const char *end = r->plain.data + len;
            if (memcmp(end - 2, "\n\n", 2) == 0 || memcmp(end - 3, "\r\n\r", 3) == 0) return i;
        }
    }
    return -1;
}

static int64_t number_of(const struct json *record, const char *name)
{
    return (int64_t)json_number(json_get(record, name));
}

/* The record must say what event number `i` leaves behind. */
static void check_record(const struct recording *r, const struct hop_stream *h, int i)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    hop_stream_print_resume(h, &text);
    struct json *record = json_parse(text.data, text.len, NULL);
    NEED(record != NULL);
    EXPECT_STR(json_string(json_get(record, "seed"), NULL), SEED);
    EXPECT_STR(json_string(json_get(record, "id"), NULL), "chatcmpl-abc");
    EXPECT_INT(number_of(record, "now"), 1700000000);
    EXPECT_INT(number_of(record, "created"), 1700000001);
    EXPECT_INT(number_of(record, "rope"), 40000);
    EXPECT_INT(number_of(record, "bytes"), r->bytes[i]);
    EXPECT_INT(number_of(record, "phase"), r->phase[i]);
    const struct json *ids = json_get(record, "ids");
    EXPECT_INT(json_len(ids), r->ids[i]);
    int want = 0;
    for (const struct json *id = json_first(ids); id; id = json_next(id))
        EXPECT_INT(json_number(id), ++want * 7);
    json_destroy(record);
    buf_deinit(&text);
}

/* The agent is lost after `cut` bytes that came in pieces, and another one goes on. */
static void check_fault(const struct recording *r, enum hop_framing framing, size_t cut,
                        size_t piece)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    hop_stream_init(&h, framing, &budget);
    for (size_t at = 0; at < cut; at += piece)
        hop_stream_feed(&h, r->marked.data + at, cut - at < piece ? cut - at : piece, collect,
                        &out);
    hop_stream_restart(&h);
    EXPECT(out.len <= r->plain.len &&
           (out.len == 0 || memcmp(out.data, r->plain.data, out.len) == 0));
    int i = find_border(r, out.len);
    EXPECT(i >= 0);
    EXPECT(hop_stream_is_untouched(&h) == (out.len == 0));
    EXPECT(hop_stream_is_complete(&h) == (i == r->count));
    bool has_seed = cut > strcspn(r->marked.data, "\n");
    EXPECT(hop_stream_can_resume(&h) == (has_seed && i < r->count));
    if (i >= 0 && hop_stream_can_resume(&h)) {
        check_record(r, &h, i);
        const char *first = ": lm seed=" SEED " now=5 id=chatcmpl-abc created=6\n";
        size_t begin = i == 0 ? strcspn(r->marked.data, "\n") + 1 : r->marked_begin[i];
        hop_stream_feed(&h, first, strlen(first), collect, &out);
        /* The comment and the LF of a CRLF are the dead agent's own; they may be lost. */
        buf_clear(&out);
        if (i > 0) buf_append(&out, r->plain.data, r->plain_end[i]);
        hop_stream_feed(&h, r->marked.data + begin, r->marked.len - begin, collect, &out);
        EXPECT(str_equal(buf_str(&out), buf_str(&r->plain)));
        EXPECT(hop_stream_is_complete(&h));
        EXPECT_INT(hop_stream_token_count(&h), r->ids[r->count]);
    }
    hop_stream_deinit(&h);
    EXPECT_INT(budget.used, 0);
    buf_deinit(&out);
}

static void test_every_fault(void)
{
    static const size_t pieces[] = {1, 3, 50, SIZE_MAX / 2};
    struct recording sse, ndjson;
    record_sse(&sse);
    record_ndjson(&ndjson);
    for (size_t k = 0; k < ARRAY_LEN(pieces); k++) {
        for (size_t cut = 0; cut <= sse.marked.len; cut++)
            check_fault(&sse, HOP_SSE, cut, pieces[k]);
        for (size_t cut = 0; cut <= ndjson.marked.len; cut++)
            check_fault(&ndjson, HOP_NDJSON, cut, pieces[k]);
    }
    recording_deinit(&sse);
    recording_deinit(&ndjson);
}

static void test_random_pieces(void)
{
    struct recording r;
    struct rng rng;
    struct buf out;
    record_sse(&r);
    rng_init(&rng, 5);
    buf_init(&out, BUF_MAX_INTERNAL);
    for (int round = 0; round < 2000; round++) {
        struct hop_budget budget = roomy();
        struct hop_stream h;
        hop_stream_init(&h, HOP_SSE, &budget);
        buf_clear(&out);
        uint32_t most = 1 + rng_below(&rng, 80);
        for (size_t at = 0; at < r.marked.len;) {
            size_t n = 1 + rng_below(&rng, most);
            if (n > r.marked.len - at) n = r.marked.len - at;
            hop_stream_feed(&h, r.marked.data + at, n, collect, &out);
            at += n;
        }
        EXPECT(str_equal(buf_str(&out), buf_str(&r.plain)));
        EXPECT(hop_stream_is_complete(&h));
        hop_stream_deinit(&h);
    }
    buf_deinit(&out);
    recording_deinit(&r);
}

/* ---- spans, memory ---- */

struct spans {
    int count;
    const char *first;
    size_t len;
};

static void count_span(void *arg, const char *data, size_t len)
{
    struct spans *s = arg;
    if (s->count++ == 0) s->first = data;
    s->len += len;
}

static void feed_text(struct hop_stream *h, const char *text, struct spans *s)
{
    *s = (struct spans){0};
    hop_stream_feed(h, text, strlen(text), count_span, s);
}

static void test_no_copy(void)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct spans s;
    hop_stream_init(&h, HOP_SSE, &budget);
    const char *chunk = ": lm t=5 b=3 p=1\ndata: abc\n\ndata: no mark\n\n";
    feed_text(&h, chunk, &s);
    EXPECT_INT(s.count, 1);
    EXPECT(s.first == strstr(chunk, "data"));
    EXPECT(!h.held);
    feed_text(&h, "data: to", &s);
    EXPECT_INT(s.count, 0);
    EXPECT(h.held != NULL);
    feed_text(&h, "rn\n\n", &s);
    EXPECT_INT(s.count, 2);
    EXPECT(!h.held);
    hop_stream_deinit(&h);
    EXPECT(sizeof h <= 256);
}

static void test_budget(void)
{
    struct hop_budget budget = {.max = 100};
    struct hop_stream h, other;
    struct spans s;
    hop_stream_init(&h, HOP_SSE, &budget);
    feed_text(&h, ": lm seed=1 now=2\n", &s);
    for (int i = 0; i < 40; i++)
        feed_text(&h, ": lm t=300,16383 b=1 p=1\ndata: x\n\n", &s);
    EXPECT(!hop_stream_can_resume(&h) && hop_stream_is_over_budget(&h));
    EXPECT_INT(s.count, 1); // it goes on all the same
    EXPECT_INT(budget.used, 0);
    EXPECT_INT(budget.refused, 1);
    feed_text(&h, ": lm t=1 b=1 p=4\ndata: [DONE]\n\n", &s);
    EXPECT(hop_stream_is_complete(&h));

    hop_stream_init(&other, HOP_SSE, &budget);
    feed_text(&other, ": lm seed=1 now=2\n: lm t=2147483647,0 b=1 p=1\ndata: x\n\n", &s);
    EXPECT(hop_stream_can_resume(&other));
    EXPECT(budget.used > 0);
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    hop_stream_print_resume(&other, &text);
    EXPECT_STR(text.data,
               "{\"seed\":\"1\",\"now\":2,\"ids\":[2147483647,0],\"bytes\":1,\"phase\":1}");
    buf_deinit(&text);
    hop_stream_deinit(&other);
    hop_stream_deinit(&h);
    EXPECT_INT(budget.used, 0);

    EXPECT(hop_budget_take(&budget, 100) && !hop_budget_take(&budget, 1));
    EXPECT(!hop_budget_take(&budget, UINT64_MAX));
    hop_budget_give(&budget, 100);
    EXPECT_INT(budget.used, 0);
}

static void test_large_event(void)
{
    const size_t large = 1 << 20, piece = 16 << 10;
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct buf event, out;
    buf_init(&event, BUF_MAX_INTERNAL);
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_append_str(&event, ": lm seed=1 now=2\n: lm t=1 b=9 p=1\ndata: ");
    for (size_t i = 0; i < large; i++)
        buf_append_char(&event, (char)('a' + i % 26));
    buf_append_str(&event, "\n\n");
    size_t marks = (size_t)(strstr(event.data, "data") - event.data);
    hop_stream_init(&h, HOP_SSE, &budget);
    for (size_t at = 0; at < event.len; at += piece) {
        EXPECT(hop_stream_can_resume(&h) == (at > 0 && at - marks <= HOP_HELD_MAX));
        EXPECT(h.held_cap <= HOP_HELD_MAX);
        hop_stream_feed(&h, event.data + at, event.len - at < piece ? event.len - at : piece,
                        collect, &out);
    }
    EXPECT(str_equal(buf_str(&out), (struct str){event.data + marks, event.len - marks}));
    EXPECT(hop_stream_can_resume(&h) && !h.held);
    EXPECT_INT(hop_stream_token_count(&h), 1);
    // Lost in the middle of one that was passed on in part.
    hop_stream_feed(&h, event.data + marks, HOP_HELD_MAX + 1, collect, &out);
    hop_stream_restart(&h);
    EXPECT(!hop_stream_can_resume(&h));
    hop_stream_deinit(&h);
    buf_deinit(&event);
    buf_deinit(&out);
}

/* ---- agents that don't keep the rules ---- */

static bool can_resume_after(const char *text)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct spans s;
    hop_stream_init(&h, HOP_SSE, &budget);
    feed_text(&h, text, &s);
    bool can = hop_stream_can_resume(&h);
    hop_stream_deinit(&h);
    EXPECT_INT(budget.used, 0);
    return can;
}

#define FIRST ": lm seed=1 now=2\n"
#define EVENT "data: x\n\n"

static void test_bad_marks(void)
{
    EXPECT(can_resume_after(FIRST));
    EXPECT(can_resume_after(FIRST ": lm t=1,2 b=3 p=1\n" EVENT));
    EXPECT(can_resume_after(FIRST ": lm t= b=0 p=1 new=key\n" EVENT ": lm \n"));
    EXPECT(!can_resume_after(": lm t=1 b=3 p=1\n" EVENT)); // without a seed
    EXPECT(!can_resume_after(FIRST EVENT));                // nobody knows what it holds
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3 p=1\n" EVENT EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1, b=3 p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=,1 b=3 p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=-1 b=3 p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=2147483648 b=3 p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 p=3\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3x p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3 p=5\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=99999999999999999999 p=1\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3 p=1\r\n" EVENT));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3 p=1\n" EVENT ": lm t=1 b=2 p=1\n"));
    EXPECT(!can_resume_after(FIRST ": lm t=1 b=3 p=2\n" EVENT ": lm t=1 b=3 p=1\n"));
    EXPECT(!can_resume_after(FIRST ": lm hello\n"));
    EXPECT(!can_resume_after(FIRST ": lm seed=2 now=2\n"));
    EXPECT(!can_resume_after(": lm seed=18446744073709551616 now=2\n"));
    EXPECT(!can_resume_after(": lm seed=1\n"));
    EXPECT(!can_resume_after(": lm seed=1 now=2 id=0123456789012345678901234567890123456789"
                             "012345678901234567890123456789\n"));
    EXPECT(!can_resume_after(FIRST ": lm u=1,2\n"));
    EXPECT(!can_resume_after(": lm seed=1 now=2 rope=2147483648\n"));
    EXPECT(!can_resume_after(": lm seed=1 now=2 rope=\n"));
}

static void test_endless_mark(void)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct spans s;
    char ids[1001];
    for (int i = 0; i < 1000; i += 2)
        memcpy(ids + i, "1,", 2);
    ids[1000] = 0;
    hop_stream_init(&h, HOP_SSE, &budget);
    feed_text(&h, FIRST ": lm t=", &s);
    for (int i = 0; i < 1000; i++) {
        feed_text(&h, ids, &s);
        EXPECT(h.held_cap <= HOP_HELD_MAX);
    }
    EXPECT(!hop_stream_can_resume(&h));
    feed_text(&h, "1 b=1 p=1\n" EVENT, &s);
    EXPECT_INT(s.len, strlen(EVENT));
    hop_stream_deinit(&h);
}

static void test_end(void)
{
    struct hop_budget budget = roomy();
    struct hop_stream h;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    const char *texts[] = {"data: torn", ": l", ":", "data: x\n", ": lm t=1"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        buf_clear(&out);
        hop_stream_init(&h, HOP_SSE, &budget);
        hop_stream_feed(&h, texts[i], strlen(texts[i]), collect, &out);
        EXPECT_INT(out.len, 0);
        EXPECT(hop_stream_is_untouched(&h));
        hop_stream_end(&h, collect, &out);
        bool is_mark = i == 4;
        EXPECT(str_equal(buf_str(&out), is_mark ? STR("") : str_of(texts[i])));
        EXPECT(hop_stream_is_untouched(&h) == is_mark);
        hop_stream_deinit(&h);
    }
    buf_deinit(&out);
}

int main(void)
{
    RUN(test_every_split);
    RUN(test_every_fault);
    RUN(test_random_pieces);
    RUN(test_no_copy);
    RUN(test_budget);
    RUN(test_large_event);
    RUN(test_bad_marks);
    RUN(test_endless_mark);
    RUN(test_end);
    return TEST_END();
}
