/* prefix_chain.h - how a proxy names the beginnings of a prompt to an agent, without tokens:
 *
 *     x-lm-prefix: 00f3a1b2c4d5e6f7@1024,9ab4c3d2e1f00718@1530;1702
 *
 * Each mark is a hash of everything up to there and the canonical bytes it covers; behind the
 * semicolon stands how many canonical bytes the whole prompt has. An agent that holds the first
 * marks' KV blocks says so by their hashes; it needs no more than bytes/total to find the token
 * where a mark lies. Pure; any thread. */
#ifndef LM_NET_PREFIX_CHAIN_H
#define LM_NET_PREFIX_CHAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/str.h"

#define PREFIX_MARKS_MAX   192 // in one header
#define PREFIX_BYTES_MIN   256 // a chain that covers less is worth no header
#define PREFIX_HASH_DIGITS 16

struct prefix_mark {
    uint64_t hash;  // never 0
    uint64_t bytes; // canonical, from the start of the prompt; > 0
};

/* The header's value into marks[max]: their number (at least 1), bytes strictly ascending and at
 * most *total. E_FORMAT; E_LIMIT: more than max marks. */
FALLIBLE int prefix_chain_parse(struct str header, struct prefix_mark *marks, int max,
                                uint64_t *total);

/* Appends the header's value (at most 8 KiB for PREFIX_MARKS_MAX); marks as above. False, and
 * nothing is appended: the chain covers less than PREFIX_BYTES_MIN. */
bool prefix_chain_print(struct buf *out, const struct prefix_mark *marks, int count,
                        uint64_t total);

/* Sixteen hexadecimal digits, as hashes stand in the header and in GET /lm/prefixes. E_FORMAT. */
FALLIBLE int prefix_hash_parse(struct str digits, uint64_t *hash);

#endif
