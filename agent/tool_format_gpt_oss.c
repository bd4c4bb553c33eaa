/* gpt-oss ("harmony"): an answer is messages, a channel says what each of them is.
 *
 *     <|channel|>analysis<|message|>TEXT<|end|>                                        reasoning
 *     <|start|>assistant<|channel|>commentary<|message|>TEXT<|end|>                    content
 *     <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
 *     <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>
 *     <|start|>assistant<|channel|>final<|message|>TEXT<|return|>                      content
 *
 * The prompt ends with <|start|>assistant. One block is the whole answer, from its first tag on. Two
 * messages that are told as one have a newline between. What calls something that is no tool is
 * content, with its tags. */
#include "agent/tool_formats.h"
#include "agent/tool_reader.h"

#define HEADER_MAX 256

static const char *const body_ends[] = {"<|end|>",   "<|call|>",    "<|return|>",
                                        "<|start|>", "<|channel|>", NULL};
#define BODY_ENDS_CONSUMED 3 // the others begin the next message

struct harmony {
    bool in_body, has_message;
    enum reply_piece_kind kind;        // of the body
    bool is_put;                       // some of it
    bool was_put[REPLY_ARGUMENTS + 1]; // by kind: the message before was that, and has text
};

static bool is_of_template(struct str t)
{
    return tool_template_has(t, "<|channel|>") && tool_template_has(t, "<|message|>");
}

static struct str word_behind(struct str header, const char *mark)
{
    const char *at = memmem(header.data, header.len, mark, strlen(mark));
    if (!at) return (struct str){0};
    struct str word = str_from(header, (size_t)(at - header.data) + strlen(mark));
    size_t len = 0;
    while (len < word.len && !json_is_space(word.data[len]) && word.data[len] != '<')
        len++;
    word.len = len;
    return word;
}

/* A call's name where the header has one that is a tool. */
static struct str callee(struct str header)
{
    struct str name = word_behind(header, "to=");
    struct str space = STR("functions.");
    return str_starts_with(name, space) ? str_from(name, space.len) : name;
}

static void begin_body(struct harmony *h, enum reply_piece_kind kind)
{
    bool goes_on = kind != REPLY_ARGUMENTS && h->was_put[kind];
    memset(h->was_put, 0, sizeof h->was_put);
    h->was_put[kind] = goes_on;
    h->in_body = h->has_message = true;
    h->kind = kind;
    h->is_put = false;
}

static void put_body(struct harmony *h, const struct tool_output *out, struct str text)
{
    if (text.len == 0) return;
    if (!h->is_put && h->was_put[h->kind]) tool_put(out, h->kind, STR("\n"));
    h->is_put = true;
    tool_put(out, h->kind, text);
}

/* A message begins; the header is whole. */
static void read_header(struct harmony *h, struct str header, const struct tool_input *in,
                        struct tool_output *out)
{
    struct tool_scan scan = {0};
    struct str name = callee(header), channel = word_behind(header, "<|channel|>");
    if (name.len > 0 && tool_put_call(&scan, in, out, name)) {
        begin_body(h, REPLY_ARGUMENTS);
        return;
    }
    bool is_reasoning = str_equal(channel, STR("analysis"));
    begin_body(h, is_reasoning && name.len == 0 ? REPLY_REASONING : REPLY_CONTENT);
    if (name.len > 0) put_body(h, out, header);
}

static void end_body(struct harmony *h, const struct tool_output *out)
{
    if (h->kind == REPLY_ARGUMENTS && !h->is_put) tool_put_arguments(out, STR("{}"));
    h->was_put[h->kind] |= h->is_put;
    h->in_body = false;
}

/* Each returns what it consumed; 0: more is needed. */
static size_t step_header(struct harmony *h, struct str text, const struct tool_input *in,
                          struct tool_output *out)
{
    static const char *const ends[] = {"<|message|>", NULL};
    enum reply_tag found;
    int which;
    size_t len = reply_tag_find(text, ends, &found, &which);
    if (found == REPLY_TAG_WHOLE && len <= HEADER_MAX) {
        len += strlen(ends[0]);
        read_header(h, (struct str){text.data, len}, in, out);
        return len;
    }
    if (len <= HEADER_MAX) return 0;
    if (!h->has_message) {
        out->is_none = true;
        return 0;
    }
    begin_body(h, REPLY_CONTENT); // what isn't a header is text
    return 0;
}

