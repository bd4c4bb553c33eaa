#include "engine/generation_config.h"

#include "engine/config_reader.h"
#include "engine/mapped_file.h"
#include "shared/base/check.h"

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdlib.h>

void generation_config_init(struct sampling_params *s)
{
    *s = (struct sampling_params){.temperature = 1, .top_p = 1};
}

static void read_float(struct config_reader *r, const char *key, double min, double max,
                       float *value)
{
    double number = (double)*value;
    config_double(r, key, min, max, &number);
    *value = (float)number;
}

int generation_config_from_json(const struct json *root, struct sampling_params *s,
                                struct error *err)
{
    struct config_reader r = {root, err, 0};
    read_float(&r, "temperature", 0, 2, &s->temperature);
    read_float(&r, "top_p", 0, 1, &s->top_p);
    read_float(&r, "min_p", 0, 1, &s->min_p);
    read_float(&r, "repetition_penalty", 0.01, 100, &s->repetition_penalty);
    config_int(&r, "top_k", -1, INT_MAX, &s->top_k);
    if (s->top_k < 0) s->top_k = 0; // -1 means off, too
    if (s->top_p < FLT_MIN) s->top_p = FLT_MIN;
    return r.rc;
}

int generation_config_read(const char *folder, struct sampling_params *s, struct error *err)
{
    struct mapped_file file;
    char *path = xasprintf("%s/generation_config.json", folder);
    int rc = mapped_file_open(path, &file, err);
    if (rc == 0) {
        struct json *root = json_parse((const char *)file.data, file.size, err);
        rc = root ? generation_config_from_json(root, s, err) : E_FORMAT;
        json_destroy(root);
        mapped_file_close(&file);
    } else if (rc == -ENOENT) {
        rc = 0;
    }
    if (rc < 0) rc = error_prefix(err, rc, "'%s'", path);
    free(path);
    return rc;
}
