/* What is accepted must print as JSON that is accepted again and prints the same. */
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/fuzz/fuzz.h"

static void print(const char *text, size_t len, bool python_style, struct buf *out)
{
    struct error err = {0};
    struct json *root = json_parse(text, len, &err);
    CHECK(root);
    json_print(root, out, python_style);
    json_destroy(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct json *root = json_parse((const char *)data, size, &err);
    if (!root) {
        CHECK(err.code < 0 && err.text[0]);
        return 0;
    }
    json_destroy(root);
    for (int python_style = 0; python_style < 2; python_style++) {
        struct buf first, second;
        buf_init(&first, BUF_MAX_INTERNAL);
        buf_init(&second, BUF_MAX_INTERNAL);
        print((const char *)data, size, python_style, &first);
        print(first.data, first.len, python_style, &second);
        CHECK(str_equal(buf_str(&first), buf_str(&second)));
        buf_deinit(&first);
        buf_deinit(&second);
    }
    return 0;
}
