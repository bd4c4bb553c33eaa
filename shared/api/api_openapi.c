/* api_openapi.c - see api_openapi.h. Only what the program's routes lead to is printed: generators of
 * clients make a class of every schema that they find. */
#include "shared/api/api_openapi.h"

#include "shared/base/check.h"

#include <float.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define SCHEMAS_MAX 128
#define REF         "#/components/schemas/"

struct printer {
    const struct api_openapi_options *o;
    struct json_writer w;
    bool wanted[SCHEMAS_MAX]; // by index of api_schema_at
};

/* ---- schemas ---- */

static void put_ref(struct json_writer *w, const char *name)
{
    char ref[128];
    snprintf(ref, sizeof ref, REF "%s", name);
    json_object_begin(w);
    json_field_text(w, "$ref", ref);
    json_object_end(w);
}

/* The members of a text, into the object that is being written. */
static void put_members(struct json_writer *w, const char *text)
{
    if (!text) return;
    struct buf member;
    struct json *object = api_schema_text(text);
    buf_init(&member, BUF_MAX_INTERNAL);
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        buf_clear(&member);
        json_print(v, &member, false);
        json_field_raw(w, json_name(v), buf_str(&member));
    }
    buf_deinit(&member);
    json_destroy(object);
}

static const char *type_name(enum api_type type)
{
    static const char *const names[] = {
        [API_BOOLEAN] = "boolean", [API_INTEGER] = "integer", [API_NUMBER] = "number",
        [API_STRING] = "string",   [API_OBJECT] = "object",   [API_ARRAY] = "array",
    };
    CHECK(type < ARRAY_LEN(names));
    return names[type];
}

static void put_type(struct json_writer *w, enum api_type type, bool nullable)
{
    if (!nullable) {
        json_field_text(w, "type", type_name(type));
        return;
    }
    json_key(w, "type");
    json_array_begin(w);
    json_put_text(w, type_name(type));
    json_put_text(w, "null");
    json_array_end(w);
}

static void put_range(struct json_writer *w, const struct api_field *f)
{
    const struct field_range *range = f->range;
    if (!range) return;
    if (range->min == (double)FLT_MIN) {
        json_field_int(w, "exclusiveMinimum", 0);
    } else if (f->type == API_INTEGER) {
        json_field_int(w, "minimum", (int64_t)range->min);
    } else {
        json_field_double(w, "minimum", range->min);
    }
    if (f->type == API_INTEGER) {
        json_field_int(w, "maximum", (int64_t)range->max);
        json_field_text(w, "format", range->max > INT_MAX ? "int64" : "int32");
    } else {
        json_field_double(w, "maximum", range->max);
    }
}

/* Defaults in words ("what the context leaves") say so in the description only. */
static void put_default(struct json_writer *w, const struct api_field *f)
{
    if (!f->def) return;
    struct json *v = json_parse(f->def, strlen(f->def), NULL);
    if (v) json_field_raw(w, "default", str_of(f->def));
    json_destroy(v);
}

static void put_doc(struct json_writer *w, const struct api_field *f)
{
    if (!f->doc && !f->def) return;
    struct json *v = f->def ? json_parse(f->def, strlen(f->def), NULL) : NULL;
    bool in_words = f->def && !v;
    json_destroy(v);
    if (!in_words) {
        if (f->doc) json_field_text(w, "description", f->doc);
        return;
    }
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    if (f->doc) buf_printf(&text, "%s. ", f->doc);
    buf_printf(&text, "Default: %s", f->def);
    json_field_str(w, "description", buf_str(&text));
    buf_deinit(&text);
}

static void put_reference(struct json_writer *w, const struct api_field *f, bool nullable)
{
    if (nullable) {
        json_key(w, "oneOf");
        json_array_begin(w);
        put_ref(w, f->of);
        json_object_begin(w);
        json_field_text(w, "type", "null");
        json_object_end(w);
        json_array_end(w);
    } else {
        char ref[128];
        snprintf(ref, sizeof ref, REF "%s", f->of);
        json_field_text(w, "$ref", ref);
    }
}

static void put_field(struct json_writer *w, const struct api_field *f, bool nullable)
{
    json_object_begin(w);
    if (f->type == API_REF) {
        put_reference(w, f, nullable);
    } else {
        if (f->type != API_UNION) put_type(w, f->type, nullable);
        if (f->type == API_ARRAY && f->of) {
            json_key(w, "items");
            put_ref(w, f->of);
        }
        put_range(w, f);
        put_members(w, f->schema);
        if (f->type == API_OBJECT && !f->schema) json_field_bool(w, "additionalProperties", true);
        put_default(w, f);
    }
    put_doc(w, f);
    json_object_end(w);
}

