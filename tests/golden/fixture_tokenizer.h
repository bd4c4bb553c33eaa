/* fixture_tokenizer.h - a tokenizer of the fixtures by the name of its folder, or NULL when it, or xz,
 * isn't here. */
#ifndef LM_TESTS_GOLDEN_FIXTURE_TOKENIZER_H
#define LM_TESTS_GOLDEN_FIXTURE_TOKENIZER_H

#include "engine/tokenizer_json.h"
#include "engine/tokenizer_spm_model.h"
#include "tests/golden/fixtures.h"

static inline struct tokenizer *fixture_tokenizer(const char *name)
{
    char path[200], command[1200];
    struct tokenizer *t = NULL;
    struct error err = {0};
    size_t len = 0;
    int rc = E_NOT_FOUND;
    char *data;
    snprintf(path, sizeof path, "tokenizers/%s/tokenizer.json.xz", name);
    if (fixture_path(path)) {
        snprintf(command, sizeof command, "xz -dc '%s'", fixture_path(path));
        data = fixture_command(command, &len);
        if (data) rc = tokenizer_load_json((struct str){data, len}, NULL, &t, &err);
    } else {
        snprintf(path, sizeof path, "tokenizers/%s/tokenizer.model", name);
        data = fixture_read(fixture_path(path), &len);
        if (data) rc = tokenizer_load_spm_model((struct str){data, len}, NULL, &t, &err);
    }
    if (rc && data) {
        printf("%s: %s\n", path, err.text);
        EXPECT(false);
    }
    free(data);
    return t;
}

#endif
