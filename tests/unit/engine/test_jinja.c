/* Limits, errors and lifetimes of the template engine. What the language means is compared with the
 * reference in tests/golden/test_golden_snippets.c. */
#include "engine/jinja.h"
#include "shared/base/clock.h"
#include "tests/test.h"

/* Code of parsing and rendering; the text in *out, the error in *err. */
static int render_with(const char *source, const char *json, struct buf *out, struct error *err)
{
    struct jinja *t = NULL;
    struct json *variables = json_parse(json, strlen(json), NULL);
    NEED(variables);
    *err = (struct error){0};
    int rc = jinja_create(str_of(source), &t, err);
    if (!rc) {
        struct jinja_run *run = jinja_open(t, 0, err);
        for (const struct json *v = json_first(variables); v; v = json_next(v))
            jinja_set(run, str_of(json_name(v)), jinja_from_json(run, v));
        rc = jinja_render(run, out);
        jinja_close(run);
    }
    jinja_destroy(t);
    json_destroy(variables);
    return rc;
}

static void expect_text(const char *source, const char *json, const char *want)
{
    struct error err;
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_append_str(&out, "");
    int rc = render_with(source, json, &out, &err);
    if (rc) printf("%s\n", err.text);
    EXPECT_INT(rc, 0);
    EXPECT_STR(out.data ? out.data : "", want);
    buf_deinit(&out);
}

static void expect_error(const char *source, int code, const char *text)
{
    struct error err;
    struct buf out;
    buf_init(&out, 1 << 20);
    EXPECT_INT(
        render_with(source, "{\"s\": \"text\", \"l\": [1, 2], \"d\": {\"a\": 1}}", &out, &err),
        code);
    if (text) EXPECT_STR(err.text, text);
    buf_deinit(&out);
}

/* The error must come soon, too. */
static void expect_limit(const char *source)
{
    uint64_t start = clock_ms();
    expect_error(source, E_LIMIT, NULL);
    uint64_t took = clock_ms() - start;
    if (took > 20000) printf("%llu ms: %.400s\n", (unsigned long long)took, source);
    EXPECT(took < 20000);
}

static void test_parse_errors_have_places(void)
{
    expect_error("{{ a", E_FORMAT, "chat template 1:5: tag has no end");
    expect_error("a\n  {% if x %}", E_FORMAT, "chat template 2:13: 'elif' is missing");
    expect_error("\n\n{{ 1 + }}", E_FORMAT, "chat template 3:8: expected an expression");
    expect_error("{% nope %}", E_FORMAT, "chat template 1:4: unknown tag 'nope'");
    expect_error("{{ 'a }}", E_FORMAT, "chat template 1:4: string has no end");
    expect_error("{{ (a] }}", E_FORMAT, "chat template 1:6: closing bracket doesn't match");
    expect_error("{% include 'x' %}", E_UNSUPPORTED,
                 "chat template 1:4: 'include' is not supported: templates stand alone");
    expect_error("{{ \xff }}", E_FORMAT, "chat template is not valid UTF-8 at byte 3");
    expect_error("{{ 99999999999999999999 }}", E_FORMAT,
                 "chat template 1:4: number is out of range");
}

static void test_run_errors_have_places(void)
{
    expect_error("a\n {{ nope.x }}", E_INVALID, "chat template 2:10: 'nope' is undefined");
    expect_error("{{ d.b.c }}", E_INVALID, "chat template 1:8: 'dict' object has no attribute 'b'");
    expect_error("{{ 1 + s }}", E_INVALID, "chat template 1:4: '+' can't take 'int' and 'str'");
    expect_error("{{ s | nope }}", E_UNSUPPORTED, "chat template 1:8: no filter named 'nope'");
    expect_error("{{ s is nope }}", E_UNSUPPORTED, "chat template 1:9: no test named 'nope'");
    expect_error("{{ l.append(3) }}", E_INVALID,
                 "chat template 1:12: access to 'append' of a list is not allowed");
    expect_error("{{ s.upper(1) }}", E_INVALID,
                 "chat template 1:11: upper() takes at most 0 arguments");
    expect_error("{{ s.replace('a') }}", E_INVALID,
                 "chat template 1:13: replace() lacks an argument");
    /* The template's own words reach the client as they are. */
    expect_error("{{ raise_exception('roles must alternate') }}", E_INVALID,
                 "roles must alternate");
}

static void test_errors_stop_everything(void)
{
    struct error err;
    struct buf out;
    buf_init(&out, 1000);
    EXPECT_INT(
        render_with("a{% for x in [1,2,3] %}{{ x }}{{ nope.y }}{% endfor %}b", "{}", &out, &err),
        E_INVALID);
    EXPECT_STR(out.data, "a1");
    buf_deinit(&out);
}

