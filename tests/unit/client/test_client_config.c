/* lm-client's command line: verbs, the URL, what is refused. */
#include "client/client_config.h"

#include "shared/base/check.h"
#include "tests/test.h"

static int parse(struct client_config *config, struct error *err, const char *const *words)
{
    char *argv[16];
    int argc = 0;
    while (words[argc]) {
        argv[argc] = (char *)words[argc];
        argc++;
    }
    return client_config_parse(argc, argv, config, err);
}

#define PARSE(...) parse(&config, &err, (const char *const[]){"lm-client", __VA_ARGS__, NULL})

static void test_url_alone_is_a_chat(void)
{
    struct client_config config;
    struct error err;
    NEED(PARSE("http://h:1") == CONFIG_RUN);
    EXPECT_INT(config.verb, CLIENT_CHAT);
    EXPECT_STR(config.url, "http://h:1");
    EXPECT(config.stream);
    EXPECT(config.temperature < 0);
    EXPECT_INT(config.max_tokens, 0);
    EXPECT(!config.model && !config.system && !config.api_key && !config.history_file);
    client_config_deinit(&config);
}

static void test_verbs_and_options(void)
{
    struct client_config config;
    struct error err;
    NEED(PARSE("models", "h:1") == CONFIG_RUN);
    EXPECT_INT(config.verb, CLIENT_MODELS);
    client_config_deinit(&config);
    NEED(PARSE("status", "h:1", "--api-key", "k") == CONFIG_RUN);
    EXPECT_INT(config.verb, CLIENT_STATUS);
    EXPECT_STR(config.api_key, "k");
    client_config_deinit(&config);
    NEED(PARSE("interactive", "h:1", "--session_id", "7") == CONFIG_RUN);
    EXPECT_INT(config.verb, CLIENT_INTERACTIVE);
    EXPECT_INT(config.session_id, 7);
    client_config_deinit(&config);
    NEED(PARSE("--temperature", "0", "--max_tokens=5", "--no-stream", "--history-file=", "chat",
               "h:1") == CONFIG_RUN);
    EXPECT_INT(config.verb, CLIENT_CHAT);
    EXPECT(config.temperature == 0);
    EXPECT_INT(config.max_tokens, 5);
    EXPECT(!config.stream);
    EXPECT_STR(config.history_file, "");
    client_config_deinit(&config);
}

static void test_usage_errors(void)
{
    struct client_config config;
    struct error err;
    EXPECT(PARSE("models") < 0);
    EXPECT(strstr(err.text, "no URL given") != NULL);
    EXPECT(PARSE("--no-stream") < 0);
    EXPECT(PARSE("modles", "h:1") < 0);
    EXPECT(strstr(err.text, "'modles'") != NULL);
    EXPECT(PARSE("h:1", "--temperature", "3") < 0);
    EXPECT(PARSE("h:1", "--temprature", "1") < 0);
    EXPECT(strstr(err.text, "--temperature") != NULL);
    EXPECT(PARSE("chat", "h:1", "more") < 0);
}

int main(void)
{
    RUN(test_url_alone_is_a_chat);
    RUN(test_verbs_and_options);
    RUN(test_usage_errors);
    return TEST_END();
}
