#include "shared/base/config.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <unistd.h>

struct settings {
    char *name;
    int64_t port;
    double ratio;
    uint64_t cache;
    bool cors;
    bool verbose;
    int strategy;
    struct option_list keys;
    struct option_list urls;
    char *secret;
    int64_t seed;
    int64_t count;
};

#define AT(field) offsetof(struct settings, field)

static const struct option options[] = {
    {"server-name", OPTION_STRING, AT(name), .def = "0.0.0.0", .arg = "HOST", .group = "Server",
     .help = "address to listen on"},
    {"server-port", OPTION_INT, AT(port), .def = "23333", .max = 65535, .arg = "PORT",
     .group = "Server", .help = "port to listen on; 0 picks a free one", .aliases = "port|p-port"},
    {"cors", OPTION_FLAG, AT(cors), .def = "true", .group = "Server",
     .help =
         "answer cross-origin requests from browsers, whatever the page they come from, with the "
         "headers they need"},
    {"api-keys", OPTION_LIST, AT(keys), .arg = "KEY", .group = "Server", .many = true,
     .secret = true, .help = "keys that clients may use"},
    {"cache-ratio", OPTION_DOUBLE, AT(ratio), .def = "0.8", .min = 0, .max = 1, .group = "Engine",
     .help = "share of free memory"},
    {"cache-size", OPTION_BYTES, AT(cache), .def = "64M", .min = 1024, .max = 1 << 30,
     .arg = "BYTES", .group = "Engine", .help = "memory"},
    {"strategy", OPTION_CHOICE, AT(strategy), .def = "least", .choices = "random|least|min_latency",
     .group = "Engine", .help = "how to spread"},
    {"verbose", OPTION_FLAG, AT(verbose), .help = "say more"},
    {"proxy-url", OPTION_LIST, AT(urls), .arg = "URL", .group = "Server", .help = "register there"},
    {"join-key", OPTION_STRING, AT(secret), .arg = "KEY", .group = "Server", .secret = true,
     .help = "shared with the proxy"},
    {"seed", OPTION_INT, AT(seed), .help = "any number"},
    {"count", OPTION_INT, AT(count), .def = "1", .min = 1, .max = 0, .help = "how many"},
};

static const struct config_program program = {
    .name = "lm-demo",
    .usage = "lm-demo [options] MODEL",
    .summary =
        "Shows how options work. This sentence is only here so that the summary is longer than "
        "one line of the terminal.",
    .footer = "Example:\n  lm-demo --server-port 0 x.gguf",
    .options = options,
    .count = ARRAY_LEN(options),
    .positional_max = 1,
};

static struct settings s;
static const char *positional[1];
static size_t positional_count;
static struct error err;

