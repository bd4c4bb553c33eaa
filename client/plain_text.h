/* plain_text.h - text from a server on its way to a terminal.
 *
 * A model may write escape sequences, which a terminal would obey: move the cursor, change the
 * title, answer queries into the input. So nothing but text, line breaks and tabs gets through. */
#ifndef LM_CLIENT_PLAIN_TEXT_H
#define LM_CLIENT_PLAIN_TEXT_H

#include <stddef.h>

#include "shared/base/buf.h"
#include "shared/base/str.h"

/* Append `text` (valid UTF-8) with every control character but '\n' and '\t' made visible: ESC is
 * "^[" there, U+009B is "\u009b". */
void plain_text_append(struct buf *out, struct str text);

/* The same for one cell of a table or one line: '\n' and '\t' become a space, too. */
void plain_text_append_line(struct buf *out, struct str text);

/* Characters, each taken as one column wide. */
size_t plain_text_width(struct str text);

#endif
