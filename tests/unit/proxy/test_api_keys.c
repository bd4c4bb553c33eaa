#include "proxy/api_keys.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "tests/test.h"

#include <sys/stat.h>
#include <unistd.h>

static char path[] = "/tmp/lm-keys-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "we");
    NEED(file);
    fputs(text, file);
    fclose(file);
}

static struct api_keys *load(const char *text)
{
    struct proxy_config config = {.api_key_file = path};
    struct api_keys *k = NULL;
    struct error err = {0};
    write_file(text);
    if (api_keys_load(&config, &k, &err) < 0) printf("%s\n", err.text);
    NEED(k);
    return k;
}

static void expect_refused(const char *text, int code, const char *why)
{
    struct proxy_config config = {.api_key_file = path};
    struct api_keys *k = NULL;
    struct error err = {0};
    write_file(text);
    EXPECT_INT(api_keys_load(&config, &k, &err), code);
    EXPECT(!k);
    if (!strstr(err.text, why) || !strstr(err.text, path))
        printf("\"%s\" lacks \"%s\"\n", err.text, why);
    EXPECT(strstr(err.text, why) && strstr(err.text, path));
}

static void test_options(void)
{
    char k1[] = "k1", k2[] = "k2", *items[] = {k1, k2, k1};
    struct proxy_config config = {.api_keys = {items, 3}};
    struct api_keys *k;
    struct error err;
    NEED(api_keys_load(&config, &k, &err) == 0);
    EXPECT_INT(k->count, 2);
    const struct api_key *key = api_keys_find(k, STR("k1"));
    NEED(key);
    EXPECT(api_keys_find(k, STR("k2")) && api_keys_find(k, STR("k2")) != key);
    EXPECT(!api_keys_find(k, STR("k3")));
    EXPECT(!api_keys_find(k, STR("")));
    EXPECT(!api_keys_find(k, STR("k")));
    EXPECT(strncmp(key->id, "key-", 4) == 0 && strlen(key->id) == 20);
    EXPECT(key->tenant == hash_bytes(key->id, 20));
    EXPECT_INT(key->class, ADMISSION_DEFAULT);
    EXPECT_INT(key->max_class, ADMISSION_INTERACTIVE);
    EXPECT_INT(key->rpm + key->tpm + key->streams, 0);
    EXPECT(api_key_allows_model(key, STR("anything")));
    api_keys_unref(k);

    config = (struct proxy_config){.port = 1};
    NEED(api_keys_load(&config, &k, &err) == 0);
    EXPECT_INT(k->count, 0);
    EXPECT(!api_keys_find(k, STR("k1")));
    api_keys_unref(k);
}

static void test_file(void)
{
    struct api_keys *k =
        load("[{\"id\":\"team-a\",\"key\":\"sk-a\",\"models\":[\"m\",\"llama-*\"],\"rpm\":600,\n"
             "  \"tpm\":200000,\"streams\":32},\n"
             " {\"id\":\"ops\",\"max_class\":\"system\",\"sha256\":"
             "\"BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD\"},\n" // abc
             " {\"id\":\"night\",\"key\":[\"old\",\"new\"],\"class\":\"bulk\"},\n"
             " {\"id\":\"left\",\"key\":\"sk-left\",\"disabled\":true}]");
    const struct api_key *a = api_keys_find(k, STR("sk-a")), *ops = api_keys_find(k, STR("abc"));
    NEED(a && ops);
    EXPECT_STR(a->id, "team-a");
    EXPECT_INT(a->rpm, 600);
    EXPECT_INT(a->tpm, 200000);
    EXPECT_INT(a->streams, 32);
    EXPECT(api_key_allows_model(a, STR("m")));
    EXPECT(api_key_allows_model(a, STR("llama-3")));
    EXPECT(api_key_allows_model(a, STR("llama-")));
    EXPECT(!api_key_allows_model(a, STR("llama")));
    EXPECT(!api_key_allows_model(a, STR("mm")));
    EXPECT(!api_key_allows_model(a, STR("")));
    EXPECT_STR(ops->id, "ops");
    EXPECT_INT(ops->class, ADMISSION_DEFAULT);
    EXPECT_INT(ops->max_class, ADMISSION_SYSTEM);
    const struct api_key *old = api_keys_find(k, STR("old")), *new = api_keys_find(k, STR("new"));
    NEED(old && new);
    EXPECT(old != new && old->tenant == new->tenant);
    EXPECT_INT(old->max_class, ADMISSION_BULK);
    EXPECT(!api_keys_find(k, STR("sk-left")));
    api_keys_unref(k);

    k = load("# one a line\n{\"id\":\"x\",\"key\":\"1\"}\r\n\n  {\"id\":\"y\",\"key\":\"2\"}");
    EXPECT_INT(k->count, 2);
    EXPECT(api_keys_find(k, STR("1")) && api_keys_find(k, STR("2")));
    api_keys_unref(k);
}

