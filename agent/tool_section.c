#include "agent/tool_section.h"

enum section_state {
    SECTION_OPENING,
    CALL_OPENING,
    CALL_KIND, // or the name
    CALL_NAME,
    CALL_FENCE,
    CALL_SPACE,
    CALL_ARGUMENTS,
    CALL_FENCE_END,
    CALL_CLOSING,
    CALL_BEHIND,
};

static enum tool_read put_call(struct tool_section *c, const struct tool_input *in,
                               struct tool_output *out, struct str name, enum section_state next)
{
    if (!tool_put_call(&c->scan, in, out, name)) return TOOL_READ_NONE;
    c->state = next;
    return TOOL_READ_DONE;
}

static enum tool_read read_kind(struct tool_section *c, const struct tool_section_tags *tags,
                                const struct tool_input *in)
{
    struct str kind;
    int which;
    enum tool_read r =
        tool_scan_name(&c->scan, in, (const char *const[]){tags->separator, NULL}, &kind, &which);
    if (r != TOOL_READ_DONE) return r;
    if (kind.len >= sizeof c->kind) return TOOL_READ_NONE;
    if (kind.len > 0) memcpy(c->kind, kind.data, kind.len);
    c->kind_len = kind.len;
    c->scan.at += strlen(tags->separator);
    return TOOL_READ_DONE;
}

/* A name that came before the separator: "NAME", or "functions.NAME:0". */
static struct str name_of(const struct tool_section *c, const struct tool_section_tags *tags)
{
    struct str name = {c->kind, c->kind_len}, space = STR("functions.");
    if (!tags->has_ids) return name;
    const char *end = memrchr(name.data, ':', name.len);
    if (end) name.len = (size_t)(end - name.data);
    return str_starts_with(name, space) ? str_from(name, space.len) : name;
}

/* Behind the separator: arguments, and the name was before it, or the name. */
static enum tool_read read_name(struct tool_section *c, const struct tool_section_tags *tags,
                                const struct tool_input *in, struct tool_output *out)
{
    struct tool_scan ahead = c->scan;
    enum tool_read r = tool_scan_space(&ahead, in);
    if (r != TOOL_READ_DONE) return r;
    if (in->text.data[ahead.at] == '{') return put_call(c, in, out, name_of(c, tags), CALL_SPACE);
    struct str name;
    int which;
    r = tool_scan_name(&ahead, in, (const char *const[]){"\n", "```", NULL}, &name, &which);
    if (r != TOOL_READ_DONE) return r;
    c->scan.at = ahead.at;
    return put_call(c, in, out, name, CALL_FENCE);
}

/* Where it isn't, nothing. */
static enum tool_read skip_tag(struct tool_section *c, const struct tool_input *in, const char *tag)
{
    enum tool_read r = tool_scan_tag(&c->scan, in, tag);
    return r == TOOL_READ_NONE ? TOOL_READ_DONE : r;
}

/* Another call; NONE: the block's end, or what isn't of it. */
static enum tool_read read_behind(struct tool_section *c, const struct tool_section_tags *tags,
                                  const struct tool_input *in)
{
    struct tool_scan ahead = c->scan;
    enum tool_read end = tool_scan_tag(&ahead, in, tags->end);
    if (end == TOOL_READ_DONE) {
        c->scan = ahead;
        return TOOL_READ_NONE;
    }
    enum tool_read next = tool_scan_tag(&ahead, in, tags->call_begin);
    if (next == TOOL_READ_DONE) {
        tool_scan_begin_call(&c->scan);
        c->arguments = (struct tool_arguments){0};
        c->state = CALL_OPENING;
        return next;
    }
    bool may_come = end == TOOL_READ_MORE || next == TOOL_READ_MORE;
    return may_come ? TOOL_READ_MORE : TOOL_READ_NONE;
}

static enum tool_read read_part(struct tool_section *c, const struct tool_section_tags *tags,
                                const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r = TOOL_READ_DONE;
    switch ((enum section_state)c->state) {
    case SECTION_OPENING:
        if (reply_tag_at(in->text, tags->begin) == REPLY_TAG_WHOLE)
            c->scan.at = strlen(tags->begin);
        break;
    case CALL_OPENING:
        r = tool_scan_tag(&c->scan, in, tags->call_begin);
        break;
    case CALL_KIND:
        r = read_kind(c, tags, in);
        break;
    case CALL_NAME:
        return read_name(c, tags, in, out);
    case CALL_FENCE:
        r = skip_tag(c, in, "```json");
        break;
    case CALL_SPACE:
        r = tool_scan_space(&c->scan, in);
        break;
    case CALL_ARGUMENTS:
        r = tool_read_arguments(&c->arguments, &c->scan, in, out);
        if (r == TOOL_READ_DONE) tool_end_arguments(&c->arguments, out);
        break;
    case CALL_FENCE_END:
        r = skip_tag(c, in, "```");
        break;
    case CALL_CLOSING:
        r = skip_tag(c, in, tags->call_end);
        break;
    case CALL_BEHIND:
        return read_behind(c, tags, in);
    }
    if (r == TOOL_READ_DONE) c->state++;
    return r;
}

size_t tool_section_read(struct tool_section *c, const struct tool_section_tags *tags,
                         const struct tool_input *in, struct tool_output *out)
{
    enum tool_read r;
    do
        r = read_part(c, tags, in, out);
    while (r == TOOL_READ_DONE);
    if (r == TOOL_READ_NONE) return tool_scan_end(&c->scan, in, out);
    return tool_scan_finish(&c->scan, in, out);
}