static void test_loops_end(void)
{
    expect_limit("{% for x in range(1000000000) %}{{ x }}{% endfor %}");
    expect_limit(
        "{% for x in range(100000) %}{% for y in range(100000) %}{% endfor %}{% endfor %}");
    expect_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    expect_limit(
        "{% macro m() %}{% for x in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}");
    expect_limit("{{ range(-9223372036854775807, 9223372036854775807) }}");
}

static void test_memory_is_bounded(void)
{
    expect_limit("{% set ns = namespace(s='x') %}{% for i in range(99) %}"
                 "{% set ns.s = ns.s ~ ns.s %}{% endfor %}");
    expect_limit("{% set ns = namespace(s='x') %}{% for i in range(99) %}"
                 "{% set ns.s = ns.s + ns.s %}{% endfor %}");
    expect_limit("{% set ns = namespace(l=[1]) %}{% for i in range(99) %}"
                 "{% set ns.l = ns.l + ns.l %}{% endfor %}");
    expect_limit("{{ 'x' * 4000000000 }}");
    expect_limit("{{ 'x' * 9223372036854775807 }}");
    expect_limit("{{ [1] * 1000000000 }}");
    expect_limit("{{ ('x' * 10000) | replace('', 'y' * 100000) | length }}");
    expect_limit("{% set ns = namespace(s='ab') %}{% for i in range(99) %}"
                 "{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}");
    expect_limit("{{ [1] | tojson(indent=100000) }}");
    expect_error("{{ '%9999d' % 1 }}", E_INVALID, NULL);
}

static void test_output_is_bounded(void)
{
    struct error err;
    struct buf out;
    buf_init(&out, 100);
    EXPECT_INT(render_with("{% for x in range(100) %}0123456789{% endfor %}", "{}", &out, &err),
               E_LIMIT);
    EXPECT_STR(err.text, "chat template 1:26: the prompt is longer than 100 bytes");
    EXPECT(out.len <= 100);
    buf_deinit(&out);
    buf_init(&out, 3);
    EXPECT_INT(render_with("abc", "{}", &out, &err), 0);
    buf_deinit(&out);
}

/* count times `part`, malloc'ed. */
static char *repeated(const char *part, size_t count)
{
    struct buf b;
    buf_init(&b, 64 << 20);
    for (size_t i = 0; i < count; i++)
        buf_append_str(&b, part);
    return buf_detach(&b, NULL);
}

static void expect_deep(const char *before, const char *part, const char *behind, const char *after)
{
    char *left = repeated(part, 100000), *right = repeated(behind, 100000);
    struct buf source, out;
    struct error err;
    buf_init(&source, 64 << 20);
    buf_init(&out, 1 << 20);
    buf_printf(&source, "%s%s", before, left);
    buf_printf(&source, "x%s%s", right, after);
    int rc = render_with(source.data, "{}", &out, &err);
    EXPECT(rc == E_LIMIT || rc == E_FORMAT); // an error, not the end of the stack
    buf_deinit(&source);
    buf_deinit(&out);
    free(left);
    free(right);
}

static void test_depth_is_bounded(void)
{
    expect_deep("{{ ", "(", ")", " }}");
    expect_deep("{{ ", "[", "]", " }}");
    expect_deep("{{ ", "{1:", "}", " }}");
    expect_deep("{{ ", "-", "", " }}");
    expect_deep("{{ ", "not ", "", " }}");
    expect_deep("{{ ", "x if x else ", "", " }}");
    expect_deep("{{ ", "1 ~ (1 + ", ")", " }}");
    expect_deep("{{ ", "f(", ")", " }}");
    expect_deep("{{ ", "1 + ", "", " }}");
    expect_deep("{{ x", " | default(x)", "", "| default(x) }}");
    expect_deep("", "{% if true %}", "{% endif %}", "");
    expect_deep("", "{% for x in [1] %}", "{% endfor %}", "");
    expect_deep("{% set ", "(", ")", " = 1 %}");
}

static void test_deep_values(void)
{
    const char *nest =
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}"
        "{% endfor %}";
    static const char *const uses[] = {"{{ ns.l }}", "{{ ns.l | tojson }}", "{{ ns.l == [ns.l] }}",
                                       "{{ ns.l < [ns.l] }}", "{{ ns.l | string }}"};
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        struct buf source;
        buf_init(&source, 10000);
        buf_printf(&source, "%s%s", nest, uses[i]);
        expect_limit(source.data);
        buf_deinit(&source);
    }
}

static void test_large_dicts(void)
{
    struct buf json, want;
    buf_init(&json, 8 << 20);
    buf_init(&want, 100);
    buf_append_str(&json, "{\"d\": {");
    for (int i = 0; i < 20000; i++)
        buf_printf(&json, "%s\"key%d\": %d", i ? ", " : "", i, i);
    buf_append_str(&json, "}}");
    expect_text("{% for k in d %}{% if d[k] != loop.index0 %}{{ k }}{% endif %}{% endfor %}"
                "{{ d.key19999 }} {{ d.key20000 is defined }} {{ d | length }}",
                json.data, "19999 False 20000");
    buf_deinit(&json);
    buf_deinit(&want);
}

