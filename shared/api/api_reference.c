/* api_reference.c - one walk over the tables, two ways to write: see struct style. Texts of the
 * tables are plain but for `code`; "[Name]" is a link to a schema. */
#include "shared/api/api_reference.h"

#include "shared/base/check.h"
#include "shared/base/json_text.h"

#include <ctype.h>
#include <float.h>
#include <limits.h>
#include <string.h>

struct page;

struct style {
    void (*heading)(struct page *p, int level, const char *anchor, const char *text, bool is_code);
    void (*paragraph)(struct page *p, const char *text);
    void (*row)(struct page *p, bool is_head, const char *const *cells, int count);
    void (*table)(struct page *p, bool begins);
    void (*code)(struct page *p, struct str text);
};

struct page {
    struct buf *out;
    const struct style *style;
    unsigned daemons; // whose routes
};

/* ---- Markdown ---- */

/* Links are to headings, whose anchors GitHub makes of their text. */
static void put_markdown(struct page *p, const char *text, bool in_cell)
{
    bool is_code = false;
    for (const char *c = text; *c; c++) {
        const char *end =
            *c == '[' && !is_code && isupper((unsigned char)c[1]) ? strchr(c, ']') : NULL;
        if (*c == '`') is_code = !is_code;
        if (end) {
            buf_append_char(p->out, '[');
            buf_append(p->out, c + 1, (size_t)(end - c - 1));
            buf_append_str(p->out, "](#");
            for (c++; c < end; c++)
                buf_append_char(p->out, (char)tolower((unsigned char)*c));
            buf_append_char(p->out, ')');
            continue;
        }
        if (*c == '|' && in_cell) buf_append_char(p->out, '\\');
        if (*c == '<' && !is_code) buf_append_char(p->out, '\\');
        buf_append_char(p->out, *c);
    }
}

static void markdown_heading(struct page *p, int level, const char *anchor, const char *text,
                             bool is_code)
{
    (void)anchor;
    if (p->out->len > 0 && p->out->data[p->out->len - 2] != '\n') buf_append_char(p->out, '\n');
    for (int i = 0; i < level; i++)
        buf_append_char(p->out, '#');
    buf_printf(p->out, is_code ? " `%s`\n\n" : " %s\n\n", text);
}

static void markdown_paragraph(struct page *p, const char *text)
{
    put_markdown(p, text, false);
    buf_append_str(p->out, "\n\n");
}

static void markdown_row(struct page *p, bool is_head, const char *const *cells, int count)
{
    buf_append_char(p->out, '|');
    for (int i = 0; i < count; i++) {
        buf_append_str(p->out, cells[i][0] ? " " : "");
        put_markdown(p, cells[i], true);
        buf_append_str(p->out, " |");
    }
    buf_append_char(p->out, '\n');
    if (!is_head) return;
    buf_append_char(p->out, '|');
    for (int i = 0; i < count; i++)
        buf_append_str(p->out, "---|");
    buf_append_char(p->out, '\n');
}

static void markdown_table(struct page *p, bool begins)
{
    if (!begins) buf_append_char(p->out, '\n');
}

static void markdown_code(struct page *p, struct str text)
{
    buf_append_str(p->out, "```json\n");
    buf_append(p->out, text.data, text.len);
    buf_append_str(p->out, "\n```\n\n");
}

static const struct style markdown = {markdown_heading, markdown_paragraph, markdown_row,
                                      markdown_table, markdown_code};

/* ---- HTML ---- */

static void put_escaped(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        switch (text[i]) {
        case '<':
            buf_append_str(out, "&lt;");
            break;
        case '>':
            buf_append_str(out, "&gt;");
            break;
        case '&':
            buf_append_str(out, "&amp;");
            break;
        case '"':
            buf_append_str(out, "&quot;");
            break;
        default:
            buf_append_char(out, text[i]);
        }
    }
}

static void put_html(struct page *p, const char *text)
{
    bool is_code = false;
    for (const char *c = text; *c; c++) {
        const char *end =
            *c == '[' && !is_code && isupper((unsigned char)c[1]) ? strchr(c, ']') : NULL;
        if (end) {
            int len = (int)(end - c - 1);
            buf_printf(p->out, "<a href=\"#%.*s\">%.*s</a>", len, c + 1, len, c + 1);
            c = end;
        } else if (*c == '`') {
            buf_append_str(p->out, is_code ? "</code>" : "<code>");
            is_code = !is_code;
        } else {
            put_escaped(p->out, c, 1);
        }
    }
}

