#include "client/screen.h"

#include "client/plain_text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void screen_init(struct screen *s)
{
    *s = (struct screen){.is_terminal = isatty(STDOUT_FILENO), .at_line_start = true};
}

int screen_show(void *arg, struct str text, struct error *err)
{
    struct screen *s = arg;
    struct buf plain;
    if (text.len == 0) return 0;
    buf_init(&plain, BUF_MAX_INTERNAL);
    if (s->is_terminal) {
        plain_text_append(&plain, text);
        text = buf_str(&plain);
    }
    size_t written = fwrite(text.data, 1, text.len, stdout);
    s->at_line_start = text.data[text.len - 1] == '\n';
    size_t wanted = text.len;
    buf_deinit(&plain);
    if (written != wanted || fflush(stdout) != 0) {
        return error_set(err, -errno, "cannot write the answer: %s", strerror(errno));
    }
    return 0;
}

void screen_end_line(struct screen *s)
{
    if (s->at_line_start) return;
    putchar('\n');
    fflush(stdout);
    s->at_line_start = true;
}

void screen_remark(const char *text)
{
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\033[2m%s\033[0m\n", text);
    } else {
        fprintf(stderr, "%s\n", text);
    }
}
