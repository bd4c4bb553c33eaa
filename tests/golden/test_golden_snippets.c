/* Small templates, each a corner of the language, against what Jinja2 itself makes of them
 * (tests/golden/make_snippets.py). */
#include "engine/jinja.h"
#include "tests/golden/fixtures.h"

#include <time.h>

static struct json *root;

/* Rendering of one case; *rc is 0 or the error's code. */
static char *render(const struct json *c, int *rc, struct error *err)
{
    struct jinja *t = NULL;
    struct str source;
    struct buf out;
    source.data = json_string(json_get(c, "template"), &source.len);
    *rc = jinja_create(source, &t, err);
    if (*rc) return NULL;
    buf_init(&out, 1 << 20);
    buf_append_str(&out, "");
    struct jinja_run *run = jinja_open(t, 1735787045, err); // 2025-01-02T03:04:05Z
    for (const struct json *v = json_first(json_get(root, "variables")); v; v = json_next(v))
        jinja_set(run, str_of(json_name(v)), jinja_from_json(run, v));
    *rc = jinja_render(run, &out);
    jinja_close(run);
    jinja_destroy(t);
    return buf_detach(&out, NULL);
}

static bool run_case(const struct json *c)
{
    struct error err = {0};
    int rc;
    const struct json *rendered = json_get(c, "rendered");
    char *got = render(c, &rc, &err);
    bool ok = rendered ? rc == 0 && !strcmp(got, json_string(rendered, NULL)) : rc != 0;
    if (!ok) {
        printf("template: %s\n", json_string(json_get(c, "template"), NULL));
        printf("  got:  %s\n", rc ? err.text : got);
        printf("  want: %s\n", json_string(rendered ? rendered : json_get(c, "error"), NULL));
    }
    free(got);
    return ok;
}

static void test_snippets(void)
{
    int count = 0, wrong = 0;
    for (const struct json *c = json_first(json_get(root, "cases")); c; c = json_next(c), count++)
        wrong += !run_case(c);
    printf("%d snippets, %d wrong\n", count, wrong);
    EXPECT(count > 200);
    EXPECT_INT(wrong, 0);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    root = fixture_json("templates/snippets.json");
    NEED(root);
    RUN(test_snippets);
    json_destroy(root);
    return TEST_END();
}
