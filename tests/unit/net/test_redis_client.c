#include "shared/net/redis_client.h"

#include "tests/unit/net/redis_test.h"

static void test_commands(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    struct answer a;
    EXPECT(!redis_client_is_connected(redis));
    EXPECT_STR(redis_client_local_address(redis), "");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    EXPECT(redis_client_is_connected(redis));
    EXPECT_STR(redis_client_local_address(redis), "127.0.0.1");
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d", redis_port);
    EXPECT_STR(redis_client_address(redis), address);

    ask(&a, "SET key value");
    EXPECT_INT(a.type, REDIS_STATUS);
    EXPECT_STR(a.text, "OK");
    ask(&a, "GET key");
    EXPECT_INT(a.type, REDIS_STRING);
    EXPECT_STR(a.text, "value");
    ask(&a, "GET nothing");
    EXPECT_INT(a.type, REDIS_NIL);
    ask(&a, "INCR n");
    EXPECT_INT(a.type, REDIS_INT);
    EXPECT_INT(a.integer, 1);
    ask(&a, "MGET key nothing n");
    EXPECT_INT(a.type, REDIS_ARRAY);
    EXPECT_INT(a.count, 3);
    EXPECT_STR(a.items[0], "value");
    EXPECT_STR(a.items[1], "");
    EXPECT_STR(a.items[2], "1");
    ask(&a, "NOSUCHCOMMAND");
    EXPECT_INT(a.status, 0);
    EXPECT_INT(a.type, REDIS_FAIL);
    EXPECT(strncmp(a.text, "ERR unknown command", 19) == 0);

    struct str binary[] = {STR("ECHO"), {"a\r\n\0b", 5}};
    a = (struct answer){0};
    redis_client_command(redis, 1000, on_answer, &a, 2, binary);
    EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
    EXPECT(memcmp(a.text, "a\r\n", 3) == 0);
    close_redis();
    kill_redis();
}

static void test_nested_arrays_and_large_replies(void)
{
    start_redis("");
    open_redis("redis://localhost:%d/2"); // by name, another database
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct answer a = {0};
    struct str nested[] = {STR("EVAL"), STR("return {1, {2, {'x', {}}}, 'last'}"), STR("0")};
    redis_client_command(redis, 1000, on_answer, &a, 3, nested);
    EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
    EXPECT_INT(a.count, 3);
    EXPECT_STR(a.items[2], "last");

    size_t len = 4 << 20;
    char *value = malloc(len);
    memset(value, 'v', len);
    struct str set[] = {STR("SET"), STR("large"), {value, len}};
    a = (struct answer){0};
    redis_client_command(redis, 5000, on_answer, &a, 3, set);
    EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
    ask(&a, "STRLEN large");
    EXPECT_INT(a.integer, (int64_t)len);
    command(&a, 5000, "GET large");
    EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
    EXPECT_INT(a.type, REDIS_STRING);
    free(value);

    static struct answer many[5000]; // pipelined, in order
    for (int i = 0; i < 5000; i++)
        command(&many[i], 5000, "INCR counter");
    EXPECT(SPIN_UNTIL(many[4999].calls == 1, 10000));
    for (int i = 0; i < 5000; i++) {
        if (many[i].calls != 1 || many[i].integer != i + 1) EXPECT_INT(many[i].integer, i + 1);
    }
    close_redis();
    kill_redis();
}

static void test_pending_is_bounded(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    kill(redis_pid, SIGSTOP);
    static struct answer many[10050];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        command(&many[i], 900,
                "PING"); // longer than queueing takes, shorter than the link's patience
    EXPECT(SPIN_UNTIL(many[10049].calls == 1, 800));
    EXPECT_INT(many[10049].status, E_BUSY);
    EXPECT_INT(many[9999].calls, 0);
    EXPECT(SPIN_UNTIL(many[9999].calls == 1, 5000));
    EXPECT_INT(many[9999].status, E_TIMEOUT);
    close_redis();
    kill_redis();
}

