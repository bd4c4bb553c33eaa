#include "proxy/session_ident.h"

#include "shared/base/check.h"
#include "tests/test.h"

static struct session_secret secret;
static struct session_token_key token_key;
static struct session_ident out;

static const struct session_ident *find(const struct http_header *headers, int count,
                                        struct session_ident_input in)
{
    struct http_headers h = {(struct http_header *)headers, count};
    in.headers = &h;
    if (!in.model.data) in.model = STR("m");
    session_ident_find(&in, &secret, &token_key, 1000, &out);
    return &out;
}

static const struct session_ident_input nothing = {.conversation_id = -1};

static uint64_t key_of(const char *text)
{
    return session_key_named(&secret, STR(""), STR("m"), STR("soft"), str_of(text));
}

static void print_token(enum session_kind kind, uint64_t key, const char *tenant,
                        char text[SESSION_TOKEN_BYTES])
{
    struct session_token token = {.kind = kind, .key = key, .turn = 3, .expires_s = 2000};
    snprintf(token.agent, sizeof token.agent, "agent-1");
    snprintf(token.incarnation, sizeof token.incarnation, "inc");
    session_token_print(&token_key, &token, str_of(tenant), STR("m"), text);
}

/* Everything is there; each row takes the first away. */
static void test_order(void)
{
    char token[SESSION_TOKEN_BYTES], cookie[SESSION_TOKEN_BYTES + 32];
    print_token(SESSION_SOFT, 77, "", token);
    snprintf(cookie, sizeof cookie, "a=b; lm_session=%s; c=d", token);
    struct http_header headers[] = {
        {STR("X-Mine"), STR("h0")},
        {STR("X-Session-ID"), STR("h1")},
        {STR("x-claude-code-agent-id"), STR("h2")},
        {STR("x-claude-code-session-id"), STR("h3")},
        {STR("session-id"), STR("h4")},
        {STR("X-Dynamo-Session-ID"), STR(" h5 ")},
        {STR("authorization"), STR("Bearer key")},
        {STR("cookie"), str_of(cookie)},
    };
    struct session_ident_input in = {.header = "x-mine",
                                     .conversation_id = -1,
                                     .session_id = STR("17"),
                                     .conversation = STR("c"),
                                     .previous_response_id = STR("r"),
                                     .prompt_cache_key = STR("p"),
                                     .fingerprint = 5};
    static const char *const wanted[] = {"h0", "h1", "h2", "h3", "h4", "h5"};
    for (int i = 0; i < 6; i++) {
        EXPECT(find(headers, 8, in)->key == key_of(wanted[i]));
        EXPECT(out.kind == SESSION_SOFT && out.source == SESSION_FROM_HEADER);
        headers[i].value = STR(" "); // empty is none
    }
    EXPECT(find(headers, 8, in)->key == key_of("17") && out.source == SESSION_FROM_BODY);
    in.session_id.data = NULL, in.session_id.len = 0;
    EXPECT(find(headers, 8, in)->key == key_of("c"));
    in.conversation = (struct str){0};
    EXPECT(find(headers, 8, in)->key == key_of("r"));
    in.previous_response_id = (struct str){0};
    EXPECT(find(headers, 8, in)->key == key_of("p"));
    in.prompt_cache_key = (struct str){0};
    EXPECT(find(headers, 8, in)->key == 77 && out.source == SESSION_FROM_COOKIE && out.has_token);
    headers[7].value = STR("lm_session=mine");
    EXPECT(find(headers, 8, in)->key == key_of("mine") && !out.has_token);
    EXPECT(out.source == SESSION_FROM_COOKIE);
    headers[7].value = STR("other=1");
    EXPECT(find(headers, 8, in)->key == key_of("fingerprint:0000000000000005"));
    EXPECT(out.source == SESSION_FROM_FINGERPRINT);
    in.fingerprint = 0;
    EXPECT(find(headers, 8, in)->kind == SESSION_NONE && out.key == 0); // never the API key
}

static void test_who_and_what(void)
{
    struct http_header header = {STR("x-session-id"), STR("s")};
    struct session_ident_input in = nothing;
    uint64_t plain = find(&header, 1, in)->key;
    in.tenant = STR("team");
    uint64_t team = find(&header, 1, in)->key;
    EXPECT(team != plain);
    in.model = STR("other");
    EXPECT(find(&header, 1, in)->key != team);
    in.tenant = STR("a name with spaces"); // spelled as the agents do
    find(&header, 1, in);
    EXPECT(strncmp(out.tenant, "token:", 6) == 0);
}

static void test_hard(void)
{
    struct http_header header = {STR("x-session-id"), STR("s")};
    struct session_ident_input in = {.conversation_id = 42, .tenant = STR("team")};
    EXPECT(find(&header, 1, in)->kind == SESSION_HARD && out.source == SESSION_FROM_ID);
    EXPECT(out.key == session_key(&secret, STR("team"), STR("m"), STR("interactive"), 42));
}

static void test_tokens_are_for_their_session(void)
{
    char token[SESSION_TOKEN_BYTES];
    struct http_header headers[] = {{STR("x-lm-session-token"), STR("")},
                                    {STR("x-session-id"), STR("s")}};
    struct session_ident_input in = nothing;
    print_token(SESSION_SOFT, key_of("s"), "", token);
    headers[0].value = str_of(token);
    EXPECT(find(headers, 2, in)->has_token && out.token.turn == 3);
    EXPECT_STR(out.token.agent, "agent-1");
    EXPECT(find(headers, 1, in)->key == key_of("s") && out.source == SESSION_FROM_TOKEN);
    headers[1].value = STR("another");
    EXPECT(!find(headers, 2, in)->has_token && out.key == key_of("another"));
    in.tenant = STR("team"); // another one's token says nothing
    EXPECT(find(headers, 1, in)->kind == SESSION_NONE);
    in.tenant = STR("");
    in.conversation_id = 7;
    EXPECT(!find(headers, 1, in)->has_token && out.kind == SESSION_HARD); // a soft one
    print_token(SESSION_HARD, session_key(&secret, STR(""), STR("m"), STR("interactive"), 7), "",
                token);
    EXPECT(find(headers, 1, in)->has_token);
}

static void test_final(void)
{
    struct http_header headers[] = {{STR("x-dynamo-session-id"), STR("s")},
                                    {STR("X-Dynamo-Session-Final"), STR("True")}};
    EXPECT(find(headers, 2, nothing)->is_final);
    EXPECT(!find(headers, 1, nothing)->is_final);
    headers[1].value = STR("0");
    EXPECT(!find(headers, 2, nothing)->is_final);
}

static void test_cookies(void)
{
    static const struct {
        const char *header, *want;
    } rows[] = {
        {"lm_session=a", "a"},
        {"x=1; lm_session=a; y=2", "a"},
        {"xlm_session=b;lm_session=\"a=b\"", "a=b"},
        {"lm_session", NULL},
        {"lm_sessions=a", NULL},
        {"", NULL},
        {";;=;lm_session=", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct str got = session_cookie_find(str_of(rows[i].header), "lm_session");
        if (rows[i].want && rows[i].want[0]) EXPECT(str_equal(got, str_of(rows[i].want)));
        if (!rows[i].want || !rows[i].want[0]) EXPECT_INT(got.len, 0);
    }
}

int main(void)
{
    session_secret_of(STR("secret"), &secret);
    session_token_key_of(&secret, &token_key);
    RUN(test_order);
    RUN(test_who_and_what);
    RUN(test_hard);
    RUN(test_tokens_are_for_their_session);
    RUN(test_final);
    RUN(test_cookies);
    return TEST_END();
}
