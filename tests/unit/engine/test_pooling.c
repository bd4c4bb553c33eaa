#include "engine/pooling.h"

#include "engine/gguf.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- vectors ---- */

static void test_vectors(void)
{
    static const float rows[3][3] = {{1, 2, 2}, {3, 0, 0}, {-1, 4, 1}};
    struct request r = {.pool = ENGINE_POOL_LAST};
    float *v = pooling_finish(&r, rows[0], 3);
    NEED(v);
    EXPECT(fabsf(v[0] - 1 / 3.0f) < 1e-6f && fabsf(v[1] - 2 / 3.0f) < 1e-6f);
    free(v);
    free(r.pooled);

    r = (struct request){.pool = ENGINE_POOL_MEAN};
    pooling_add(&r, rows[0], 3);
    pooling_add(&r, rows[1], 3);
    v = pooling_finish(&r, rows[2], 3); // of (3, 6, 3)
    NEED(v);
    EXPECT(fabsf(v[0] - sqrtf(1 / 6.0f)) < 1e-6f && fabsf(v[1] - sqrtf(4 / 6.0f)) < 1e-6f);
    EXPECT(v[2] == v[0]);
    free(v);
    free(r.pooled);

    static const float bad[][3] = {{0, 0, 0}, {NAN, 1, 1}, {INFINITY, 1, 1}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        r = (struct request){.pool = ENGINE_POOL_LAST};
        EXPECT(!pooling_finish(&r, bad[i], 3));
        free(r.pooled);
    }
}

/* ---- folders ---- */

static char folder[] = "/tmp/lm-pooling-XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!text) {
        unlink(path);
        return;
    }
    FILE *file = fopen(path, "we");
    NEED(file);
    fputs(text, file);
    fclose(file);
}

static void test_folders(void)
{
    static const char modules[] =
        "[{\"idx\":0,\"name\":\"0\",\"path\":\"\",\"type\":\"sentence_transformers.models."
        "Transformer\"},"
        "{\"idx\":1,\"path\":\"9_Own\",\"type\":\"sentence_transformers.models.Pooling\"},"
        "{\"idx\":2,\"path\":\"2_Normalize\",\"type\":\"sentence_transformers.models.Normalize\"}]";
    static const char dense[] =
        "[{\"path\":\"1_Pooling\",\"type\":\"sentence_transformers.models.Pooling\"},"
        "{\"path\":\"2_Dense\",\"type\":\"sentence_transformers.models.Dense\"}]";
    static const char upward[] = "[{\"path\":\"../9_Own\",\"type\":\"a.Pooling\"}, 7, {}]";
    static const char mean[] =
        "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_cls_token\":false}";
    static const char last[] =
        "{\"pooling_mode_lasttoken\":true,\"pooling_mode_mean_tokens\":false}";
    static const struct {
        const char *modules, *usual, *own; // NULL: no such file
        int rc;
        enum engine_pool pool;
    } rows[] = {
        {NULL, NULL, NULL, 0, ENGINE_POOL_NONE},
        {NULL, mean, last, 0, ENGINE_POOL_MEAN},
        {NULL, last, NULL, 0, ENGINE_POOL_LAST},
        {modules, mean, last, 0, ENGINE_POOL_LAST},
        {modules, mean, NULL, 0, ENGINE_POOL_NONE}, // it names another one
        {upward, mean, last, 0, ENGINE_POOL_MEAN},  // nothing outside of the folder
        {dense, mean, NULL, 0, ENGINE_POOL_NONE},   // which isn't all
        {"{}", mean, NULL, 0, ENGINE_POOL_MEAN},
        {"[", mean, NULL, E_FORMAT, ENGINE_POOL_NONE},
        {NULL, "{\"pooling_mode_mean_tokens\":", NULL, E_FORMAT, ENGINE_POOL_NONE},
        {NULL, "{\"pooling_mode_cls_token\":true}", NULL, 0, ENGINE_POOL_NONE},
        {NULL, "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_lasttoken\":true}", NULL, 0,
         ENGINE_POOL_NONE},
        {NULL, "{\"pooling_mode_mean_tokens\":1}", NULL, 0, ENGINE_POOL_NONE},
        {NULL, "[]", NULL, 0, ENGINE_POOL_NONE},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct weights w = {.folder = folder};
        enum engine_pool pool;
        struct error err = {0};
        write_file("modules.json", rows[i].modules);
        write_file("1_Pooling/config.json", rows[i].usual);
        write_file("9_Own/config.json", rows[i].own);
        EXPECT_INT(pooling_read(&w, &pool, &err), rows[i].rc);
        EXPECT_INT(pool, rows[i].pool);
        if (rows[i].rc) EXPECT(strstr(err.text, folder));
    }
    write_file("modules.json", NULL);
    write_file("1_Pooling/config.json", NULL);
    write_file("9_Own/config.json", NULL);
}

/* ---- GGUF ---- */

static void put_u64(struct buf *b, uint64_t value, size_t bytes)
{
    buf_append(b, &value, bytes); // little-endian, as the format and the machines that we run on
}

static void put_text(struct buf *b, const char *text)
{
    put_u64(b, strlen(text), 8);
    buf_append_str(b, text);
}

/* general.architecture is "own", own.pooling_type is `type`; below 0: there is none. */
static enum engine_pool pool_of_gguf(int type)
{
    struct buf b;
    struct gguf *g;
    struct error err = {0};
    enum engine_pool pool;
    buf_init(&b, 4096);
    buf_append_str(&b, "GGUF");
    put_u64(&b, 3, 4);
    put_u64(&b, 0, 8);
    put_u64(&b, type < 0 ? 1 : 2, 8);
    put_text(&b, "general.architecture");
    put_u64(&b, 8, 4); // string
    put_text(&b, "own");
    if (type >= 0) {
        put_text(&b, "own.pooling_type");
        put_u64(&b, 4, 4); // uint32
        put_u64(&b, (uint64_t)type, 4);
    }
    put_u64(&b, 0, 8); // room behind the header
    if (gguf_open_memory(b.data, b.len, &g, &err) != 0) printf("%s\n", err.text);
    NEED(!err.text[0]);
    struct weights w = {.gguf = g};
    EXPECT_INT(pooling_read(&w, &pool, &err), 0);
    gguf_close(g);
    buf_deinit(&b);
    return pool;
}

static void test_gguf(void)
{
    EXPECT_INT(pool_of_gguf(-1), ENGINE_POOL_NONE);
    EXPECT_INT(pool_of_gguf(0), ENGINE_POOL_NONE);
    EXPECT_INT(pool_of_gguf(1), ENGINE_POOL_MEAN);
    EXPECT_INT(pool_of_gguf(2), ENGINE_POOL_NONE);
    EXPECT_INT(pool_of_gguf(3), ENGINE_POOL_LAST);
    EXPECT_INT(pool_of_gguf(4), ENGINE_POOL_NONE);
    EXPECT_INT(pool_of_gguf(99), ENGINE_POOL_NONE);
}

int main(void)
{
    char path[200];
    log_init("test", LOG_ERROR);
    NEED(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/1_Pooling", folder);
    NEED(mkdir(path, 0700) == 0);
    RUN(test_vectors);
    char own[200];
    snprintf(own, sizeof own, "%s/9_Own", folder);
    NEED(mkdir(own, 0700) == 0);
    RUN(test_folders);
    RUN(test_gguf);
    rmdir(own);
    rmdir(path);
    rmdir(folder);
    return TEST_END();
}
