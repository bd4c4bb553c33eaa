/* Chat templates rendered as the reference renders them: templates/own.json must be equal in full;
 * the others are compared where their texts are on this machine (LM_PEER_TEMPLATES, else the
 * cache): fetch_templates.py brings them. */
#include "engine/chat_template.h"
#include "tests/golden/fixtures.h"

#include <time.h>

struct tally {
    int equal, refused, wrong, missing; // refused: an error that was due
};

static int64_t parse_time(const char *text) // "2025-01-02T03:04:05", local
{
    struct tm tm = {0};
    NEED(strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) != NULL);
    return (int64_t)mktime(&tm);
}

static struct str string_or_empty(const struct json *v)
{
    struct str s = STR("");
    if (v && json_type(v) == JSON_STRING) s.data = json_string(v, &s.len);
    return s;
}

static void show_difference(struct str got, struct str want)
{
    size_t at = 0;
    while (at < got.len && at < want.len && got.data[at] == want.data[at])
        at++;
    size_t from = at > 60 ? at - 60 : 0;
    size_t got_len = got.len - from < 140 ? got.len - from : 140;
    size_t want_len = want.len - from < 140 ? want.len - from : 140;
    printf("  differs at %zu\n  got:  %.*s\n  want: %.*s\n", at, (int)got_len, got.data + from,
           (int)want_len, want.data + from);
}

static void run_case(const struct chat_template *t, const struct json *c, int64_t now,
                     struct tally *tally)
{
    const char *name = json_string(json_get(c, "template"), NULL);
    const char *conversation = json_string(json_get(c, "conversation"), NULL);
    const struct json *rendered = json_get(c, "rendered");
    struct chat_template_input in = {
        .messages = json_get(c, "messages"),
        .tools = json_get_set(c, "tools"),
        .kwargs = json_get(c, "kwargs"),
        .add_generation_prompt = json_is_true(json_get(c, "add_generation_prompt")),
        .now = now,
    };
    struct error err = {0};
    struct buf out;
    buf_init(&out, 1 << 20);
    int rc = chat_template_render(t, &in, &out, &err);
    struct str got = out.data ? buf_str(&out) : STR("");
    if (rc) {
        if (rendered) printf("%s/%s: %s\n", name, conversation, err.text);
        *(rendered ? &tally->wrong : &tally->refused) += 1;
    } else if (!rendered) {
        printf("%s/%s: rendered, but the reference gives: %s\n", name, conversation,
               json_string(json_get(c, "error"), NULL));
        tally->wrong++;
    } else if (str_equal(got, string_or_empty(rendered))) {
        tally->equal++;
    } else {
        printf("%s/%s:\n", name, conversation);
        show_difference(got, string_or_empty(rendered));
        tally->wrong++;
    }
    buf_deinit(&out);
}

/* All cases of one template; source NULL: its text isn't here. */
static void run_template(const struct json *root, const char *name, struct str source,
                         struct tally *tally)
{
    const struct json *special = json_get(json_get(json_get(root, "templates"), name), "special");
    struct str bos = string_or_empty(json_get(special, "bos_token"));
    struct str eos = string_or_empty(json_get(special, "eos_token"));
    int64_t now = parse_time(json_string(json_get(root, "now"), NULL));
    struct chat_template *t = NULL;
    struct error err = {0};
    int rc = source.data ? chat_template_create(source, bos, eos, &t, &err) : 0;
    if (rc) printf("%s: %s\n", name, err.text);
    for (const struct json *c = json_first(json_get(root, "cases")); c; c = json_next(c)) {
        if (strcmp(json_string(json_get(c, "template"), NULL), name) != 0) continue;
        if (t)
            run_case(t, c, now, tally);
        else
            *(rc ? &tally->wrong : &tally->missing) += 1;
    }
    chat_template_destroy(t);
}

