/* chat_template.h - messages to prompt text by the model's own Jinja template. Immutable after
 * load: any thread may render. */
#ifndef LM_ENGINE_CHAT_TEMPLATE_H
#define LM_ENGINE_CHAT_TEMPLATE_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/json.h"

struct chat_template; // opaque

/* Parse Jinja source. E_FORMAT with line and column when it is not valid, E_UNSUPPORTED for tags
 * that load other templates. source, bos, eos (the texts of those tokens, "" where there is none):
 * copied. */
FALLIBLE int chat_template_create(struct str source, struct str bos, struct str eos,
                                  struct chat_template **out, struct error *err);
/* What errors of rendering call it ("chat template NAME:line:column: ..."): the last part of a path.
 * Before it is shared with other threads. */
void chat_template_set_name(struct chat_template *t, const char *name);
/* The fallback where a model has no template: roles and contents, one after the other. */
struct chat_template *chat_template_create_plain(void);
void chat_template_destroy(struct chat_template *t);            // NULL is fine
struct str chat_template_source(const struct chat_template *t); // "" of the plain one

struct chat_template_input {
    const struct json *messages; // array of objects; content that is null or missing is empty text
    const struct json *tools;    // array or NULL
    const struct json *kwargs;   // chat_template_kwargs: its members become variables; or NULL
    bool add_generation_prompt;
    int64_t now; // seconds since 1970 for strftime_now
};

/* Append the prompt to *out (bounded by out->max). E_INVALID: the template itself refused
 * (raise_exception), its text in *err, or it can't handle these messages ("chat template
 * line:column:
 * ..."). E_LIMIT: output, steps, memory or depth beyond bounds. E_UNSUPPORTED: it uses a filter or
 * test that we don't have. *out may hold a part of the prompt after a failure. */
FALLIBLE int chat_template_render(const struct chat_template *t,
                                  const struct chat_template_input *in, struct buf *out,
                                  struct error *err);

#endif
