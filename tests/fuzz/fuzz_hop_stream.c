/* A stream gives the same bytes and the same state whole and in pieces; what comes out is what went
 * in, less the marks. The first byte is the size of the pieces, its lowest bit the framing. */
#include "proxy/hop_stream.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void collect(void *arg, const char *data, size_t len)
{
    CHECK(len > 0);
    buf_append(arg, data, len);
}

static void describe(const struct hop_stream *h, struct buf *out)
{
    const struct hop_usage *u = hop_stream_usage(h);
    buf_printf(out, "%d %d %d %u %lld", hop_stream_can_resume(h), hop_stream_is_complete(h),
               hop_stream_is_over_budget(h), hop_stream_token_count(h),
               u ? (long long)(u->prompt ^ u->completion ^ u->cached) : -1);
    if (!hop_stream_can_resume(h)) return;
    struct buf record;
    struct error err;
    buf_init(&record, BUF_MAX_INTERNAL);
    hop_stream_print_resume(h, &record);
    struct json *parsed = json_parse(record.data, record.len, &err);
    CHECK(parsed || err.code == E_LIMIT);
    json_destroy(parsed);
    buf_append(out, record.data, record.len);
    buf_deinit(&record);
}

static void run(const char *data, size_t len, size_t piece, enum hop_framing framing,
                struct buf *out, struct buf *state)
{
    struct hop_budget budget = {.max = 300};
    struct hop_stream h;
    buf_init(out, BUF_MAX_INTERNAL);
    buf_init(state, BUF_MAX_INTERNAL);
    hop_stream_init(&h, framing, &budget);
    for (size_t at = 0; at < len; at += piece) {
        hop_stream_feed(&h, data + at, len - at < piece ? len - at : piece, collect, out);
        CHECK(h.held_cap <= HOP_HELD_MAX && budget.used <= budget.max);
    }
    describe(&h, state);
    hop_stream_end(&h, collect, out);
    CHECK(out->len <= len);
    hop_stream_restart(&h);
    hop_stream_deinit(&h);
    CHECK(budget.used == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    struct buf whole, pieces, whole_state, pieces_state;
    enum hop_framing framing = data[0] & 1 ? HOP_NDJSON : HOP_SSE;
    run(text, size - 1, size, framing, &whole, &whole_state);
    run(text, size - 1, (size_t)data[0] / 2 % 16 + 1, framing, &pieces, &pieces_state);
    CHECK(str_equal(buf_str(&whole), buf_str(&pieces)));
    CHECK(str_equal(buf_str(&whole_state), buf_str(&pieces_state)));
    buf_deinit(&whole);
    buf_deinit(&pieces);
    buf_deinit(&whole_state);
    buf_deinit(&pieces_state);
    return 0;
}
