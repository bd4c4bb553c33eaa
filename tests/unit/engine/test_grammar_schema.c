#include "engine/grammar_automaton.h"
#include "engine/grammar_schema.h"

#include "shared/base/check.h"
#include "tests/test.h"

static int compile(const char *schema, struct grammar_nfa *n, struct error *err)
{
    nfa_init(n);
    nfa_add_rule(n);
    struct json *root = json_parse(schema, strlen(schema), err);
    NEED(root);
    int rc = schema_emit(n, root, n->rule[0].start, n->rule[0].accept, NULL, err);
    json_destroy(root);
    return rc < 0 ? rc : nfa_finish(n, err);
}

static bool matches(struct automaton *a, const char *text)
{
    int state = AUTOMATON_START;
    for (; *text; text++)
        state = automaton_next(a, state, (uint8_t)*text);
    return automaton_state(a, state)->accepts;
}

/* Texts that match, NULL, texts that don't, NULL. Quotes are written as ' in schemas and texts. */
static void check(const char *schema, const char *const *texts)
{
    struct grammar_nfa n;
    struct error err = {0};
    char quoted[4096];
    size_t len = strlen(schema);
    NEED(len < sizeof quoted);
    for (size_t i = 0; i <= len; i++)
        quoted[i] = schema[i] == '\'' ? '"' : schema[i];
    int rc = compile(quoted, &n, &err);
    EXPECT_INT(rc, 0);
    if (rc < 0) printf("%s: %s\n", schema, err.text);
    struct automaton *a = rc == 0 ? automaton_create(&n) : NULL;
    for (int want = 1; want >= 0 && a; want--, texts++)
        for (; *texts; texts++) {
            size_t i = 0;
            for (; (*texts)[i]; i++)
                quoted[i] = (*texts)[i] == '\'' ? '"' : (*texts)[i];
            quoted[i] = 0;
            bool got = matches(a, quoted);
            if (got != want) printf("%s on %s: %d\n", schema, *texts, got);
            EXPECT_INT(got, want);
        }
    automaton_destroy(a);
    nfa_deinit(&n);
}

#define CHECK_SCHEMA(schema, ...) check(schema, (const char *const[]){__VA_ARGS__, NULL})

static void test_types(void)
{
    CHECK_SCHEMA("{}", "null", "true", "-1.5e3", "'a'", "[1, 'a', {}]", "{'a': {'b': []}}", NULL,
                 "", "nul", "01", "'a", "[1,]", "{,}", "{'a'}", "[1 2]");
    CHECK_SCHEMA("true", "1", NULL, "x");
    CHECK_SCHEMA("{'type':'null'}", "null", NULL, "0");
    CHECK_SCHEMA("{'type':'boolean'}", "true", "false", NULL, "True");
    CHECK_SCHEMA("{'type':'integer'}", "0", "-12", NULL, "1.0", "1e3", "-");
    CHECK_SCHEMA("{'type':'number'}", "0", "-12.5", "1e3", NULL, "1.", ".5");
    CHECK_SCHEMA("{'type':['string','null']}", "null", "'x'", NULL, "1");
    CHECK_SCHEMA("{'type':'object'}", "{}", "{ }", "{'a':1}", "{\n  'a': [1,\n2]\n}", NULL, "[]",
                 "{'a':}");
}

