#include "agent/abort_target.h"

#include "tests/test.h"

static int parse(const char *body, struct abort_target *target, struct api_error *e)
{
    static struct arena arena;
    static bool is_open;
    if (is_open) arena_deinit(&arena);
    arena_init(&arena);
    is_open = true;
    *e = (struct api_error){0};
    int rc = abort_target_parse(str_of(body), &arena, target, e);
    if (!body[0]) { // the last one
        arena_deinit(&arena);
        is_open = false;
    }
    return rc;
}

static void test_parse(void)
{
    static const struct {
        const char *body;
        int status; // 0: fine
        bool all;
        int64_t session_id;
        const char *id;
    } rows[] = {
        {"{\"request_id\":\"chatcmpl-1\"}", 0, false, -1, "chatcmpl-1"},
        {"{\"session_id\":7}", 0, false, 7, ""},
        {"{\"abort_all\":true,\"session_id\":-1}", 0, true, -1,
         ""}, // as LMDeploy's clients send it
        {"{\"abort_all\":false,\"session_id\":0,\"else\":[1]}", 0, false, 0, ""},
        {"{\"abort_all\":false,\"session_id\":-1}", 400, false, -1, ""},
        {"{\"session_id\":-2}", 400, false, -1, ""},
        {"{\"request_id\":\"\"}", 400, false, -1, ""},
        {"{\"request_id\":7}", 400, false, -1, ""},
        {"{}", 400, false, -1, ""},
        {"[]", 400, false, -1, ""},
        {"nonsense", 400, false, -1, ""},
        {"", 400, false, -1, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct abort_target target;
        struct api_error e;
        int rc = parse(rows[i].body, &target, &e);
        EXPECT_INT(e.status, rows[i].status);
        EXPECT_INT(rc, rows[i].status ? -1 : 0);
        if (rc != 0) continue;
        EXPECT(target.all == rows[i].all && target.session_id == rows[i].session_id);
        EXPECT(str_equal(target.id, str_of(rows[i].id)) && !target.is_bound);
    }
}

static void test_matches(void)
{
    struct abort_candidate mine = {
        .tenant = 1, .session_id = 7, .id = STR("chatcmpl-1"), .request_id = STR("req_1")};
    struct abort_candidate early = {.tenant = 1, .session_id = -1, .id = STR("chatcmpl-2")};
    struct abort_target all = {.all = true, .session_id = -1};
    EXPECT(abort_target_matches(&all, &mine) && abort_target_matches(&all, &early));
    all.is_bound = true;
    EXPECT(!abort_target_matches(&all, &mine));
    all.tenant = 1;
    EXPECT(abort_target_matches(&all, &mine));
    struct abort_target session = {.session_id = 7};
    EXPECT(abort_target_matches(&session, &mine) && !abort_target_matches(&session, &early));
    struct abort_target id = {.session_id = -1, .id = STR("chatcmpl-1")};
    EXPECT(abort_target_matches(&id, &mine) && !abort_target_matches(&id, &early));
    id.id = STR("req_1");
    EXPECT(abort_target_matches(&id, &mine));
    id.id = STR("");
    EXPECT(!abort_target_matches(&id, &early)); // whose request_id is empty, too
    id.id = STR("req_1");
    id.is_bound = true;
    id.tenant = 2;
    EXPECT(!abort_target_matches(&id, &mine));
}

int main(void)
{
    RUN(test_parse);
    RUN(test_matches);
    return TEST_END();
}
