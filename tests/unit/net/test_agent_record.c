#include "shared/net/agent_record.h"

#include "tests/unit/net/redis_test.h"

static struct agent_record sample(void)
{
    struct agent_record r = {
        .id = "node-1:23333",
        .incarnation = "abcDEF123",
        .start_ms = 1700000000123,
        .url = "http://10.0.0.5:23333",
        .models = {"smol", "org/other-7b"},
        .model_count = 2,
        .context_len = 8192,
        .capacity = 16,
        .queue_max = 64,
        .draining = true,
        .load = {.running = 3,
                 .waiting = 2,
                 .prefill_tokens_waiting = 12345678901,
                 .kv_used_share = 0.25,
                 .prefill_tokens_per_s = 1234.5,
                 .inter_token_s = 0.0125,
                 .inter_token_slope_s = 0.0005,
                 .prefix_version = 3,
                 .sequence = 77},
    };
    const uint64_t gaps[] = {7, 12};
    agent_load_add_seen(
        &r.load, &(struct agent_seen){.proxy = 0x12ab, .high = 13, .active = 2, .gap_count = 2},
        gaps);
    agent_load_add_seen(&r.load, &(struct agent_seen){.proxy = UINT64_MAX, .high = 1}, NULL);
    return r;
}

static char *print(const struct agent_record *r)
{
    struct buf out;
    struct json_writer w;
    buf_init(&out, BUF_MAX_INTERNAL);
    json_writer_init(&w, &out);
    agent_record_print(&w, r);
    return buf_detach(&out, NULL);
}

static int parse(const char *text, struct agent_record *out, struct error *err)
{
    *err = (struct error){0};
    struct json *root = json_parse(text, strlen(text), err);
    NEED(root != NULL);
    int rc = agent_record_parse(root, out, err);
    json_destroy(root);
    return rc;
}

static void test_round_trip(void)
{
    struct agent_record r = sample(), back;
    struct error err;
    char *text = print(&r);
    EXPECT_INT(parse(text, &back, &err), 0);
    EXPECT_STR(back.id, r.id);
    EXPECT_STR(back.incarnation, r.incarnation);
    EXPECT_INT(back.start_ms, r.start_ms);
    EXPECT_STR(back.url, r.url);
    EXPECT_INT(back.model_count, 2);
    EXPECT_STR(back.models[1], "org/other-7b");
    EXPECT_INT(back.context_len, 8192);
    EXPECT_INT(back.capacity, 16);
    EXPECT_INT(back.queue_max, 64);
    EXPECT(back.draining);
    EXPECT_INT(back.load.running, 3);
    EXPECT_INT(back.load.waiting, 2);
    EXPECT_INT(back.load.prefill_tokens_waiting, 12345678901);
    EXPECT(back.load.kv_used_share == 0.25);
    EXPECT(back.load.prefill_tokens_per_s == 1234.5);
    EXPECT(back.load.inter_token_s == 0.0125);
    EXPECT_INT(back.load.sequence, 77);
    EXPECT(back.load.inter_token_slope_s == 0.0005);
    EXPECT_INT(back.load.prefix_version, 3);
    const struct agent_seen *seen = agent_load_seen(&back.load, 0x12ab);
    NEED(seen != NULL);
    EXPECT_INT(seen->high, 13);
    EXPECT_INT(seen->active, 2);
    EXPECT(agent_load_has_accepted(&back.load, seen, 1));
    EXPECT(!agent_load_has_accepted(&back.load, seen, 7));
    EXPECT(agent_load_has_accepted(&back.load, seen, 11));
    EXPECT(!agent_load_has_accepted(&back.load, seen, 12));
    EXPECT(agent_load_has_accepted(&back.load, seen, 13));
    EXPECT(!agent_load_has_accepted(&back.load, seen, 14));
    NEED(agent_load_seen(&back.load, UINT64_MAX) != NULL);
    EXPECT_INT(agent_load_seen(&back.load, UINT64_MAX)->gap_count, 0);
    EXPECT(agent_load_seen(&back.load, 5) == NULL);
    EXPECT(strstr(text, "\"proxies\":{\"00000000000012ab\":{\"high\":13,\"gaps\":[7,12],"
                        "\"active\":2},\"ffffffffffffffff\":{") != NULL);
    char *again = print(&back);
    EXPECT_STR(again, text);
    free(again);
    free(text);
}