/* A list of values says which there are: null wouldn't be one. */
static bool is_enum(const struct api_field *f)
{
    return f->type == API_STRING && f->schema && strstr(f->schema, "'enum'");
}

static void put_nullable_enum(struct json_writer *w, const struct api_field *f)
{
    struct api_field plain = *f;
    plain.doc = plain.def = NULL;
    json_object_begin(w);
    json_key(w, "oneOf");
    json_array_begin(w);
    put_field(w, &plain, false);
    json_object_begin(w);
    json_field_text(w, "type", "null");
    json_object_end(w);
    json_array_end(w);
    put_doc(w, f);
    json_object_end(w);
}

static void put_properties(struct json_writer *w, const struct api_schema *s)
{
    json_key(w, "properties");
    json_object_begin(w);
    for (int p = 0; p < API_PARTS_MAX && s->parts[p]; p++) {
        for (size_t i = 0; i < s->parts[p]->count; i++) {
            const struct api_field *f = &s->parts[p]->items[i];
            bool nullable = f->nullable || (s->null_is_absent && !f->required);
            json_key(w, f->name);
            if (nullable && is_enum(f)) {
                put_nullable_enum(w, f);
            } else {
                put_field(w, f, nullable);
            }
        }
    }
    json_object_end(w);
}

static void put_required(struct json_writer *w, const struct api_schema *s)
{
    bool has_begun = false;
    for (int p = 0; p < API_PARTS_MAX && s->parts[p]; p++) {
        for (size_t i = 0; i < s->parts[p]->count; i++) {
            if (!s->parts[p]->items[i].required) continue;
            if (!has_begun) {
                json_key(w, "required");
                json_array_begin(w);
                has_begun = true;
            }
            json_put_text(w, s->parts[p]->items[i].name);
        }
    }
    if (has_begun) json_array_end(w);
}

/* With the schema and not with the request body: generators of clients know it there. */
static void put_example(struct json_writer *w, const struct api_schema *s, struct str model)
{
    struct buf example;
    if (!s->example) return;
    buf_init(&example, BUF_MAX_INTERNAL);
    api_schema_example(s->example, model.data ? model : STR("MODEL"), &example);
    json_key(w, "examples");
    json_array_begin(w);
    json_put_raw(w, buf_str(&example));
    json_array_end(w);
    buf_deinit(&example);
}

static void put_schema(struct printer *p, const struct api_schema *s)
{
    struct json_writer *w = &p->w;
    json_object_begin(w);
    json_field_text(w, "description", s->doc);
    if (s->parts[0]) {
        json_field_text(w, "type", "object");
        put_properties(w, s);
        put_required(w, s);
    }
    put_members(w, s->schema);
    put_example(w, s, p->o->model);
    json_object_end(w);
}

/* ---- which of them ---- */

static void want(struct printer *p, const char *name);

/* What a text refers to. */
static void want_text(struct printer *p, const char *text)
{
    static const char mark[] = "'" REF;
    for (const char *at = text ? strstr(text, mark) : NULL; at; at = strstr(at, mark)) {
        char name[96];
        at += sizeof mark - 1;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "'"), at);
        want(p, name);
    }
}

static void want(struct printer *p, const char *name)
{
    size_t at = 0;
    const struct api_schema *s = api_schema_find(name);
    while (api_schema_at(at) != s)
        at++;
    CHECK(at < SCHEMAS_MAX);
    if (p->wanted[at]) return;
    p->wanted[at] = true;
    want_text(p, s->schema);
    for (int i = 0; i < API_PARTS_MAX && s->parts[i]; i++) {
        for (size_t k = 0; k < s->parts[i]->count; k++) {
            const struct api_field *f = &s->parts[i]->items[k];
            if (f->of) want(p, f->of);
            want_text(p, f->schema);
        }
    }
}

static bool is_shown(const struct printer *p, const struct api_route *r)
{
    return (r->daemons & p->o->daemon) && !r->is_page;
}