static void test_bad_files(void)
{
    expect_refused("", E_INVALID, "holds no keys");
    expect_refused("[]", E_INVALID, "holds no keys");
    expect_refused("[{\"id\":\"a\"", E_FORMAT, "the text ends at byte 10");
    expect_refused("{\"id\":\"a\",\"key\":\"1\"}\nnonsense", E_FORMAT, "line 2");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"rmp\":5}", E_NOT_FOUND, "unknown member 'rmp'");
    expect_refused("{\"key\":\"1\"}", E_INVALID, "'id' is missing");
    expect_refused("{\"id\":\"a\"}", E_INVALID, "'sha256' or 'key' is missing");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"sha256\":\"00\"}", E_INVALID, "exclude");
    expect_refused("{\"id\":\"a\",\"sha256\":\"00\"}", E_INVALID, "64 hex digits");
    expect_refused("{\"id\":\"a\",\"key\":\"\"}", E_INVALID, "empty");
    expect_refused("{\"id\":\"a\",\"key\":[]}", E_INVALID, "1 to 16");
    expect_refused("{\"id\":\"a\",\"key\":7}", E_INVALID, "'key' must be a string");
    expect_refused("{\"id\":\"a b\",\"key\":\"1\"}", E_INVALID, "'id' must have");
    expect_refused("{\"id\":\"\",\"key\":\"1\"}", E_INVALID, "'id' must have");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"rpm\":-1}", E_INVALID, "'rpm'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"tpm\":1.5}", E_INVALID, "'tpm'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"streams\":\"8\"}", E_INVALID, "'streams'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"class\":\"vip\"}", E_INVALID, "'class'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"class\":\"system\",\"max_class\":\"bulk\"}",
                   E_INVALID, "better than");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"models\":[]}", E_INVALID, "'models'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\",\"models\":\"m\"}", E_INVALID, "'models'");
    expect_refused("{\"id\":\"a\",\"key\":\"1\"}\n{\"id\":\"a\",\"key\":\"2\"}", E_INVALID,
                   "taken");
    expect_refused("{\"id\":\"a\",\"key\":\"1\"}\n{\"id\":\"b\",\"key\":\"1\"}", E_INVALID,
                   "the same");
    expect_refused("[7]", E_INVALID, "entry 1: a key must be an object");

    char missing[] = "/nonexistent/keys";
    struct proxy_config config = {.api_key_file = missing};
    struct api_keys *k = NULL;
    struct error err = {0};
    EXPECT(api_keys_load(&config, &k, &err) < 0);
    EXPECT(strstr(err.text, "/nonexistent/keys"));

    char one[] = "1", *items[] = {one}; // the same key twice, with limits and without
    config = (struct proxy_config){.api_keys = {items, 1}, .api_key_file = path};
    write_file("{\"id\":\"a\",\"key\":\"1\",\"rpm\":1}");
    EXPECT_INT(api_keys_load(&config, &k, &err), E_INVALID);
}

static void test_many_keys(void)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    for (int i = 0; i < API_KEYS_MAX + 1; i++) {
        if (i == API_KEYS_MAX) {
            struct api_keys *k = load(text.data);
            EXPECT_INT(k->count, API_KEYS_MAX);
            for (int n = 0; n < API_KEYS_MAX; n += 77) {
                char token[32], id[32];
                snprintf(token, sizeof token, "sk-%d", n);
                snprintf(id, sizeof id, "t%d", n);
                const struct api_key *key = api_keys_find(k, str_of(token));
                EXPECT(key && strcmp(key->id, id) == 0);
            }
            EXPECT(!api_keys_find(k, STR("sk-x")));
            api_keys_unref(k);
        }
        buf_printf(&text, "{\"id\":\"t%d\",\"key\":\"sk-%d\"}\n", i, i);
    }
    expect_refused(text.data, E_LIMIT, "more than 16384 keys");
    buf_deinit(&text);
}