static void test_node_body(void)
{
    struct agent_record r = sample(), back;
    struct error err = {0};
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    agent_record_print_node(&out, &r);
    struct json *root = json_parse(out.data, out.len, &err);
    NEED(root != NULL);
    EXPECT_STR(json_string(json_get(root, "url"), NULL), "http://10.0.0.5:23333");
    const struct json *models = json_get(json_get(root, "status"), "models");
    EXPECT_INT(json_len(models), 2);
    EXPECT_STR(json_string(json_first(models), NULL), "smol");
    EXPECT_INT(agent_record_parse(json_get(root, "lm"), &back, &err), 0);
    EXPECT_STR(back.id, r.id);
    EXPECT_INT(back.load.running, 3);
    json_destroy(root);
    buf_deinit(&out);
}

/* What a newer or older version may send. */
static void test_tolerance(void)
{
    struct agent_record r;
    struct error err;
    EXPECT_INT(
        parse("{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1,\"url\":\"http://h\"}", &r, &err),
        0);
    EXPECT_INT(r.model_count, 0);
    EXPECT(!r.draining);
    EXPECT_INT(parse("{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1,\"url\":\"http://"
                     "h\",\"future\":[{}],"
                     "\"capacity\":null,\"load\":{\"new\":1,\"running\":null}}",
                     &r, &err),
               0);
}

#define BASE          "\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1,\"url\":\"http://h\""

#define SEEN(proxies) "{" BASE ",\"load\":{\"proxies\":" proxies "}}"