static void html_heading(struct page *p, int level, const char *anchor, const char *text,
                         bool is_code)
{
    buf_printf(p->out, "<h%d id=\"%s\">%s", level, anchor, is_code ? "<code>" : "");
    put_escaped(p->out, text, strlen(text));
    buf_printf(p->out, "%s</h%d>\n", is_code ? "</code>" : "", level);
}

static void html_paragraph(struct page *p, const char *text)
{
    buf_append_str(p->out, "<p>");
    put_html(p, text);
    buf_append_str(p->out, "</p>\n");
}

static void html_row(struct page *p, bool is_head, const char *const *cells, int count)
{
    buf_append_str(p->out, "<tr>");
    for (int i = 0; i < count; i++) {
        buf_append_str(p->out, is_head ? "<th>" : "<td>");
        put_html(p, cells[i]);
        buf_append_str(p->out, is_head ? "</th>" : "</td>");
    }
    buf_append_str(p->out, "</tr>\n");
}

static void html_table(struct page *p, bool begins)
{
    buf_append_str(p->out, begins ? "<div class=\"table\"><table>\n" : "</table></div>\n");
}

static void html_code(struct page *p, struct str text)
{
    buf_append_str(p->out, "<pre><code>");
    put_escaped(p->out, text.data, text.len);
    buf_append_str(p->out, "</code></pre>\n");
}

static const struct style html = {html_heading, html_paragraph, html_row, html_table, html_code};

/* ---- a member's type in words ---- */

static void put_bound(struct buf *out, double value)
{
    char text[JSON_DOUBLE_SIZE];
    json_text_double(value, false, text);
    buf_append_str(out, text);
}

static void describe_range(const struct api_field *f, struct buf *out)
{
    const struct field_range *r = f->range;
    if (!r) return;
    if (r->min == (double)FLT_MIN) {
        buf_append_str(out, " above 0, at most ");
        put_bound(out, r->max);
    } else if (r->max == (double)FIELD_SESSION_ID_MAX) {
        buf_printf(out, " %d..2^53-1", (int)r->min);
    } else if (r->max < INT_MAX) {
        buf_append_char(out, ' ');
        put_bound(out, r->min);
        buf_append_str(out, "..");
        put_bound(out, r->max);
    } else if (r->min > INT_MIN) {
        buf_printf(out, " >= %d", (int)r->min);
    } else {
        buf_append_str(out, " of 32 bits");
    }
}

/* The values of an enum, from its JSON. */
static bool describe_enum(const struct api_field *f, struct buf *out)
{
    if (!f->schema || f->type != API_STRING) return false;
    struct json *schema = api_schema_text(f->schema);
    const struct json *values = json_get(schema, "enum");
    for (const struct json *v = json_first(values); v; v = json_next(v))
        buf_printf(out, "%s`%s`", v == json_first(values) ? "" : ", ", json_string(v, NULL));
    bool found = values != NULL;
    json_destroy(schema);
    return found;
}

static void describe_type(const struct api_field *f, struct buf *out)
{
    static const char *const names[] = {
        [API_BOOLEAN] = "boolean", [API_INTEGER] = "integer", [API_NUMBER] = "number",
        [API_STRING] = "string",   [API_OBJECT] = "object",   [API_ARRAY] = "array",
    };
    if (f->shown) {
        buf_append_str(out, f->shown);
    } else if (f->type == API_REF) {
        buf_printf(out, "[%s]", f->of);
    } else if (f->of) {
        buf_printf(out, "array of [%s]", f->of);
    } else if (!describe_enum(f, out)) {
        CHECK(f->type < ARRAY_LEN(names));
        buf_append_str(out, names[f->type]);
        describe_range(f, out);
    }
    if (f->nullable) buf_append_str(out, " or null");
}

/* ---- the walk ---- */

static void put_request_field(struct page *p, const struct api_field *f)
{
    struct buf name, type, def;
    buf_init(&name, BUF_MAX_INTERNAL);
    buf_init(&type, BUF_MAX_INTERNAL);
    buf_init(&def, BUF_MAX_INTERNAL);
    buf_printf(&name, "`%s`", f->name);
    describe_type(f, &type);
    buf_append_str(&def, f->required ? "required" : f->def ? f->def : "none");
    buf_append_char(&name, 0);
    buf_append_char(&type, 0);
    buf_append_char(&def, 0);
    const char *const cells[] = {name.data, type.data, def.data, f->doc ? f->doc : ""};
    p->style->row(p, false, cells, ARRAY_LEN(cells));
    buf_deinit(&name);
    buf_deinit(&type);
    buf_deinit(&def);
}

