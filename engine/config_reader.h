/* config_reader.h - values out of a parsed config.json: bounded, with the key in every message. An
 * explicit null counts as absent; an absent key leaves *value as it was. */
#ifndef LM_ENGINE_CONFIG_READER_H
#define LM_ENGINE_CONFIG_READER_H

#include "shared/base/error.h"
#include "shared/base/json.h"

#include <stdbool.h>
#include <stdint.h>

/* One failing read makes all later ones do nothing: a list of keys needs one check at its end. */
struct config_reader {
    const struct json *object; // may be NULL: every key is absent
    struct error *err;
    int rc;
};

void config_fail(struct config_reader *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* NULL: absent or null, or a read failed before. */
const struct json *config_get(const struct config_reader *r, const char *key);
void config_require(struct config_reader *r, const char *key);
void config_int(struct config_reader *r, const char *key, int64_t min, int64_t max, int *value);
void config_double(struct config_reader *r, const char *key, double min, double max, double *value);
void config_bool(struct config_reader *r, const char *key, bool *value);
/* Borrowed from the document. */
void config_string(struct config_reader *r, const char *key, const char **value);

#endif