static void test_nobody_there(void)
{
    int fd = raw_listen(&redis_port);
    close(fd);
    open_redis("redis://127.0.0.1:%d");
    struct answer a;
    for (int i = 0; i < 3; i++) { // fails at once, whatever the deadline
        uint64_t before = clock_ms();
        command(&a, 60000, "PING");
        EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
        EXPECT_INT(a.status, E_CLOSED);
        EXPECT(clock_ms() - before < 1000);
        spin_for(100);
    }
    EXPECT_INT(ups, 0);
    start_redis(""); // and it is found when it comes
    EXPECT(SPIN_UNTIL(ups == 1, 6000));
    ask(&a, "PING");
    EXPECT_STR(a.text, "PONG");
    close_redis();
    kill_redis();
}

static void test_kill_and_restart(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct answer waiting, a;
    command(&waiting, 60000, "BLPOP nothing 0");
    spin_for(50);
    kill_redis();
    EXPECT(SPIN_UNTIL(waiting.calls == 1, 5000));
    EXPECT_INT(waiting.status, E_CLOSED);
    EXPECT_INT(downs, 1);
    EXPECT(!redis_client_is_connected(redis));
    spin_for(300);
    start_redis("");
    EXPECT(SPIN_UNTIL(ups == 2, 6000));
    ask(&a, "PING");
    EXPECT_STR(a.text, "PONG");
    EXPECT_INT(waiting.calls, 1);
    close_redis();
    kill_redis();
}

static void test_stopped_server(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct answer quick, slow;
    kill(redis_pid, SIGSTOP);
    uint64_t before = clock_ms();
    command(&slow, 60000, "PING");
    command(&quick, 50, "PING");
    EXPECT(SPIN_UNTIL(quick.calls == 1, 5000));
    EXPECT_INT(quick.status, E_TIMEOUT);
    EXPECT(clock_ms() - before < 900);
    EXPECT_INT(slow.calls, 0);
    EXPECT(SPIN_UNTIL(slow.calls == 1, 3000)); // a silent second: taken for dead
    EXPECT_INT(slow.status, E_CLOSED);
    EXPECT_INT(downs, 1);
    spin_for(2500); // the kernel accepts for it, but nobody greets
    EXPECT_INT(ups, 1);
    kill(redis_pid, SIGCONT);
    EXPECT(SPIN_UNTIL(ups == 2, 6000));
    ask(&quick, "PING");
    EXPECT_STR(quick.text, "PONG");
    close_redis();
    kill_redis();
}

/* A late reply belongs to the command that is gone, not to the next one. */
static void test_late_reply(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct answer late, next;
    kill(redis_pid, SIGSTOP);
    command(&late, 50, "ECHO late");
    EXPECT(SPIN_UNTIL(late.calls == 1, 1000));
    EXPECT_INT(late.status, E_TIMEOUT);
    command(&next, 3000, "ECHO next");
    spin_for(20);
    kill(redis_pid, SIGCONT);
    EXPECT(SPIN_UNTIL(next.calls == 1, 5000));
    EXPECT_STR(next.text, "next");
    EXPECT_INT(late.calls, 1);
    EXPECT_INT(downs, 0);
    close_redis();
    kill_redis();
}

