#include "agent/launcher_probe.h"

#include "shared/net/http_server.h"
#include "shared/net/loop.h"
#include "tests/test.h"

#define TIMEOUT_MS 1500 // a question each 500 ms, which is also what an answer may take

struct fixture {
    uv_loop_t loop;
    struct http_server *server;
    struct http_client *client;
    struct launcher_probe probe;
    uv_timer_t end;
    const int *statuses; // of the answers, the last one for good
    int status_count;
    int asked;
    int sick;
    char why[128];
};

static void on_request(struct http_exchange *x, void *arg)
{
    struct fixture *f = arg;
    int i = f->asked++;
    EXPECT(str_equal(http_exchange_request(x)->target, STR("/health")));
    http_respond(x, f->statuses[i < f->status_count ? i : f->status_count - 1], "text/plain",
                 STR("x"));
}

static void on_sick(void *arg, const char *why)
{
    struct fixture *f = arg;
    f->sick++;
    snprintf(f->why, sizeof f->why, "%s", why);
    uv_stop(&f->loop);
}

static void on_end(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void on_closed(void *arg)
{
    uv_stop(arg);
}

/* Until it is sick, but at most `ms`. No statuses: nobody listens. */
static void run(struct fixture *f, const int *statuses, int count, uint64_t timeout_ms, uint64_t ms)
{
    struct error err;
    *f = (struct fixture){.statuses = statuses, .status_count = count};
    NEED(uv_loop_init(&f->loop) == 0);
    struct http_server_options options = {
        .host = "127.0.0.1", .port = 0, .on_request = on_request, .arg = f};
    NEED(http_server_open(&f->loop, &options, &f->server, &err) == 0);
    int port = http_server_port(f->server);
    if (count == 0) {
        http_server_close(f->server, on_closed, &f->loop);
        uv_run(&f->loop, UV_RUN_DEFAULT);
        f->server = NULL;
    }
    f->client = http_client_create(&f->loop, &(struct http_client_options){0});
    launcher_probe_init(&f->probe, &f->loop, f->client, false, "0.0.0.0", port, timeout_ms, on_sick,
                        f);
    uv_timer_init(&f->loop, &f->end);
    launcher_probe_start(&f->probe);
    uv_timer_start(&f->end, on_end, ms, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    launcher_probe_stop(&f->probe);
    launcher_probe_stop(&f->probe); // once more does no harm
    if (f->server) {
        http_server_close(f->server, on_closed, &f->loop);
        uv_run(&f->loop, UV_RUN_DEFAULT);
    }
    http_client_destroy(f->client, on_closed, &f->loop);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    loop_close_all(&f->loop);
}

#define RUN_PROBE(f, timeout_ms, ms, ...)                                                       \
    run(f, (const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)), \
        timeout_ms, ms)

static void test_healthy(void)
{
    struct fixture f;
    RUN_PROBE(&f, TIMEOUT_MS, 2200, 200);
    EXPECT(f.sick == 0 && f.asked >= 3);
}

/* One good answer makes the misses before it forgotten. */
static void test_in_a_row(void)
{
    struct fixture f;
    RUN_PROBE(&f, TIMEOUT_MS, 30000, 503, 503, 200, 503, 503, 200, 503, 404, 503);
    EXPECT_INT(f.sick, 1);
    EXPECT_INT(f.asked, 9);
    EXPECT_STR(f.why, "GET /health says 503");
}

static void test_nobody_listens(void)
{
    struct fixture f;
    run(&f, NULL, 0, TIMEOUT_MS, 20000);
    EXPECT_INT(f.sick, 1);
    EXPECT(strstr(f.why, "connection refused") != NULL);
}

static void test_off(void)
{
    struct fixture f;
    RUN_PROBE(&f, 0, 200, 503);
    EXPECT(f.sick == 0 && f.asked == 0);
}

int main(void)
{
    RUN(test_healthy);
    RUN(test_in_a_row);
    RUN(test_nobody_listens);
    RUN(test_off);
    return TEST_END();
}
