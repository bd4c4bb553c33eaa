#include "proxy/api_key_ring.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <unistd.h>

static char path[] = "/tmp/lm-keys-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "we");
    NEED(file);
    fputs(text, file);
    fclose(file);
}

static void hex_of(const char *token, char out[DIGEST_DIGITS + 1])
{
    uint8_t digest[DIGEST_BYTES];
    digest_sha256(str_of(token), digest);
    digest_text(digest, out);
}

static int ask(struct api_key_ring *r, struct api_key_view *view, const char *authorization,
               const struct api_key **key, struct api_error *error)
{
    struct http_header header = {STR("Authorization"), str_of(authorization)};
    struct http_request request = {.headers = {&header, authorization ? 1 : 0}};
    return api_key_ring_authorize(r, view, &request, key, error);
}

static void test_authorize(void)
{
    struct proxy_config config = {.api_key_file = path};
    struct api_key_ring ring;
    struct api_key_view view = {0};
    struct api_error error;
    struct error err;
    const struct api_key *key;
    write_file("{\"id\":\"a\",\"key\":\"sk-1\",\"models\":[\"m\"]}");
    NEED(api_key_ring_init(&ring, &config, &err) == 0);
    EXPECT_INT(ask(&ring, &view, "Bearer sk-1", &key, &error), 0);
    EXPECT(key && strcmp(key->id, "a") == 0);
    EXPECT_INT(api_key_check_model(key, STR("m"), &error), 0);
    EXPECT_INT(api_key_check_model(key, STR("n"), &error), -1);
    EXPECT_INT(error.status, 404);
    EXPECT_STR(error.code, "model_not_found");
    EXPECT_STR(error.message, "The model `n` does not exist or you do not have access to it.");
    EXPECT_INT(ask(&ring, &view, "bearer   sk-1 ", &key, &error), 0);
    static const char *const bad[] = {NULL,          "",     "Bearer",      "Bearer ", "Basic sk-1",
                                      "Bearer sk-2", "sk-1", "Bearer sk-1x"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        EXPECT_INT(ask(&ring, &view, bad[i], &key, &error), -1);
        EXPECT(!key);
        EXPECT_INT(error.status, 401);
        EXPECT_STR(error.code, "invalid_api_key");
        EXPECT(strstr(error.message, "Please request with valid api key!"));
    }
    struct buf body;
    buf_init(&body, BUF_MAX_INTERNAL);
    api_error_print(&body, &error);
    EXPECT(strstr(body.data, "\"type\":\"invalid_request_error\",\"param\":null,"
                             "\"code\":\"invalid_api_key\""));
    EXPECT(strstr(body.data, "\"object\":\"error\"") && strstr(body.data, "\"code\":401"));
    buf_deinit(&body);
    api_key_view_deinit(&view);
    api_key_ring_deinit(&ring);

    config = (struct proxy_config){.port = 1}; // keys are off
    NEED(api_key_ring_init(&ring, &config, &err) == 0);
    EXPECT_INT(ask(&ring, &view, "Bearer anything", &key, &error), 0);
    EXPECT(!key);
    EXPECT_INT(api_key_check_model(key, STR("n"), &error), 0);
    api_key_view_deinit(&view);
    api_key_ring_deinit(&ring);
}

static void test_reload(void)
{
    struct proxy_config config = {.api_key_file = path};
    struct api_key_ring ring;
    struct api_key_view view = {0}, other = {0};
    struct error err;
    write_file("{\"id\":\"a\",\"key\":\"sk-1\"}");
    NEED(api_key_ring_init(&ring, &config, &err) == 0);
    const struct api_keys *before = api_key_ring_current(&ring, &view);
    EXPECT(api_key_ring_current(&ring, &view) == before);
    EXPECT(api_key_ring_current(&ring, &other) == before);
    write_file("{\"id\":");
    EXPECT(api_key_ring_reload(&ring, &config, &err) < 0);
    EXPECT(api_key_ring_current(&ring, &view) == before);
    write_file("{\"id\":\"b\",\"key\":\"sk-2\"}");
    EXPECT_INT(api_key_ring_reload(&ring, &config, &err), 0);
    EXPECT(api_keys_find(other.keys, STR("sk-1"))); // until its thread asks again
    const struct api_keys *after = api_key_ring_current(&ring, &view);
    EXPECT(!api_keys_find(after, STR("sk-1")) && api_keys_find(after, STR("sk-2")));

    /* What Redis holds stays over a reload, and over a flush. */
    char hex[DIGEST_DIGITS + 1];
    hex_of("sk-3", hex);
    struct api_key_row row = {str_of(hex), STR("{\"id\":\"c\"}")};
    api_key_ring_set_rows(&ring, &row, 1);
    EXPECT(api_keys_find(api_key_ring_current(&ring, &view), STR("sk-3")));
    EXPECT_INT(api_key_ring_reload(&ring, &config, &err), 0);
    EXPECT(api_keys_find(api_key_ring_current(&ring, &view), STR("sk-3")));
    api_key_ring_set_rows(&ring, NULL, 0);
    EXPECT(api_keys_find(api_key_ring_current(&ring, &view), STR("sk-3")));
    row.json = STR("{\"id\":\"c\",\"disabled\":true}");
    api_key_ring_set_rows(&ring, &row, 1);
    EXPECT(!api_keys_find(api_key_ring_current(&ring, &view), STR("sk-3")));
    EXPECT(api_keys_find(api_key_ring_current(&ring, &view), STR("sk-2")));
    api_key_view_deinit(&view);
    api_key_view_deinit(&other);
    api_key_ring_deinit(&ring);
}

