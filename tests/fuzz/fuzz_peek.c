/* What the proxy lets through is JSON for the agent too, and means the same there. */
#include "proxy/peek.h"
#include "shared/base/check.h"
#include "shared/base/json.h"
#include "tests/fuzz/fuzz.h"

static const enum peek_route routes[] = {PEEK_CHAT,     PEEK_COMPLETIONS, PEEK_INTERACTIVE,
                                         PEEK_MESSAGES, PEEK_RESPONSES,   PEEK_OTHER};

static void compare_text(const struct json *root, const char *name, struct str got)
{
    const struct json *v = json_get(root, name);
    CHECK(!got.data == !(v && json_type(v) == JSON_STRING));
    if (!got.data) return;
    size_t len;
    const char *text = json_string(v, &len);
    CHECK(str_equal((struct str){text, len}, got));
}

static void compare_bool(const struct json *root, const char *name, bool got)
{
    const struct json *v = json_get(root, name);
    CHECK(got == (v && json_is_true(v)));
}

static void compare_integer(const struct json *root, const char *name, bool has, int64_t got)
{
    const struct json *v = json_get(root, name);
    if (has) CHECK(v && json_type(v) == JSON_NUMBER && json_number(v) == (double)got);
}

/* Text that stands directly in messages' content: a lower bound of the bytes that count. */
static uint64_t content_bytes(const struct json *root)
{
    const struct json *messages = json_get(root, "messages");
    uint64_t bytes = 0;
    if (!messages || json_type(messages) != JSON_ARRAY) return 0;
    for (const struct json *m = json_first(messages); m; m = json_next(m)) {
        const struct json *content = json_type(m) == JSON_OBJECT ? json_get(m, "content") : NULL;
        size_t len = 0;
        if (content && json_type(content) == JSON_STRING) json_string(content, &len);
        bytes += len;
    }
    return bytes;
}

static void compare(const struct json *root, enum peek_route route, const struct peek *p)
{
    compare_text(root, "model", p->model);
    compare_text(root, "session_id", p->session_text);
    compare_text(root, "previous_response_id", p->previous_response_id);
    compare_text(root, "prompt_cache_key", p->prompt_cache_key);
    compare_text(root, "user", p->user);
    compare_bool(root, "stream", p->stream);
    compare_bool(root, "cancel", p->cancel);
    compare_bool(root, "interactive_mode", p->interactive_mode);
    compare_integer(root, "session_id", p->has_session_id, p->session_id);
    compare_integer(root, "priority", p->has_priority, p->priority);
    if (route == PEEK_CHAT) CHECK(p->bytes >= content_bytes(root));
}

static void check_marks(const struct peek *p, size_t size)
{
    CHECK(p->choices >= 1 && p->max_tokens >= -1 && p->images >= 0);
    CHECK(p->mark_count >= 0 && p->mark_count <= PREFIX_MARKS_MAX);
    CHECK(p->bytes <= 3 * size); // strings that are hashed whole get three bytes more
    uint64_t before = 0;
    for (int i = 0; i < p->mark_count; i++) {
        CHECK(p->marks[i].hash != 0 && p->marks[i].bytes >= before + (i ? 1 : PREFIX_BYTES_MIN));
        before = p->marks[i].bytes;
    }
    CHECK(before <= p->bytes);
}

/* Printed anew, a number may look different: with a point, an exponent, or more digits than a double
 * has. Such a one in a message is another text to us. */
static bool has_odd_number(struct str body)
{
    size_t digits = 0;
    for (size_t i = 0; i < body.len; i++) {
        char c = body.data[i];
        if (c == '.' || (digits && (c == 'e' || c == 'E'))) return true;
        digits = c >= '0' && c <= '9' ? digits + 1 : 0;
        if (digits > 15) return true;
    }
    return false;
}

/* What is found doesn't depend on how the body is spelled: parsed and printed anew it is the same. */
static void check_spelling(const struct json *root, struct str body,
                           const struct peek_options *options, const struct peek *p,
                           struct arena *arena)
{
    struct buf text;
    struct peek again;
    struct api_error error;
    buf_init(&text, BUF_MAX_INTERNAL);
    json_print(root, &text, true);
    CHECK(peek_body(arena, buf_str(&text), options, &again, &error) == 0);
    CHECK(again.images == p->images && again.tokens_given == p->tokens_given);
    CHECK(again.choices == p->choices && again.max_tokens == p->max_tokens);
    if (!has_odd_number(body)) {
        CHECK(again.fingerprint == p->fingerprint && again.bytes == p->bytes);
        CHECK(again.mark_count == p->mark_count);
        for (int i = 0; i < p->mark_count; i++) {
            CHECK(again.marks[i].hash == p->marks[i].hash);
            CHECK(again.marks[i].bytes == p->marks[i].bytes);
        }
    }
    buf_deinit(&text);
}

static void run(struct str body, enum peek_route route, const struct json *root)
{
    struct arena arena;
    arena_init(&arena);
    struct peek_options options = {.route = route, .default_model = STR("m"), .tenant = STR("t")};
    struct peek peek;
    struct api_error error;
    int rc = peek_body(&arena, body, &options, &peek, &error);
    if (rc == 0) {
        CHECK(peek.model.data || route == PEEK_INTERACTIVE);
        check_marks(&peek, body.len);
        if (root) { // the agent is stricter: duplicate names, long numbers
            compare(root, route, &peek);
            check_spelling(root, body, &options, &peek, &arena);
        }
    } else {
        CHECK(error.status == 400 && error.message[0]);
        const struct json *model = json_get(root, "model"); // nothing that it accepts is refused
        bool is_object = root && json_type(root) == JSON_OBJECT;
        CHECK(!model || json_type(model) != JSON_STRING);
        CHECK(!is_object || route != PEEK_INTERACTIVE || (model && json_type(model) != JSON_NULL));
    }
    arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str body = {(const char *)data, size};
    struct json *root = json_parse(body.data, body.len, NULL);
    for (size_t i = 0; i < ARRAY_LEN(routes); i++)
        run(body, routes[i], root);
    json_destroy(root);
    return 0;
}
