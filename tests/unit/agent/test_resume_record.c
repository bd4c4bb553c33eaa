/* Bad records as a proxy would send them are tests/integration/test_agent_resume.py's, too. */
#include "agent/resume_record.h"

#include "tests/test.h"

static struct resume_record record;
static struct api_error e;

static int parse(const char *text)
{
    e = (struct api_error){0};
    return resume_record_parse(str_of(text), 100, &record, &e);
}

static void test_all_fields(void)
{
    EXPECT_INT(parse("{\"seed\":\"18446744073709551615\",\"now\":12,\"id\":\"chatcmpl-A_9\","
                     "\"created\":13,\"ids\":[0,99,7],\"bytes\":9007199254740991,\"phase\":3,"
                     "\"rope\":40000,\"tenant\":\"later\"}"),
               0);
    EXPECT(record.seed == UINT64_MAX);
    EXPECT(record.now_s == 12 && record.created_s == 13);
    EXPECT_STR(record.id, "chatcmpl-A_9");
    EXPECT(record.ids.count == 3 && record.ids.ids[1] == 99);
    EXPECT_INT(record.bytes, 9007199254740991);
    EXPECT_INT(record.phase, RESUME_USAGE);
    EXPECT_INT(record.rope, 40000);
    resume_record_deinit(&record);
    EXPECT(!record.ids.ids);

    EXPECT_INT(parse("{\"seed\":\"0\",\"now\":0,\"bytes\":0,\"phase\":0}"), 0);
    EXPECT(record.seed == 0 && record.created_s == -1 && record.id[0] == 0 && record.rope == 0);
    resume_record_deinit(&record);
}

#define NUMBERS "\"now\":1,\"bytes\":0,\"phase\":0"

static void test_bad(void)
{
    static const struct {
        const char *text, *param;
    } cases[] = {
        {"", "x-lm-resume"},
        {"[]", "x-lm-resume"},
        {"{\"seed\":\"1\"," NUMBERS "}}", "x-lm-resume"},
        {"{" NUMBERS "}", "seed"},
        {"{\"seed\":1," NUMBERS "}", "seed"},
        {"{\"seed\":\"\"," NUMBERS "}", "seed"},
        {"{\"seed\":\"+1\"," NUMBERS "}", "seed"},
        {"{\"seed\":\"18446744073709551616\"," NUMBERS "}", "seed"},
        {"{\"seed\":\"28446744073709551616\"," NUMBERS "}", "seed"},
        {"{\"seed\":\"1\",\"id\":\"a\\n: lm\"," NUMBERS "}", "id"},
        {"{\"seed\":\"1\",\"id\":\"\"," NUMBERS "}", "id"},
        {"{\"seed\":\"1\",\"id\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"," NUMBERS "}",
         "id"},
        {"{\"seed\":\"1\",\"bytes\":0,\"phase\":0}", "now"},
        {"{\"seed\":\"1\",\"now\":1,\"phase\":0}", "bytes"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":0}", "phase"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":0,\"phase\":4}", "phase"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":-1,\"phase\":0}", "bytes"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":1,\"phase\":0,\"ids\":[1]}", "x-lm-resume"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":1,\"phase\":1}", "x-lm-resume"},
        {"{\"seed\":\"1\",\"now\":1,\"bytes\":0,\"phase\":2}", "x-lm-resume"},
        {"{\"seed\":\"1\",\"ids\":[1,100]," NUMBERS "}", "ids[1]"},
        {"{\"seed\":\"1\",\"ids\":{}," NUMBERS "}", "ids"},
        {"{\"seed\":\"1\",\"rope\":0," NUMBERS "}", "rope"},
        {"{\"seed\":\"1\",\"rope\":2147483648," NUMBERS "}", "rope"},
        {"{\"seed\":\"1\",\"rope\":\"9\"," NUMBERS "}", "rope"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EXPECT_INT(parse(cases[i].text), -1);
        EXPECT_INT(e.status, 400);
        EXPECT_STR(e.param, cases[i].param);
        EXPECT(!record.ids.ids); // nothing to free
    }
}

static int read_headers(const char *resume, bool is_loopback, struct resume_headers *out)
{
    struct http_header items[] = {{STR("X-LM-Hop"), STR("1")},
                                  {STR("x-lm-resume"), str_of(resume)}};
    struct http_request request = {.headers = {items, resume ? 2 : 1},
                                   .body = STR("{}{\"model\":\"m\"}"),
                                   .peer_is_loopback = is_loopback};
    e = (struct api_error){0};
    return resume_headers_read(&request, NULL, out, &e);
}

static void test_headers(void)
{
    struct resume_headers h;
    EXPECT_INT(read_headers(NULL, true, &h), 0);
    EXPECT(h.wants_marks && !h.is_resume);
    EXPECT_INT(read_headers("2", true, &h), 0);
    EXPECT(h.wants_marks && h.is_resume && h.record_len == 2);
    EXPECT_INT(read_headers("15", true, &h), 0);
    static const char *const bad[] = {"16", "-1", "", "2 ", "1e1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT_INT(read_headers(bad[i], true, &h), -1);
        EXPECT_INT(e.status, 400);
    }
    EXPECT_INT(read_headers("16", false, &h), 0); // a stranger's
    EXPECT(!h.wants_marks && !h.is_resume);
}

static void test_split(void)
{
    struct resume_headers h = {.is_resume = true, .record_len = 42};
    struct str body = STR("{\"seed\":\"5\",\"now\":1,\"bytes\":0,\"phase\":0}  {\"model\":\"m\"}");
    EXPECT_INT(resume_body_split(&h, 100, &body, &record, &e), 0);
    EXPECT(str_equal(body, STR("{\"model\":\"m\"}")));
    EXPECT_INT(record.seed, 5);
    resume_record_deinit(&record);
    body = STR("{\"seed\":\"5\",\"now\":1,\"bytes\":0,\"phase\":0}  {\"model\":\"m\"}");
    h.record_len = 39;
    EXPECT_INT(resume_body_split(&h, 100, &body, &record, &e), -1);
    h.is_resume = false;
    body = STR("{}");
    EXPECT_INT(resume_body_split(&h, 100, &body, &record, &e), 0);
    EXPECT_INT(body.len, 2);
}

int main(void)
{
    RUN(test_all_fields);
    RUN(test_bad);
    RUN(test_headers);
    RUN(test_split);
    return TEST_END();
}