static void put_answer_field(struct page *p, const struct api_field *f)
{
    struct buf name, type;
    buf_init(&name, BUF_MAX_INTERNAL);
    buf_init(&type, BUF_MAX_INTERNAL);
    buf_printf(&name, "`%s`%s", f->name, f->required ? "" : " (optional)");
    describe_type(f, &type);
    buf_append_char(&name, 0);
    buf_append_char(&type, 0);
    const char *const cells[] = {name.data, type.data, f->doc ? f->doc : ""};
    p->style->row(p, false, cells, ARRAY_LEN(cells));
    buf_deinit(&name);
    buf_deinit(&type);
}

static void put_schema(struct page *p, const struct api_schema *s, bool is_request)
{
    static const char *const request_head[] = {"member", "type and range", "default", "note"};
    static const char *const answer_head[] = {"member", "type", "note"};
    p->style->heading(p, 3, s->name, s->name, false);
    p->style->paragraph(p, s->doc);
    if (s->parts[0]) {
        p->style->table(p, true);
        if (is_request) {
            p->style->row(p, true, request_head, ARRAY_LEN(request_head));
        } else {
            p->style->row(p, true, answer_head, ARRAY_LEN(answer_head));
        }
        for (int i = 0; i < API_PARTS_MAX && s->parts[i]; i++) {
            for (size_t k = 0; k < s->parts[i]->count; k++) {
                const struct api_field *f = &s->parts[i]->items[k];
                if (is_request) {
                    put_request_field(p, f);
                } else {
                    put_answer_field(p, f);
                }
            }
        }
        p->style->table(p, false);
    }
    if (!s->example) return;
    struct buf example;
    buf_init(&example, BUF_MAX_INTERNAL);
    api_schema_example(s->example, STR("MODEL"), &example);
    p->style->code(p, buf_str(&example));
    buf_deinit(&example);
}

static void put_answer_row(struct page *p, const struct api_answer *a)
{
    struct buf status, what;
    buf_init(&status, BUF_MAX_INTERNAL);
    buf_init(&what, BUF_MAX_INTERNAL);
    buf_printf(&status, "%d", a->status);
    if (!a->media) {
        buf_append_str(&what, "an empty body");
    } else if (a->schema) {
        buf_printf(&what, "[%s], `%s`", a->schema, a->media);
    } else {
        buf_printf(&what, "`%s`", a->media);
    }
    buf_append_char(&status, 0);
    buf_append_char(&what, 0);
    const char *const cells[] = {status.data, what.data, a->doc};
    p->style->row(p, false, cells, ARRAY_LEN(cells));
    buf_deinit(&status);
    buf_deinit(&what);
}

/* "400, 404, 413": of the program that gives the most. */
static void put_errors_row(struct page *p, const struct api_route *r)
{
    int errors[API_ROUTE_ERRORS_MAX];
    enum api_daemon daemon = r->daemons & p->daemons & API_PROXY ? API_PROXY : API_AGENT;
    int count = api_route_errors(r, daemon, errors);
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (int i = 0; i < count; i++)
        buf_printf(&text, "%s%d", i ? ", " : "", errors[i]);
    buf_append_char(&text, 0);
    const char *const cells[] = {text.data, r->error ? "[AnthropicError]" : "[ErrorResponse]",
                                 "see [Statuses]"};
    p->style->row(p, false, cells, ARRAY_LEN(cells));
    buf_deinit(&text);
}

static void put_notes(struct page *p, const struct api_route *r)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_printf(&text, "%s.", r->summary);
    if (r->doc) {
        buf_append_char(&text, ' ');
        buf_append_char(&text, (char)toupper((unsigned char)r->doc[0]));
        buf_append_str(&text, r->doc + 1);
        if (r->doc[strlen(r->doc) - 1] != '.') buf_append_char(&text, '.');
    }
    if (p->daemons == (API_AGENT | API_PROXY) && r->daemons != p->daemons)
        buf_printf(&text, " Only `%s`.", r->daemons == API_AGENT ? "lm-agent" : "lm-proxy");
    if (r->request) buf_printf(&text, " Body: [%s].", r->request);
    for (int i = 0; i < API_PARAMETERS_MAX && r->parameters[i].in; i++) {
        const struct api_parameter *q = &r->parameters[i];
        buf_printf(&text, " In the %s, `%s`: %s.", q->in, q->field.name, q->field.doc);
    }
    if (r->is_open && !r->is_page) buf_append_str(&text, " Needs no API key.");
    buf_append_char(&text, 0);
    p->style->paragraph(p, text.data);
    buf_deinit(&text);
}

