/* What is accepted must print as a record that is accepted again and prints the same. */
#include "shared/base/check.h"
#include "shared/net/agent_record.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static bool parse(const char *text, size_t len, struct agent_record *r)
{
    struct error err = {0};
    struct json *root = json_parse(text, len, &err);
    if (!root) return false;
    int rc = agent_record_parse(root, r, &err);
    CHECK(rc == 0 || err.text[0]);
    json_destroy(root);
    return rc == 0;
}

static void print(const struct agent_record *r, struct buf *out)
{
    struct json_writer w;
    buf_init(out, BUF_MAX_INTERNAL);
    json_writer_init(&w, out);
    agent_record_print(&w, r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct agent_record first, second;
    if (!parse((const char *)data, size, &first)) return 0;
    CHECK(strlen(first.id) > 0 && first.model_count <= AGENT_MODELS_MAX);
    struct buf once, twice;
    print(&first, &once);
    CHECK(parse(once.data, once.len, &second));
    print(&second, &twice);
    CHECK(str_equal(buf_str(&once), buf_str(&twice)));
    buf_deinit(&once);
    buf_deinit(&twice);
    return 0;
}