static size_t step_body(struct harmony *h, struct str text, bool is_last,
                        const struct tool_output *out)
{
    enum reply_tag found;
    int which;
    size_t len = reply_tag_find(text, body_ends, &found, &which);
    if (is_last && found == REPLY_TAG_BEGUN) len = text.len;
    put_body(h, out, (struct str){text.data, len});
    if (found != REPLY_TAG_WHOLE) return len;
    end_body(h, out);
    return len + (which < BODY_ENDS_CONSUMED ? strlen(body_ends[which]) : 0);
}

static size_t read_messages(void *state, const struct tool_input *in, struct tool_output *out)
{
    struct harmony *h = state;
    size_t at = 0;
    while (at < in->text.len && !out->is_none) {
        bool was_body = h->in_body;
        struct str text = str_from(in->text, at);
        size_t len =
            was_body ? step_body(h, text, in->is_last, out) : step_header(h, text, in, out);
        at += len;
        if (len == 0 && was_body == h->in_body) break;
    }
    if (!in->is_last || out->is_none) return at;
    /* A header that is cut says nothing; with none before it, it may have been text. */
    out->is_none = !h->has_message;
    return out->is_none ? 0 : in->text.len;
}

static void write_all_begin(struct json_writer *w)
{
    json_object_begin(w);
    json_key(w, "all");
    json_array_begin(w);
}

static void write_list_end(struct json_writer *w)
{
    json_array_end(w);
    json_object_end(w);
}

static void write_text(struct json_writer *w, const char *text)
{
    tool_write_text(w, tool_format_gpt_oss.tokens, text);
}

static void write_body(struct json_writer *w)
{
    json_object_begin(w);
    json_key(w, "until");
    json_array_begin(w);
    for (size_t i = 0; body_ends[i]; i++)
        json_put_text(w, body_ends[i]);
    json_array_end(w);
    json_object_end(w);
}

static void write_call(struct json_writer *w, const struct tool *tool)
{
    write_text(w, "<|channel|>commentary to=functions.");
    tool_write_name(w, tool);
    write_text(w, " <|constrain|>json<|message|>");
    tool_write_arguments(w, tool);
}

/* Messages, each followed by the beginning of another. */
static void write_messages(struct json_writer *w, const char *channel)
{
    json_object_begin(w);
    json_key(w, "repeat");
    write_all_begin(w);
    write_text(w, "<|channel|>");
    write_text(w, channel);
    write_text(w, "<|message|>");
    write_body(w);
    write_text(w, "<|end|><|start|>assistant");
    write_list_end(w);
    json_field_int(w, "min", 0);
    json_object_end(w);
}

static void write_grammar(struct json_writer *w, const struct tool_list *list)
{
    write_all_begin(w);
    write_messages(w, "analysis");
    if (list->choice == TOOL_CHOICE_AUTO) write_messages(w, "commentary");
    json_object_begin(w);
    json_key(w, "any");
    json_array_begin(w);
    for (size_t i = 0; i < list->count; i++) {
        write_all_begin(w);
        write_call(w, &list->items[i]);
        write_list_end(w);
    }
    if (list->choice == TOOL_CHOICE_AUTO) {
        write_all_begin(w);
        write_text(w, "<|channel|>final<|message|>");
        write_body(w);
        write_list_end(w);
    }
    write_list_end(w);
    write_list_end(w);
}

static void write_content(struct json_writer *w, struct str part)
{
    write_all_begin(w);
    write_messages(w, "analysis");
    write_text(w, "<|channel|>final<|message|>");
    json_put_raw(w, part);
    write_list_end(w);
}

const struct tool_format tool_format_gpt_oss = {
    .name = "gpt-oss",
    .aliases = {"gpt_oss", "openai", "harmony", "openai_gptoss"},
    .is_of_template = is_of_template,
    .opens = {"<|channel|>", "<|start|>", "to=functions."},
    .state_size = sizeof(struct harmony),
    .read = read_messages,
    .write_call = write_call,
    .write_grammar = write_grammar,
    .write_content = write_content,
    .tokens = {"<|channel|>", "<|start|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>",
               "<|return|>"},
};