static void put_route(struct page *p, const struct api_route *r)
{
    static const char *const head[] = {"status", "answer", ""};
    struct buf title;
    buf_init(&title, BUF_MAX_INTERNAL);
    buf_printf(&title, "%s %s", r->method, r->path);
    buf_append_char(&title, 0);
    p->style->heading(p, 3, r->id, title.data, true);
    buf_deinit(&title);
    put_notes(p, r);
    p->style->table(p, true);
    p->style->row(p, true, head, ARRAY_LEN(head));
    for (int i = 0; i < API_ANSWERS_MAX && r->answers[i].status; i++)
        put_answer_row(p, &r->answers[i]);
    put_errors_row(p, r);
    p->style->table(p, false);
}

static void put_routes(struct page *p)
{
    for (size_t t = 0; t < api_tag_count; t++) {
        bool has_begun = false;
        for (size_t i = 0; i < api_route_count; i++) {
            const struct api_route *r = &api_routes[i];
            if (!(r->daemons & p->daemons) || strcmp(r->tag, api_tags[t].name) != 0) continue;
            if (!has_begun) p->style->heading(p, 2, api_tags[t].name, api_tags[t].doc, false);
            has_begun = true;
            put_route(p, r);
        }
    }
}

static void put_statuses(struct page *p)
{
    static const char *const head[] = {"status", "means"};
    p->style->heading(p, 2, "Statuses", "Statuses", false);
    p->style->table(p, true);
    p->style->row(p, true, head, ARRAY_LEN(head));
    for (int status = 400; status < 600; status++) {
        const char *meaning = api_status_find(status);
        char text[8] = {(char)('0' + status / 100), (char)('0' + status / 10 % 10),
                        (char)('0' + status % 10)};
        const char *const cells[] = {text, meaning};
        if (meaning) p->style->row(p, false, cells, ARRAY_LEN(cells));
    }
    p->style->table(p, false);
}

static void put_list(struct page *p, const struct api_schema *const *list, size_t count,
                     bool is_request)
{
    for (size_t i = 0; i < count; i++)
        put_schema(p, list[i], is_request);
}

static void put_schemas(struct page *p)
{
    p->style->heading(p, 2, "requests", "What requests hold", false);
    put_list(p, api_request_schemas, api_request_schema_count, true);
    put_list(p, api_dialect_requests, api_dialect_request_count, true);
    p->style->heading(p, 2, "answers", "What answers hold", false);
    put_list(p, api_answer_schemas, api_answer_schema_count, false);
    put_list(p, api_dialect_answers, api_dialect_answer_count, false);
}

void api_reference_markdown(struct buf *out)
{
    struct page p = {out, &markdown, API_AGENT | API_PROXY};
    put_routes(&p);
    put_statuses(&p);
    put_schemas(&p);
}

/* ---- the page ---- */

static void put_contents(struct page *p)
{
    buf_append_str(p->out, "<nav aria-label=\"Contents\"><ul>\n");
    for (size_t t = 0; t < api_tag_count; t++) {
        for (size_t i = 0; i < api_route_count; i++) {
            const struct api_route *r = &api_routes[i];
            if (!(r->daemons & p->daemons) || strcmp(r->tag, api_tags[t].name) != 0) continue;
            buf_printf(p->out, "<li><a href=\"#%s\"><b>%s</b> %s</a></li>\n", r->id, r->method,
                       r->path);
        }
    }
    buf_append_str(p->out, "<li><a href=\"#Statuses\">Statuses</a></li>\n"
                           "<li><a href=\"#requests\">What requests hold</a></li>\n"
                           "<li><a href=\"#answers\">What answers hold</a></li>\n</ul></nav>\n");
}

void api_reference_html(struct buf *out, enum api_daemon daemon)
{
    struct page p = {out, &html, daemon};
    const char *name = daemon == API_AGENT ? "lm-agent" : "lm-proxy";
    buf_printf(out,
               "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
               "<title>%s: API reference</title>\n"
               "<link rel=\"icon\" href=\"/explorer/icon.svg\">\n"
               "<link rel=\"stylesheet\" href=\"/explorer/base.css\">\n"
               "<link rel=\"stylesheet\" href=\"/explorer/reference.css\">\n"
               "<script src=\"/explorer/theme.js\"></script>\n"
               "</head><body class=\"reference\">\n",
               name);
    put_contents(&p);
    buf_printf(out,
               "<main><h1>%s %s: API reference</h1>\n<p>To try requests out, use the <a "
               "href=\"/\">explorer</a>; for programs there is <a "
               "href=\"/openapi.json\">openapi.json</a>.</p>\n",
               name, LM_VERSION);
    put_routes(&p);
    put_statuses(&p);
    put_schemas(&p);
    buf_append_str(out, "</main></body></html>\n");
}
