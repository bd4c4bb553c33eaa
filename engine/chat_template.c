#include "engine/chat_template.h"

#include "engine/jinja.h"
#include "shared/base/check.h"

#include <stdlib.h>

struct chat_template {
    struct jinja *jinja; // NULL: the plain fallback
    struct str bos, eos; // owned, like the next
    struct str source;   // empty: the plain fallback
    char name[64];       // "": none
};

static struct str copy(struct str text)
{
    return (struct str){xstrndup(text.len ? text.data : "", text.len), text.len};
}

int chat_template_create(struct str source, struct str bos, struct str eos,
                         struct chat_template **out, struct error *err)
{
    struct jinja *jinja = NULL;
    int rc = jinja_create(source, &jinja, err);
    if (rc) return rc;
    struct chat_template *t = xcalloc(1, sizeof *t);
    *t = (struct chat_template){jinja, copy(bos), copy(eos), copy(source), ""};
    *out = t;
    return 0;
}

struct chat_template *chat_template_create_plain(void)
{
    struct chat_template *t = xcalloc(1, sizeof *t);
    *t = (struct chat_template){NULL, copy(STR("")), copy(STR("")), copy(STR("")), ""};
    return t;
}

void chat_template_set_name(struct chat_template *t, const char *name)
{
    const char *slash = strrchr(name, '/');
    str_copy(t->name, sizeof t->name, slash ? slash + 1 : name);
}

void chat_template_destroy(struct chat_template *t)
{
    if (!t) return;
    jinja_destroy(t->jinja);
    free((char *)t->bos.data);
    free((char *)t->eos.data);
    free((char *)t->source.data);
    free(t);
}

struct str chat_template_source(const struct chat_template *t)
{
    return t->source;
}

/* ---- plain ---- */

static struct str text_of(const struct json *v)
{
    struct str text = STR("");
    if (v && json_type(v) == JSON_STRING) text.data = json_string(v, &text.len);
    return text;
}

/* A content is a string or a list of parts, of which the texts count. */
static void append_content(struct buf *out, const struct json *content)
{
    struct str text = text_of(content);
    buf_append(out, text.data, text.len);
    for (const struct json *part = json_first(content); part; part = json_next(part)) {
        text = text_of(json_get(part, "text"));
        buf_append(out, text.data, text.len);
    }
}

/* "role: content" and an empty line per message: models without a template were trained on prose.
 */
static int render_plain(const struct chat_template_input *in, struct buf *out, struct error *err)
{
    for (const struct json *m = json_first(in->messages); m; m = json_next(m)) {
        struct str role = text_of(json_get(m, "role"));
        buf_append(out, role.data, role.len);
        buf_append_str(out, ": ");
        append_content(out, json_get(m, "content"));
        buf_append_str(out, "\n\n");
    }
    if (in->add_generation_prompt) buf_append_str(out, "assistant:");
    if (out->overflow)
        return error_set(err, E_LIMIT, "the prompt is longer than %zu bytes", out->max);
    return 0;
}

/* ---- Jinja ---- */

/* Clients send "content": null, or none, beside tool calls; templates add contents to text. */
static struct jinja_value messages_value(struct jinja_run *run, const struct json *messages)
{
    struct jinja_value list = jinja_from_json(run, messages), key = jinja_str(STR("content"));
    if (list.type != JINJA_LIST) return list;
    for (uint32_t i = 0; i < list.list->count; i++) {
        struct jinja_value message = list.list->items[i];
        if (message.type != JINJA_DICT) continue;
        const struct jinja_value *content = jinja_dict_get(run, message.dict, key);
        if (!content || content->type == JINJA_NONE)
            jinja_dict_put(run, message.dict, key, jinja_str(STR("")));
    }
    return list;
}

/* "chat template 3:7: ..." says where in a template; now also in which. */
static void name_error(const struct chat_template *t, struct error *err)
{
    static const char place[] = "chat template ";
    size_t len = sizeof place - 1;
    if (!err || !t->name[0] || strncmp(err->text, place, len) != 0) return;
    struct error named;
    (void)error_set(&named, err->code, "%s%s:%s", place, t->name, err->text + len);
    *err = named;
}

int chat_template_render(const struct chat_template *t, const struct chat_template_input *in,
                         struct buf *out, struct error *err)
{
    if (!t->jinja) return render_plain(in, out, err);
    struct jinja_run *run = jinja_open(t->jinja, in->now, err);
    jinja_set(run, STR("bos_token"), jinja_str(t->bos));
    jinja_set(run, STR("eos_token"), jinja_str(t->eos));
    jinja_set(run, STR("documents"), jinja_none());
    for (const struct json *m = json_first(in->kwargs); m; m = json_next(m))
        jinja_set(run, str_of(json_name(m)), jinja_from_json(run, m));
    jinja_set(run, STR("messages"), messages_value(run, in->messages));
    jinja_set(run, STR("tools"), jinja_from_json(run, in->tools));
    jinja_set(run, STR("add_generation_prompt"), jinja_bool(in->add_generation_prompt));
    int rc = jinja_render(run, out);
    jinja_close(run);
    if (rc) name_error(t, err);
    return rc;
}
