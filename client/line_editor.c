/* line_editor.c - libedit, with three things done here:
 *
 *  1. Reading a character. libedit's own reader tries again after the first interrupted read, so
 *     that one Ctrl-C would go unseen; ours ends the line.
 *  2. The locale. In the C locale libedit takes every byte beyond ASCII for a control character; a
 *     terminal today speaks UTF-8, so C.UTF-8 stands in where the environment names no better one.
 *  3. Keys that terminals send and libedit doesn't bind: Ctrl-arrows, Delete, search backwards. */
#include "client/line_editor.h"

#include "shared/base/check.h"

#include <histedit.h>

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#define HISTORY_LINES 1000

struct line_editor {
    EditLine *edit;
    History *history;
    char *history_file; // owned; NULL: not kept
    const char *prompt; // borrowed, for the read under way
    mbstate_t shift;    // of the character being read
    bool was_empty;     // the line, when Ctrl-C came; afterwards libedit has forgotten it
};

static volatile sig_atomic_t interrupted, resized; // set by signals, which have no argument

static void on_interrupt(int signo)
{
    (void)signo;
    interrupted = 1;
}

static void on_resize(int signo)
{
    (void)signo;
    resized = 1;
}

/* ---- what libedit calls ---- */

static char *prompt_of(EditLine *edit)
{
    struct line_editor *e;
    el_get(edit, EL_CLIENTDATA, &e);
    return (char *)e->prompt;
}

/* One byte; 0 at the end of input, -1 after Ctrl-C or an error. */
static int read_byte(EditLine *edit, char *byte)
{
    for (;;) {
        if (interrupted) return -1;
        ssize_t n = read(STDIN_FILENO, byte, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR) return -1;
        if (resized) {
            resized = 0;
            el_resize(edit);
        }
    }
}

static int read_character(EditLine *edit, wchar_t *character)
{
    struct line_editor *e;
    el_get(edit, EL_CLIENTDATA, &e);
    for (;;) {
        char byte;
        int n = read_byte(edit, &byte);
        if (n <= 0) {
            const LineInfo *typed = el_line(edit);
            e->was_empty = typed->lastchar == typed->buffer;
            return n;
        }
        size_t used = mbrtowc(character, &byte, 1, &e->shift);
        if (used <= 1) return 1; // 0: a NUL, which is a key like any other
        if (used == (size_t)-1) memset(&e->shift, 0, sizeof e->shift); // no character: skip it
    }
}

/* ---- history ---- */

static void make_folders(const char *file)
{
    char *path = xstrdup(file);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700); // if it fails for good, so will opening the file
        *slash = '/';
    }
    free(path);
}

char *line_editor_history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/') return xasprintf("%s/lm-client/history", state);
    if (home && home[0] == '/') return xasprintf("%s/.local/state/lm-client/history", home);
    return NULL;
}

void line_editor_remember(struct line_editor *e, const char *line)
{
    HistEvent event;
    history(e->history, &event, H_ENTER, line);
    if (e->history_file) history(e->history, &event, H_SAVE, e->history_file);
}

/* ---- life ---- */

static void bind_keys(EditLine *edit)
{
    static const char *const keys[][2] = {
        {"^R", "em-inc-search-prev"},  {"\\e[1;5C", "em-next-word"},
        {"\\e[1;5D", "ed-prev-word"},  {"\\e[3~", "ed-delete-next-char"},
        {"\\e[1~", "ed-move-to-beg"},  {"\\e[4~", "ed-move-to-end"},
        {"^W", "ed-delete-prev-word"},
    };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        el_set(edit, EL_BIND, keys[i][0], keys[i][1], NULL);
}

int line_editor_create(const char *history_file, struct line_editor **out, struct error *err)
{
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    FILE *screen = isatty(STDOUT_FILENO) ? stdout : stderr;
    EditLine *edit = el_init("lm-client", stdin, screen, stderr);
    History *lines = history_init();
    if (!edit || !lines) {
        if (lines) history_end(lines);
        if (edit) el_end(edit);
        return error_set(err, E_UNSUPPORTED, "this terminal can't be used for line editing");
    }
    struct line_editor *e = xcalloc(1, sizeof *e);
    HistEvent event;
    e->edit = edit;
    e->history = lines;
    history(lines, &event, H_SETSIZE, HISTORY_LINES);
    history(lines, &event, H_SETUNIQUE, 1);
    if (history_file) {
        e->history_file = xstrdup(history_file);
        make_folders(history_file);
        history(lines, &event, H_LOAD, history_file);
    }
    el_set(edit, EL_CLIENTDATA, e);
    el_set(edit, EL_EDITOR, "emacs");
    el_set(edit, EL_PROMPT, prompt_of);
    el_set(edit, EL_HIST, history, lines);
    el_set(edit, EL_GETCFN, read_character);
    bind_keys(edit);
    el_source(edit, NULL);
    *out = e;
    return 0;
}

void line_editor_destroy(struct line_editor *e)
{
    if (!e) return;
    el_end(e->edit);
    history_end(e->history);
    free(e->history_file);
    free(e);
}

enum line_result line_editor_read(struct line_editor *e, const char *prompt, char **line)
{
    struct sigaction interrupt = {.sa_handler = on_interrupt}, resize = {.sa_handler = on_resize};
    struct sigaction interrupt_before, resize_before; // no SA_RESTART: the read must return
    *line = NULL;
    e->prompt = prompt;
    memset(&e->shift, 0, sizeof e->shift);
    interrupted = resized = 0;
    sigaction(SIGINT, &interrupt, &interrupt_before);
    sigaction(SIGWINCH, &resize, &resize_before);
    // libedit itself shows the prompt before it turns off the terminal's own echo and line editing,
    // so that keys typed at once would appear twice.
    el_set(e->edit, EL_PREP_TERM, 1);
    int count = 0;
    const char *text = el_gets(e->edit, &count);
    sigaction(SIGINT, &interrupt_before, NULL);
    sigaction(SIGWINCH, &resize_before, NULL);

    if (interrupted) {
        el_reset(e->edit);
        return e->was_empty ? LINE_INTERRUPTED : LINE_DROPPED;
    }
    if (!text || count <= 0) return LINE_ENDED;
    size_t len = (size_t)count;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    *line = xstrndup(text, len);
    return LINE_READ;
}
