/* prefix_sync against an http_server in this process that says what the test wants it to say. */
#include "proxy/prefix_sync.h"

#include "shared/base/hash.h"
#include "shared/base/rng.h"
#include "tests/unit/net/server_test.h"

static struct http_client *client;
static struct prefix_table *table;
static struct prefix_sync prefixes;
static char url[64];
static bool client_closed;

/* What the next pull is answered, and what the last one said. */
static int answer_status;
static const char *answer;
static bool answer_later;
static uint64_t asked_since;
static bool showed_key;

static void on_pull(struct http_exchange *x, void *arg)
{
    (void)arg;
    const struct http_request *r = http_exchange_request(x);
    requests++;
    EXPECT(str_equal(r->path, STR("/deep/lm/prefixes")));
    int64_t since;
    struct str text = http_query_get(http_exchange_arena(x), r->query, "since");
    NEED(str_to_int(text, &since) == 0);
    asked_since = (uint64_t)since;
    showed_key = str_equal(http_headers_get(&r->headers, "x-lm-join-key"), STR("secret"));
    if (answer_later) {
        held = x;
        http_exchange_watch(x, on_held_gone, NULL, NULL);
        return;
    }
    http_respond(x, answer_status, "text/plain", str_of(answer));
}

static void begin(void)
{
    start_server((struct http_server_options){.on_request = on_pull});
    client = http_client_create(&loop, &(struct http_client_options){0});
    table = prefix_table_create_keyed(1 << 12, 1); // no bucket overflows, whatever is put
    prefix_sync_init(&prefixes, client, table, "secret");
    snprintf(url, sizeof url, "http://127.0.0.1:%d/deep", http_server_port(server));
    answer_status = 200;
    answer_later = false;
}

static void on_client_closed(void *arg)
{
    (void)arg;
    client_closed = true;
}

static void end(void)
{
    prefix_sync_deinit(&prefixes);
    client_closed = false;
    http_client_destroy(client, on_client_closed, NULL);
    EXPECT(SPIN_UNTIL(client_closed, 5000));
    prefix_table_check(table);
    prefix_table_destroy(table);
    stop_server();
}

static bool has(uint64_t hash, int column, double tokens)
{
    struct prefix_mark mark = {hash, 1000};
    struct prefix_match match;
    return prefix_table_match_column(table, &mark, 1, column, 0, &match) &&
           match.cached_tokens == tokens;
}

/* One tick at that time, and until its pull is over. */
static bool pull(uint64_t now_ms, const char *text)
{
    int before = requests;
    answer = text;
    prefix_sync_tick(&prefixes, now_ms);
    if (prefixes.running == 0) return false;
    EXPECT(SPIN_UNTIL(prefixes.running == 0, 5000));
    return requests > before;
}

static void test_full_and_delta(void)
{
    begin();
    EXPECT(!pull(0, ""));
    prefix_sync_note(&prefixes, url, "i1", 5, 40, 1000);
    EXPECT(pull(1000, "lm-prefixes 0 41 full\n+00000000000000aa 64\n+00000000000000bb 128\n"));
    EXPECT(asked_since == 0 && showed_key);
    EXPECT(has(0xaa, 5, 64) && has(0xbb, 5, 128) && !has(0xaa, 6, 64));
    prefix_sync_note(&prefixes, url, "i1", 5, 41, 1100); // which it said already
    EXPECT(!pull(2000, ""));
    prefix_sync_note(&prefixes, url, "i1", 5, 43, 2100);
    EXPECT(pull(2100, "lm-prefixes 41 43 delta\n-00000000000000aa\n+00000000000000cc 192\n"));
    EXPECT_INT(asked_since, 41);
    EXPECT(!has(0xaa, 5, 64) && has(0xbb, 5, 128) && has(0xcc, 5, 192));
    prefix_sync_note(&prefixes, url, "i1", 5, 90, 2200);
    EXPECT(!pull(2599, "")); // 500 ms from the start of the last one
    EXPECT(pull(2600, "lm-prefixes 0 90 full\n+00000000000000dd 64\n")); // it lost count
    EXPECT_INT(asked_since, 43);
    EXPECT(!has(0xbb, 5, 128) && !has(0xcc, 5, 192) && has(0xdd, 5, 64));
    prefix_sync_note(&prefixes, url, "i1", 5, 7, 3200); // backwards: it is asked all the same
    EXPECT(pull(3200, "lm-prefixes 0 7 full\n"));
    EXPECT(!has(0xdd, 5, 64));
    end();
}

