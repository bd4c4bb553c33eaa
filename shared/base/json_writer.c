/* json_writer.c - a streaming writer. A bit per level says whether a comma is due before the next
 * item; json_key() clears it, so that its value follows without one. */
#include "shared/base/json.h"

#include "shared/base/check.h"
#include "shared/base/json_text.h"

#include <inttypes.h>
#include <math.h>

#define WRITER_DEPTH_MAX 63

void json_writer_init(struct json_writer *w, struct buf *out)
{
    *w = (struct json_writer){.out = out};
}

static void item_begin(struct json_writer *w)
{
    uint64_t bit = (uint64_t)1 << w->depth;
    if (w->comma & bit) buf_append_char(w->out, ',');
    w->comma |= bit;
}

static void level_begin(struct json_writer *w, char opening)
{
    item_begin(w);
    CHECK(w->depth < WRITER_DEPTH_MAX);
    w->depth++;
    w->comma &= ~((uint64_t)1 << w->depth);
    buf_append_char(w->out, opening);
}

static void level_end(struct json_writer *w, char closing)
{
    CHECK(w->depth > 0);
    w->depth--;
    buf_append_char(w->out, closing);
}

void json_object_begin(struct json_writer *w)
{
    level_begin(w, '{');
}

void json_object_end(struct json_writer *w)
{
    level_end(w, '}');
}

void json_array_begin(struct json_writer *w)
{
    level_begin(w, '[');
}

void json_array_end(struct json_writer *w)
{
    level_end(w, ']');
}

void json_key(struct json_writer *w, const char *name)
{
    item_begin(w);
    json_text_string(w->out, str_of(name));
    buf_append_char(w->out, ':');
    w->comma &= ~((uint64_t)1 << w->depth);
}

void json_put_null(struct json_writer *w)
{
    json_put_raw(w, STR("null"));
}

void json_put_bool(struct json_writer *w, bool value)
{
    json_put_raw(w, value ? STR("true") : STR("false"));
}

void json_put_int(struct json_writer *w, int64_t value)
{
    item_begin(w);
    buf_printf(w->out, "%" PRId64, value);
}

void json_put_uint(struct json_writer *w, uint64_t value)
{
    item_begin(w);
    buf_printf(w->out, "%" PRIu64, value);
}

void json_put_double(struct json_writer *w, double value)
{
    if (!isfinite(value)) {
        json_put_null(w);
        return;
    }
    char text[JSON_DOUBLE_SIZE];
    json_text_double(value, false, text);
    json_put_raw(w, str_of(text));
}

void json_put_str(struct json_writer *w, struct str value)
{
    item_begin(w);
    json_text_string(w->out, value);
}

void json_put_text(struct json_writer *w, const char *value)
{
    if (value) {
        json_put_str(w, str_of(value));
    } else {
        json_put_null(w);
    }
}

void json_put_raw(struct json_writer *w, struct str json)
{
    item_begin(w);
    buf_append(w->out, json.data, json.len);
}

void json_put_value(struct json_writer *w, const struct json *v)
{
    item_begin(w);
    json_print(v, w->out, false);
}

void json_field_null(struct json_writer *w, const char *name)
{
    json_key(w, name);
    json_put_null(w);
}

void json_field_bool(struct json_writer *w, const char *name, bool value)
{
    json_key(w, name);
    json_put_bool(w, value);
}

void json_field_int(struct json_writer *w, const char *name, int64_t value)
{
    json_key(w, name);
    json_put_int(w, value);
}

void json_field_double(struct json_writer *w, const char *name, double value)
{
    json_key(w, name);
    json_put_double(w, value);
}

void json_field_str(struct json_writer *w, const char *name, struct str value)
{
    json_key(w, name);
    json_put_str(w, value);
}

void json_field_text(struct json_writer *w, const char *name, const char *value)
{
    json_key(w, name);
    json_put_text(w, value);
}

void json_field_raw(struct json_writer *w, const char *name, struct str json)
{
    json_key(w, name);
    json_put_raw(w, json);
}