static void report(const char *what, const struct tally *t)
{
    printf("%s: %d equal, %d refused as they should, %d wrong, %d without their template\n", what,
           t->equal, t->refused, t->wrong, t->missing);
}

static void test_own(void)
{
    struct json *root = fixture_json("templates/own.json");
    struct tally tally = {0};
    NEED(root);
    const struct json *t = json_first(json_get(root, "templates"));
    for (; t; t = json_next(t))
        run_template(root, json_name(t), string_or_empty(json_get(t, "template")), &tally);
    report("own templates", &tally);
    EXPECT(tally.equal + tally.refused >= 100);
    EXPECT_INT(tally.wrong, 0);
    json_destroy(root);
}

static void test_default_model(void)
{
    struct json *root = fixture_json("smollm2/reference.json");
    struct chat_template *t = NULL;
    struct error err = {0};
    int count = 0;
    NEED(root);
    struct str source = string_or_empty(json_get(root, "chat_template"));
    NEED(chat_template_create(source, STR("<|im_start|>"), STR("<|im_end|>"), &t, &err) == 0);
    const struct json *c = json_first(json_get(root, "conversations"));
    for (; c; c = json_next(c), count++) {
        struct chat_template_input in = {.messages = json_get(c, "messages"),
                                         .add_generation_prompt = true};
        struct buf out;
        buf_init(&out, 1 << 20);
        EXPECT_INT(chat_template_render(t, &in, &out, &err), 0);
        EXPECT_STR(out.data, json_string(json_get(c, "rendered"), NULL));
        buf_deinit(&out);
    }
    EXPECT(count >= 8);
    chat_template_destroy(t);
    json_destroy(root);
}

/* ---- templates of other projects ---- */

static void peer_path(char *path, size_t size, const char *name)
{
    const char *folder = getenv("LM_PEER_TEMPLATES"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (folder && *folder)
        snprintf(path, size, "%s/%s.jinja", folder, name);
    else if (cache && *cache)
        snprintf(path, size, "%s/lm-cluster/templates/%s.jinja", cache, name);
    else
        snprintf(path, size, "%s/.cache/lm-cluster/templates/%s.jinja", home ? home : "", name);
}

/* The template's text if it is here and has the checksum that the fixture was made from. */
static char *peer_source(const char *name, const char *sha256, size_t *len)
{
    char path[600], command[700];
    peer_path(path, sizeof path, name);
    if (!fixture_is_file(path)) return NULL;
    snprintf(command, sizeof command, "sha256sum '%s'", path);
    char *sum = fixture_command(command, len);
    bool right = sum && !strncmp(sum, sha256, 64);
    free(sum);
    return right ? fixture_read(path, len) : NULL;
}

static void test_peers(void)
{
    const char *path = fixture_path("templates/peers.json.xz");
    char command[1200];
    struct error err = {0};
    struct tally tally = {0};
    size_t len;
    if (path) snprintf(command, sizeof command, "xz -dc '%s'", path);
    char *text = path ? fixture_command(command, &len) : NULL;
    if (!text) {
        printf("skipped: templates/peers.json.xz isn't here, or xz isn't\n");
        return;
    }
    struct json *root = json_parse(text, len, &err);
    if (!root) printf("%s\n", err.text);
    NEED(root);
    const struct json *t = json_first(json_get(root, "templates"));
    for (; t; t = json_next(t)) {
        struct str source = {NULL, 0};
        char *file =
            peer_source(json_name(t), json_string(json_get(t, "sha256"), NULL), &source.len);
        source.data = file;
        run_template(root, json_name(t), source, &tally);
        free(file);
    }
    report("peers' templates", &tally);
    if (tally.missing) printf("skipped: %d cases whose template isn't here\n", tally.missing);
    EXPECT_INT(tally.wrong, 0);
    json_destroy(root);
    free(text);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    RUN(test_default_model);
    RUN(test_own);
    RUN(test_peers);
    return TEST_END();
}