static void test_incarnations_and_leaving(void)
{
    begin();
    prefix_sync_note(&prefixes, url, "i1", 5, 40, 0);
    prefix_sync_note(&prefixes, url, "j1", 6, 40, 0);
    answer = "lm-prefixes 0 40 full\n+00000000000000aa 64\n";
    EXPECT(pull(0, answer));
    EXPECT(has(0xaa, 5, 64) && has(0xaa, 6, 64));
    EXPECT_INT(requests, 2);
    prefix_sync_note(&prefixes, url, "i2", 5, 40, 100); // the same number, another process
    EXPECT(!has(0xaa, 5, 64) && has(0xaa, 6, 64));
    EXPECT(pull(100, "lm-prefixes 0 40 full\n+00000000000000bb 64\n"));
    EXPECT_INT(asked_since, 0);
    EXPECT(has(0xbb, 5, 64));
    prefix_sync_note(&prefixes, url, "i2", 5, 0, 200); // speaks of none any more
    EXPECT(!has(0xbb, 5, 64));
    EXPECT(!pull(5000, ""));
    prefix_sync_forget(&prefixes, 6);
    EXPECT(!has(0xaa, 6, 64));
    prefix_sync_forget(&prefixes, 6);
    end();
}

/* What an agent may send that is none of it: nothing of it stays, and it is asked for everything,
 * later each time. */
static void test_garbage(void)
{
    static const char *const rows[] = {
        "",
        "\n",
        "lm-prefixes 0 40 full",
        "lm-prefixes 0 40\n",
        "lm-prefixes 0 0 full\n",
        "lm-prefixes -1 40 full\n",
        "lm-prefixes 0 40 half\n",
        "lm-prefixes 7 40 delta\n",
        "lm-prefixes 0 99999999999999999999 full\n",
        "prefixes 0 40 full\n",
        "<html>\n",
        "lm-prefixes 0 40 full\n+00000000000000aa\n",
        "lm-prefixes 0 40 full\n+00000000000000aa 0\n",
        "lm-prefixes 0 40 full\n+00000000000000aa -1\n",
        "lm-prefixes 0 40 full\n+00000000000000aa 4294967296\n",
        "lm-prefixes 0 40 full\n+00000000000000aa 64 x\n",
        "lm-prefixes 0 40 full\n+00000000000000aa 64",
        "lm-prefixes 0 40 full\n+0000000000000000 64\n",
        "lm-prefixes 0 40 full\n+aa 64\n",
        "lm-prefixes 0 40 full\n-00000000000000aa\n",
        "lm-prefixes 0 40 full\n*00000000000000aa 64\n",
        "lm-prefixes 0 40 full\n\n",
        "lm-prefixes 0 40 full\n+00000000000000aa "
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000064"
        "\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        begin();
        prefix_sync_note(&prefixes, url, "i1", 5, 40, 0);
        EXPECT(pull(0, rows[i]));
        EXPECT(!pull(499, rows[i]));
        EXPECT(pull(500, rows[i]));
        EXPECT(!pull(1400, rows[i]));
        EXPECT(pull(1500, "lm-prefixes 0 40 full\n+00000000000000bb 64\n"));
        EXPECT_INT(asked_since, 0);
        EXPECT(has(0xbb, 5, 64) && !has(0xaa, 5, 64));
        prefix_sync_note(&prefixes, url, "i1", 5, 41, 2000);
        EXPECT(pull(2000, "lm-prefixes 40 41 delta\n?\n")); // in a delta, too
        EXPECT(pull(2500, "lm-prefixes 0 41 full\n"));
        EXPECT_INT(asked_since, 0);
        EXPECT(!has(0xbb, 5, 64));
        end();
    }
}