/* Parse a NULL-terminated list of words after the program's name. */
static int parse(const char *const *words)
{
    char *argv[32] = {(char *)(uintptr_t) "lm-demo"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = xstrdup(words[argc - 1]);
    memset(&s, 0, sizeof s);
    positional_count = 99;
    int rc = config_parse(&program, argc, argv, &s, positional, &positional_count, &err);
    // positional arguments borrow from argv: copy before it goes
    static char kept[256];
    if (rc == 0 && positional_count == 1) {
        snprintf(kept, sizeof kept, "%s", positional[0]);
        positional[0] = kept;
    }
    for (int i = 1; i < argc; i++)
        free(argv[i]);
    return rc;
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void expect_refused(const char *const *words, const char *want)
{
    EXPECT_INT(parse(words), E_INVALID);
    EXPECT_STR(err.text, want);
    EXPECT(s.name == NULL && s.keys.items == NULL); // nothing left behind
}

#define REFUSED(want, ...) expect_refused((const char *const[]){__VA_ARGS__, NULL}, want)

static void test_defaults(void)
{
    EXPECT_INT(PARSE(), CONFIG_RUN);
    EXPECT_STR(s.name, "0.0.0.0");
    EXPECT_INT(s.port, 23333);
    EXPECT(s.ratio == 0.8);
    EXPECT_INT(s.cache, 64 << 20);
    EXPECT(s.cors && !s.verbose);
    EXPECT_INT(s.strategy, 1);
    EXPECT(s.keys.count == 0 && s.secret == NULL);
    EXPECT_INT(positional_count, 0);
    config_deinit(&program, &s);
    EXPECT(s.name == NULL);
}

static void test_all_spellings(void)
{
    EXPECT_INT(PARSE("--server_port", "1", "--server-name=h", "--no-cors", "--verbose", "m.gguf"),
               0);
    EXPECT(s.port == 1 && !s.cors && s.verbose);
    EXPECT_STR(s.name, "h");
    EXPECT_INT(positional_count, 1);
    EXPECT_STR(positional[0], "m.gguf");
    config_deinit(&program, &s);

    EXPECT_INT(PARSE("--port=7", "--no_cors", "--verbose=off", "--seed", "-5", "--join-key="), 0);
    EXPECT(s.port == 7 && !s.cors && !s.verbose && s.seed == -5);
    EXPECT_STR(s.secret, "");
    config_deinit(&program, &s);

    EXPECT_INT(PARSE("--port", "1", "--port", "2", "--strategy", "min_latency", "--cache-size=2k"),
               0);
    EXPECT(s.port == 2 && s.strategy == 2 && s.cache == 2048);
    config_deinit(&program, &s);

    EXPECT_INT(PARSE("--verbose", "--", "--odd-name.gguf"), 0);
    EXPECT_STR(positional[0], "--odd-name.gguf");
    config_deinit(&program, &s);

    EXPECT_INT(PARSE("-"), 0);
    EXPECT_STR(positional[0], "-");
    config_deinit(&program, &s);
}

static void test_lists(void)
{
    EXPECT_INT(PARSE("--api-keys", "k1", "k2", "--proxy-url", "u1", "m.gguf", "--proxy_url=u2,x"),
               0);
    EXPECT_INT(s.keys.count, 2);
    EXPECT_STR(s.keys.items[1], "k2");
    EXPECT_INT(s.urls.count, 2);
    EXPECT_STR(s.urls.items[0], "u1");
    EXPECT_STR(s.urls.items[1], "u2,x"); // no splitting on the command line
    EXPECT_INT(positional_count, 1);
    config_deinit(&program, &s);
    EXPECT(s.urls.items == NULL && s.urls.count == 0);
}

static void test_usage_errors(void)
{
    REFUSED("--server_port wants a number from 0 to 65535, got 'x'", "--server_port", "x");
    REFUSED("--server-port wants a number from 0 to 65535, got '65536'", "--server-port=65536");
    REFUSED("--server-port wants a number from 0 to 65535, got '-1'", "--server-port", "-1");
    REFUSED("--count wants a number of at least 1, got '0'", "--count", "0");
    REFUSED("--cache-ratio wants a number from 0 to 1, got '1.5'", "--cache-ratio", "1.5");
    REFUSED("--cache-size wants a size such as 64k, 8M or 2G from 1k to 1G, got '2T'",
            "--cache-size", "2T");
    REFUSED("--strategy wants one of random, least, min_latency, got 'best'", "--strategy", "best");
    REFUSED("--verbose wants true or false, got 'maybe'", "--verbose=maybe");
    REFUSED("--seed wants a number, got ''", "--seed=");
    REFUSED("--server-port wants a number from 0 to 65535 after it", "--server-port");
    REFUSED("--server-name wants a value after it", "--server-name", "--verbose");
    REFUSED("--api-keys wants a value after it", "--api-keys", "--verbose");
    REFUSED("unexpected argument 'b'; usage: lm-demo [options] MODEL", "a", "b");
    REFUSED("unknown option '-p'; options begin with '--'", "-p", "1");
    REFUSED("--config wants a file after it", "--config");
}

static void test_unknown_names_get_a_suggestion(void)
{
    REFUSED("unknown option '--sever-port'; did you mean '--server-port'?", "--sever-port", "1");
    REFUSED("unknown option '--server_prot'; did you mean '--server-port'?", "--server_prot=1");
    REFUSED("unknown option '--verion'; did you mean '--version'?", "--verion");
    REFUSED("unknown option '--banana'; lm-demo --help lists them all", "--banana");
    REFUSED("unknown option '--no-port'; lm-demo --help lists them all", "--no-port");
    REFUSED("--no-cors takes no value", "--no-cors=1");
    char name[300] = "--";
    memset(name + 2, 'x', 290);
    EXPECT_INT(PARSE(name), E_INVALID);
    EXPECT(strlen(err.text) < 140);
}

static void test_environment(void)
{
    setenv("LM_DEMO_SERVER_PORT", "5", 1);
    setenv("LM_DEMO_SERVER_NAME", "", 1); // counts as unset
    setenv("LM_DEMO_PROXY_URL", "a, b,,c", 1);
    setenv("LM_DEMO_CORS", "no", 1);
    EXPECT_INT(PARSE(), 0);
    EXPECT(s.port == 5 && !s.cors);
    EXPECT_STR(s.name, "0.0.0.0");
    EXPECT_INT(s.urls.count, 3);
    EXPECT_STR(s.urls.items[2], "c");
    config_deinit(&program, &s);

    EXPECT_INT(PARSE("--port", "6", "--proxy-url", "z"), 0); // the command line wins, lists too
    EXPECT_INT(s.port, 6);
    EXPECT_INT(s.urls.count, 1);
    EXPECT_STR(s.urls.items[0], "z");
    config_deinit(&program, &s);

    setenv("LM_DEMO_SERVER_PORT", "many", 1);
    EXPECT_INT(PARSE(), E_INVALID);
    EXPECT_STR(err.text, "LM_DEMO_SERVER_PORT wants a number from 0 to 65535, got 'many'");
    setenv("LM_DEMO_SERVER_PORT", "tcp://10.0.0.1:23333", 1); // Kubernetes' service link
    EXPECT_INT(PARSE(), 0);
    EXPECT_INT(s.port, 23333);
    config_deinit(&program, &s);
    unsetenv("LM_DEMO_SERVER_PORT");
    unsetenv("LM_DEMO_SERVER_NAME");
    unsetenv("LM_DEMO_PROXY_URL");
    unsetenv("LM_DEMO_CORS");
}

static char path[] = "/tmp/lm-test-config-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    NEED(file != NULL);
    fputs(text, file);
    fclose(file);
}

static void test_file(void)
{
    int fd = mkstemp(path);
    NEED(fd >= 0);
    close(fd);
    write_file("# a comment\n\n  server_port = 9 \r\nserver-name=from file # not a comment\n"
               "proxy-url = a\nproxy-url = b\nverbose = yes\njoin-key =\n");
    EXPECT_INT(PARSE("--config", path), 0);
    EXPECT(s.port == 9 && s.verbose);
    EXPECT_STR(s.name, "from file # not a comment");
    EXPECT_INT(s.urls.count, 2);
    EXPECT_STR(s.secret, "");
    config_deinit(&program, &s);

    setenv("LM_DEMO_PORT", "1", 1); // aliases are for the command line
    setenv("LM_DEMO_SERVER_PORT", "10", 1);
    setenv("LM_DEMO_CONFIG", path, 1);
    EXPECT_INT(PARSE("--no-verbose"), 0); // default < file < environment < command line
    EXPECT(s.port == 10 && !s.verbose);
    EXPECT_INT(s.urls.count, 2);
    config_deinit(&program, &s);
    unsetenv("LM_DEMO_PORT");
    unsetenv("LM_DEMO_SERVER_PORT");
    unsetenv("LM_DEMO_CONFIG");
}

static void expect_file_refused(const char *text, int code, const char *tail)
{
    write_file(text);
    EXPECT_INT(PARSE("--config", path), code);
    char want[400];
    snprintf(want, sizeof want, "%s%s", path, tail);
    EXPECT_STR(err.text, want);
}

static void test_file_errors(void)
{
    expect_file_refused("\nserver-port 9\n", E_INVALID, ":2: expected 'name = value'");
    expect_file_refused("sever-port = 9", E_INVALID,
                        ":1: unknown option 'sever-port'; did you mean 'server-port'?");
    expect_file_refused("server_port = x", E_INVALID,
                        ":1: server-port wants a number from 0 to 65535, got 'x'");
    expect_file_refused("= 3", E_INVALID, ":1: unknown option ''; lm-demo --help lists them all");
    char *big = xmalloc((2 << 20) + 1);
    memset(big, '#', 2 << 20);
    big[2 << 20] = 0;
    write_file(big);
    free(big);
    EXPECT_INT(PARSE("--config", path), E_LIMIT);
    EXPECT_INT(PARSE("--config=/nonexistent/x"), -2);
    EXPECT_STR(err.text, "cannot read config file '/nonexistent/x': No such file or directory");
    EXPECT_INT(PARSE("--config=/"), -5);
    unlink(path);
}

static void test_help_is_readable(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    config_help(&program, &out);
    EXPECT(strstr(out.data, "Usage: lm-demo [options] MODEL\n\nShows how") == out.data);
    EXPECT(strstr(out.data,
                  "\nServer:\n  --server-name HOST        address to listen on [0.0.0.0]\n"));
    EXPECT(strstr(out.data,
                  "  --server-port PORT        port to listen on; 0 picks a free one [23333]\n"));
    EXPECT(
        strstr(out.data,
               "  --[no-]cors               answer cross-origin requests from browsers, whatever\n"
               "                            the page they come from, with"));
    EXPECT(strstr(out.data, "  --api-keys KEY...         keys"));
    EXPECT(strstr(out.data, "  --proxy-url URL           register there (may be repeated)\n"));
    EXPECT(strstr(out.data, "  --strategy random|least|min_latency\n"
                            "                            how to spread [least]\n"));
    EXPECT(strstr(out.data, "--config FILE") && strstr(out.data, "LM_DEMO_SERVER_NAME"));
    EXPECT(strstr(out.data, "Example:\n  lm-demo --server-port 0 x.gguf\n"));
    struct str left = buf_str(&out), line;
    while (str_split(&left, '\n', &line))
        EXPECT(line.len <= 80);
    buf_deinit(&out);
}

static void test_markdown(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    config_markdown(&program, &out);
    EXPECT(strstr(out.data, "#### Server\n\n| Option | Default | Environment | Meaning |\n"
                            "|---|---|---|---|\n| `--server-name HOST` | `0.0.0.0` | "
                            "`LM_DEMO_SERVER_NAME` | address to listen on |\n") == out.data);
    EXPECT(strstr(out.data, "| `--strategy random\\|least\\|min_latency` | `least` |"));
    EXPECT(strstr(out.data, "free one; also `--port`; also `--p-port` |\n"));
    EXPECT(strstr(out.data, "\n#### Engine\n") && strstr(out.data, "\n#### Options\n"));
    buf_deinit(&out);
}

static void test_dump_masks_secrets(void)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    EXPECT_INT(
        PARSE("--api-keys", "k1", "k2", "--join-key", "hush", "--proxy-url=a", "--proxy-url=b"), 0);
    config_dump(&program, &s, &out);
    EXPECT_STR(out.data, "server-name=0.0.0.0\nserver-port=23333\ncors=true\napi-keys=***,***\n"
                         "cache-ratio=0.8\ncache-size=67108864\nstrategy=least\nverbose=false\n"
                         "proxy-url=a,b\njoin-key=***\nseed=0\ncount=1\n");
    buf_deinit(&out);
    config_deinit(&program, &s);
}

static void test_help_and_version_exit(void)
{
    printf("(the texts of --help and --version follow)\n");
    EXPECT_INT(PARSE("--help"), CONFIG_EXIT);
    EXPECT_INT(PARSE("-h"), CONFIG_EXIT);
    EXPECT_INT(PARSE("--version"), CONFIG_EXIT);
    EXPECT_INT(PARSE("--help_markdown"), CONFIG_EXIT);
    EXPECT(s.name == NULL); // nothing to free
}

int main(void)
{
    RUN(test_defaults);
    RUN(test_all_spellings);
    RUN(test_lists);
    RUN(test_usage_errors);
    RUN(test_unknown_names_get_a_suggestion);
    RUN(test_environment);
    RUN(test_file);
    RUN(test_file_errors);
    RUN(test_help_is_readable);
    RUN(test_markdown);
    RUN(test_dump_masks_secrets);
    RUN(test_help_and_version_exit);
    return TEST_END();
}
