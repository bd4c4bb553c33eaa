/* Resume records: refused with a 400 and a text, or within what the agent relies on. */
#include "agent/resume_record.h"

#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define VOCAB 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct resume_record r;
    struct api_error e = {0};
    if (resume_record_parse((struct str){(const char *)data, size}, VOCAB, &r, &e) != 0) {
        CHECK(e.status == 400 && strlen(e.message) > 0 && !r.ids.ids);
        return 0;
    }
    CHECK(r.now_s >= 0 && r.created_s >= -1 && strlen(r.id) < sizeof r.id);
    CHECK(r.phase < RESUME_COMPLETE && r.bytes <= (size_t)1 << 53);
    CHECK(r.rope >= 0);
    CHECK(r.ids.count > 0 || (r.bytes == 0 && r.phase < RESUME_FINISHED));
    CHECK(!strpbrk(r.id, " \n\r=,"));
    for (size_t i = 0; i < r.ids.count; i++)
        CHECK(r.ids.ids[i] >= 0 && r.ids.ids[i] < VOCAB);
    resume_record_deinit(&r);
    return 0;
}
