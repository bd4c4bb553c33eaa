#include "client/chat_repl.h"

#include "client/line_editor.h"
#include "client/models.h"
#include "client/screen.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_MAX ((size_t)16 << 20) // of what comes through a pipe

struct repl {
    struct chat *chat;
    struct line_editor *editor;
    bool leaving;
};

static int ask(struct chat *chat, struct str question, struct error *err)
{
    struct screen screen;
    screen_init(&screen);
    enum chat_end end = CHAT_STOPPED;
    int rc = chat_ask(chat, question, screen_show, &screen, &end, err);
    if (rc == 0 || screen.is_terminal) screen_end_line(&screen);
    if (rc == 0 && end == CHAT_HIT_LENGTH && isatty(STDERR_FILENO)) {
        screen_remark("[the token limit ended this answer]");
    }
    return rc;
}

/* ---- commands ---- */

static void command_help(struct repl *r, const char *argument)
{
    (void)r;
    (void)argument;
    fputs(
        "/model         list the models\n"
        "/model NAME    talk to another one (the beginning of its name is enough)\n"
        "/reset         forget the conversation\n"
        "/exit          leave; so do Ctrl-D, and Ctrl-C on an empty line\n"
        "/help          this\n"
        "\n"
        "A line that ends in \\ goes on in the next one. A line that begins with a blank is never\n"
        "a command. Ctrl-C stops a running answer; that turn is then forgotten.\n",
        stdout);
}

static void command_model(struct repl *r, const char *argument)
{
    struct model_list list;
    struct error err;
    if (models_fetch(r->chat->api, &list, &err) < 0) {
        screen_remark(err.text);
        return;
    }
    const char *found = models_find(&list, argument);
    if (argument[0] == '\0') {
        for (size_t i = 0; i < list.count; i++) {
            bool is_current = strcmp(list.names[i], r->chat->model) == 0;
            printf("%s %s\n", is_current ? "*" : " ", list.names[i]);
        }
    } else if (found) {
        chat_set_model(r->chat, found);
        printf("now talking to %s\n", found);
    } else {
        screen_remark("no such model, or more than one begins so; /model lists them");
    }
    models_deinit(&list);
}

static void command_reset(struct repl *r, const char *argument)
{
    (void)argument;
    chat_reset(r->chat);
    puts("forgotten");
}

static void command_exit(struct repl *r, const char *argument)
{
    (void)argument;
    r->leaving = true;
}

static void run_command(struct repl *r, const char *line)
{
    static const struct {
        const char *name;
        void (*run)(struct repl *r, const char *argument);
    } commands[] = {
        {"/help", command_help},   {"/model", command_model}, {"/models", command_model},
        {"/reset", command_reset}, {"/exit", command_exit},   {"/quit", command_exit},
    };
    struct str rest = str_trim(str_of(line)), name = {"", 0};
    str_split(&rest, ' ', &name);
    rest = str_trim(rest);
    char *argument = xstrndup(rest.data, rest.len);
    size_t i = 0;
    while (i < ARRAY_LEN(commands) && !str_equal(name, str_of(commands[i].name)))
        i++;
    if (i < ARRAY_LEN(commands)) {
        commands[i].run(r, argument);
    } else {
        screen_remark("unknown command; /help lists them");
    }
    free(argument);
}

/* ---- the loop ---- */

/* A message of one or more lines. */
static enum line_result read_message(struct repl *r, struct buf *message)
{
    const char *prompt = ">>> ";
    buf_clear(message);
    for (;;) {
        char *line;
        enum line_result result = line_editor_read(r->editor, prompt, &line);
        if (result != LINE_READ) return result;
        size_t len = strlen(line);
        bool goes_on = len > 0 && line[len - 1] == '\\';
        if (len > 0) line_editor_remember(r->editor, line);
        buf_append(message, line, goes_on ? len - 1 : len);
        free(line);
        if (!goes_on) return LINE_READ;
        buf_append_char(message, '\n');
        prompt = "... ";
    }
}

static void take_message(struct repl *r, const struct buf *message)
{
    struct error err;
    if (str_trim(buf_str(message)).len == 0) return;
    if (message->data[0] == '/') {
        run_command(r, message->data);
        return;
    }
    int rc = ask(r->chat, buf_str(message), &err);
    if (rc == E_CANCELLED) {
        screen_remark("[stopped; this turn is forgotten]");
    } else if (rc < 0) {
        screen_remark(err.text);
    }
}

int chat_repl_run(struct chat *chat, const char *history_file, struct error *err)
{
    struct repl r = {.chat = chat};
    struct buf message;
    int rc = line_editor_create(history_file, &r.editor, err);
    if (rc < 0) return rc;
    buf_init(&message, MESSAGE_MAX);
    printf("%s at %s; /help for help\n", chat->model, api_client_url(chat->api));
    while (!r.leaving) {
        enum line_result result = read_message(&r, &message);
        if (result == LINE_READ) {
            take_message(&r, &message);
        } else {
            putchar('\n');
            bool has_begun = message.len > 0; // lines of a longer message
            if (result != LINE_DROPPED && !has_begun) break;
        }
    }
    buf_deinit(&message);
    line_editor_destroy(r.editor);
    return 0;
}

/* ---- the pipe ---- */

static int read_stdin(struct buf *out, struct error *err)
{
    for (;;) {
        char *room = buf_reserve(out, 1 << 16);
        if (!room) {
            return error_set(err, E_LIMIT, "standard input is larger than %zu MiB",
                             MESSAGE_MAX >> 20);
        }
        ssize_t n = read(STDIN_FILENO, room, 1 << 16);
        if (n == 0) return 0;
        if (n < 0) return error_set(err, -errno, "cannot read standard input: %s", strerror(errno));
        buf_commit(out, (size_t)n);
    }
}

int chat_repl_pipe(struct chat *chat, struct error *err)
{
    struct buf message;
    buf_init(&message, MESSAGE_MAX + (1 << 16));
    int rc = read_stdin(&message, err);
    struct str question = buf_str(&message);
    while (question.len > 0 && question.data[question.len - 1] == '\n')
        question.len--;
    if (rc == 0 && str_trim(question).len == 0) {
        rc = error_set(err, E_INVALID, "standard input is empty: there is nothing to ask");
    } else if (rc == 0 && (!utf8_is_valid(question.data, question.len) ||
                           memchr(question.data, '\0', question.len))) {
        rc = error_set(err, E_INVALID, "standard input is not UTF-8 text");
    }
    if (rc == 0) rc = ask(chat, question, err);
    buf_deinit(&message);
    return rc;
}