/* tidy: long because it is a table */
static void test_refusals(void)
{
    static const struct {
        const char *text, *names;
        int code;
    } cases[] = {
        {"[]", "object", E_FORMAT},
        {"{}", "'id'", E_FORMAT},
        {"{\"id\":1}", "'id'", E_FORMAT},
        {"{\"id\":\"\"}", "'id'", E_INVALID},
        {"{\"id\":\"a b\"}", "'id'", E_INVALID},
        {"{\"id\":\"a/b\"}", "'id'", E_INVALID},
        {"{\"id\":\"a\\nb\"}", "'id'", E_INVALID},
        {"{\"id\":\"0123456789012345678901234567890123456789012345678901234567890123\"}", "'id'",
         E_INVALID},
        {"{\"id\":\"a\"}", "'incarnation'", E_FORMAT},
        {"{\"id\":\"a\",\"incarnation\":\"0123456789012345678901234567890123\"}", "'incarnation'",
         E_INVALID},
        {"{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":\"1\"}", "'start_ms'", E_FORMAT},
        {"{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1}", "'url'", E_FORMAT},
        {"{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1,\"url\":\"ftp://x\"}", "'url'",
         E_INVALID},
        {"{\"id\":\"a\",\"incarnation\":\"b\",\"start_ms\":1,\"url\":\"http://a b\"}", "'url'",
         E_INVALID},
        {"{" BASE ",\"models\":{}}", "'models'", E_FORMAT},
        {"{" BASE ",\"models\":[1]}", "'models[]'", E_FORMAT},
        {"{" BASE ",\"models\":[\"\"]}", "'models[]'", E_INVALID},
        {"{" BASE ",\"capacity\":-1}", "'capacity'", E_INVALID},
        {"{" BASE ",\"capacity\":1.5}", "'capacity'", E_FORMAT},
        {"{" BASE ",\"capacity\":4000000000}", "'capacity'", E_INVALID},
        {"{" BASE ",\"queue_max\":[]}", "'queue_max'", E_FORMAT},
        {"{" BASE ",\"context_len\":true}", "'context_len'", E_FORMAT},
        {"{" BASE ",\"draining\":0}", "'draining'", E_FORMAT},
        {"{" BASE ",\"load\":1}", "'load'", E_FORMAT},
        {"{" BASE ",\"load\":{\"kv_used_share\":1.5}}", "'kv_used_share'", E_INVALID},
        {"{" BASE ",\"load\":{\"kv_used_share\":-0.1}}", "'kv_used_share'", E_INVALID},
        {"{" BASE ",\"load\":{\"running\":-5}}", "'running'", E_INVALID},
        {"{" BASE ",\"load\":{\"waiting\":2147483647}}", "'waiting'", E_INVALID},
        {"{" BASE ",\"load\":{\"inter_token_s\":\"x\"}}", "'inter_token_s'", E_FORMAT},
        {"{" BASE ",\"load\":{\"sequence\":1e300}}", "'sequence'", E_FORMAT},
        {"{" BASE ",\"load\":{\"prefix_version\":-1}}", "'prefix_version'", E_INVALID},
        {"{" BASE ",\"load\":{\"inter_token_slope_s\":-1}}", "'inter_token_slope_s'", E_INVALID},
        {SEEN("[]"), "'proxies'", E_FORMAT},
        {SEEN("{\"12ab\":{}}"), "'proxies'", E_INVALID},
        {SEEN("{\"00000000000012xy\":{}}"), "'proxies'", E_INVALID},
        {SEEN("{\"0000000000000000\":{}}"), "'proxies'", E_INVALID},
        {SEEN("{\"00000000000012ab\":[]}"), "'proxies'", E_FORMAT},
        {SEEN("{\"00000000000012ab\":{},\"00000000000012AB\":{}}"), "twice", E_INVALID},
        {SEEN("{\"00000000000012ab\":{\"high\":-1}}"), "'high'", E_INVALID},
        {SEEN("{\"00000000000012ab\":{\"high\":1e300}}"), "'high'", E_FORMAT},
        {SEEN("{\"00000000000012ab\":{\"active\":1.5}}"), "'active'", E_FORMAT},
        {SEEN("{\"00000000000012ab\":{\"gaps\":1}}"), "'gaps'", E_FORMAT},
        {SEEN("{\"00000000000012ab\":{\"high\":3,\"gaps\":[0]}}"), "'gaps[]'", E_INVALID},
        {SEEN("{\"00000000000012ab\":{\"high\":3,\"gaps\":[3]}}"), "'gaps[]'", E_INVALID},
        {SEEN("{\"00000000000012ab\":{\"high\":3,\"gaps\":[\"1\"]}}"), "'gaps[]'", E_FORMAT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct agent_record r;
        struct error err;
        EXPECT_INT(parse(cases[i].text, &r, &err), cases[i].code);
        EXPECT(strstr(err.text, cases[i].names) != NULL);
        if (!strstr(err.text, cases[i].names)) printf("%s: %s\n", cases[i].text, err.text);
    }
    struct buf many; // one model too many
    buf_init(&many, BUF_MAX_INTERNAL);
    buf_printf(&many, "{" BASE ",\"models\":[\"m\"");
    for (int i = 0; i < AGENT_MODELS_MAX; i++)
        buf_append_str(&many, ",\"m\"");
    buf_append_str(&many, "]}");
    struct agent_record r;
    struct error err;
    EXPECT_INT(parse(many.data, &r, &err), E_INVALID);
    buf_deinit(&many);
}

static void parse_seen(int proxies, int gaps, int code, struct agent_record *r)
{
    struct buf text;
    struct error err;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "{" BASE ",\"load\":{\"proxies\":{");
    for (int i = 1; i <= proxies; i++) {
        buf_printf(&text, "%s\"%016x\":{\"high\":100,\"gaps\":[", i > 1 ? "," : "", (unsigned)i);
        for (int g = 1; g <= gaps; g++)
            buf_printf(&text, "%s%d", g > 1 ? "," : "", g);
        buf_append_str(&text, "]}");
    }
    buf_append_str(&text, "}}}");
    EXPECT_INT(parse(text.data, r, &err), code);
    buf_deinit(&text);
}

