/* A stream must give the same events whole and in pieces; the first byte is the size of the pieces.
 */
#include "shared/base/check.h"
#include "shared/net/sse.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define EVENT_MAX 64

static void on_data(void *arg, struct str data)
{
    CHECK(data.len <= EVENT_MAX);
    CHECK(data.len == 0 || !memchr(data.data, '\r', data.len));
    buf_printf(arg, "%zu:", data.len);
    buf_append(arg, data.data, data.len);
}

static void parse(struct buf *events, const char *data, size_t len, size_t piece)
{
    struct sse_parser p;
    buf_init(events, BUF_MAX_INTERNAL);
    sse_parser_init(&p, EVENT_MAX, on_data, events);
    for (size_t at = 0; at < len; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        CHECK((sse_parser_feed(&p, data + at, n) != 0) == p.failed);
    }
    sse_parser_deinit(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    struct buf whole, pieces;
    parse(&whole, (const char *)data + 1, size - 1, size);
    parse(&pieces, (const char *)data + 1, size - 1, (size_t)data[0] % 16 + 1);
    CHECK(str_equal(buf_str(&whole), buf_str(&pieces)));
    buf_deinit(&whole);
    buf_deinit(&pieces);
    return 0;
}