static void test_strings(void)
{
    CHECK_SCHEMA("{'type':'string'}", "''", "'\xc3\xa9\xf0\x9f\x98\x80'",
                 "'\\n\\u00e9\\ud83d\\ude00\\\\'", NULL, "'\n'", "'\\x'", "'\\u12'", "'\\ud83d'",
                 "'\\ude00'", "'\xc3'", "'\x01'", "'a");
    CHECK_SCHEMA("{'type':'string','minLength':2,'maxLength':3}", "'ab'", "'abc'", "'\xc3\xa9\\n'",
                 NULL, "'a'", "'abcd'", "''");
    CHECK_SCHEMA("{'type':'string','pattern':'^a+$'}", "'a'", "'aa'", NULL, "''", "'b'", "'ab'");
    CHECK_SCHEMA("{'type':'string','pattern':'^a+$','maxLength':2}", "'a'", "'aa'", NULL, "''",
                 "'aaa'");
    CHECK_SCHEMA("{'type':'string','format':'date'}", "'2024-02-28'", "'1999-12-31'", NULL,
                 "'2024-13-01'", "'2024-02-30'", "'x'");
    CHECK_SCHEMA("{'type':'string','format':'ipv4'}", "'127.0.0.1'", NULL, "'256.0.0.1'",
                 "'1.2.3'");
    CHECK_SCHEMA("{'type':'string','format':'of the future'}", "'x'", NULL, "x");
    CHECK_SCHEMA("{'allOf':[{'pattern':'^a'},{'pattern':'b$'}],'type':'string'}", "'ab'", "'a-b'",
                 NULL, "'a'", "'b'");
}

static void test_values(void)
{
    CHECK_SCHEMA("{'enum':['a','b\\n',1,null,[1,2]]}", "'a'", "'b\\n'", "1", "null", "[1, 2]", NULL,
                 "'c'", "2", "[1,2]");
    CHECK_SCHEMA("{'const':'x'}", "'x'", NULL, "'y'");
    CHECK_SCHEMA("{'enum':['a',1],'type':'string'}", "'a'", NULL, "1");
    CHECK_SCHEMA("{'enum':[1,5,9],'minimum':2,'exclusiveMaximum':9}", "5", NULL, "1", "9");
    CHECK_SCHEMA("{'enum':['a','bb','ccc'],'minLength':2,'pattern':'b'}", "'bb'", NULL, "'a'",
                 "'ccc'");
    CHECK_SCHEMA("{'allOf':[{'enum':[1,2]},{'enum':[2,3]}]}", "2", NULL, "1", "3");
}

static void test_not(void)
{
    CHECK_SCHEMA("{'not':{'type':'null'}}", "1", "'a'", "{}", NULL, "null");
    CHECK_SCHEMA("{'not':{'type':['object','array','number']}}", "null", "'a'", NULL, "{}", "[]",
                 "1", "1.5");
    CHECK_SCHEMA("{'type':['string','null'],'allOf':[{'not':{'type':'null'}}]}", "'a'", NULL,
                 "null");
    CHECK_SCHEMA("{'not':{'type':'integer'}}", "null", "'a'", "[1]", NULL, "1", "-20");
    CHECK_SCHEMA("{'type':'string','not':false}", "'a'", NULL, "1");
    CHECK_SCHEMA("{'enum':['a','b',1,7,null],'not':{'enum':['b',null]}}", "'a'", "1", "7", NULL,
                 "'b'", "null");
    CHECK_SCHEMA("{'enum':[1,5,9,'x'],'not':{'minimum':5,'type':'number'}}", "1", "'x'", NULL, "5",
                 "9");
    CHECK_SCHEMA("{'enum':[1,'a'],'not':false}", "1", "'a'", NULL, "2");
    CHECK_SCHEMA("{'type':'string','not':{'type':'integer','minimum':3}}", "'a'", NULL, "4");
    CHECK_SCHEMA("{'type':'integer','if':{'minimum':3}}", "1", "4", NULL, "'a'");
    CHECK_SCHEMA("{'type':'integer','then':{'minimum':3},'else':{'maximum':1}}", "2", NULL, "'a'");
}

static void test_numbers(void)
{
    CHECK_SCHEMA("{'type':'integer','minimum':-3,'maximum':12}", "-3", "0", "12", NULL, "-4", "13");
    CHECK_SCHEMA("{'type':'number','exclusiveMinimum':0,'maximum':1}", "0.5", "1", "1.0", NULL, "0",
                 "0.0", "1.1");
    CHECK_SCHEMA("{'type':'integer','multipleOf':3,'maximum':9,'minimum':1}", "3", "9", NULL, "0",
                 "4", "12");
    CHECK_SCHEMA("{'type':'integer','maximum':5,'exclusiveMaximum':true}", "4", NULL, "5");
    CHECK_SCHEMA("{'allOf':[{'minimum':1},{'minimum':3}],'type':'integer','maximum':3}", "3", NULL,
                 "2");
}

