#include "agent/agent_config.h"

#include "tests/test.h"

static int parse(struct agent_config *config, struct error *err, const char *const *args)
{
    char *argv[16] = {(char *)"lm-agent"};
    int argc = 1;
    for (; args[argc - 1]; argc++) {
        argv[argc] = (char *)args[argc - 1];
    }
    memset(config, 0, sizeof *config);
    *err = (struct error){0};
    return agent_config_parse(argc, argv, config, err);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_defaults(void)
{
    struct agent_config c;
    struct error err;
    NEED(parse(&c, &err, ARGS("/models/Tiny-1B.Q4_1.gguf")) == CONFIG_RUN);
    EXPECT_STR(c.server_name, "0.0.0.0");
    EXPECT_INT(c.server_port, 23333);
    EXPECT_STR(c.model_name, "Tiny-1B.Q4_1");
    EXPECT(c.allow_origins.count == 1 && !c.allow_credentials);
    EXPECT(c.cache_max_entry_count == 0.8 && c.max_prefill_token_num == 8192);
    EXPECT_INT(c.log_level_value, LOG_INFO);
    struct engine_options o;
    agent_config_engine_options(&c, &o);
    EXPECT_STR(o.model_path, "/models/Tiny-1B.Q4_1.gguf");
    EXPECT_STR(o.cpu_isa, "auto");
    EXPECT(o.dtype == ENGINE_DTYPE_AUTO && o.kv_dtype == ENGINE_KV_AUTO && o.session_len == 0);
    EXPECT(o.queue_max == 256 && !o.chat_template && !o.model_format);
    EXPECT(o.prefix_caching && o.session_pin_ratio == 0.5);
    EXPECT_INT(o.session_host_bytes, 256 << 20);
    agent_config_deinit(&c);
}

static void test_lmdeploy_spelling(void)
{
    struct agent_config c;
    struct error err;
    NEED(parse(&c, &err,
               ARGS("m.gguf", "--server_port=0", "--session_len", "2048", "--model-name", "a/b",
                    "--proxy-url", "http://a:1", "--proxy-url=http://b:2", "--log-level",
                    "CRITICAL", "--dtype", "bfloat16", "--model-format", "awq")) == CONFIG_RUN);
    EXPECT(c.server_port == 0 && c.session_len == 2048 && c.proxy_urls.count == 2);
    EXPECT_STR(c.model_name, "a/b");
    EXPECT_INT(c.log_level_value, LOG_ERROR);
    struct engine_options o;
    agent_config_engine_options(&c, &o);
    EXPECT_INT(o.dtype, ENGINE_DTYPE_BFLOAT16);
    EXPECT_STR(o.model_format, "awq");
    agent_config_deinit(&c);
}

static void test_prefix_caching(void)
{
    static const struct {
        const char *arg;
        bool want;
    } rows[] = {{"--enable-prefix-caching", true},
                {"--no-enable-prefix-caching", false},
                {"--disable-prefix-caching", false},
                {"--session-host-bytes=0", true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct agent_config c;
        struct engine_options o;
        struct error err;
        NEED(parse(&c, &err, ARGS("m.gguf", rows[i].arg)) == CONFIG_RUN);
        agent_config_engine_options(&c, &o);
        EXPECT_INT(o.prefix_caching, rows[i].want);
        agent_config_deinit(&c);
    }
}

static void test_kv_dtype(void)
{
    static const struct {
        const char *arg[2];
        enum engine_kv_dtype want;
        const char *refused; // part of the text
    } rows[] = {
        {{"--kv-dtype=auto"}, ENGINE_KV_AUTO, NULL},
        {{"--kv-dtype=f16"}, ENGINE_KV_F16, NULL},
        {{"--kv-dtype=bf16"}, ENGINE_KV_BF16, NULL},
        {{"--kv-dtype=f32"}, ENGINE_KV_F32, NULL},
        {{"--kv-dtype=int8"}, ENGINE_KV_INT8, NULL},
        {{"--quant-policy=0"}, ENGINE_KV_AUTO, NULL},
        {{"--quant_policy=8"}, ENGINE_KV_INT8, NULL},
        {{"--quant-policy=8", "--kv-dtype=int8"}, ENGINE_KV_INT8, NULL},
        {{"--quant-policy=0", "--kv-dtype=bf16"}, ENGINE_KV_BF16, NULL},
        {{"--quant-policy=8", "--kv-dtype=f16"}, ENGINE_KV_AUTO, "give one"},
        {{"--quant-policy=4"}, ENGINE_KV_AUTO, "4-bit KV cache is not offered"},
        {{"--quant-policy=16"}, ENGINE_KV_AUTO, "quant-policy"},
        {{"--kv-dtype=int4"}, ENGINE_KV_AUTO, "kv-dtype"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct agent_config c;
        struct engine_options o;
        struct error err;
        int rc = parse(&c, &err, ARGS("m.gguf", rows[i].arg[0], rows[i].arg[1]));
        if (rows[i].refused) {
            EXPECT(rc < 0 && strstr(err.text, rows[i].refused));
        } else {
            EXPECT_INT(rc, CONFIG_RUN);
            agent_config_engine_options(&c, &o);
            EXPECT_INT(o.kv_dtype, rows[i].want);
        }
        agent_config_deinit(&c);
    }
}

static void test_refused(void)
{
    static const char *const rows[][4] = {
        // argument, value, part of the text
        {"--server-port", "65536", "server-port"},
        {"--max-batch-size", "0", "max-batch-size"},
        {"--dtype", "int4", "dtype"},
        {"--model-format", "llama", "model-format"},
        {"--proxy-url", "ftp://x", "--proxy-url"},
        {"--advertise", "0.0.0.0", "--advertise"},
        {"--agent-id", "a b", "--agent-id"},
        {"--log-level", "loud", "--log-level"},
        {"--model-name", "", "--model-name"},
        {"--sevrer-port", "1", "server-port"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct agent_config c;
        struct error err;
        int rc = parse(&c, &err, ARGS("m.gguf", rows[i][0], rows[i][1]));
        EXPECT(rc < 0);
        EXPECT(strstr(err.text, rows[i][2]));
        if (!strstr(err.text, rows[i][2])) printf("  %s: %s\n", rows[i][0], err.text);
        agent_config_deinit(&c);
    }
    struct agent_config c;
    struct error err;
    EXPECT(parse(&c, &err, ARGS("--server-port", "1")) < 0);
    EXPECT(strstr(err.text, "no model given"));
    agent_config_deinit(&c);
}

static void test_model_names(void)
{
    static const struct {
        const char *path, *name;
    } rows[] = {{"a.gguf", "a"},
                {"/x/y.Q4.gguf", "y.Q4"},
                {"/x/internlm-7b/", "internlm-7b"},
                {".gguf", ".gguf"},
                {"./dir/m", "m"},
                {"owner/m", "owner/m"},
                {"owner/m:Q4_K_M", "owner/m"},
                {"m.GGUF", "m.GGUF"},
                {"x/m-00001-of-00012.gguf", "m"},
                {"m-0001-of-00012.gguf", "m-0001-of-00012"},
                {"-00001-of-00012.gguf", "-00001-of-00012"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *name = agent_model_name(rows[i].path);
        EXPECT_STR(name, rows[i].name);
        free(name);
    }
}

int main(void)
{
    RUN(test_defaults);
    RUN(test_lmdeploy_spelling);
    RUN(test_prefix_caching);
    RUN(test_kv_dtype);
    RUN(test_refused);
    RUN(test_model_names);
    return TEST_END();
}
