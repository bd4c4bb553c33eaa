/* A JSON schema, behind an 'r' a regular expression, or behind a 'p' a text in parts; then, behind a NUL,
 * bytes that choose a text.
 * Whatever it is, compiling ends soon, and a text that may be begun can always be ended. */
#include "engine/grammar_automaton.h"
#include "engine/grammar_parts.h"
#include "engine/grammar_regex.h"
#include "engine/grammar_schema.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"
#include "tests/fuzz/fuzz.h"

#define STEPS_MAX 300

static int emit_regex(struct str source, struct grammar_nfa *n, struct error *err)
{
    int end;
    if (!utf8_is_valid(source.data, source.len)) return error_set(err, E_FORMAT, "no text");
    int rc = regex_emit(n, n->rule[0].start, source, REGEX_SEARCH, SPELLING_JSON, &end, err);
    if (rc == 0) nfa_add_epsilon(n, end, n->rule[0].accept);
    return rc;
}

static int emit_json(struct str source, bool in_parts, struct grammar_nfa *n, struct error *err)
{
    struct json *root = json_parse(source.data, source.len, err);
    if (!root) return err->code;
    struct nfa_rule whole = n->rule[0];
    int rc = in_parts ? parts_emit(n, root, NULL, whole.start, whole.accept, err)
                      : schema_emit(n, root, whole.start, whole.accept, NULL, err);
    json_destroy(root);
    return rc;
}

static int emit(struct str source, struct grammar_nfa *n, struct error *err)
{
    char kind = source.len > 0 ? source.data[0] : 0;
    struct str rest = kind ? (struct str){source.data + 1, source.len - 1} : source;
    nfa_add_rule(n);
    int rc = kind == 'r'   ? emit_regex(rest, n, err)
             : kind == 'p' ? emit_json(rest, true, n, err)
                           : emit_json(source, false, n, err);
    return rc < 0 ? rc : nfa_finish(n, err);
}

/* The first byte from `begin` on, around the circle, that may follow. */
static int pick(struct automaton *a, int state, uint8_t begin)
{
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)(begin + i);
        if (automaton_next(a, state, byte) != AUTOMATON_DEAD) return byte;
    }
    return -1;
}

static void walk(const struct grammar_nfa *n, const uint8_t *choice, size_t len)
{
    struct automaton *a = automaton_create(n);
    unsigned generation = automaton_generation(a);
    int state = AUTOMATON_START;
    for (size_t i = 0; i < STEPS_MAX; i++) {
        int byte = pick(a, state, i < len ? choice[i] : (uint8_t)(i * 31));
        if (byte < 0) {
            CHECK(automaton_state(a, state)->accepts);
            break;
        }
        state = automaton_next(a, state, (uint8_t)byte);
        automaton_reserve(a);
        if (automaton_generation(a) != generation) break; // the number means another state now
    }
    automaton_destroy(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t len = end ? (size_t)(end - data) : size;
    struct grammar_nfa n;
    struct error err = {0};
    nfa_init(&n);
    int rc = emit((struct str){(const char *)data, len}, &n, &err);
    CHECK(rc == 0 || (rc == err.code && err.text[0]));
    if (rc == 0) walk(&n, data + len, size - len);
    nfa_deinit(&n);
    return 0;
}