static void test_arrays(void)
{
    CHECK_SCHEMA("{'type':'array','items':{'type':'integer'}}", "[]", "[1]", "[1, 2,3]",
                 "[\n  1,\n  2\n]", NULL, "['a']", "[1,]", "[,1]");
    CHECK_SCHEMA("{'type':'array','items':{'enum':['a','b',1,1.0]},'uniqueItems':true}", "[]",
                 "['a']", "['b','a', 1]", "[\n  1,\n  'b'\n]", NULL, "['a','a']", "[1,'a',1]",
                 "['c']", "['a',]");
    CHECK_SCHEMA("{'items':{'enum':['a','b','c'],'not':{'const':'c'}},'type':'array','minItems':1,"
                 "'maxItems':2,'uniqueItems':true}",
                 "['a']", "['b', 'a']", NULL, "[]", "['c']", "['a','a']", "['a','b','a']");
    CHECK_SCHEMA("{'type':'array','items':{'type':'boolean','enum':[true,false]},'uniqueItems':true"
                 ",'maxItems':1}",
                 "[]", "[true]", NULL, "[true,false]");
    CHECK_SCHEMA("{'type':'array','items':{'type':'integer'},'minItems':1,'maxItems':2}", "[1]",
                 "[1,2]", NULL, "[]", "[1,2,3]");
    CHECK_SCHEMA("{'type':'array','prefixItems':[{'type':'integer'},{'type':'string'}],'items':"
                 "false,'minItems':2}",
                 "[1, 'a']", NULL, "[1]", "[1,'a',2]");
    CHECK_SCHEMA("{'type':'array','items':[{'type':'integer'}],'additionalItems':{'type':'null'}}",
                 "[1, null, null]", "[]", NULL, "[null]", "[1,2]");
    CHECK_SCHEMA("{'type':'array','minItems':2}", "[1,'a']", "[1,2,3]", NULL, "[1]");
    CHECK_SCHEMA("{'type':'array','maxItems':0}", "[]", NULL, "[1]");
}

static void test_objects(void)
{
    CHECK_SCHEMA(
        "{'type':'object','properties':{'a':{'type':'integer'},'b':{'type':'string'},'c':{}},"
        "'required':['b']}",
        "{'b':'x'}", "{'a': 1, 'b': 'x'}", "{'a':1,'b':'x','c':[]}", "{'b':'x', 'c':null}", NULL,
        "{}", "{'a':1}", "{'b':'x','a':1}", "{'b':'x','d':1}", "{'b':'x',}");
    CHECK_SCHEMA(
        "{'type':'object','properties':{'a':{}},'additionalProperties':{'type':'integer'}}", "{}",
        "{'a':'x'}", "{'a':'x','b':1,'aa':2}", "{'':1}", "{'b':1, 'c': 2}", NULL, "{'b':'x'}",
        "{'a':1,'a':2}", "{'b':1,'a':2}", "{'\\u0061':1}");
    CHECK_SCHEMA("{'type':'object','additionalProperties':false}", "{}", NULL, "{'a':1}");
    CHECK_SCHEMA("{'type':'object','required':['a'],'additionalProperties':{'type':'null'}}",
                 "{'a':null}", "{'a':null,'b':null}", NULL, "{}", "{'a':1}");
    CHECK_SCHEMA("{'type':'object','minProperties':1,'maxProperties':2,'additionalProperties':{'"
                 "type':'integer'}}",
                 "{'a':1}", "{'a':1,'b':2}", NULL, "{}", "{'a':1,'b':2,'c':3}");
    CHECK_SCHEMA("{'type':'object','patternProperties':{'^x-':{'type':'integer'}},'properties':{'x-"
                 "a':{},'b':{}},"
                 "'additionalProperties':false}",
                 "{}", "{'x-a':1,'b':'c','x-q':5}", NULL, "{'x-a':'s'}", "{'y':1}", "{'x-q':'s'}");
    CHECK_SCHEMA("{'type':'object','properties':{'a\\\\\\u00e9':{'type':'null'}}}",
                 "{'a\\\\\xc3\xa9':null}", NULL, "{'a\xc3\xa9':null}");
}

