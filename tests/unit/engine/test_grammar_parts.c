#include "engine/grammar_parts.h"

#include "engine/grammar_automaton.h"
#include "engine/grammar_until.h"
#include "shared/base/check.h"
#include "shared/base/rng.h"
#include "shared/base/utf8.h"
#include "tests/test.h"

#define QUOTED_MAX 4096

/* Quotes are written as ' in sources and texts. */
static void quote(const char *text, char out[QUOTED_MAX])
{
    size_t len = strlen(text);
    NEED(len < QUOTED_MAX);
    for (size_t i = 0; i <= len; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
}

static int compile(const char *source, struct grammar_nfa *n, struct error *err)
{
    char quoted[QUOTED_MAX];
    quote(source, quoted);
    nfa_init(n);
    nfa_add_rule(n);
    struct json *part = json_parse(quoted, strlen(quoted), err);
    NEED(part);
    int rc = parts_emit(n, part, NULL, n->rule[0].start, n->rule[0].accept, err);
    json_destroy(part);
    return rc < 0 ? rc : nfa_finish(n, err);
}

static bool matches(struct automaton *a, struct str text)
{
    int state = AUTOMATON_START;
    for (size_t i = 0; i < text.len; i++)
        state = automaton_next(a, state, (uint8_t)text.data[i]);
    return automaton_state(a, state)->accepts;
}

/* Texts that match, NULL, texts that don't, NULL. */
static void check(const char *source, const char *const *texts)
{
    struct grammar_nfa n;
    struct error err = {0};
    char quoted[QUOTED_MAX];
    int rc = compile(source, &n, &err);
    EXPECT_INT(rc, 0);
    if (rc < 0) printf("%s: %s\n", source, err.text);
    struct automaton *a = rc == 0 ? automaton_create(&n) : NULL;
    for (int want = 1; want >= 0 && a; want--, texts++)
        for (; *texts; texts++) {
            quote(*texts, quoted);
            bool got = matches(a, str_of(quoted));
            if (got != want) printf("%s on %s: %d\n", source, *texts, got);
            EXPECT_INT(got, want);
        }
    automaton_destroy(a);
    nfa_deinit(&n);
}

#define CHECK_PART(source, ...) check(source, (const char *const[]){__VA_ARGS__, NULL})

static void check_error(const char *source, int code, const char *text)
{
    struct grammar_nfa n;
    struct error err = {0};
    EXPECT_INT(compile(source, &n, &err), code);
    if (!strstr(err.text, text)) printf("%s: %s\n", source, err.text);
    EXPECT(strstr(err.text, text) != NULL);
    nfa_deinit(&n);
}

static void test_texts(void)
{
    CHECK_PART("{'text':'a<b'}", "a<b", NULL, "", "a", "a<bc");
    CHECK_PART("{'text':''}", "", NULL, "a");
    CHECK_PART("{'token':'<x>'}", "<x>", NULL, "", "<x", "<x><x>");
    CHECK_PART("{'regex':'a+|b'}", "a", "aa", "b", NULL, "", "ab", "xa");
    CHECK_PART("{'schema':{'type':'integer'}}", "1", "-20", NULL, "1.5", "''");
    CHECK_PART("{'text':'\\u00e9', 'name':'an accent'}", "\xc3\xa9", NULL, "\xc3");
}

static void test_lists(void)
{
    CHECK_PART("{'all':[]}", "", NULL, "a");
    CHECK_PART("{'all':[{'text':'a'},{'regex':'b*'},{'text':'c'}]}", "ac", "abbc", NULL, "ab", "");
    CHECK_PART("{'any':[{'text':'a'},{'text':''},{'all':[{'text':'b'},{'token':'c'}]}]}", "", "a",
               "bc", NULL, "ab", "b", "c");
}

static void test_repeats(void)
{
    CHECK_PART("{'repeat':{'text':'ab'}}", "", "ab", "ababab", NULL, "a", "aba");
    CHECK_PART("{'repeat':{'text':'a'},'max':2}", "", "a", "aa", NULL, "aaa");
    CHECK_PART("{'repeat':{'text':'a'},'min':2}", "aa", "aaaaa", NULL, "", "a");
    CHECK_PART("{'repeat':{'text':'a'},'min':2,'max':2}", "aa", NULL, "", "a", "aaa");
    CHECK_PART("{'repeat':{'text':'a'},'max':0}", "", NULL, "a");
    CHECK_PART("{'repeat':{'regex':'[ab]'},'between':{'text':', '}}", "", "a", "a, b", "a, b, a",
               NULL, ", ", "a,", "ab", "a, ", "a, , b");
    CHECK_PART("{'repeat':{'text':'a'},'min':1,'max':3,'between':{'text':'-'}}", "a", "a-a",
               "a-a-a", NULL, "", "a-", "a-a-a-a");
    CHECK_PART("{'repeat':{'text':'a'},'min':3,'between':{'text':'-'}}", "a-a-a", "a-a-a-a", NULL,
               "a-a", "a-a-a-");
    CHECK_PART("{'repeat':{'regex':'a*'},'between':{'regex':'b?'}}", "", "aba", "bb", NULL, "c");
    CHECK_PART("{'repeat':{'repeat':{'text':'a'},'min':2,'max':2},'min':1,'max':2}", "aa", "aaaa",
               NULL, "", "aaa");
}

static void test_schemas(void)
{
    /* Each has a root of its own. */
    CHECK_PART("{'all':[{'schema':{'$ref':'#/$defs/x','$defs':{'x':{'const':1}}}},{'text':';'},"
               "{'schema':{'$defs':{'x':{'const':'a'}},'$ref':'#/$defs/x'}}]}",
               "1;'a'", NULL, "1;1", "'a';'a'", "1");
    CHECK_PART("{'all':[{'schema':true},{'text':'</t>'}]}", "{'a':[1]}</t>", "'</t>'</t>", NULL,
               "'</t>", "{}");
}

static void test_until(void)
{
    CHECK_PART("{'until':[]}", "", "abc", "\xc3\xa9", "\xf0\x9f\x98\x80\n", NULL, "\xc3",
               "\xed\xa0\x80", "\xff", "\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80");
    CHECK_PART("{'until':['</t>']}", "", "a", "<", "</", "</t", "</t </t", "<</t", NULL, "</t>",
               "a</t>", "</</t>", "</t>b", "<</t>");
    CHECK_PART("{'until':['aab','ab']}", "aa", "ba", "acb", "aaa", NULL, "ab", "aab", "aaaab",
               "cab");
    CHECK_PART("{'until':['\xc3\xa9\xc3\xa9','\xe6\x97\xa5']}", "\xc3\xa9", "\xc3\xa9x\xc3\xa9",
               "\xc3\xa8\xc3\xa9", "\xe6\x97\xa4", NULL, "\xc3\xa9\xc3\xa9", "a\xe6\x97\xa5",
               "\xc3\xa9\xc3", "\xe6\x97");
    CHECK_PART("{'all':[{'until':['<t>']},{'token':'<t>'},{'schema':{'type':'integer'}}]}", "<t>1",
               "abc<t>-3", "<<t>7", "<t<t>0", NULL, "abc", "<t>", "<t>x", "<t><t>1", "a<t>1<t>1");
    CHECK_PART("{'all':[{'until':['<t>']},{'any':[{'text':''},{'text':'<t>!'}]}]}", "", "a<t", "a",
               "a<t>!", NULL, "<t>", "<t>?", "<t>!!");
}

/* All strings but one end: what the automaton says, against strstr. */
static void test_until_drawn(void)
{
    static const char *const sources[] = {
        "{'until':['aab']}",
        "{'until':['abab','ba']}",
        "{'until':['abcab','bcabc','cc','aaaa']}",
        "{'until':['a\xc3\xa9','\xc3\xa9\xc3\xa8' ,'b\xc3\xa8']}",
    };
    static const char *const strings[][5] = {{"aab"},
                                             {"abab", "ba"},
                                             {"abcab", "bcabc", "cc", "aaaa"},
                                             {"a\xc3\xa9", "\xc3\xa9\xc3\xa8", "b\xc3\xa8"}};
    static const char letters[] = "abc\xc3\xa9\xa8";
    struct rng rng;
    rng_init(&rng, 7);
    for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
        struct grammar_nfa n;
        struct error err;
        int found = 0;
        NEED(compile(sources[i], &n, &err) == 0);
        struct automaton *a = automaton_create(&n);
        for (int trial = 0; trial < 4000; trial++) {
            char text[10];
            size_t len = rng_below(&rng, sizeof text);
            for (size_t k = 0; k < len; k++)
                text[k] = letters[rng_below(&rng, i < 3 ? 3 : sizeof letters - 1)];
            text[len] = 0;
            bool want = utf8_is_valid(text, len);
            for (const char *const *s = strings[i]; *s; s++)
                want &= !strstr(text, *s);
            found += want;
            EXPECT_INT(matches(a, str_of(text)), want);
        }
        EXPECT(found > 100);
        automaton_destroy(a);
        nfa_deinit(&n);
    }
}

