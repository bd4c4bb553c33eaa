/* A tokenizer.model from anywhere, with and without what tokenizer_config.json says of it. */
#include "engine/tokenizer_spm_model.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct json *added; // made once, reachable till the end
    struct str file = {(const char *)data, size};
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (!added)
        added = json_parse(
            "{\"3\":{\"content\":\"<x>\",\"special\":true},\"7\":{\"content\":\"b\"}}", 58, NULL);
    CHECK(added);
    struct tokenizer_settings settings = {.added = added, .add_eos = SETTING_YES};
    int rc = tokenizer_load_spm_model(file, NULL, &t, &err);
    tokenizer_use(rc, t, &err, data, size);
    rc = tokenizer_load_spm_model(file, &settings, &t, &err);
    tokenizer_use(rc, t, &err, data, size);
    return 0;
}
