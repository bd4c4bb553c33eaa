/* Replies must come out the same whole and in pieces, and be well-formed; the first byte is the
 * size of the pieces. */
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/net/redis_reply.h"
#include "tests/fuzz/fuzz.h"

static void print(struct buf *out, const struct redis_reply *r)
{
    CHECK(r->type <= REDIS_FAIL);
    CHECK(r->type == REDIS_ARRAY || r->count == 0);
    buf_printf(out, "%d %lld %zu [", r->type, (long long)r->integer, r->text.len);
    buf_append(out, r->text.data, r->text.len);
    for (size_t i = 0; i < r->count; i++)
        print(out, &r->items[i]);
    buf_append_char(out, ']');
}

static void parse(struct buf *out, const char *data, size_t len, size_t piece)
{
    struct redis_reader reader;
    buf_init(out, BUF_MAX_INTERNAL);
    redis_reader_init(&reader);
    int rc = 0;
    for (size_t at = 0; at < len && rc >= 0; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        rc = redis_reader_feed(&reader, data + at, n);
        while (rc == 0) {
            struct redis_reply *reply;
            rc = redis_reader_next(&reader, &reply);
            if (rc != 1) break;
            print(out, reply);
            redis_reply_destroy(reply);
            rc = 0;
        }
    }
    buf_printf(out, "END %d", rc < 0);
    redis_reader_deinit(&reader);
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
