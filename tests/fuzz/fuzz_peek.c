/* What the proxy lets through is JSON for the agent too, and means the same there. */
#include "proxy/peek.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/fuzz/fuzz.h"

static void compare(const struct json *root, const struct peek *peek)
{
    size_t len;
    const struct json *model = json_get(root, "model");
    CHECK(model && json_type(model) == JSON_STRING);
    const char *text = json_string(model, &len);
    CHECK(str_equal((struct str){text, len}, peek->model));
    const struct json *stream = json_get(root, "stream");
    CHECK(peek->stream == (stream && json_is_true(stream)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    arena_init(&arena);
    struct peek peek;
    struct api_error error;
    int rc = peek_body(&arena, (struct str){(const char *)data, size}, &peek, &error);
    struct json *root = json_parse((const char *)data, size, NULL);
    if (rc == 0) {
        CHECK(peek.model.data);
        if (root) compare(root, &peek); // the agent is stricter: duplicate names, long numbers
    } else {
        CHECK(error.status == 400 && error.message[0]);
        const struct json *model = json_get(root, "model"); // nothing that it accepts is refused
        CHECK(!model || json_type(model) != JSON_STRING);
    }
    json_destroy(root);
    arena_deinit(&arena);
    return 0;
}
