#include "shared/net/api_keys.h"

#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/base/log.h"
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

static const struct option_list no_keys;

static struct api_keys *load(const char *text)
{
    struct api_key_source source = {&no_keys, path};
    struct api_keys *k = NULL;
    struct error err = {0};
    write_file(text);
    if (api_keys_load(&source, &k, &err) < 0) printf("%s\n", err.text);
    NEED(k);
    return k;
}

static void expect_refused(const char *text, int code, const char *why)
{
    struct api_key_source source = {&no_keys, path};
    struct api_keys *k = NULL;
    struct error err = {0};
    write_file(text);
    EXPECT_INT(api_keys_load(&source, &k, &err), code);
    EXPECT(!k);
    if (!strstr(err.text, why) || !strstr(err.text, path))
        printf("\"%s\" lacks \"%s\"\n", err.text, why);
    EXPECT(strstr(err.text, why) && strstr(err.text, path));
}

static void test_options(void)
{
    char k1[] = "k1", k2[] = "k2", *items[] = {k1, k2, k1};
    struct option_list given = {items, 3};
    struct api_key_source source = {&given, NULL};
    struct api_keys *k;
    struct error err;
    NEED(api_keys_load(&source, &k, &err) == 0);
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

    source.keys = &no_keys;
    NEED(api_keys_load(&source, &k, &err) == 0);
    EXPECT_INT(k->count, 0);
    EXPECT(!api_keys_find(k, STR("k1")));
    api_keys_unref(k);

    k1[0] = 0;
    source.keys = &given;
    EXPECT_INT(api_keys_load(&source, &k, &err), E_INVALID);
    EXPECT(strstr(err.text, "--api-keys: a key is empty"));
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

/* One key a line, as llama.cpp's servers read them. */
static void test_plain_lines(void)
{
    struct api_keys *k =
        load("# ours\n\nsk-a\r\n  sk#b{}  \nsha256:"
             "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"); // abc
    EXPECT_INT(k->count, 3);
    EXPECT(api_keys_find(k, STR("sk-a")) && api_keys_find(k, STR("sk#b{}")));
    const struct api_key *key = api_keys_find(k, STR("abc"));
    NEED(key);
    EXPECT_STR(key->id, "key-ba7816bf8f01cfea");
    EXPECT_INT(key->max_class, ADMISSION_INTERACTIVE);
    EXPECT(!api_keys_find(k, STR("# ours")) && !api_keys_find(k, STR("sha256:")));
    api_keys_unref(k);
    expect_refused("sk-a\nsk-b team-b", E_INVALID, "line 2: a key has at most 1024 printable");
    expect_refused("# no key\nsk-\xc3\xa9", E_INVALID, "line 2");
    expect_refused("sha256:00", E_INVALID, "line 1: 'sha256:' wants 64 hex digits");
    expect_refused("sk-a\nsk-b\nsk-a", E_INVALID, "are the same");
    expect_refused("sk-a\n{\"id\": \"a\"}", E_INVALID, "line 2");
    expect_refused("# only this\n", E_INVALID, "holds no keys");
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
    struct api_key_source source = {&no_keys, missing};
    struct api_keys *k = NULL;
    struct error err = {0};
    EXPECT(api_keys_load(&source, &k, &err) < 0);
    EXPECT(strstr(err.text, "/nonexistent/keys"));

    char one[] = "1", *items[] = {one}; // the same key twice, with limits and without
    struct option_list given = {items, 1};
    source = (struct api_key_source){&given, path};
    write_file("{\"id\":\"a\",\"key\":\"1\",\"rpm\":1}");
    EXPECT_INT(api_keys_load(&source, &k, &err), E_INVALID);
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

/* Which words a refused request gets: where its key should have been, and never the key. */
static void test_refusals(void)
{
    static const struct {
        const char *header, *value, *query, *body, *says;
    } rows[] = {
        {NULL, NULL, "", "", "You didn't provide an API key."},
        {"Authorization", "Bearer sk-secret", "", "", "Incorrect API key provided."},
        {"X-Api-Key", "sk-secret", "api_key=sk-secret", "", "Incorrect API key provided."},
        {"Authorization", "Basic c2stc2VjcmV0", "", "", "Basic authorization isn't read here."},
        {"Authorization", "sk-secret", "", "", "has no 'Bearer ' before a key."},
        {"Authorization", "Bearer", "", "", "has no 'Bearer ' before a key."},
        {"api-key", "sk-secret", "", "", "The header 'api-key' isn't read here."},
        {NULL, NULL, "a=1&api_key=sk-secret", "", "A key in the URL isn't read"},
        {NULL, NULL, "API-KEY=sk-secret", "", "A key in the URL isn't read"},
        {NULL, NULL, "monkey=1&keys=2&key", "", "You didn't provide an API key."},
        {NULL, NULL, "", "{\"api_key\":\"sk-secret\"}", "A key in the body isn't read."},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct http_header header = {str_of(rows[i].header), str_of(rows[i].value)};
        struct http_request request = {.headers = {&header, rows[i].header ? 1 : 0},
                                       .query = str_of(rows[i].query),
                                       .body = str_of(rows[i].body)};
        struct api_error error;
        EXPECT_INT(api_key_error(&request, &error), -1);
        EXPECT_INT(error.status, 401);
        EXPECT_STR(error.code, "invalid_api_key");
        EXPECT(strstr(error.message, rows[i].says));
        EXPECT(strstr(error.message, "'Authorization: Bearer KEY'"));
        EXPECT(strstr(error.message, "Please request with valid api key!"));
        EXPECT(!strstr(error.message, "secret") && !strstr(error.message, "c2st"));
    }
}

int main(void)
{
    log_init("test", LOG_ERROR);
    int fd = mkstemp(path);
    NEED(fd >= 0);
    close(fd);
    RUN(test_options);
    RUN(test_file);
    RUN(test_plain_lines);
    RUN(test_bad_files);
    RUN(test_many_keys);
    RUN(test_classes);
    RUN(test_redis_rows);
    RUN(test_refusals);
    unlink(path);
    return TEST_END();
}
