/* Requests of both routes: what is refused says so with a 4xx and a text, what is accepted is
 * within the ranges that the engine relies on. The first byte chooses the route. */
#include "agent/chat_request.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const struct request_limits limits = {.model = "m", .vocab_size = 100, .prompts_max = 8};

static void check_accepted(const struct chat_request *r)
{
    const struct sampling_params *s = &r->sampling;
    CHECK(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    CHECK(s->min_p >= 0 && s->min_p <= 1 && s->top_k >= 0);
    CHECK(r->max_tokens >= 0 && r->min_tokens >= 0 && r->prompt_count >= 1);
    CHECK(r->prompt_count <= limits.prompts_max || r->form == PROMPT_TOKENS);
    CHECK(r->stop_count <= STOP_STRINGS_MAX && (r->stream || !r->include_usage));
    for (int i = 0; i < r->stop_count; i++) {
        CHECK(r->stop[i].len > 0 && r->stop[i].len <= STOP_BYTES_MAX);
        CHECK(utf8_is_valid(r->stop[i].data, r->stop[i].len));
    }
    if (r->form == PROMPT_TOKENS) {
        for (const struct json *v = json_first(r->prompts); v; v = json_next(v)) {
            CHECK(json_number(v) >= 0 && json_number(v) < limits.vocab_size);
        }
    }
    for (const struct json *m = json_first(r->messages); m; m = json_next(m)) {
        CHECK(json_type(json_get(m, "role")) == JSON_STRING);
        enum json_type content = json_type(json_get(m, "content"));
        CHECK(content == JSON_STRING || content == JSON_NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    enum completion_kind kind = data[0] & 1 ? COMPLETION_CHAT : COMPLETION_TEXT;
    struct chat_request r;
    struct api_error e = {0};
    struct str body = {(const char *)data + 1, size - 1};
    if (chat_request_parse(kind, body, &limits, &r, &e) != 0) {
        CHECK(e.status >= 400 && e.status < 500 && strlen(e.message) > 0);
        return 0;
    }
    check_accepted(&r);
    chat_request_deinit(&r);
    return 0;
}
