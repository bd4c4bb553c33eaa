#include "engine/tokenizer_folder.h"

#include "engine/tokenizer_json.h"
#include "engine/tokenizer_spm_model.h"
#include "shared/base/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define TOKENIZER_BYTES_MAX ((size_t)512 << 20)
#define CONFIG_BYTES_MAX    ((size_t)64 << 20)
#define TEMPLATE_BYTES_MAX  ((size_t)4 << 20)
#define STOPS_MAX           32

/* ---- files ---- */

/* The whole file. E_NOT_FOUND where there is none, without a word. */
static int read_file(const char *dir, const char *name, size_t max, struct buf *out,
                     struct error *err)
{
    char *path = xasprintf("%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    int rc = 0;
    buf_init(out, max);
    if (!f) {
        rc = errno == ENOENT || errno == ENOTDIR ? E_NOT_FOUND : -errno;
        if (rc != E_NOT_FOUND)
            (void)error_set(err, rc, "can't open '%s': %s", path, strerror(errno));
        free(path);
        return rc;
    }
    for (size_t n = 1; n && !rc;) {
        char *room = buf_reserve(out, 1 << 16);
        if (!room) room = buf_reserve(out, max - out->len);
        size_t size = out->max - out->len < (1 << 16) ? out->max - out->len : 1 << 16;
        n = size && room ? fread(room, 1, size, f) : 0;
        if (n) buf_commit(out, n);
    }
    if (ferror(f))
        rc = error_set(err, errno ? -errno : E_INVALID, "can't read '%s'", path);
    else if (!feof(f) && fgetc(f) != EOF)
        rc = error_set(err, E_LIMIT, "'%s' has more than %zu bytes", path, max);
    fclose(f);
    free(path);
    return rc;
}

/* *out NULL and 0 where the file isn't there. */
static int read_json(const char *dir, const char *name, struct json **out, struct error *err)
{
    struct buf text;
    struct error inner = {0};
    int rc = read_file(dir, name, CONFIG_BYTES_MAX, &text, err);
    *out = NULL;
    if (!rc && !(*out = json_parse(text.data, text.len, &inner)))
        rc = error_set(err, inner.code, "'%s/%s': %s", dir, name, inner.text);
    if (!rc && json_type(*out) != JSON_OBJECT)
        rc = error_set(err, E_FORMAT, "'%s/%s' isn't an object", dir, name);
    buf_deinit(&text);
    return rc == E_NOT_FOUND ? 0 : rc;
}

/* ---- settings ---- */

struct folder {
    struct json *tokenizer, *generation, *config; // NULL: no such file
    int32_t stops[STOPS_MAX];
    struct tokenizer_settings settings;
};

static struct str text_of(const struct json *v)
{
    struct str text = STR("");
    if (v && json_type(v) == JSON_STRING) text.data = json_string(v, &text.len);
    return text;
}

/* "bos_token": "<s>" or {"content": "<s>", ...} */
static struct str token_text(const struct json *config, const char *name)
{
    const struct json *v = json_get(config, name);
    return v && json_type(v) == JSON_OBJECT ? text_of(json_get(v, "content")) : text_of(v);
}

static enum tokenizer_setting setting(const struct json *config, const char *name)
{
    const struct json *v = json_get(config, name);
    if (!v || json_type(v) != JSON_BOOL) return SETTING_UNSAID;
    return json_is_true(v) ? SETTING_YES : SETTING_NO;
}

static void add_stop(struct folder *f, const struct json *v)
{
    if (json_type(v) != JSON_NUMBER || !json_is_integer(v)) return;
    double id = json_number(v);
    if (id < 0 || id >= TOKENIZER_VOCAB_MAX || f->settings.stop_count == STOPS_MAX) return;
    f->stops[f->settings.stop_count++] = (int32_t)id;
}

/* "eos_token_id": a number or a list of them; false: neither. */
static bool add_stops(struct folder *f, const struct json *config)
{
    const struct json *v = json_get(config, "eos_token_id");
    int before = f->settings.stop_count;
    if (v && json_type(v) == JSON_NUMBER) add_stop(f, v);
    for (const struct json *item = json_first(v); item; item = json_next(item))
        add_stop(f, item);
    return f->settings.stop_count > before;
}

/* The classes whose add_bos_token and add_eos_token rewrite the post-processor of tokenizer.json;
 * the others' are only for their slow twins. */
static bool rules_template(struct str class)
{
    static const char *const names[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                        "CohereTokenizer"};
    struct str fast = STR("Fast");
    if (class.len > fast.len && !memcmp(class.data + class.len - fast.len, fast.data, fast.len))
        class.len -= fast.len;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_equal(class, str_of(names[i]))) return true;
    return false;
}

