/* grammar_until.c - A. Aho, M. Corasick, "Efficient string matching: an aid to bibliographic search",
 * 1975: a node for each beginning of a string, the longest that the text ends with. Those where a string
 * is whole are left out; from all others a text may go on, and may end if its last character is whole.
 *
 * Strings begin where a character does, so a node says how much of a character is missing. Only the
 * root, where the text ends with no beginning of a string, is there once for each way to be amid one. */
#include "engine/grammar_until.h"

#include "shared/base/check.h"

#include <stdlib.h>
#include <string.h>

/* What a text in UTF-8 has of a character (RFC 3629, section 4). */
enum utf8_place {
    UTF8_BETWEEN,  // nothing
    UTF8_ONE_LEFT, // any one byte of 80..bf is missing,
    UTF8_TWO_LEFT, // any two,
    UTF8_THREE_LEFT,
    UTF8_BEHIND_E0, // the next one is in a smaller range
    UTF8_BEHIND_ED,
    UTF8_BEHIND_F0,
    UTF8_BEHIND_F4,
    UTF8_PLACES,
};

struct until {
    int nodes;
    int16_t (*next)[256]; // [nodes]; while the tree grows: the child, 0: none
    int16_t *fail;        // the longest other node that the node's text ends with
    uint8_t *place;       // enum utf8_place
    bool *is_whole;       // the node's text ends with one of the strings
    int32_t *state;       // of the automaton
    int32_t root[UTF8_PLACES];
};

static int utf8_step(int place, int byte)
{
    static const struct {
        uint8_t low, high, next;
    } tail[UTF8_PLACES] = {
        [UTF8_ONE_LEFT] = {0x80, 0xbf, UTF8_BETWEEN},
        [UTF8_TWO_LEFT] = {0x80, 0xbf, UTF8_ONE_LEFT},
        [UTF8_THREE_LEFT] = {0x80, 0xbf, UTF8_TWO_LEFT},
        [UTF8_BEHIND_E0] = {0xa0, 0xbf, UTF8_ONE_LEFT},
        [UTF8_BEHIND_ED] = {0x80, 0x9f, UTF8_ONE_LEFT},
        [UTF8_BEHIND_F0] = {0x90, 0xbf, UTF8_TWO_LEFT},
        [UTF8_BEHIND_F4] = {0x80, 0x8f, UTF8_TWO_LEFT},
    };
    if (place != UTF8_BETWEEN)
        return tail[place].low <= byte && byte <= tail[place].high ? tail[place].next : -1;
    if (byte < 0x80) return UTF8_BETWEEN;
    if (byte < 0xc2 || byte > 0xf4) return -1;
    if (byte < 0xe0) return UTF8_ONE_LEFT;
    if (byte == 0xe0) return UTF8_BEHIND_E0;
    if (byte == 0xed) return UTF8_BEHIND_ED;
    if (byte < 0xf0) return UTF8_TWO_LEFT;
    if (byte == 0xf0) return UTF8_BEHIND_F0;
    return byte == 0xf4 ? UTF8_BEHIND_F4 : UTF8_THREE_LEFT;
}

/* ---- the tree ---- */

static void add_string(struct until *u, struct str s)
{
    int node = 0;
    for (size_t i = 0; i < s.len; i++) {
        int byte = (uint8_t)s.data[i];
        if (!u->next[node][byte]) {
            int place = utf8_step(u->place[node], byte);
            CHECK(place >= 0); // valid UTF-8
            u->place[u->nodes] = (uint8_t)place;
            u->next[node][byte] = (int16_t)u->nodes++;
        }
        node = u->next[node][byte];
    }
    u->is_whole[node] = true;
}

/* From the root outward: where a node has no child, the text goes on as behind its fail. */
static void complete(struct until *u)
{
    int16_t *queue = xcalloc((size_t)u->nodes, sizeof *queue);
    int first = 0, last = 1; // the root is in it
    while (first < last) {
        int node = queue[first++];
        for (int byte = 0; byte < 256; byte++) {
            int child = u->next[node][byte];
            int other = node ? u->next[u->fail[node]][byte] : 0;
            if (!child) {
                u->next[node][byte] = (int16_t)other;
                continue;
            }
            u->fail[child] = (int16_t)other;
            u->is_whole[child] |= u->is_whole[other];
            queue[last++] = (int16_t)child;
        }
    }
    free(queue);
}

/* ---- the automaton ---- */

/* Where a byte leads to: a state, or -1. */
static int target(const struct until *u, int node, int place, int byte)
{
    int place_then = utf8_step(place, byte), next = u->next[node][byte];
    if (place_then < 0 || u->is_whole[next]) return -1;
    return next ? u->state[next] : u->root[place_then];
}

static void emit_state(const struct until *u, struct grammar_nfa *n, int node, int place, int from,
                       int end)
{
    for (int low = 0, high; low < 256; low = high) {
        int to = target(u, node, place, low);
        for (high = low + 1; high < 256 && target(u, node, place, high) == to; high++)
            continue;
        if (to >= 0) nfa_add_bytes(n, from, low, high - 1, to);
    }
    if (place == UTF8_BETWEEN) nfa_add_epsilon(n, from, end);
}

static int emit(struct until *u, struct grammar_nfa *n, int from)
{
    int end = nfa_add_state(n);
    for (int place = 0; place < UTF8_PLACES; place++)
        u->root[place] = nfa_add_state(n);
    for (int node = 1; node < u->nodes; node++)
        u->state[node] = nfa_add_state(n);
    for (int place = 0; place < UTF8_PLACES && !n->overflow; place++)
        emit_state(u, n, 0, place, u->root[place], end);
    for (int node = 1; node < u->nodes && !n->overflow; node++)
        if (!u->is_whole[node]) emit_state(u, n, node, u->place[node], u->state[node], end);
    nfa_add_epsilon(n, from, u->root[UTF8_BETWEEN]);
    return end;
}

int until_emit(struct grammar_nfa *n, int from, const struct str *strings, int count, int *end,
               struct error *err)
{
    struct until u = {.nodes = 1};
    size_t bytes = 1; // the root
    for (int i = 0; i < count; i++)
        bytes += strings[i].len;
    if (count > UNTIL_STRINGS_MAX || bytes > UNTIL_BYTES_MAX)
        return error_set(err, E_LIMIT, "more than %d strings, or %d bytes of them",
                         UNTIL_STRINGS_MAX, UNTIL_BYTES_MAX - 1);
    u.next = xcalloc(bytes, sizeof *u.next);
    u.fail = xcalloc(bytes, sizeof *u.fail);
    u.place = xcalloc(bytes, sizeof *u.place);
    u.is_whole = xcalloc(bytes, sizeof *u.is_whole);
    u.state = xcalloc(bytes, sizeof *u.state);
    for (int i = 0; i < count; i++)
        add_string(&u, strings[i]);
    complete(&u);
    *end = emit(&u, n, from);
    free(u.next);
    free(u.fail);
    free(u.place);
    free(u.is_whole);
    free(u.state);
    return 0;
}
