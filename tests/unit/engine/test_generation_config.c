/* Defaults of requests out of a folder's generation_config.json. */
#include "engine/generation_config.h"
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/lm-generation-XXXXXX";
static char path[64];

static int read_text(const char *text, struct sampling_params *s, struct error *err)
{
    unlink(path);
    if (text) {
        FILE *f = fopen(path, "w");
        NEED(f && fputs(text, f) >= 0 && fclose(f) == 0);
    }
    generation_config_init(s);
    return generation_config_read(folder, s, err);
}

static void test_read(void)
{
    struct sampling_params s;
    struct error err = {0};
    EXPECT_INT(read_text(NULL, &s, &err), 0);
    EXPECT(s.temperature == 1 && s.top_p == 1 && s.top_k == 0 && s.repetition_penalty == 0);
    EXPECT_INT(
        read_text("{\"temperature\": 0.6, \"top_p\": 0.95, \"top_k\": 20, \"min_p\": 0.05,"
                  "\"repetition_penalty\": 1.1, \"do_sample\": false, \"eos_token_id\": [1, 2]}",
                  &s, &err),
        0);
    EXPECT(s.temperature == 0.6f && s.top_p == 0.95f && s.top_k == 20 && s.min_p == 0.05f);
    EXPECT(s.repetition_penalty == 1.1f && s.presence_penalty == 0);
    EXPECT_INT(read_text("{\"temperature\": null, \"top_k\": -1}", &s, &err), 0);
    EXPECT(s.temperature == 1 && s.top_k == 0);
    EXPECT_INT(read_text("{\"top_p\": 0}", &s, &err), 0);
    EXPECT(s.top_p > 0); // what the engine takes
}

static void test_refused(void)
{
    static const struct {
        const char *text, *words;
    } rows[] = {{"{\"temperature\": 3}", "temperature"},
                {"{\"top_p\": \"much\"}", "top_p"},
                {"{\"top_k\": 1.5}", "top_k"},
                {"{\"min_p\": -1}", "min_p"},
                {"{\"repetition_penalty\": 0}", "repetition_penalty"},
                {"{\"temperature\": 1", "generation_config.json"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sampling_params s;
        struct error err = {0};
        EXPECT(read_text(rows[i].text, &s, &err) < 0);
        EXPECT(strstr(err.text, rows[i].words));
        EXPECT(strstr(err.text, folder));
    }
}

int main(void)
{
    NEED(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    RUN(test_read);
    RUN(test_refused);
    unlink(path);
    rmdir(folder);
    return TEST_END();
}