static void test_classes(void)
{
    struct api_key bulk = {.class = ADMISSION_BULK, .max_class = ADMISSION_BULK};
    struct api_key ops = {.class = ADMISSION_DEFAULT, .max_class = ADMISSION_SYSTEM};
    static const struct {
        const char *asked;
        bool has_number;
        int64_t number;
        enum admission_class anybody, ops;
    } rows[] = {
        {NULL, false, 0, ADMISSION_DEFAULT, ADMISSION_DEFAULT},
        {"", false, 0, ADMISSION_DEFAULT, ADMISSION_DEFAULT},
        {"system", false, 0, ADMISSION_INTERACTIVE, ADMISSION_SYSTEM},
        {" Interactive ", false, 0, ADMISSION_INTERACTIVE, ADMISSION_INTERACTIVE},
        {"bulk", true, -5, ADMISSION_BULK, ADMISSION_BULK}, // the header wins
        {"nonsense", true, 7, ADMISSION_BULK, ADMISSION_BULK},
        {"-3", false, 0, ADMISSION_INTERACTIVE, ADMISSION_INTERACTIVE},
        {NULL, true, 1, ADMISSION_BULK, ADMISSION_BULK},
        {NULL, true, 0, ADMISSION_DEFAULT, ADMISSION_DEFAULT},
        {NULL, true, -100, ADMISSION_INTERACTIVE, ADMISSION_INTERACTIVE},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct str asked = str_of(rows[i].asked);
        EXPECT_INT(api_key_class(NULL, asked, rows[i].has_number, rows[i].number), rows[i].anybody);
        EXPECT_INT(api_key_class(&ops, asked, rows[i].has_number, rows[i].number), rows[i].ops);
        EXPECT_INT(api_key_class(&bulk, asked, rows[i].has_number, rows[i].number), ADMISSION_BULK);
    }
}

static void hex_of(const char *token, char out[DIGEST_DIGITS + 1])
{
    uint8_t digest[DIGEST_BYTES];
    digest_sha256(str_of(token), digest);
    digest_text(digest, out);
}

static void test_redis_rows(void)
{
    char a[DIGEST_DIGITS + 1], b[DIGEST_DIGITS + 1], c[DIGEST_DIGITS + 1], d[DIGEST_DIGITS + 1];
    hex_of("file-1", a);
    hex_of("file-2", b);
    hex_of("redis-1", c);
    hex_of("redis-2", d);
    struct api_keys *base = load("{\"id\":\"f1\",\"key\":\"file-1\",\"rpm\":5}\n"
                                 "{\"id\":\"f2\",\"key\":\"file-2\"}");
    struct api_key_row rows[] = {
        {str_of(a), STR("{\"id\":\"evil\",\"rpm\":0}")}, // the file's stays the file's
        {str_of(b), STR("{\"disabled\":true}")},
        {str_of(c), STR("{\"id\":\"r1\",\"tpm\":9,\"from the future\":[1]}")},
        {str_of(d), STR("{}")},
        {STR("no digest"), STR("{}")},
        {STR("00"), STR("{}")},
        {str_of(d), STR("{\"rpm\":-1}")},
    };
    int skipped = 0;
    struct error why = {0};
    struct api_keys *redis = api_keys_from_rows(rows, ARRAY_LEN(rows), &skipped, &why);
    EXPECT_INT(skipped, 3);
    EXPECT(strstr(why.text, "no digest"));
    struct api_keys *all = api_keys_combine(base, redis);
    api_keys_unref(base);
    api_keys_unref(redis);
    const struct api_key *key = api_keys_find(all, STR("file-1"));
    NEED(key);
    EXPECT_STR(key->id, "f1");
    EXPECT_INT(key->rpm, 5);
    EXPECT(!api_keys_find(all, STR("file-2")));
    key = api_keys_find(all, STR("redis-1"));
    NEED(key);
    EXPECT_STR(key->id, "r1");
    EXPECT_INT(key->tpm, 9);
    key = api_keys_find(all, STR("redis-2"));
    NEED(key);
    EXPECT(strncmp(key->id, "key-", 4) == 0 && strncmp(key->id + 4, d, 16) == 0);
    api_keys_unref(all);
}

/* ---- the ring ---- */

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
    write_file("broken");
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
    RUN(test_options);
    RUN(test_file);
    RUN(test_bad_files);
    RUN(test_many_keys);
    RUN(test_classes);
    RUN(test_redis_rows);
    RUN(test_authorize);
    RUN(test_reload);
    RUN(test_until_redis_was_read);
    RUN(test_first_keys_by_reload);
    RUN(test_readers_on_threads);
    unlink(path);
    return TEST_END();
}
