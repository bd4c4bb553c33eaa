/* stopping.h - bytes of sampled tokens to text that may go out: whole UTF-8 characters, no stop
 * string, not even the beginning of one. Knows nothing of tokens or tokenizers. One owner, one
 * thread. */
#ifndef LM_ENGINE_STOPPING_H
#define LM_ENGINE_STOPPING_H

#include <stdbool.h>
#include <stddef.h>

#include "shared/base/buf.h"
#include "shared/base/str.h"

#define STOP_STRINGS_MAX      64
#define STOP_STRING_BYTES_MAX 4096

struct stop_matcher;

struct stopping {
    struct stop_matcher *matchers; // one per stop string, owned
    int count;
    struct buf text; // valid text not released yet: a stop string may have begun in it
    char cut[4];     // bytes of a character that isn't complete
    size_t cut_len;
    size_t withheld; // bytes at the end of what was fed that did not come out: held, or stop text
};

/* Strings are copied; each has 1..STOP_STRING_BYTES_MAX bytes. */
void stopping_init(struct stopping *s, const struct str *strings, int count);
void stopping_deinit(struct stopping *s);
void stopping_restart(struct stopping *s); // as if nothing had been fed

/* Take a token's bytes and append to *out what is now certain to be text. True: a stop string is
 * complete (the one that begins first, if several are); *out got the text before it and nothing
 * more may be fed. With may_stop false complete stop strings are text like any other. */
bool stopping_feed(struct stopping *s, struct str bytes, bool may_stop, struct buf *out);

/* The end without a stop string: all that was held back is text; what never became a character is
 * U+FFFD. */
void stopping_flush(struct stopping *s, struct buf *out);

#endif
