#include "proxy/peek_fields.h"

#include "shared/base/check.h"

#define INTEGER_MAX 9007199254740992.0 // 2^53

struct name {
    struct str text;
    enum peek_field field;
};

static const struct name top[] = {
    {STR("model"), PEEK_FIELD_MODEL},
    {STR("messages"), PEEK_FIELD_MESSAGES},
    {STR("stream"), PEEK_FIELD_STREAM},
    {STR("max_tokens"), PEEK_FIELD_MAX_TOKENS},
    {STR("max_completion_tokens"), PEEK_FIELD_MAX_COMPLETION_TOKENS},
    {STR("request_output_len"), PEEK_FIELD_REQUEST_OUTPUT_LEN},
    {STR("max_output_tokens"), PEEK_FIELD_MAX_OUTPUT_TOKENS},
    {STR("n"), PEEK_FIELD_N},
    {STR("best_of"), PEEK_FIELD_BEST_OF},
    {STR("session_id"), PEEK_FIELD_SESSION_ID},
    {STR("conversation"), PEEK_FIELD_CONVERSATION},
    {STR("previous_response_id"), PEEK_FIELD_PREVIOUS_RESPONSE_ID},
    {STR("prompt_cache_key"), PEEK_FIELD_PROMPT_CACHE_KEY},
    {STR("user"), PEEK_FIELD_USER},
    {STR("interactive_mode"), PEEK_FIELD_INTERACTIVE_MODE},
    {STR("cancel"), PEEK_FIELD_CANCEL},
    {STR("priority"), PEEK_FIELD_PRIORITY},
    {STR("prompt"), PEEK_FIELD_PROMPT},
    {STR("input"), PEEK_FIELD_INPUT},
    {STR("tools"), PEEK_FIELD_TOOLS},
    {STR("functions"), PEEK_FIELD_FUNCTIONS},
    {STR("documents"), PEEK_FIELD_DOCUMENTS},
    {STR("image_url"), PEEK_FIELD_IMAGE_URLS},
    {STR("chat_template"), PEEK_FIELD_CHAT_TEMPLATE},
    {STR("chat_template_kwargs"), PEEK_FIELD_CHAT_TEMPLATE_KWARGS},
    {STR("reasoning_effort"), PEEK_FIELD_REASONING_EFFORT},
    {STR("enable_thinking"), PEEK_FIELD_ENABLE_THINKING},
    {STR("adapter_name"), PEEK_FIELD_ADAPTER_NAME},
    {STR("cache_salt"), PEEK_FIELD_CACHE_SALT},
    {STR("instructions"), PEEK_FIELD_INSTRUCTIONS},
    {STR("system"), PEEK_FIELD_SYSTEM},
};

static const struct name message[] = {
    {STR("role"), PEEK_FIELD_ROLE},
    {STR("content"), PEEK_FIELD_CONTENT},
    {STR("name"), PEEK_FIELD_NAME},
    {STR("tool_calls"), PEEK_FIELD_TOOL_CALLS},
    {STR("tool_call_id"), PEEK_FIELD_TOOL_CALL_ID},
    {STR("function_call"), PEEK_FIELD_FUNCTION_CALL},
    {STR("reasoning_content"), PEEK_FIELD_REASONING},
    {STR("call_id"), PEEK_FIELD_CALL_ID},
    {STR("arguments"), PEEK_FIELD_ARGUMENTS},
    {STR("output"), PEEK_FIELD_OUTPUT},
};

static const struct name part[] = {
    {STR("text"), PEEK_FIELD_TEXT},
    {STR("content"), PEEK_FIELD_CONTENT},
    {STR("image_url"), PEEK_FIELD_IMAGE},
    {STR("image"), PEEK_FIELD_IMAGE},
    {STR("image_data"), PEEK_FIELD_IMAGE},
    {STR("video_url"), PEEK_FIELD_OTHER_MEDIA},
    {STR("audio_url"), PEEK_FIELD_OTHER_MEDIA},
    {STR("input_audio"), PEEK_FIELD_OTHER_MEDIA},
    {STR("file"), PEEK_FIELD_OTHER_MEDIA},
};

static const struct name conversation[] = {
    {STR("id"), PEEK_FIELD_ID},
};

static enum peek_field find(const struct name *names, size_t count, struct str name)
{
    for (size_t i = 0; i < count && name.len > 0; i++) {
        struct str text = names[i].text; // most differ in length or in their first letter
        if (text.len != name.len || text.data[0] != name.data[0]) continue;
        if (str_equal(text, name)) return names[i].field;
    }
    return PEEK_FIELD_OTHER;
}

enum peek_field peek_field_find(enum peek_place place, struct str name)
{
    switch (place) {
    case PEEK_PLACE_TOP:
        return find(top, ARRAY_LEN(top), name);
    case PEEK_PLACE_MESSAGE:
        return find(message, ARRAY_LEN(message), name);
    case PEEK_PLACE_PART:
        return find(part, ARRAY_LEN(part), name);
    case PEEK_PLACE_CONVERSATION:
        return find(conversation, ARRAY_LEN(conversation), name);
    default:
        return PEEK_FIELD_OTHER;
    }
}

bool peek_number_is_integer(struct str raw, int64_t *value)
{
    int64_t whole;
    if (raw.len <= 16 && str_to_int(raw, &whole) == 0) {
        if (whole > (int64_t)INTEGER_MAX || whole < -(int64_t)INTEGER_MAX) return false;
        *value = whole;
        return true;
    }
    double number;
    if (raw.len > 64 || str_to_double(raw, &number) != 0) return false;
    if (!(number >= -INTEGER_MAX && number <= INTEGER_MAX)) return false;
    if (number != (double)(int64_t)number) return false;
    *value = (int64_t)number;
    return true;
}
