/* jinja.h - Jinja templates as Hugging Face's chat templates use them: an immutable sandbox,
 * trim_blocks and lstrip_blocks, loop controls, tojson without HTML escaping, raise_exception and
 * strftime_now.
 *
 * A parsed template is immutable: any number of threads may render it at once. A rendering belongs
 * to one thread:
 *
 *     struct jinja_run *run = jinja_open(template, now, err);
 *     jinja_set(run, "messages", jinja_from_json(run, messages));
 *     int rc = jinja_render(run, out);
 *     jinja_close(run); */
#ifndef LM_ENGINE_JINJA_H
#define LM_ENGINE_JINJA_H

#include "engine/jinja_value.h"
#include "shared/base/json.h"

struct jinja;

#define JINJA_SOURCE_MAX ((size_t)4 << 20)

/* E_FORMAT or E_UNSUPPORTED "chat template line:column: ..."; the source isn't kept. */
FALLIBLE int jinja_create(struct str source, struct jinja **out, struct error *err);
void jinja_destroy(struct jinja *t); // NULL is fine

/* now: seconds since 1970. err may be NULL; it must live until the run is closed. */
struct jinja_run *jinja_open(const struct jinja *t, int64_t now, struct error *err);
void jinja_close(struct jinja_run *run);

/* Both names and values must live until the run is closed. */
void jinja_set(struct jinja_run *run, struct str name, struct jinja_value value);
struct jinja_value jinja_from_json(struct jinja_run *run,
                                   const struct json *v); // borrows its texts

/* Once per run. E_INVALID: the template refused or went wrong; E_LIMIT: too much of something,
 * out->max included; E_UNSUPPORTED: a filter or test that we don't have. What was written before
 * stays in *out. */
FALLIBLE int jinja_render(struct jinja_run *run, struct buf *out);

#endif