static void test_errors_and_silence(void)
{
    begin();
    prefix_sync_note(&prefixes, url, "i1", 5, 40, 0);
    EXPECT(pull(0, "lm-prefixes 0 40 full\n+00000000000000aa 64\n"));
    prefix_sync_note(&prefixes, url, "i1", 5, 41, 500);
    answer_status = 404;
    uint64_t now = 500, step = 500;
    for (int i = 0; i < 10; i++) {
        EXPECT(pull(now, "lm-prefixes 40 41 delta\n-00000000000000aa\n"));
        EXPECT(!pull(now + step - 1, ""));
        now += step;
        step = step < 15000 ? step * 2 : 30000;
    }
    EXPECT(has(0xaa, 5, 64)); // an error's text is no list
    answer_status = 200;
    EXPECT(pull(now, "lm-prefixes 40 41 delta\n-00000000000000aa\n"));
    EXPECT_INT(asked_since, 40);
    EXPECT(!has(0xaa, 5, 64));

    /* It answers, but never to the end. */
    prefix_sync_note(&prefixes, url, "i1", 5, 42, now + 500);
    answer_later = true;
    prefix_sync_tick(&prefixes, now + 500);
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", true);
    http_respond_write(held, "lm-prefixes 41 42 delta\n+00000000000000", 39);
    spin_for(20);
    EXPECT_INT(prefixes.running, 1);
    prefix_sync_tick(&prefixes, now + 10499);
    EXPECT_INT(prefixes.running, 1);
    prefix_sync_tick(&prefixes, now + 10500);
    EXPECT_INT(prefixes.running, 0);
    EXPECT(SPIN_UNTIL(held == NULL, 5000)); // the connection was closed
    answer_later = false;
    EXPECT(pull(now + 11000, "lm-prefixes 41 42 delta\n+00000000000000cc 64\n"));
    EXPECT_INT(asked_since, 41);
    EXPECT(has(0xcc, 5, 64));

    /* Nobody is there. */
    prefix_sync_note(&prefixes, "http://127.0.0.1:1", "i1", 7, 1, now + 12000);
    EXPECT(!pull(now + 12000, ""));
    EXPECT_INT(prefixes.running, 0);
    end();
}

/* Lines end anywhere in what is read; what is left of a column goes with a pull in flight. */
static void test_pieces(void)
{
    begin();
    struct rng rng;
    rng_init(&rng, 9);
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "lm-prefixes 0 40 full\n");
    for (uint64_t i = 1; i <= 300; i++)
        buf_printf(&text, "+%016llx %d\n", (unsigned long long)hash_mix(i), (int)i * 64);
    prefix_sync_note(&prefixes, url, "i1", 5, 40, 0);
    answer_later = true;
    prefix_sync_tick(&prefixes, 0);
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    http_respond_begin(held, 200, "text/plain", true);
    for (size_t at = 0; at < text.len;) {
        size_t n = 1 + rng_below(&rng, 40);
        if (n > text.len - at) n = text.len - at;
        http_respond_write(held, text.data + at, n);
        at += n;
        spin_once();
    }
    http_respond_end(held, "", 0);
    EXPECT(SPIN_UNTIL(prefixes.running == 0, 5000));
    for (uint64_t i = 1; i <= 300; i++)
        EXPECT(has(hash_mix(i), 5, (double)i * 64));
    buf_deinit(&text);

    held = NULL;
    gone = 0;
    prefix_sync_note(&prefixes, url, "i1", 5, 41, 600);
    prefix_sync_tick(&prefixes, 600);
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    prefix_sync_forget(&prefixes, 5);
    EXPECT_INT(prefixes.running, 0);
    EXPECT(SPIN_UNTIL(gone == 1, 5000));
    prefix_sync_note(&prefixes, url, "i1", 5, 41, 700); // deinit with a pull in flight
    prefix_sync_tick(&prefixes, 700);
    EXPECT(SPIN_UNTIL(held != NULL, 5000));
    end();
}

static void test_lines_are_bounded(void)
{
    begin();
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "lm-prefixes 0 40 full\n");
    for (int i = 0; i < (2 << 16) + 1; i++)
        buf_printf(&text, "+%016x 64\n", 1 + i % 500);
    prefix_sync_note(&prefixes, url, "i1", 5, 40, 0);
    EXPECT(pull(0, text.data));
    prefix_sync_tick(&prefixes, 499);
    EXPECT_INT(prefixes.running, 0);
    EXPECT(pull(500, "lm-prefixes 0 40 full\n"));
    EXPECT_INT(asked_since, 0);
    buf_deinit(&text);
    end();
}

int main(void)
{
    RUN(test_full_and_delta);
    RUN(test_incarnations_and_leaving);
    RUN(test_garbage);
    RUN(test_errors_and_silence);
    RUN(test_pieces);
    RUN(test_lines_are_bounded);
    return TEST_END();
}
