#include "proxy/session_ident.h"

#include "shared/base/check.h"

#include <inttypes.h>

/* What agents and other routers' clients use already. */
static const char *const id_headers[] = {
    "x-session-id", "x-claude-code-agent-id", "x-claude-code-session-id",
    "session-id",   "x-dynamo-session-id",
};

struct str session_cookie_find(struct str header, const char *name)
{
    struct str part, wanted = str_of(name);
    while (str_split(&header, ';', &part)) {
        struct str key, value = str_trim(part);
        if (!memchr(value.data, '=', value.len)) continue;
        if (!str_split(&value, '=', &key) || !str_equal(str_trim(key), wanted)) continue;
        value = str_trim(value);
        if (value.len >= 2 && value.data[0] == '"' && value.data[value.len - 1] == '"') {
            value = (struct str){value.data + 1, value.len - 2};
        }
        return value;
    }
    return (struct str){0};
}

/* ---- the text ---- */

static bool take(struct str text, enum session_source source, struct session_ident *out,
                 struct str *found)
{
    text = str_trim(text);
    if (text.len == 0) return false;
    *found = text;
    out->source = source;
    return true;
}

static bool find_text(const struct session_ident_input *in, struct session_ident *out,
                      struct str *text)
{
    const struct http_headers *h = in->headers;
    if (in->header && take(http_headers_get(h, in->header), SESSION_FROM_HEADER, out, text)) {
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(id_headers); i++) {
        if (take(http_headers_get(h, id_headers[i]), SESSION_FROM_HEADER, out, text)) return true;
    }
    return take(in->session_id, SESSION_FROM_BODY, out, text) ||
           take(in->conversation, SESSION_FROM_BODY, out, text) ||
           take(in->previous_response_id, SESSION_FROM_BODY, out, text) ||
           take(in->prompt_cache_key, SESSION_FROM_BODY, out, text);
}

/* ---- the key ---- */

static void find_soft(const struct session_ident_input *in, const struct session_secret *secret,
                      struct str cookie, struct session_ident *out)
{
    struct str text;
    char print[32];
    bool is_carried = out->has_token && out->token.kind == SESSION_SOFT;
    if (!find_text(in, out, &text)) {
        if (is_carried) { // out->source says where it was
            out->kind = SESSION_SOFT;
            out->key = out->token.key;
            return;
        }
        if (!take(cookie, SESSION_FROM_COOKIE, out, &text)) {
            out->source = SESSION_FROM_NOTHING;
            if (in->fingerprint == 0) return;
            char *end = str_put_hex64(str_put(print, STR("fingerprint:")), in->fingerprint);
            text = (struct str){print, (size_t)(end - print)};
            out->source = SESSION_FROM_FINGERPRINT;
        }
    }
    out->kind = SESSION_SOFT;
    out->key = session_key_named(secret, str_of(out->tenant), in->model, STR("soft"), text);
}

void session_ident_find(const struct session_ident_input *in, const struct session_secret *secret,
                        const struct session_token_key *token_key, int64_t now_s,
                        struct session_ident *out)
{
    *out = (struct session_ident){.kind = SESSION_NONE};
    if (in->tenant.len > 0) session_tenant(in->tenant, (struct str){0}, out->tenant);
    struct str tenant = str_of(out->tenant);
    struct str header = http_headers_get(in->headers, SESSION_TOKEN_HEADER);
    struct str cookie =
        session_cookie_find(http_headers_get(in->headers, "cookie"), SESSION_COOKIE);
    if (header.len > 0) {
        out->has_token =
            session_token_parse(token_key, header, tenant, in->model, now_s, &out->token) == 0;
        out->source = SESSION_FROM_TOKEN;
    }
    if (!out->has_token && cookie.len > 0) {
        out->has_token =
            session_token_parse(token_key, cookie, tenant, in->model, now_s, &out->token) == 0;
        out->source = SESSION_FROM_COOKIE;
    }
    if (in->conversation_id >= 0) {
        out->kind = SESSION_HARD;
        out->source = SESSION_FROM_ID;
        out->key = session_key(secret, tenant, in->model, STR("interactive"), in->conversation_id);
    } else {
        find_soft(in, secret, cookie, out);
    }
    struct str final = str_trim(http_headers_get(in->headers, "x-dynamo-session-final"));
    out->is_final = str_equal_nocase(final, STR("true")) || str_equal(final, STR("1"));
    out->has_token = out->has_token && out->token.kind == out->kind && out->token.key == out->key;
}