static void test_passwords(void)
{
    start_redis("se:cret@");
    open_redis("redis://:se%%3Acret%%40@127.0.0.1:%d/3");
    struct answer a;
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    ask(&a, "PING");
    EXPECT_STR(a.text, "PONG");
    ask(&a, "ACL SETUSER lm on >pw ~* &* +@all");
    EXPECT_STR(a.text, "OK");
    close_redis();

    open_redis("redis://lm:pw@127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    ask(&a, "ACL WHOAMI");
    EXPECT_STR(a.text, "lm");
    close_redis();

    open_redis("redis://:wrong@127.0.0.1:%d");
    spin_for(500);
    EXPECT_INT(ups, 0);
    command(&a, 1000, "PING");
    EXPECT(SPIN_UNTIL(a.calls == 1, 1000));
    EXPECT_INT(a.status, E_CLOSED);
    close_redis();

    open_redis("redis://127.0.0.1:%d"); // none where one is needed
    spin_for(300);
    EXPECT_INT(ups, 0);
    close_redis();
    kill_redis();
}

static void eval(struct answer *a, struct redis_script *script)
{
    struct str argv[] = {STR("k"), STR("v")};
    *a = (struct answer){0};
    redis_client_eval(redis, 2000, script, 1, 2, argv, on_answer, a);
    EXPECT_INT(a->calls, 0);
    EXPECT(SPIN_UNTIL(a->calls == 1, 3000));
}

static int64_t stat_of(const char *name)
{
    struct answer a;
    struct str argv[] = {
        STR("EVAL"),
        STR("return tonumber(redis.call('INFO', 'commandstats'):match('cmdstat_' .. "
            "ARGV[1] .. ':calls=(%d+)') or 0)"),
        STR("0"), str_of(name)};
    a = (struct answer){0};
    redis_client_command(redis, 1000, on_answer, &a, 4, argv);
    EXPECT(SPIN_UNTIL(a.calls == 1, 5000));
    return a.integer;
}

static void test_scripts(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct redis_script script = {.source = "return KEYS[1] .. '=' .. ARGV[1]"};
    struct answer a;
    eval(&a, &script);
    EXPECT_STR(a.text, "k=v");
    EXPECT_INT(strlen(script.sha1), 40);
    EXPECT_INT(stat_of("evalsha"), 0);
    eval(&a, &script); // now by its hash
    EXPECT_STR(a.text, "k=v");
    EXPECT_INT(stat_of("evalsha"), 1);
    ask(&a, "SCRIPT FLUSH");
    eval(&a, &script); // NOSCRIPT inside, an answer outside
    EXPECT_STR(a.text, "k=v");
    eval(&a, &script);
    EXPECT_INT(stat_of("evalsha"), 3);

    kill_redis();
    EXPECT(SPIN_UNTIL(downs == 1, 5000));
    eval(&a, &script);
    EXPECT_INT(a.status, E_CLOSED);
    start_redis("");
    EXPECT(SPIN_UNTIL(ups == 2, 6000));
    eval(&a, &script); // the new server has never seen it
    EXPECT_STR(a.text, "k=v");

    struct redis_script broken = {.source = "this is not Lua"};
    eval(&a, &broken);
    EXPECT_INT(a.status, 0);
    EXPECT_INT(a.type, REDIS_FAIL);
    close_redis();
    kill_redis();
}

struct heard {
    int count;
    char last[64];
};

static void on_message(void *arg, struct str message)
{
    struct heard *h = arg;
    h->count++;
    snprintf(h->last, sizeof h->last, "%.*s", (int)message.len, message.data);
}

static int64_t publish(const char *words)
{
    struct answer a;
    ask(&a, words);
    return a.integer;
}

static void test_subscribe(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    struct heard one = {0}, two = {0};
    redis_client_subscribe(redis, "lm:one", on_message, &one); // before there is a connection
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    EXPECT(SPIN_UNTIL(publish("PUBLISH lm:one hello") == 1, 5000));
    EXPECT(SPIN_UNTIL(one.count >= 1, 5000));
    EXPECT_STR(one.last, "hello");
    redis_client_subscribe(redis, "lm:two", on_message, &two); // and after
    EXPECT(SPIN_UNTIL(publish("PUBLISH lm:two again") == 1, 5000));
    EXPECT(SPIN_UNTIL(two.count >= 1, 5000));
    EXPECT_STR(two.last, "again");
    int before = one.count;
    publish("PUBLISH lm:other x");
    spin_for(50);
    EXPECT_INT(one.count, before);

    kill_redis();
    EXPECT(SPIN_UNTIL(downs == 1, 5000));
    start_redis("");
    EXPECT(SPIN_UNTIL(ups == 2, 6000));
    EXPECT(SPIN_UNTIL(publish("PUBLISH lm:one back") == 1, 6000)); // subscribed again by itself
    EXPECT(SPIN_UNTIL(strcmp(one.last, "back") == 0, 5000));
    close_redis();
    kill_redis();
}

/* The client is destroyed with commands under way; and by a callback. */
static void on_answer_destroy(void *arg, int status, const struct redis_reply *reply)
{
    on_answer(arg, status, reply);
    redis_client_destroy(redis, on_redis_closed, NULL);
}

static void test_destroy(void)
{
    start_redis("");
    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    struct answer a, b;
    command(&a, 5000, "BLPOP x 0");
    command(&b, 5000, "PING");
    close_redis();
    EXPECT_INT(a.calls, 1);
    EXPECT_INT(a.status, E_CLOSED);
    EXPECT_INT(b.calls, 1);

    open_redis("redis://127.0.0.1:%d");
    EXPECT(SPIN_UNTIL(ups == 1, 5000));
    a = b = (struct answer){0};
    struct str ping[] = {STR("PING")};
    redis_client_command(redis, 1000, on_answer_destroy, &a, 1, ping);
    redis_client_command(redis, 1000, on_answer, &b, 1, ping);
    EXPECT(SPIN_UNTIL(redis_closed, 3000));
    EXPECT_INT(a.calls, 1);
    EXPECT_INT(b.calls, 1);
    EXPECT_INT(uv_loop_close(&loop), 0);

    open_redis("redis://localhost:%d"); // while it resolves or connects
    uv_run(&loop, UV_RUN_NOWAIT);
    close_redis();
    kill_redis();
}

/* A server that talks nonsense is dropped, not believed. */
static void test_nonsense(void)
{
    static const char *const lines[] = {"?\r\n",
                                        "*2000000\r\n",
                                        "$99999999999\r\n",
                                        "+OK\r\n+OK\r\n+OK\r\n",
                                        "HTTP/1.1 400 Bad Request\r\n\r\n",
                                        "*-5\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        int fd = raw_listen(&redis_port);
        open_redis("redis://127.0.0.1:%d");
        struct raw_client peer, again;
        NEED(SPIN_UNTIL(raw_accept(fd, &peer), 5000));
        EXPECT(SPIN_UNTIL(raw_has(&peer, "PING"), 5000));
        raw_puts(&peer, lines[i]);
        EXPECT(SPIN_UNTIL(raw_accept(fd, &again), 4000)); // dropped; it tries anew
        raw_close(&again);
        raw_close(&peer);
        close_redis();
        close(fd);
    }
    redis_port = 0;
}

static void check_url(const char *text, int want)
{
    struct error err = {0};
    struct redis_client *c = NULL;
    struct redis_client_options options = {.url = text};
    int rc = redis_client_create(&loop, &options, &c, &err);
    EXPECT_INT(rc, want);
    if (rc != want) printf("%s: %s\n", text, err.text);
    if (rc == 0) redis_client_destroy(c, NULL, NULL);
    EXPECT(strstr(err.text, "secret") == NULL); // whatever is wrong with it
}

static void test_urls(void)
{
    uv_loop_init(&loop);
    static const char *const good[] = {
        "redis://h",           "redis://127.0.0.1:1",        "redis://[::1]:6379/0",
        "redis://:secret@h/1", "redis://u:secret@h:6379/15", "redis://h/"};
    static const char *const bad[] = {"",
                                      "redis://",
                                      "h:6379",
                                      "http://h",
                                      "redis://h:0",
                                      "redis://h:x",
                                      "redis://h:70000",
                                      "redis://h/x",
                                      "redis://h/-1",
                                      "redis://secret@h",
                                      "redis://:secret@",
                                      "redis://:secret@h:y",
                                      "redis://:sec%ret@h",
                                      "redis://:%zzsecret@h",
                                      "redis://[::1",
                                      "redis://h h",
                                      "redis://h/1/2",
                                      "redi://:secret@h"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        check_url(good[i], 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        check_url(bad[i], E_INVALID);
    check_url("rediss://:secret@h", E_UNSUPPORTED);
    uv_run(&loop, UV_RUN_DEFAULT);
    EXPECT_INT(uv_loop_close(&loop), 0);
}

int main(void)
{
    RUN(test_urls);
    RUN(test_nonsense);
    need_redis_binary();
    RUN(test_commands);
    RUN(test_nested_arrays_and_large_replies);
    RUN(test_pending_is_bounded);
    RUN(test_nobody_there);
    RUN(test_kill_and_restart);
    RUN(test_stopped_server);
    RUN(test_late_reply);
    RUN(test_passwords);
    RUN(test_scripts);
    RUN(test_subscribe);
    RUN(test_destroy);
    remove_redis_dir();
    return TEST_END();
}
