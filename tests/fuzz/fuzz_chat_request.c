/* Requests of both routes: what is refused says so with a 4xx and a text, what is accepted is
 * within the ranges that the engine relies on. The first byte chooses the route. */
#include "agent/chat_request.h"

#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static const struct request_limits limits = {
    .model = "m", .vocab_size = 100, .prompts_max = 8, .choices_max = 64};

static void check_accepted(const struct chat_request *r)
{
    const struct sampling_fields *f = &r->fields;
    const struct sampling_params *s = &f->sampling;
    CHECK(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    CHECK(s->min_p >= 0 && s->min_p <= 1 && s->top_k >= 0);
    CHECK(r->max_tokens >= 0 && f->min_tokens >= 0 && r->prompt_count >= 1);
    CHECK(s->presence_penalty >= -2 && s->presence_penalty <= 2);
    CHECK(s->frequency_penalty >= -2 && s->frequency_penalty <= 2);
    CHECK(s->repetition_penalty >= 0 && s->repetition_penalty <= 100);
    for (int i = 0; i < s->bias_count; i++) {
        CHECK(s->bias[i].token >= 0 && s->bias[i].token < limits.vocab_size);
        CHECK(s->bias[i].bias >= -100 && s->bias[i].bias <= 100);
    }
    for (int i = 0; i < f->stop_id_count; i++)
        CHECK(f->stop_ids[i] >= 0 && f->stop_ids[i] < limits.vocab_size);
    CHECK(r->n >= 1 && r->n <= r->candidates && r->top_logprobs >= 0 && r->top_logprobs <= 20);
    CHECK(r->prompt_count * (size_t)r->candidates <= limits.choices_max);
    CHECK(r->prompt_count <= limits.prompts_max || r->form == PROMPT_TOKENS);
    CHECK(f->stop_count <= REQUEST_STOPS_MAX && (r->stream || !r->include_usage));
    for (int i = 0; i < f->stop_count; i++) {
        CHECK(f->stop_len[i] > 0 && f->stop_len[i] <= STOP_BYTES_MAX);
        CHECK(utf8_is_valid(f->stop[i], f->stop_len[i]));
    }
    if (r->form == PROMPT_TOKENS) {
        for (const struct json *v = json_first(r->prompts); v; v = json_next(v)) {
            CHECK(json_number(v) >= 0 && json_number(v) < limits.vocab_size);
        }
    }
    const struct tool_list *tools = &r->tools.list;
    CHECK(tools->count <= TOOLS_MAX && (tools->count > 0) == (r->tools.offered != NULL));
    for (size_t i = 0; i < tools->count; i++) {
        CHECK(tools->items[i].name.len >= 1 && tools->items[i].name.len <= 64);
        CHECK(tool_list_find(tools, tools->items[i].name) == &tools->items[i]);
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
