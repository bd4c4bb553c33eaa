/* screen.h - what a conversation shows: answers on standard output, remarks of ours on standard
 * error. */
#ifndef LM_CLIENT_SCREEN_H
#define LM_CLIENT_SCREEN_H

#include <stdbool.h>

#include "shared/base/error.h"
#include "shared/base/str.h"

struct screen {
    bool is_terminal;
    bool at_line_start; // the last byte written was a line break, or none was written
};

void screen_init(struct screen *s);

/* A piece of an answer, seen at once. On a terminal without what a terminal would obey. A
 * chat_text_sink: arg is the struct screen. -errno. */
FALLIBLE int screen_show(void *arg, struct str text, struct error *err);

void screen_end_line(struct screen *s); // if one was begun

/* A remark of ours, told apart from the answer. */
void screen_remark(const char *text);

#endif
