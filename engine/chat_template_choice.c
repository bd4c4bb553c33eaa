#define LOG_MODULE "template"
#include "engine/chat_template_choice.h"

#include "engine/lmdeploy_template.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TEMPLATE_BYTES_MAX (1 << 20)

static int read_file(const char *path, struct buf *out, struct error *err)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        if (errno != ENOENT)
            return error_set(err, -errno, "can't open chat template '%s': %s", path,
                             strerror(errno));
        struct buf names;
        buf_init(&names, 1000);
        lmdeploy_template_list(&names);
        int rc =
            error_set(err, E_NOT_FOUND, "chat template '%.100s' is neither a file nor one of: %s",
                      path, names.data);
        buf_deinit(&names);
        return rc;
    }
    char chunk[8192];
    size_t n;
    int rc = 0;
    while (rc == 0 && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        if (buf_append(out, chunk, n) < 0)
            rc = error_set(err, E_LIMIT, "chat template '%s' has more than %d bytes", path,
                           TEMPLATE_BYTES_MAX);
    if (rc == 0 && ferror(f)) rc = error_set(err, E_INVALID, "can't read chat template '%s'", path);
    fclose(f);
    return rc;
}

static struct str text_of_token(const struct tokenizer *t, int32_t id)
{
    return id < 0 ? STR("") : tokenizer_token_bytes(t, id, true);
}

static int create(struct str source, const char *name, const struct tokenizer *t,
                  struct chat_template **out, struct error *err)
{
    int rc = chat_template_create(source, text_of_token(t, tokenizer_bos(t)),
                                  text_of_token(t, tokenizer_eos(t)), out, err);
    if (rc) return error_prefix(err, rc, "chat template '%s'", name);
    chat_template_set_name(*out, name);
    return 0;
}

static int create_lmdeploy(const struct lmdeploy_template *t, const char *name,
                           struct tokenizer *tokenizer, struct chat_template **out,
                           struct error *err)
{
    struct buf source;
    buf_init(&source, TEMPLATE_BYTES_MAX);
    lmdeploy_template_print(t, tokenizer_adds_bos(tokenizer), &source);
    int rc = source.overflow ? error_set(err, E_LIMIT, "chat template '%s' is too long", name)
                             : create(buf_str(&source), name, tokenizer, out, err);
    buf_deinit(&source);
    for (int i = 0; t->stops[i] && !rc; i++) {
        int32_t id = tokenizer_find(tokenizer, str_of(t->stops[i]));
        if (id < 0 || !tokenizer_add_stop(tokenizer, id))
            log_warn("stop word isn't a token of this model", "template=%s word=\"%.64s\"", name,
                     t->stops[i]);
    }
    return rc;
}

static int create_json(struct str text, const char *name, struct tokenizer *tokenizer,
                       struct chat_template **out, struct error *err)
{
    struct lmdeploy_template t;
    struct json *json = json_parse(text.data, text.len, err);
    int rc = json ? lmdeploy_template_read(json, &t, err) : err ? err->code : E_FORMAT;
    if (rc)
        rc = error_prefix(err, rc, "chat template '%s'", name);
    else
        rc = create_lmdeploy(&t, name, tokenizer, out, err);
    json_destroy(json);
    return rc;
}

/* A text in JSON begins with a brace; Jinja's begins with two, or with a brace and a percent or
 * number sign. */
static bool is_json(struct str text)
{
    text = str_trim(text);
    return text.len > 1 && *text.data == '{' && !strchr("{%#", text.data[1]);
}

static int choose_asked(const char *option, struct tokenizer *tokenizer, struct chat_template **out,
                        struct error *err)
{
    const struct lmdeploy_template *t = lmdeploy_template_find(str_of(option));
    if (t) return create_lmdeploy(t, t->name, tokenizer, out, err);
    struct buf text;
    buf_init(&text, TEMPLATE_BYTES_MAX);
    int rc = read_file(option, &text, err);
    if (!rc)
        rc = is_json(buf_str(&text)) ? create_json(buf_str(&text), option, tokenizer, out, err)
                                     : create(buf_str(&text), option, tokenizer, out, err);
    buf_deinit(&text);
    return rc;
}

int chat_template_choose(const char *option, struct str own, const char *model_name,
                         struct tokenizer *tokenizer, struct chat_template **out, struct error *err)
{
    if (option) return choose_asked(option, tokenizer, out, err);
    if (own.len) {
        int rc = create(own, "of the model", tokenizer, out, err);
        return rc ? error_prefix(err, rc, "--chat-template NAME|FILE replaces it") : 0;
    }
    const struct lmdeploy_template *t = lmdeploy_template_match(model_name);
    if (t) {
        log_info("chat template chosen by the model's name", "template=%s model=%s", t->name,
                 model_name);
        return create_lmdeploy(t, t->name, tokenizer, out, err);
    }
    log_warn("model has no chat template", "roles and contents are joined plainly; "
                                           "--chat-template NAME|FILE gives it one");
    *out = chat_template_create_plain();
    return 0;
}