/* As many proxies as fit, their gaps as far as all of them have room. */
static void test_seen_bounds(void)
{
    struct agent_record r;
    parse_seen(AGENT_SEEN_MAX + 1, 0, E_INVALID, &r);
    parse_seen(1, AGENT_SEEN_GAPS + 1, E_INVALID, &r);
    parse_seen(AGENT_SEEN_MAX, AGENT_SEEN_GAPS, 0, &r);
    EXPECT_INT(r.load.seen_count, AGENT_SEEN_MAX);
    EXPECT_INT(r.load.gap_count, AGENT_GAPS_MAX);
    const struct agent_seen *first = agent_load_seen(&r.load, 1);
    const struct agent_seen *last = agent_load_seen(&r.load, AGENT_SEEN_MAX);
    NEED(first && last);
    EXPECT_INT(first->gap_count, AGENT_SEEN_GAPS);
    EXPECT(!agent_load_has_accepted(&r.load, first, 5));
    EXPECT_INT(last->gap_count, 0);
    EXPECT(agent_load_has_accepted(&r.load, last, 5));
}

/* ---- the scripts, in a real server ---- */

static struct redis_script beat_script = {.source = agent_record_beat_lua};
static struct redis_script load_script = {.source = agent_record_load_lua};
static struct redis_script leave_script = {.source = agent_record_leave_lua};
static struct redis_script list_script = {.source = agent_record_list_lua};

static struct answer run_script(struct redis_script *script, int keys, int argc,
                                const struct str *argv)
{
    struct answer a = {0};
    redis_client_eval(redis, 2000, script, keys, argc, argv, on_answer, &a);
    EXPECT(SPIN_UNTIL(a.calls == 1, 3000));
    EXPECT_INT(a.status, 0);
    if (a.type == REDIS_FAIL) printf("%s\n", a.text);
    EXPECT(a.type != REDIS_FAIL);
    return a;
}

static void expect_beat(const struct agent_record *r, int lease_ms, const char *want)
{
    struct arena arena;
    struct str argv[AGENT_BEAT_ARGC];
    arena_init(&arena);
    agent_record_beat_args(&arena, r, lease_ms, argv);
    struct answer a = run_script(&beat_script, AGENT_BEAT_KEYS, AGENT_BEAT_ARGC, argv);
    EXPECT_STR(a.text, want);
    arena_deinit(&arena);
}

static void expect_load(const struct agent_record *r, const char *want)
{
    struct arena arena;
    struct str argv[AGENT_LOAD_ARGC];
    arena_init(&arena);
    agent_record_load_args(&arena, r, AGENT_LEASE_MS, argv);
    struct answer a = run_script(&load_script, AGENT_LOAD_KEYS, AGENT_LOAD_ARGC, argv);
    EXPECT_STR(a.text, want);
    arena_deinit(&arena);
}

static void expect_leave(const struct agent_record *r, const char *want)
{
    struct arena arena;
    struct str argv[AGENT_LEAVE_ARGC];
    arena_init(&arena);
    agent_record_leave_args(&arena, r, argv);
    struct answer a = run_script(&leave_script, AGENT_LEAVE_KEYS, AGENT_LEAVE_ARGC, argv);
    EXPECT_STR(a.text, want);
    arena_deinit(&arena);
}

static struct answer list(void)
{
    struct str argv[AGENT_LIST_ARGC];
    agent_record_list_args(argv);
    return run_script(&list_script, AGENT_LIST_KEYS, AGENT_LIST_ARGC, argv);
}

static char events[256];

static void on_hint(void *arg, struct str message)
{
    (void)arg;
    size_t len = strlen(events);
    snprintf(events + len, sizeof events - len, "[%.*s]", (int)message.len, message.data);
}

static void begin_scripts(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    events[0] = 0;
    redis_client_subscribe(redis, AGENT_EVENTS_CHANNEL, on_hint, NULL);
    spin_for(200);
}

static void end_scripts(void)
{
    close_redis();
    kill_redis();
}