static void test_combinations(void)
{
    CHECK_SCHEMA("{'anyOf':[{'type':'integer'},{'type':'string'}]}", "1", "'a'", NULL, "null");
    CHECK_SCHEMA("{'type':'object','properties':{'a':{'type':'integer'}},'required':['a'],"
                 "'anyOf':[{'properties':{'b':{'type':'null'}},'required':['b']},{'properties':{'c'"
                 ":{'type':'null'}},"
                 "'required':['c']}]}",
                 "{'a':1,'b':null}", "{'a':1,'c':null}", NULL, "{'a':1}",
                 "{'a':1,'b':null,'c':null}");
    CHECK_SCHEMA("{'allOf':[{'properties':{'a':{'type':'integer'}},'required':['a']},"
                 "{'properties':{'a':{'minimum':5},'b':{'type':'null'}}}],'type':'object'}",
                 "{'a':5}", "{'a':7,'b':null}", NULL, "{'a':4}", "{}");
    CHECK_SCHEMA("{'oneOf':[{'type':'object','properties':{'k':{'const':'a'},'x':{'type':'integer'}"
                 "},'required':['k']},"
                 "{'type':'object','properties':{'k':{'enum':['b','c']}},'required':['k']},{'type':"
                 "'null'}]}",
                 "{'k':'a','x':1}", "{'k':'c'}", "null", NULL, "{'k':'b','x':1}", "{}");
    CHECK_SCHEMA("{'oneOf':[{'type':'integer'},{'type':'string'}]}", "1", "'a'", NULL, "1.5");
    CHECK_SCHEMA(
        "{'unevaluatedProperties':false,'allOf':[{'properties':{'a':{}}}],'type':'object'}", "{}",
        "{'a':1}", NULL, "{'b':1}");
}

static void test_references(void)
{
    CHECK_SCHEMA("{'$ref':'#/$defs/a~1b','$defs':{'a/b':{'type':'integer'}}}", "1", NULL, "'a'");
    CHECK_SCHEMA("{'$ref':'#x','$defs':{'q':{'$anchor':'x','type':'null'}}}", "null", NULL, "1");
    CHECK_SCHEMA(
        "{'$ref':'#/$defs/n','$defs':{'n':{'type':'object','properties':{'v':{'type':'integer'},"
        "'next':{'anyOf':[{'$ref':'#/$defs/n'},{'type':'null'}]}},'required':['v','next']}}}",
        "{'v':1,'next':null}", "{'v': 1, 'next': {'v': 2, 'next': {'v':3,'next':null}}}", NULL,
        "{'v':1}", "{'v':1,'next':{'v':1}}");
    CHECK_SCHEMA("{'type':'array','items':{'$ref':'#'}}", "[]", "[[], [[]]]", NULL, "[1]", "[[]");
    CHECK_SCHEMA("{'$ref':'#/definitions/"
                 "s','maxLength':1,'definitions':{'s':{'type':'string','minLength':1}}}",
                 "'a'", NULL, "''", "'ab'");
}

