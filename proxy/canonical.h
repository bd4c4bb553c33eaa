/* canonical.h - a conversation as a stream of bytes that doesn't depend on how its JSON was spelled,
 * hashed while it comes in.
 *
 * The stream is cut into units of 1 KiB; the end of a message closes a unit early if 256 bytes came
 * since the last close. Each unit's hash is chained to the one before: a mark at a close stands for
 * all up to there. There are marks at every close for the first 128, then at gaps that double with
 * every four: a prompt of 64 MiB still ends before PREFIX_MARKS_MAX, and two prompts with the same
 * beginning have the same marks over it.
 *
 * Model, tenant, tools and what else stands before a conversation may come behind it in the body, so
 * they are not what the chain begins with: a sum over them, whose order doesn't matter, is folded
 * into each finished mark. A message's role may follow its content too: it closes the message, and
 * marks inside a message have it folded in if it is known by then.
 *
 * Bytes are counted as the model will read them: texts, calls of tools, not images or framing.
 * Pure; one thread at a time. */
#ifndef LM_PROXY_CANONICAL_H
#define LM_PROXY_CANONICAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/arena.h"
#include "shared/base/str.h"
#include "shared/net/prefix_chain.h"

#define CANONICAL_UNIT 1024

/* A hash of text that comes in pieces: only the text matters, not how it was cut. */
struct text_digest {
    uint64_t state;
    uint64_t bytes; // written
    size_t fill;    // of unit
    unsigned char unit[CANONICAL_UNIT];
};

void text_digest_init(struct text_digest *d);
void text_digest_write(struct text_digest *d, const void *data, size_t len);
uint64_t text_digest_value(const struct text_digest *d); // of what was written so far

enum canonical_role { CANONICAL_ROLE_OTHER, CANONICAL_ROLE_USER, CANONICAL_ROLE_SYSTEM };

struct canonical {
    struct text_digest text;
    uint64_t bytes;           // of the conversation
    uint64_t closed_at;       // bytes at the last close of a unit
    uint64_t options;         // sum over what stands before the conversation
    uint64_t front_bytes;     // of that, what the model reads: tools
    uint64_t members;         // sum over the message's members but its content
    uint64_t member_bytes;    // of these
    uint64_t role_hash;       // of the message; 0: not known (yet), or none is open
    uint64_t fingerprint;     // state at the end of the first user message; 0: none yet
    uint64_t system;          // state at the end of the leading system message, or at the start
    uint64_t system_bytes;    // up to there
    enum canonical_role role; // of the message
    int messages;             // ended
    bool marks_wanted;        // cleared where what follows is no continuation
    int mark_count;
    struct prefix_mark marks[PREFIX_MARKS_MAX]; // hashes without what stands before
};

void canonical_init(struct canonical *c);

/* Text of the message that is open. */
void canonical_write(struct canonical *c, const void *data, size_t len);
/* A thing that stands in the text but isn't any: an image. Not counted. */
void canonical_write_digest(struct canonical *c, uint64_t digest);

/* Members of the message other than its content, in any order; id: which one, not 0 (the role's). */
void canonical_add_role(struct canonical *c, struct str role);
void canonical_add_member(struct canonical *c, unsigned id, uint64_t digest, uint64_t bytes);
void canonical_end_message(struct canonical *c);

/* What stands before the conversation. bytes: what the model reads of it. */
void canonical_add_option(struct canonical *c, unsigned id, uint64_t digest, uint64_t bytes);

/* The finished marks, in the arena; the fingerprint, or 0; *bytes: all of them. */
struct canonical_result {
    const struct prefix_mark *marks;
    int mark_count;
    uint64_t bytes, fingerprint;
};
void canonical_finish(struct canonical *c, struct str model, struct str tenant, struct arena *a,
                      struct canonical_result *out);

#endif