static void want_routes(struct printer *p)
{
    want(p, "ErrorResponse");
    for (size_t i = 0; i < api_route_count; i++) {
        const struct api_route *r = &api_routes[i];
        if (!is_shown(p, r)) continue;
        if (r->request) want(p, r->request);
        if (r->error) want(p, r->error);
        for (int k = 0; k < API_ANSWERS_MAX && r->answers[k].status; k++) {
            if (r->answers[k].schema) want(p, r->answers[k].schema);
        }
    }
}

/* ---- routes ---- */

static void put_parameters(struct json_writer *w, const struct api_route *r)
{
    if (!r->parameters[0].in) return;
    json_key(w, "parameters");
    json_array_begin(w);
    for (int i = 0; i < API_PARAMETERS_MAX && r->parameters[i].in; i++) {
        const struct api_parameter *p = &r->parameters[i];
        struct api_field schema = p->field;
        schema.doc = NULL;
        json_object_begin(w);
        json_field_text(w, "name", p->field.name);
        json_field_text(w, "in", p->in);
        json_field_bool(w, "required", p->field.required);
        json_field_text(w, "description", p->field.doc);
        json_key(w, "schema");
        put_field(w, &schema, false);
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_request(struct printer *p, const struct api_route *r)
{
    struct json_writer *w = &p->w;
    if (!r->request) return;
    json_key(w, "requestBody");
    json_object_begin(w);
    json_field_bool(w, "required", !r->body_optional);
    json_key(w, "content");
    json_object_begin(w);
    json_key(w, "application/json");
    json_object_begin(w);
    json_key(w, "schema");
    put_ref(w, r->request);
    json_object_end(w);
    json_object_end(w);
    json_object_end(w);
}

static void put_content(struct json_writer *w, const char *media, const char *schema)
{
    json_key(w, media);
    json_object_begin(w);
    json_key(w, "schema");
    if (schema) {
        put_ref(w, schema);
    } else {
        json_object_begin(w);
        json_field_text(w, "type", "string");
        json_object_end(w);
    }
    json_object_end(w);
}

static void begin_answer(struct json_writer *w, int status, const char *doc)
{
    char key[8];
    snprintf(key, sizeof key, "%d", status);
    json_key(w, key);
    json_object_begin(w);
    json_field_text(w, "description", doc);
    if (status == 429 || status == 503) {
        json_key(w, "headers");
        json_object_begin(w);
        json_key(w, "Retry-After");
        json_object_begin(w);
        json_field_text(w, "description", "seconds after which it is worth another try");
        json_key(w, "schema");
        json_object_begin(w);
        json_field_text(w, "type", "integer");
        json_object_end(w);
        json_object_end(w);
        json_object_end(w);
    }
    json_key(w, "content");
    json_object_begin(w);
}

static void end_answer(struct json_writer *w)
{
    json_object_end(w);
    json_object_end(w);
}

static bool has_answer(const struct api_route *r, int status)
{
    for (int i = 0; i < API_ANSWERS_MAX && r->answers[i].status; i++) {
        if (r->answers[i].status == status) return true;
    }
    return false;
}

/* Answers of one status stand together, whatever their media types. */
static void put_answers(struct printer *p, const struct api_route *r)
{
    struct json_writer *w = &p->w;
    int errors[API_ROUTE_ERRORS_MAX];
    json_key(w, "responses");
    json_object_begin(w);
    for (int i = 0; i < API_ANSWERS_MAX && r->answers[i].status; i++) {
        int status = r->answers[i].status;
        if (i > 0 && r->answers[i - 1].status == status) continue;
        begin_answer(w, status, r->answers[i].doc);
        for (int k = i; k < API_ANSWERS_MAX && r->answers[k].status == status; k++)
            if (r->answers[k].media) put_content(w, r->answers[k].media, r->answers[k].schema);
        end_answer(w);
    }
    int count = api_route_errors(r, p->o->daemon, errors);
    for (int i = 0; i < count; i++) {
        if (has_answer(r, errors[i])) continue;
        begin_answer(w, errors[i], api_status_find(errors[i]));
        put_content(w, "application/json", r->error ? r->error : "ErrorResponse");
        end_answer(w);
    }
    json_object_end(w);
}

/* Without keys any bearer token is fine, and none. */
static void put_security(struct json_writer *w, bool needs_key)
{
    json_key(w, "security");
    json_array_begin(w);
    if (!needs_key) {
        json_object_begin(w);
        json_object_end(w);
    }
    json_object_begin(w);
    json_key(w, "bearer");
    json_array_begin(w);
    json_array_end(w);
    json_object_end(w);
    json_array_end(w);
}

static void put_operation(struct printer *p, const struct api_route *r)
{
    struct json_writer *w = &p->w;
    char method[8] = "";
    for (size_t i = 0; r->method[i] && i + 1 < sizeof method; i++)
        method[i] = (char)(r->method[i] - 'A' + 'a');
    json_key(w, method);
    json_object_begin(w);
    json_field_text(w, "operationId", r->id);
    json_key(w, "tags");
    json_array_begin(w);
    json_put_text(w, r->tag);
    json_array_end(w);
    json_field_text(w, "summary", r->summary);
    if (r->doc) json_field_text(w, "description", r->doc);
    put_parameters(w, r);
    put_request(p, r);
    put_answers(p, r);
    if (r->is_open) {
        json_key(w, "security");
        json_array_begin(w);
        json_array_end(w);
    }
    json_object_end(w);
}

static void put_paths(struct printer *p)
{
    struct json_writer *w = &p->w;
    json_key(w, "paths");
    json_object_begin(w);
    for (size_t i = 0; i < api_route_count; i++) {
        const struct api_route *r = &api_routes[i];
        bool is_first = is_shown(p, r);
        for (size_t k = 0; is_first && k < i; k++)
            is_first = !is_shown(p, &api_routes[k]) || strcmp(api_routes[k].path, r->path) != 0;
        if (!is_first) continue;
        json_key(w, r->path);
        json_object_begin(w);
        for (size_t k = i; k < api_route_count; k++) {
            if (is_shown(p, &api_routes[k]) && strcmp(api_routes[k].path, r->path) == 0)
                put_operation(p, &api_routes[k]);
        }
        json_object_end(w);
    }
    json_object_end(w);
}

/* ---- the whole ---- */

static void put_info(struct json_writer *w, enum api_daemon daemon)
{
    json_key(w, "info");
    json_object_begin(w);
    json_field_text(w, "title", daemon == API_AGENT ? "lm-agent" : "lm-proxy");
    json_field_text(w, "version", LM_VERSION);
    json_field_text(w, "description",
                    "OpenAI's API, with LMDeploy's extra fields and routes. Members of requests "
                    "that aren't listed are ignored, and null stands for a member's default.");
    json_object_end(w);
    json_key(w, "servers");
    json_array_begin(w);
    json_object_begin(w);
    json_field_text(w, "url", "/");
    json_object_end(w);
    json_array_end(w);
}

static void put_tags(struct printer *p)
{
    struct json_writer *w = &p->w;
    json_key(w, "tags");
    json_array_begin(w);
    for (size_t i = 0; i < api_tag_count; i++) {
        bool used = false;
        for (size_t k = 0; k < api_route_count; k++) {
            used |= is_shown(p, &api_routes[k]) && strcmp(api_routes[k].tag, api_tags[i].name) == 0;
        }
        if (!used) continue;
        json_object_begin(w);
        json_field_text(w, "name", api_tags[i].name);
        json_field_text(w, "description", api_tags[i].doc);
        json_object_end(w);
    }
    json_array_end(w);
}

static void put_components(struct printer *p)
{
    struct json_writer *w = &p->w;
    json_key(w, "components");
    json_object_begin(w);
    json_key(w, "schemas");
    json_object_begin(w);
    for (size_t i = 0; i < api_schema_count(); i++) {
        if (!p->wanted[i]) continue;
        json_key(w, api_schema_at(i)->name);
        put_schema(p, api_schema_at(i));
    }
    json_object_end(w);
    json_key(w, "securitySchemes");
    json_object_begin(w);
    json_key(w, "bearer");
    json_object_begin(w);
    json_field_text(w, "type", "http");
    json_field_text(w, "scheme", "bearer");
    json_field_text(w, "description",
                    "One of the server's keys (`--api-keys`); without those any token is fine, and "
                    "none.");
    json_object_end(w);
    json_object_end(w);
    json_object_end(w);
}

void api_openapi_print(struct buf *out, const struct api_openapi_options *o)
{
    struct printer p = {.o = o};
    want_routes(&p);
    json_writer_init(&p.w, out);
    json_object_begin(&p.w);
    json_field_text(&p.w, "openapi", "3.1.0");
    put_info(&p.w, o->daemon);
    put_tags(&p);
    put_security(&p.w, o->needs_key);
    put_paths(&p);
    put_components(&p);
    json_object_end(&p.w);
}