static void test_refusals(void)
{
    static const struct {
        const char *schema;
        int code;
        const char *text;
    } cases[] = {
        {"[]", E_INVALID, "must be an object or a boolean"},
        {"false", E_INVALID, "nothing can satisfy"},
        {"{\"type\":\"text\"}", E_INVALID, "'type'"},
        {"{\"type\":3}", E_INVALID, "'type'"},
        {"{\"type\":\"string\",\"minLength\":-1}", E_INVALID, "'minLength'"},
        {"{\"type\":\"integer\",\"minimum\":\"1\"}", E_INVALID, "'minimum'"},
        {"{\"type\":\"string\",\"pattern\":\"(\"}", E_INVALID, "regular expression"},
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", E_UNSUPPORTED, "lookaround"},
        {"{\"$ref\":\"#\"}", E_INVALID, "without end"},
        {"{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/"
         "$defs/a\"}}}",
         E_INVALID, "without end"},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", E_INVALID, "without end"},
        {"{\"$ref\":\"#/$defs/missing\"}", E_INVALID, "nothing that its $ref"},
        {"{\"$ref\":\"http://example.com/x\"}", E_INVALID, "nothing that its $ref"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
         E_INVALID, "nothing can satisfy"},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", E_INVALID, "nothing can satisfy"},
        {"{\"not\":{\"type\":\"string\",\"minLength\":2}}", E_UNSUPPORTED, "'not'"},
        {"{\"type\":\"number\",\"not\":{\"type\":\"integer\"}}", E_UNSUPPORTED, "'not'"},
        {"{\"type\":\"string\",\"not\":{\"const\":\"a\"}}", E_UNSUPPORTED, "'not'"},
        {"{\"enum\":[\"a\"],\"not\":{\"pattern\":\"b\"}}", E_UNSUPPORTED, "'not'"},
        {"{\"not\":{}}", E_INVALID, "nothing can satisfy"},
        {"{\"enum\":[1],\"not\":true}", E_INVALID, "nothing can satisfy"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", E_UNSUPPORTED, "'uniqueItems'"},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"items\":{\"enum\":[1,2,3,4,5,6,7,8,9]}}",
         E_UNSUPPORTED, "'uniqueItems'"},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":3,\"items\":{\"enum\":[1,2]}}",
         E_INVALID, "nothing can satisfy"},
        {"{\"type\":\"array\",\"contains\":{}}", E_UNSUPPORTED, "'contains'"},
        {"{\"if\":{},\"then\":{}}", E_UNSUPPORTED, "'if'"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}]}", E_UNSUPPORTED, "'oneOf'"},
        {"{\"type\":\"number\",\"multipleOf\":0.01}", E_UNSUPPORTED, "'multipleOf'"},
        {"{\"anyOf\":[]}", E_INVALID, "anyOf"},
        {"{\"type\":\"object\",\"properties\":[]}", E_INVALID, "'properties'"},
        {"{\"type\":\"string\",\"pattern\":\"^(a{1000}){1000}$\"}", E_LIMIT, "too large"},
        {"{\"type\":\"array\",\"minItems\":1000000}", E_LIMIT, "minItems"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct grammar_nfa n;
        struct error err = {0};
        int rc = compile(cases[i].schema, &n, &err);
        bool is_as_wanted = rc == cases[i].code && strstr(err.text, cases[i].text);
        if (!is_as_wanted) printf("%s: %d '%s'\n", cases[i].schema, rc, err.text);
        EXPECT(is_as_wanted);
        nfa_deinit(&n);
    }
}

/* 2^32 branches of anyOf, and rules that call each other in every order. */
static void test_schemas_that_explode(void)
{
    struct buf text;
    struct grammar_nfa n;
    struct error err;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "{\"allOf\":[");
    for (int i = 0; i < 32; i++)
        buf_printf(&text, "%s{\"anyOf\":[{\"minLength\":%d},{\"maxLength\":%d}]}", i ? "," : "", i,
                   100 + i);
    buf_append_str(&text, "]}");
    EXPECT_INT(compile(text.data, &n, &err), E_LIMIT);
    nfa_deinit(&n);
    buf_clear(&text);
    buf_append_str(&text, "{\"$ref\":\"#/$defs/0\",\"$defs\":{");
    for (int i = 0; i < 200; i++) {
        buf_printf(&text, "%s\"%d\":{\"anyOf\":[{\"type\":\"null\"}", i ? "," : "", i);
        for (int j = 0; j < 20; j++)
            buf_printf(&text, ",{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/%d\"}}",
                       (i * 7 + j * 11) % 200);
        buf_append_str(&text, "]}");
    }
    buf_append_str(&text, "}}");
    EXPECT_INT(compile(text.data, &n, &err), 0);
    struct automaton *a = automaton_create(&n);
    EXPECT(matches(a, "[null, null, []]")); // deeper there are more threads than are followed
    EXPECT(!matches(a, "[[[null, [], [[null]]]]"));
    automaton_destroy(a);
    nfa_deinit(&n);
    buf_deinit(&text);
}