static int folder_open(const char *dir, struct folder *f, struct error *err)
{
    memset(f, 0, sizeof *f);
    int rc = read_json(dir, "tokenizer_config.json", &f->tokenizer, err);
    if (!rc) rc = read_json(dir, "generation_config.json", &f->generation, err);
    if (!rc) rc = read_json(dir, "config.json", &f->config, err);
    struct tokenizer_settings *s = &f->settings;
    s->bos = token_text(f->tokenizer, "bos_token");
    s->eos = token_text(f->tokenizer, "eos_token");
    s->add_bos = setting(f->tokenizer, "add_bos_token");
    s->add_eos = setting(f->tokenizer, "add_eos_token");
    s->added = json_get(f->tokenizer, "added_tokens_decoder");
    s->rules_template = rules_template(token_text(f->tokenizer, "tokenizer_class"));
    s->stops = f->stops;
    if (!add_stops(f, f->generation) && !s->eos.len) (void)add_stops(f, f->config);
    return rc;
}

static void folder_close(struct folder *f)
{
    json_destroy(f->tokenizer);
    json_destroy(f->generation);
    json_destroy(f->config);
}

int tokenizer_open_folder(const char *dir, struct tokenizer **out, struct error *err)
{
    static const struct {
        const char *name;
        int (*load)(struct str data, const struct tokenizer_settings *settings,
                    struct tokenizer **out, struct error *err);
    } formats[] = {{"tokenizer.json", tokenizer_load_json},
                   {"tokenizer.model", tokenizer_load_spm_model}};
    struct folder folder;
    int rc = folder_open(dir, &folder, err);
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(formats) && !rc && !found; i++) {
        struct buf data;
        rc = read_file(dir, formats[i].name, TOKENIZER_BYTES_MAX, &data, err);
        found = rc != E_NOT_FOUND;
        if (!rc) {
            rc = formats[i].load(buf_str(&data), &folder.settings, out, err);
            if (rc) rc = error_prefix(err, rc, "'%s/%s'", dir, formats[i].name);
        }
        buf_deinit(&data);
        if (!found) rc = 0;
    }
    folder_close(&folder);
    if (rc || found) return rc;
    return error_set(err, E_NOT_FOUND, "'%s' has neither tokenizer.json nor tokenizer.model", dir);
}

/* ---- the chat template ---- */

/* A text, or [{"name": ..., "template": ...}]. */
static struct str template_of(const struct json *v)
{
    struct str found = text_of(v);
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        struct str name = text_of(json_get(item, "name"));
        if (str_equal(name, STR("default"))) return text_of(json_get(item, "template"));
    }
    return found;
}

int tokenizer_folder_template(const char *dir, struct buf *out, bool *found, struct error *err)
{
    static const char *const files[] = {"chat_template.json", "tokenizer_config.json"};
    struct buf text;
    int rc = read_file(dir, "chat_template.jinja", TEMPLATE_BYTES_MAX, &text, err);
    *found = rc == 0;
    if (!rc) rc = buf_append(out, text.data, text.len);
    buf_deinit(&text);
    if (rc == E_NOT_FOUND) rc = 0;
    for (size_t i = 0; i < ARRAY_LEN(files) && !rc && !*found; i++) {
        struct json *root;
        rc = read_json(dir, files[i], &root, err);
        struct str source = template_of(json_get(root, "chat_template"));
        *found = !rc && source.len > 0;
        if (*found) rc = buf_append(out, source.data, source.len);
        json_destroy(root);
    }
    if (rc == E_LIMIT && out->overflow)
        return error_set(err, rc, "the chat template of '%s' has more than %zu bytes", dir,
                         out->max);
    return rc;
}
