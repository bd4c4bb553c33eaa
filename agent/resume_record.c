#include "agent/resume_record.h"

#include "agent/request_field.h"
#include "shared/base/json.h"
#include "shared/net/peer_trust.h"

#include <string.h>

#define PARAM "x-lm-resume"

static int parse_ids(const struct json *record, int vocab_size, struct resume_record *out,
                     struct api_error *e)
{
    const struct json *ids;
    size_t index = 0;
    if (field_typed(record, "ids", JSON_ARRAY, &ids, e) != 0) return -1;
    for (const struct json *v = json_first(ids); v; v = json_next(v)) {
        if (field_token(v, "ids", index++, vocab_size, e) != 0) return -1;
        token_list_push(&out->ids, (int32_t)json_number(v));
    }
    return 0;
}

static bool is_id(struct str id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.data[i];
        bool fits = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    c == '-' || c == '_';
        if (!fits) return false;
    }
    return id.len > 0 && id.len < RESUME_ID_BYTES;
}

/* As text: numbers beyond 2^53 don't survive every JSON reader. */
static int parse_seed(const struct json *record, struct resume_record *out, struct api_error *e)
{
    struct str text = {0};
    if (field_string(record, "seed", NULL, &text, e) != 0) return -1;
    if (!text.data) return field_missing_error(e, "seed");
    bool is_number = text.len > 0;
    for (size_t i = 0; i < text.len && is_number; i++) {
        unsigned digit = (unsigned char)text.data[i] - (unsigned)'0';
        is_number = digit <= 9 && out->seed <= (UINT64_MAX - digit) / 10;
        out->seed = out->seed * 10 + digit;
    }
    if (is_number) return 0;
    return api_error_set(e, 400, "invalid_value", "seed",
                         "Invalid 'seed': expected the digits of a number of 64 bits.");
}

static int parse_id(const struct json *record, struct resume_record *out, struct api_error *e)
{
    struct str id = {0};
    if (field_string(record, "id", NULL, &id, e) != 0) return -1;
    if (!id.data) return 0;
    if (!is_id(id)) {
        return api_error_set(e, 400, "invalid_value", "id",
                             "Invalid 'id': it is not the id of an answer.");
    }
    memcpy(out->id, id.data, id.len);
    return 0;
}

static int parse_numbers(const struct json *record, struct resume_record *out, struct api_error *e)
{
    static const struct field_range any = {0, 9007199254740991.0, NULL, NULL};
    static const struct field_range phases = {RESUME_NOTHING, RESUME_USAGE, NULL, NULL};
    static const struct field_range lengths = {1, INT32_MAX, NULL, NULL};
    int64_t bytes = -1, phase = -1, rope = 0;
    out->now_s = out->created_s = -1;
    if (field_integer(record, "now", &any, &out->now_s, e) != 0 ||
        field_integer(record, "created", &any, &out->created_s, e) != 0 ||
        field_integer(record, "rope", &lengths, &rope, e) != 0 ||
        field_integer(record, "bytes", &any, &bytes, e) != 0 ||
        field_integer(record, "phase", &phases, &phase, e) != 0) {
        return -1;
    }
    if (out->now_s < 0) return field_missing_error(e, "now");
    if (bytes < 0) return field_missing_error(e, "bytes");
    if (phase < 0) return field_missing_error(e, "phase");
    out->rope = (int)rope;
    out->bytes = (size_t)bytes;
    out->phase = (enum resume_phase)phase;
    return 0;
}

int resume_record_parse(struct str text, int vocab_size, struct resume_record *out,
                        struct api_error *e)
{
    struct error err = {0};
    *out = (struct resume_record){0};
    struct json *record = json_parse(text.data, text.len, &err);
    int rc = -1;
    if (!record) {
        api_error_set(e, 400, "invalid_value", PARAM,
                      "The first %zu bytes of the body are no resume record: %s.", text.len,
                      err.text);
    } else if (json_type(record) != JSON_OBJECT) {
        field_type_error(e, PARAM, "an object", record);
    } else {
        bool is_sound = parse_seed(record, out, e) == 0 && parse_id(record, out, e) == 0 &&
                        parse_numbers(record, out, e) == 0 &&
                        parse_ids(record, vocab_size, out, e) == 0;
        bool is_empty = out->ids.count == 0 || out->phase == RESUME_NOTHING;
        bool has_more = out->bytes > 0 || out->phase >= RESUME_FINISHED;
        rc = !is_sound ? -1 : is_empty && has_more ? resume_contradiction_error(e) : 0;
    }
    json_destroy(record);
    if (rc != 0) resume_record_deinit(out);
    return rc;
}

void resume_record_deinit(struct resume_record *r)
{
    token_list_deinit(&r->ids);
    *r = (struct resume_record){0};
}

int resume_headers_read(const struct http_request *request, const char *join_key,
                        struct resume_headers *out, struct api_error *e)
{
    const struct http_headers *h = &request->headers;
    *out = (struct resume_headers){0};
    if (!peer_is_fleet(request, join_key)) return 0;
    out->wants_marks = str_equal(http_headers_get(h, "x-lm-hop"), STR("1"));
    struct str length = http_headers_get(h, "x-lm-resume");
    if (!length.data) return 0;
    int64_t bytes;
    if (str_to_int(length, &bytes) != 0 || bytes < 0 || (uint64_t)bytes > request->body.len) {
        return api_error_set(e, 400, "invalid_value", PARAM,
                             "x-lm-resume must be the length of the record before the body, which "
                             "has %zu bytes with it.",
                             request->body.len);
    }
    out->is_resume = true;
    out->record_len = (size_t)bytes;
    return 0;
}

int resume_body_split(const struct resume_headers *headers, int vocab_size, struct str *body,
                      struct resume_record *out, struct api_error *e)
{
    if (!headers->is_resume) return 0;
    struct str text = {body->data, headers->record_len};
    body->data += text.len;
    body->len -= text.len;
    return resume_record_parse(text, vocab_size, out, e);
}

int resume_unsupported_error(struct api_error *e, const char *what)
{
    return api_error_set(e, 422, "resume_unsupported", PARAM, "%s cannot be resumed.", what);
}

int resume_contradiction_error(struct api_error *e)
{
    return api_error_set(e, 400, "invalid_value", PARAM,
                         "The resume record contradicts itself or the request: what it says was "
                         "sent is not the text of its tokens.");
}
