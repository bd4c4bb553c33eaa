#include "proxy/conversation_routes.h"

#include "shared/base/json.h"
#include "tests/unit/proxy/affinity_test.h"

static struct raw_client c;

/* A request has come to the proxy: `held`. */
static void request(const char *method)
{
    char text[128];
    held = NULL;
    raw_open(&c, agent_port);
    snprintf(text, sizeof text, "%s /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
             method);
    NEED(raw_puts(&c, text));
    NEED(SPIN_UNTIL(held != NULL, 5000));
}

static int answered(const char *text)
{
    EXPECT(SPIN_UNTIL(raw_ended(&c), 3000));
    int status = first_status(raw_text(&c));
    if (!strstr(raw_text(&c), text)) printf("  got: %s\n", raw_text(&c));
    EXPECT(strstr(raw_text(&c), text) != NULL);
    raw_close(&c);
    return status;
}

static void test_list(void)
{
    begin_world(false);
    agents[0].turns = 2; // an old copy
    agents[2].turns = 5;
    request("GET");
    conversation_list(p.service, held, STR("team"));
    EXPECT_INT(answered("{\"object\":\"list\",\"data\":[{\"session_id\":7,\"state\":\"hot\","
                        "\"history_tokens\":9,\"turns\":5,\"turn\":5,\"last_used\":0,"
                        "\"agent\":\"a2\"}],\"complete\":true}"),
               200);
    EXPECT_STR(asked_tenant, "team");
    agents[1].is_silent = true;
    request("GET");
    conversation_list(p.service, held, STR(""));
    EXPECT_INT(answered("\"complete\":false"), 200);
    request("GET"); // whose client leaves
    conversation_list(p.service, held, STR(""));
    raw_close(&c);
    spin_for(20);
    for (int i = 0; i < AGENTS; i++)
        agents[i].is_there = false;
    make_fleet();
    request("GET");
    conversation_list(p.service, held, STR(""));
    EXPECT_INT(answered("{\"object\":\"list\",\"data\":[],\"complete\":true}"), 200);
    end_world();
}

static void test_one(void)
{
    begin_world(false);
    agents[0].turns = 2;
    agents[2].turns = 5;
    request("GET");
    conversation_one(p.service, held, STR("7"), STR(""));
    EXPECT_INT(answered("\"turn\":5"), 200);
    agents[0].turns = agents[2].turns = -1;
    request("GET");
    conversation_one(p.service, held, STR("7"), STR(""));
    EXPECT_INT(answered("session_not_found"), 404);
    request("GET");
    conversation_one(p.service, held, STR("seven"), STR(""));
    EXPECT_INT(answered("A session id is an integer"), 400);
    end_world();
}

static void test_delete(void)
{
    begin_world(true);
    struct run a;
    struct answer answer;
    whole_turn(&p, &a, 7, "a2", 1, false);
    agents[0].turns = 2;
    agents[2].turns = 5;
    request("DELETE");
    conversation_one(p.service, held, STR("7"), STR(""));
    EXPECT_INT(answered("{\"deleted\":true}"), 200);
    EXPECT(agents[0].deleted == 1 && agents[2].deleted == 1 && agents[1].deleted == 0);
    EXPECT(
        SPIN_UNTIL((ask(&answer, "KEYS lm:?:*"), answer.count == 0), 10000)); // nor is a pin left
    request("DELETE"); // there may be a transcript: any agent of the model can tell
    conversation_one(p.service, held, STR("7"), STR(""));
    EXPECT_INT(answered("session_not_found"), 404);
    EXPECT_INT(agents[0].deleted, 2);
    EXPECT_INT(agents[1].deleted, 0);
    end_world();
}

int main(void)
{
    need_redis_binary();
    log_level_max = LOG_ERROR;
    start_redis("");
    RUN(test_list);
    RUN(test_one);
    RUN(test_delete);
    remove_redis_dir();
    return TEST_END();
}
