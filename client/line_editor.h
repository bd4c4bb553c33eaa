/* line_editor.h - reading lines from a person at a terminal: editing, history, Ctrl-C. libedit
 * behind a narrow door; it takes ~/.editrc into account. One at a time per process, main thread
 * only. */
#ifndef LM_CLIENT_LINE_EDITOR_H
#define LM_CLIENT_LINE_EDITOR_H

#include "shared/base/error.h"

struct line_editor;

/* history_file: where lines are kept from one run to the next, made if it isn't there (0600); NULL:
 * they aren't. A history that can't be read or written is no error: it only isn't kept. */
FALLIBLE int line_editor_create(const char *history_file, struct line_editor **out,
                                struct error *err);
void line_editor_destroy(struct line_editor *e); // restores the terminal; NULL is fine

enum line_result {
    LINE_READ,        // *line is owned, without its end of line
    LINE_DROPPED,     // Ctrl-C with something typed; *line is NULL from here on
    LINE_INTERRUPTED, // Ctrl-C on an empty line
    LINE_ENDED,       // Ctrl-D on an empty line, or the terminal is gone
};
enum line_result line_editor_read(struct line_editor *e, const char *prompt, char **line);

void line_editor_remember(struct line_editor *e, const char *line);

/* The default place of the history, owned: $XDG_STATE_HOME/lm-client/history, else below
 * ~/.local/state. NULL: there is no home. */
char *line_editor_history_path(void);

#endif