static void test_until_redis_was_read(void)
{
    struct proxy_config config = {.api_keys_redis = true};
    struct api_key_ring ring;
    struct api_key_view view = {0};
    struct api_error error;
    struct error err;
    const struct api_key *key;
    NEED(api_key_ring_init(&ring, &config, &err) == 0);
    EXPECT_INT(ask(&ring, &view, "Bearer sk-1", &key, &error), -1);
    EXPECT_INT(error.status, 503);
    EXPECT(error.retry_after_s > 0);
    EXPECT_INT(ask(&ring, &view, NULL, &key, &error), -1);
    EXPECT_INT(error.status, 401);
    api_key_ring_set_rows(&ring, NULL, 0); // no keys: nobody may, rather than everybody
    EXPECT_INT(ask(&ring, &view, "Bearer sk-1", &key, &error), -1);
    EXPECT_INT(error.status, 401);
    api_key_view_deinit(&view);
    api_key_ring_deinit(&ring);
}

/* Readers on other threads while sets are swapped: for the sanitizers. */
static struct api_key_ring raced;
static atomic_bool race_over;

static void *read_keys(void *arg)
{
    struct api_key_view view = {0};
    int *found = arg;
    while (!atomic_load(&race_over)) {
        const struct api_keys *k = api_key_ring_current(&raced, &view);
        *found += api_keys_find(k, STR("sk-1")) != NULL;
    }
    api_key_view_deinit(&view);
    return NULL;
}

static bool is_let_in(struct api_key_ring *ring, struct api_key_view *view)
{
    struct http_request request = {.headers = {NULL, 0}};
    const struct api_key *key;
    struct api_error error;
    return api_key_ring_authorize(ring, view, &request, &key, &error) == 0;
}

/* Keys that a configuration file names for the first time are wanted from then on. Without any more
 * all are refused: a door isn't opened by an edit. */
static void test_first_keys_by_reload(void)
{
    struct proxy_config config = {.port = 0};
    struct api_key_ring ring;
    struct api_key_view view = {0};
    struct error err;
    NEED(api_key_ring_init(&ring, &config, &err) == 0);
    EXPECT(is_let_in(&ring, &view));
    write_file("{\"id\":\"a\",\"key\":\"sk-1\"}");
    config.api_key_file = path;
    EXPECT_INT(api_key_ring_reload(&ring, &config, &err), 0);
    EXPECT(!is_let_in(&ring, &view));
    config.api_key_file = NULL;
    EXPECT_INT(api_key_ring_reload(&ring, &config, &err), 0);
    EXPECT(!is_let_in(&ring, &view));
    api_key_view_deinit(&view);
    api_key_ring_deinit(&ring);
}

static void test_readers_on_threads(void)
{
    struct proxy_config config = {.api_key_file = path};
    struct error err;
    pthread_t threads[2];
    int found[2] = {0};
    write_file("{\"id\":\"a\",\"key\":\"sk-1\"}");
    NEED(api_key_ring_init(&raced, &config, &err) == 0);
    for (int i = 0; i < 2; i++)
        NEED(pthread_create(&threads[i], NULL, read_keys, &found[i]) == 0);
    for (int i = 0; i < 200; i++)
        EXPECT_INT(api_key_ring_reload(&raced, &config, &err), 0);
    atomic_store(&race_over, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    EXPECT(found[0] + found[1] > 0);
    api_key_ring_deinit(&raced);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    int fd = mkstemp(path);
    NEED(fd >= 0);
    close(fd);
    RUN(test_authorize);
    RUN(test_reload);
    RUN(test_until_redis_was_read);
    RUN(test_first_keys_by_reload);
    RUN(test_readers_on_threads);
    unlink(path);
    return TEST_END();
}
