/* A tokenizer.json from anywhere: refused with a reason, or a tokenizer that stands any text. */
#include "engine/tokenizer_json.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    int rc = tokenizer_load_json((struct str){(const char *)data, size}, NULL, &t, &err);
    tokenizer_use(rc, t, &err, data, size);
    return 0;
}
