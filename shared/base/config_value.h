/* config_value.h - what config.c and config_help.c share: one option's field (parsing into it,
 * printing it, freeing it) and its names. */
#ifndef LM_BASE_CONFIG_VALUE_H
#define LM_BASE_CONFIG_VALUE_H

#include "shared/base/buf.h"
#include "shared/base/config.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

/* Parse `text` into the field; a list gets one more item. `label` is how the user named the option
 * ("--server-port", "LM_AGENT_SERVER_PORT", "a.conf:3: server-port"), for the error text. */
FALLIBLE int config_value_set(const struct option *option, void *config, struct str text,
                              const char *label, struct error *err);
/* Free what is owned; the field is zero, NULL or empty afterwards. */
void config_value_clear(const struct option *option, void *config);

/* "a number from 0 to 65535", "one of a, b, c": what an error text says is wanted. */
void config_value_expected(const struct option *option, struct buf *out);
/* The value as it could be written in a file; secrets masked. */
void config_value_print(const struct option *option, const void *config, struct buf *out);

/* The environment variable of an option: "LM_AGENT_SERVER_PORT". Cut at `size`, with its 0. */
void config_variable(const struct config_program *program, const char *name, char *out,
                     size_t size);

#endif