static void test_beats_and_loads(void)
{
    struct agent_record r = sample();
    begin_scripts();
    expect_load(&r, "unknown");
    expect_beat(&r, 3500, "new");
    expect_beat(&r, 3500, "ok");
    struct answer a = list();
    EXPECT_INT(a.count, 5);
    EXPECT_STR(a.items[1], r.id);
    EXPECT(atoll(a.items[2]) - atoll(a.items[0]) > 3000); // expiry by Redis' clock
    EXPECT(strstr(a.items[3], "\"incarnation\":\"abcDEF123\"") != NULL);
    EXPECT(strstr(a.items[4], "\"sequence\":77") != NULL);

    r.load.sequence = 78; // newer loads stand, older ones don't
    expect_load(&r, "ok");
    EXPECT(strstr(list().items[4], "\"sequence\":78") != NULL);
    r.load.sequence = 60;
    expect_load(&r, "ok");
    expect_beat(&r, 3500, "ok");
    EXPECT(strstr(list().items[4], "\"sequence\":78") != NULL);
    end_scripts();
}

static struct agent_record incarnation(const char *name, int64_t started_later_ms)
{
    struct agent_record r = sample();
    snprintf(r.incarnation, sizeof r.incarnation, "%s", name);
    r.start_ms += started_later_ms;
    return r;
}

static void test_fence(void)
{
    struct agent_record r = sample(), older = incarnation("older", -1);
    struct agent_record twin = incarnation("twin", 0), younger = incarnation("younger", 1);
    snprintf(younger.url, sizeof younger.url, "http://10.0.0.6:23333");
    begin_scripts();
    expect_beat(&r, 3500, "new");
    expect_beat(&older, 3500, "older");
    expect_beat(&twin, 3500, "duplicate");
    expect_beat(&younger, 3500, "duplicate"); // the holder lives
    expect_load(&younger, "unknown");
    expect_leave(&younger, "other");
    EXPECT_INT(list().count, 5);
    expect_leave(&r, "ok");
    expect_leave(&r, "other");
    EXPECT_INT(list().count, 1);
    expect_beat(&younger, 300, "new"); // a short lease
    EXPECT_INT(list().count, 5);
    expect_beat(&r, 3500, "older"); // woken from a long stop
    spin_for(400);
    EXPECT_INT(list().count, 1);          // expired by itself
    expect_beat(&older, 3500, "new");     // nobody holds it any more
    struct agent_record other = sample(); // pruning is a side effect of any beat
    snprintf(other.id, sizeof other.id, "node-2:1");
    expect_beat(&other, 3500, "new");
    EXPECT_INT(list().count, 9);
    EXPECT(SPIN_UNTIL(strstr(events, "[up node-2:1]") != NULL, 5000));
    EXPECT_STR(
        events,
        "[up node-1:23333][down node-1:23333][up node-1:23333][up node-1:23333][up node-2:1]");
    end_scripts();
}

static void test_takeover(void)
{
    struct agent_record r = sample(), restarted = incarnation("restarted", 1);
    begin_scripts();
    expect_beat(&r, 3500, "new");
    EXPECT(SPIN_UNTIL(events[0] != 0, 5000));
    events[0] = 0; // the process that held the id has lost its port to another one
    r.load.sequence = 90;
    restarted.load.sequence = 1;
    expect_beat(&restarted, 3500, "new");
    expect_load(&restarted, "ok");
    expect_beat(&r, 3500, "older");
    EXPECT(SPIN_UNTIL(events[0] != 0, 5000));
    EXPECT_STR(events, "[up node-1:23333]");

    struct answer broken; // what somebody else wrote there is replaced
    ask(&broken, "SET lm:agent:node-1:23333 garbage");
    expect_load(&r, "unknown");
    expect_beat(&r, 3500, "ok");
    expect_load(&r, "ok");
    end_scripts();
}

int main(void)
{
    RUN(test_round_trip);
    RUN(test_node_body);
    RUN(test_tolerance);
    RUN(test_refusals);
    RUN(test_seen_bounds);
    need_redis_binary();
    RUN(test_beats_and_loads);
    RUN(test_fence);
    RUN(test_takeover);
    remove_redis_dir();
    return TEST_END();
}