/* As many variables as a client may care to send. */
static void test_many_variables(void)
{
    struct buf json;
    buf_init(&json, 16 << 20);
    buf_append_str(&json, "{\"l\": [1, 2, 3]");
    for (int i = 0; i < 50000; i++)
        buf_printf(&json, ", \"v%d\": %d", i, i);
    buf_append_str(&json, "}");
    uint64_t start = clock_ms();
    expect_text("{% for i in range(10000) %}{% set x = v49999 %}{% endfor %}{{ v49999 }}{{ l }}",
                json.data, "49999[1, 2, 3]");
    EXPECT(clock_ms() - start < 20000);
    buf_deinit(&json);
}

/* Operations on long texts cost what they take, so that loops over them end too. */
static void test_long_texts_cost_steps(void)
{
    static const char *const uses[] = {
        "s == t",   "s < t",      "s.rfind(p)",  "s.rsplit(p, 1)",      "s in l",
        "d[s]",     "s is lower", "s.isalpha()", "[s] | string",        "s.startswith(t)",
        "l | sort", "s | upper",  "s.find(p)",   "s | replace(p, 'x')",
    };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        struct buf source;
        buf_init(&source, 10000);
        buf_printf(
            &source,
            "{%% set s = 'a' * 1000000 %%}{%% set t = s ~ '' %%}{%% set p = 'b' ~ 'a' * 50000 %%}"
            "{%% set l = [t ~ 'x', t, t ~ 'y'] %%}{%% set d = {'a': 1} %%}"
            "{%% for a in range(99999) %%}{%% for b in range(99) %%}{%% set v = %s %%}"
            "{%% endfor %%}{%% endfor %%}",
            uses[i]);
        expect_limit(source.data);
        buf_deinit(&source);
    }
}

static void test_json_values(void)
{
    expect_text("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }} {{ g }}",
                "{\"a\": null, \"b\": true, \"c\": 1, \"d\": 1.5, \"e\": \"x\", \"f\": [1, \"y\"], "
                "\"g\": {\"h\": false}}",
                "None True 1 1.5 x [1, 'y'] {'h': False}");
    expect_text("{{ n }}", "{\"n\": 9007199254740991}", "9007199254740991");
    expect_text("{{ n }}", "{\"n\": -3}", "-3");
}

/* A null in a text is empty, on purpose unlike Python (DESIGN: null contents). */
static void test_null_adds_nothing(void)
{
    expect_text("{{ 'a' + x }}{{ x + 'b' }}", "{\"x\": null}", "ab");
    expect_error("{{ 1 + none }}", E_INVALID, NULL);
}

static void test_template_is_reusable(void)
{
    struct jinja *t;
    struct error err;
    NEED(jinja_create(STR("{% set ns = namespace(n=0) %}{% for x in range(3) %}"
                          "{% set ns.n = ns.n + x + v %}{% endfor %}{{ ns.n }}"),
                      &t, &err) == 0);
    for (int i = 0; i < 3; i++) {
        struct buf out;
        char want[20];
        buf_init(&out, 100);
        struct jinja_run *run = jinja_open(t, 0, &err);
        jinja_set(run, STR("v"), jinja_int(i));
        EXPECT_INT(jinja_render(run, &out), 0);
        snprintf(want, sizeof want, "%d", 3 + 3 * i);
        EXPECT_STR(out.data, want);
        jinja_close(run);
        buf_deinit(&out);
    }
    jinja_destroy(t);
}

static void test_no_error_wanted(void)
{
    struct jinja *t;
    struct buf out;
    EXPECT_INT(jinja_create(STR("{{"), &t, NULL), E_FORMAT);
    NEED(jinja_create(STR("{{ nope.x }}"), &t, NULL) == 0);
    buf_init(&out, 100);
    struct jinja_run *run = jinja_open(t, 0, NULL);
    EXPECT_INT(jinja_render(run, &out), E_INVALID);
    jinja_close(run);
    buf_deinit(&out);
    jinja_destroy(t);
}

int main(void)
{
    RUN(test_parse_errors_have_places);
    RUN(test_run_errors_have_places);
    RUN(test_errors_stop_everything);
    RUN(test_loops_end);
    RUN(test_memory_is_bounded);
    RUN(test_output_is_bounded);
    RUN(test_depth_is_bounded);
    RUN(test_deep_values);
    RUN(test_large_dicts);
    RUN(test_many_variables);
    RUN(test_long_texts_cost_steps);
    RUN(test_json_values);
    RUN(test_null_adds_nothing);
    RUN(test_template_is_reusable);
    RUN(test_no_error_wanted);
    return TEST_END();
}