static void test_until_size(void)
{
    struct grammar_nfa n;
    struct error err;
    char long_text[UNTIL_BYTES_MAX];
    struct str strings[UNTIL_STRINGS_MAX + 1];
    int end;
    memset(long_text, 'a', sizeof long_text);
    for (size_t i = 0; i < ARRAY_LEN(strings); i++)
        strings[i] = (struct str){long_text, i + 1};
    nfa_init(&n);
    int rule = nfa_add_rule(&n);
    strings[0].len = UNTIL_BYTES_MAX - 1;
    EXPECT_INT(until_emit(&n, n.rule[rule].start, strings, 1, &end, &err), 0);
    EXPECT(n.states < UNTIL_BYTES_MAX + 16);
    EXPECT(n.edges < 13 * UNTIL_BYTES_MAX); // ranges of UTF-8's first bytes
    strings[0].len = UNTIL_BYTES_MAX;
    EXPECT_INT(until_emit(&n, n.rule[rule].start, strings, 1, &end, &err), E_LIMIT);
    strings[0].len = 1;
    EXPECT_INT(until_emit(&n, n.rule[rule].start, strings, UNTIL_STRINGS_MAX + 1, &end, &err),
               E_LIMIT);
    nfa_deinit(&n);
}

static void test_errors(void)
{
    check_error("[]", E_INVALID, "must be an object, not an array");
    check_error("{}", E_INVALID, "has one of text, token");
    check_error("{'text':1}", E_INVALID, "must be a string, not a number");
    check_error("{'text':'a','token':'b'}", E_INVALID, "both 'text' and 'token'");
    check_error("{'text':'a','min':1}", E_INVALID, "'text' has no 'min'");
    check_error("{'text':'a','name':1}", E_INVALID, "'name' must be a string");
    check_error("{'token':''}", E_INVALID, "empty");
    check_error("{'any':[]}", E_INVALID, "at least one");
    check_error("{'any':{}}", E_INVALID, "must be an array, not an object");
    check_error("{'until':'a'}", E_INVALID, "must be an array, not a string");
    check_error("{'until':['a','']}", E_INVALID, "none empty");
    check_error("{'until':['a',1]}", E_INVALID, "an array of strings");
    check_error("{'repeat':{'text':'a'},'min':3,'max':2}", E_INVALID, "'min' is above 'max'");
    check_error("{'repeat':{'text':'a'},'min':-1}", E_INVALID, "'min' must be an integer");
    check_error("{'repeat':{'text':'a'},'max':1.5}", E_INVALID, "'max' must be an integer");
    check_error("{'repeat':{'text':'a'},'max':1001}", E_LIMIT, "'max' is above 1000");
    check_error("{'repeat':{'text':'a'},'between':1}", E_INVALID, "between: ");
    check_error("{'all':[{'text':'a'},{'any':[{'regex':'('}]}]}", E_INVALID, "all[1]: any[0]: ");
    check_error("{'all':[{'name':'tool x','all':[{'schema':{'contains':{}}}]}]}", E_UNSUPPORTED,
                "tool x: the schema uses 'contains'");
    check_error("{'all':[{'schema':false}]}", E_INVALID, "nothing can satisfy it");
}