/* Two hundred thousand pairs of branches to compare, and ten thousand objects: refused soon, in little
 * memory. */
static void test_schemas_that_take_time(void)
{
    struct buf text;
    struct grammar_nfa n;
    struct error err;
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "{\"oneOf\":[");
    for (int i = 0; i < 1500; i++)
        buf_printf(&text, "%s{\"type\":\"integer\",\"const\":%d}", i ? "," : "", i);
    buf_append_str(&text, "]}");
    EXPECT_INT(compile(text.data, &n, &err), E_LIMIT);
    nfa_deinit(&n);
    buf_clear(&text);
    buf_append_str(&text, "{\"type\":\"array\",\"prefixItems\":[{}");
    for (int i = 0; i < 9000; i++)
        buf_append_str(&text, ",{\"type\":\"object\"}");
    buf_append_str(&text, "]}");
    EXPECT_INT(compile(text.data, &n, &err), E_LIMIT);
    nfa_deinit(&n);
    buf_deinit(&text);
}

/* None of many values or names is forgotten. */
static void test_many_at_once(void)
{
    struct buf text;
    struct grammar_nfa n;
    struct error err;
    char value[32];
    buf_init(&text, BUF_MAX_INTERNAL);
    buf_append_str(&text, "{\"enum\":[0");
    for (int i = 0; i < 5000; i++)
        buf_printf(&text, ",\"city %d\"", i * 7);
    buf_append_str(&text, "]}");
    EXPECT_INT(compile(text.data, &n, &err), 0);
    struct automaton *a = automaton_create(&n);
    for (int i = 0; i < 5000; i++) {
        snprintf(value, sizeof value, "\"city %d\"", i * 7);
        EXPECT(matches(a, value));
        automaton_reserve(a);
    }
    EXPECT(!matches(a, "\"city 1\""));
    automaton_destroy(a);
    nfa_deinit(&n);
    buf_clear(&text);
    buf_append_str(&text, "{\"type\":\"object\",\"properties\":{\"first\":{}");
    for (int i = 0; i < 600; i++)
        buf_printf(&text, ",\"name %d\":{\"type\":\"null\"}", i);
    buf_append_str(&text, "}}");
    EXPECT_INT(compile(text.data, &n, &err), 0);
    a = automaton_create(&n);
    for (int i = 0; i < 600; i++) {
        snprintf(value, sizeof value, "{\"name %d\":null}", i);
        EXPECT(matches(a, value));
    }
    automaton_destroy(a);
    nfa_deinit(&n);
    buf_deinit(&text);
}

/* More nesting than the automaton has room for: it begins anew and goes on. */
static void test_automaton_begins_anew(void)
{
    struct grammar_nfa n;
    EXPECT_INT(compile("{}", &n, NULL), 0);
    struct automaton *a = automaton_create(&n);
    unsigned generation = automaton_generation(a);
    int state = AUTOMATON_START, depth = 0;
    for (; automaton_generation(a) == generation && depth < 100000; depth++) {
        state = automaton_next(a, state, '[');
        EXPECT(state != AUTOMATON_DEAD);
        automaton_reserve(a);
    }
    EXPECT(depth > 1000 && depth < 100000);
    EXPECT(matches(a, "[[[]]]"));
    automaton_destroy(a);
    nfa_deinit(&n);
}

int main(void)
{
    RUN(test_types);
    RUN(test_strings);
    RUN(test_values);
    RUN(test_not);
    RUN(test_numbers);
    RUN(test_arrays);
    RUN(test_objects);
    RUN(test_combinations);
    RUN(test_references);
    RUN(test_refusals);
    RUN(test_schemas_that_explode);
    RUN(test_schemas_that_take_time);
    RUN(test_many_at_once);
    RUN(test_automaton_begins_anew);
    return TEST_END();
}
