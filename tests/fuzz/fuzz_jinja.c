/* A template, then, behind a NUL, the variables as a JSON object. Whatever it is, rendering ends
 * soon, with valid UTF-8 or with an error that says something. */
#include "engine/jinja.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/fuzz/fuzz.h"

#define OUTPUT_MAX ((size_t)1 << 20)

static const char usual[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, "
                            "{\"role\": \"user\", \"content\": \"h\xc3\xa9\"}, "
                            "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": "
                            "[{\"id\": \"1\", \"function\": {\"name\": "
                            "\"f\", \"arguments\": {\"x\": [1, 2.5, true]}}}]}], \"tools\": null, "
                            "\"add_generation_prompt\": true, "
                            "\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"s\": \"text\", "
                            "\"n\": 3, \"l\": [3, 1, 2], \"d\": "
                            "{\"b\": 1, \"a\": {\"c\": []}}}";

static void render(const struct jinja *t, const struct json *variables)
{
    struct error err = {0};
    struct buf out;
    buf_init(&out, OUTPUT_MAX);
    struct jinja_run *run = jinja_open(t, 1735787045, &err);
    for (const struct json *v = json_first(variables); v; v = json_next(v))
        jinja_set(run, str_of(json_name(v)), jinja_from_json(run, v));
    int rc = jinja_render(run, &out);
    jinja_close(run);
    CHECK(rc == err.code && rc <= 0);
    CHECK(rc == 0 || err.text[0] || rc == E_INVALID); // raise_exception('') has no text
    CHECK(rc != 0 || utf8_is_valid(out.data, out.len));
    buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    struct str source = {(const char *)data, end ? (size_t)(end - data) : size};
    struct error err = {0};
    struct jinja *t = NULL;
    int rc = jinja_create(source, &t, &err);
    CHECK(rc == 0 || (rc == err.code && err.text[0]));
    if (rc) return 0;
    struct json *variables =
        end ? json_parse((const char *)end + 1, size - source.len - 1, NULL) : NULL;
    if (!variables) variables = json_parse(usual, sizeof usual - 1, NULL);
    CHECK(variables);
    render(t, variables);
    json_destroy(variables);
    jinja_destroy(t);
    return 0;
}