/* Many schemas may cost no more than one. */
static void test_work_is_shared(void)
{
    struct grammar_nfa n;
    struct error err;
    struct buf source;
    int one = 40, count = 0;
    buf_init(&source, BUF_MAX_INTERNAL);
    for (; one; one = one == 40 ? 4000 : 0) {
        buf_clear(&source);
        buf_append_str(&source, "{\"any\":[");
        for (count = 0; count < one; count++)
            buf_printf(&source,
                       "%s{\"schema\":{\"enum\":[0,1,2,3,4,5,6,7,8,9],\"allOf\":[{\"enum\":[0,1,2,"
                       "3,4,5,6,7,8,9]},{\"enum\":[9,8,7,6,5,4,3,2,1,0]}]}}",
                       count ? "," : "");
        buf_append_str(&source, "]}");
        struct json *part = json_parse(source.data, source.len, &err);
        NEED(part);
        nfa_init(&n);
        nfa_add_rule(&n);
        int rc = parts_emit(&n, part, NULL, n.rule[0].start, n.rule[0].accept, &err);
        EXPECT_INT(rc, one == 40 ? 0 : E_LIMIT);
        nfa_deinit(&n);
        json_destroy(part);
    }
    buf_deinit(&source);
}

int main(void)
{
    RUN(test_texts);
    RUN(test_lists);
    RUN(test_repeats);
    RUN(test_schemas);
    RUN(test_until);
    RUN(test_until_drawn);
    RUN(test_until_size);
    RUN(test_errors);
    RUN(test_work_is_shared);
    return TEST_END();
}
