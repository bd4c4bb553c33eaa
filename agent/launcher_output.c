#include "agent/launcher_output.h"

#include <string.h>

void launcher_output_init(struct launcher_output *o, const char *name)
{
    o->name = name;
    buf_init(&o->line, LAUNCHER_LINE_MAX);
}

void launcher_output_deinit(struct launcher_output *o)
{
    buf_deinit(&o->line);
}

static void print_line(struct launcher_output *o, struct buf *out)
{
    struct str line = buf_str(&o->line);
    if (line.len >= 2 && line.data[0] == '{' && line.data[line.len - 1] == '}') {
        struct str rest = {line.data + 1, line.len - 1};
        const char *comma = str_equal(str_trim(rest), STR("}")) ? "" : ",";
        buf_printf(out, "{\"replica\":\"%s\"%s", o->name, comma);
        buf_append(out, rest.data, rest.len);
    } else {
        buf_printf(out, "[%s] ", o->name);
        buf_append(out, line.data, line.len);
    }
    buf_append_char(out, '\n');
    buf_clear(&o->line);
}

void launcher_output_feed(struct launcher_output *o, const char *data, size_t len, struct buf *out)
{
    while (len > 0) {
        const char *newline = memchr(data, '\n', len);
        size_t part = newline ? (size_t)(newline - data) : len;
        size_t room = LAUNCHER_LINE_MAX - o->line.len;
        if (part > 0 && room == 0) {
            print_line(o, out);
            continue;
        }
        bool is_whole = newline && part <= room;
        if (part > room) part = room;
        buf_append(&o->line, data, part);
        if (is_whole) print_line(o, out);
        part += is_whole;
        data += part;
        len -= part;
    }
}

void launcher_output_end(struct launcher_output *o, struct buf *out)
{
    if (o->line.len > 0) print_line(o, out);
}
