/* top.c - looks, paints, waits.
 *
 * Rules:
 *  1. Between looks our own loop runs: the timer, keys, signals. During a look it is api_client's,
 *     which Ctrl-C ends too; our handlers stay set all the time, so that no signal finds the
 *     terminal in our mode and the default action in force.
 *  2. The terminal is given back in one place, however this ends. */
#include "client/top.h"

#include "client/fleet_status.h"
#include "client/fleet_view.h"
#include "client/plain_text.h"
#include "shared/base/check.h"
#include "shared/net/loop.h"

#include <uv.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define ENTER_SCREEN "\x1b[?1049h\x1b[?25l" // the alternate screen, no cursor
#define LEAVE_SCREEN "\x1b[?25h\x1b[?1049l"
#define HOME         "\x1b[H"
#define END_OF_LINE  "\x1b[K"
#define END_OF_PAGE  "\x1b[J"

enum top_end { TOP_GOES_ON, TOP_QUIT, TOP_INTERRUPTED, TOP_TERMINATED };

struct top {
    struct api_client *api;
    uint64_t interval_ms;
    uv_loop_t loop;
    uv_timer_t timer;
    uv_signal_t interrupt, terminate, resize;
    uv_poll_t keys;
    bool is_terminal, has_keys;
    struct termios saved; // with has_keys
    enum top_end end;
    struct json *before; // owned; NULL: none
    struct buf page;     // what was seen last
    char note[300];      // why it is old; "": it isn't
};

/* ---- painting ---- */

static struct winsize screen_size(void)
{
    struct winsize size = {.ws_row = 0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) {
        size = (struct winsize){.ws_row = 24, .ws_col = 80};
    }
    return size;
}

/* The bytes of the first `columns` characters. */
static struct str cut(struct str line, size_t columns)
{
    size_t at = 0, seen = 0;
    while (at < line.len) {
        bool is_first = ((unsigned char)line.data[at] & 0xc0) != 0x80;
        if (is_first && seen++ == columns) break;
        at++;
    }
    return (struct str){line.data, at};
}

static void put_line(struct buf *out, struct str line, const struct winsize *size)
{
    struct str shown = cut(line, size->ws_col);
    buf_append(out, shown.data, shown.len);
    buf_append_str(out, END_OF_LINE "\n");
}

/* Lines that fit; the screen's last one is for what doesn't. */
static void paint(const struct top *t)
{
    struct winsize size = screen_size();
    struct buf out;
    struct str rest = buf_str(&t->page), line;
    char foot[sizeof t->note + 64];
    int left = size.ws_row - 1, hidden = 0;
    buf_init(&out, BUF_MAX_INTERNAL);
    buf_append_str(&out, HOME);
    while (str_split(&rest, '\n', &line)) {
        if (rest.len == 0 && line.len == 0) break;
        if (left-- > 0) {
            put_line(&out, line, &size);
        } else {
            hidden++;
        }
    }
    if (hidden > 0) {
        snprintf(foot, sizeof foot, "%d more line%s. %s", hidden, hidden == 1 ? "" : "s", t->note);
    } else {
        snprintf(foot, sizeof foot, "%s", t->note);
    }
    struct str shown = cut(str_of(foot), size.ws_col);
    buf_append(&out, shown.data, shown.len);
    buf_append_str(&out, END_OF_LINE END_OF_PAGE);
    fwrite(out.data, 1, out.len, stdout);
    fflush(stdout);
    buf_deinit(&out);
}

/* ---- looking ---- */

static void print_page(struct top *t, struct fleet_look *look)
{
    buf_clear(&t->page);
    if (!look->status) {
        buf_append(&t->page, look->text.data, look->text.len);
        return;
    }
    struct fleet_view view = {
        .now = look->status,
        .before = t->before,
        .has_rates = true,
        .url = api_client_url(t->api),
    };
    fleet_view_print(&view, &t->page);
    json_destroy(t->before);
    t->before = look->status;
    look->status = NULL;
}

static void note_failure(struct top *t, const struct error *why)
{
    struct buf plain;
    buf_init(&plain, BUF_MAX_INTERNAL);
    plain_text_append_line(&plain, str_of(why->text));
    snprintf(t->note, sizeof t->note, "%.250s; trying again", plain.data);
    buf_deinit(&plain);
}

static int look(struct top *t, bool is_first, struct error *err)
{
    struct fleet_look seen;
    int rc = fleet_look_take(t->api, &seen, err);
    if (rc == E_CANCELLED) {
        t->end = TOP_INTERRUPTED;
        return 0;
    }
    if (rc < 0 && (is_first || !t->is_terminal)) return rc;
    if (rc < 0) {
        note_failure(t, err);
    } else {
        t->note[0] = 0;
        print_page(t, &seen);
        fleet_look_deinit(&seen);
    }
    if (t->is_terminal) {
        paint(t);
        return 0;
    }
    if (!is_first) fputc('\n', stdout);
    fwrite(t->page.data, 1, t->page.len, stdout);
    if (fflush(stdout) != 0) return error_set(err, E_CLOSED, "cannot write the output");
    return 0;
}

/* ---- waiting ---- */

static void end(struct top *t, enum top_end why)
{
    if (t->end == TOP_GOES_ON) t->end = why;
    uv_stop(&t->loop);
}

static void on_timer(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void on_interrupt(uv_signal_t *handle, int signo)
{
    (void)signo;
    end(handle->data, TOP_INTERRUPTED);
}

static void on_terminate(uv_signal_t *handle, int signo)
{
    (void)signo;
    end(handle->data, TOP_TERMINATED);
}

static void on_resize(uv_signal_t *handle, int signo)
{
    (void)signo;
    struct top *t = handle->data;
    if (t->is_terminal) paint(t);
}

static void on_key(uv_poll_t *handle, int status, int events)
{
    (void)events;
    struct top *t = handle->data;
    char keys[64];
    ssize_t n = status < 0 ? -1 : read(STDIN_FILENO, keys, sizeof keys);
    if (n < 0 && (errno == EAGAIN || errno == EINTR) && status >= 0) return;
    bool quits = n <= 0; // the terminal is gone
    for (ssize_t i = 0; i < n; i++)
        quits = quits || keys[i] == 'q' || keys[i] == 'Q' || keys[i] == 4; // Ctrl-D
    if (quits) end(t, TOP_QUIT);
}

static void wait_for_next(struct top *t)
{
    uv_update_time(&t->loop); // it stood still during the look
    CHECK(uv_timer_start(&t->timer, on_timer, t->interval_ms, 0) == 0);
    uv_run(&t->loop, UV_RUN_DEFAULT);
    uv_timer_stop(&t->timer);
}

/* ---- the terminal ---- */

static void watch_signal(struct top *t, uv_signal_t *handle, uv_signal_cb callback, int signo)
{
    CHECK(uv_signal_init(&t->loop, handle) == 0);
    handle->data = t;
    CHECK(uv_signal_start(handle, callback, signo) == 0);
}

/* Keys come one by one and unseen; Ctrl-C stays a signal, Ctrl-Z would leave our screen behind. */
static void take_terminal(struct top *t)
{
    if (!t->is_terminal) return;
    fputs(ENTER_SCREEN, stdout);
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &t->saved) != 0) return;
    if (uv_poll_init(&t->loop, &t->keys, STDIN_FILENO) != 0) return;
    struct termios raw = t->saved;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VSUSP] = _POSIX_VDISABLE;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    t->has_keys = true;
    t->keys.data = t;
    CHECK(uv_poll_start(&t->keys, UV_READABLE, on_key) == 0);
}

static void give_terminal_back(struct top *t)
{
    if (!t->is_terminal) return;
    if (t->has_keys) tcsetattr(STDIN_FILENO, TCSANOW, &t->saved);
    fputs(LEAVE_SCREEN, stdout);
    fwrite(t->page.data, 1, t->page.len, stdout);
    fflush(stdout);
}

/* ---- the command ---- */

static int run(struct top *t, int64_t count, struct error *err)
{
    int rc = 0;
    for (int64_t seen = 0; rc == 0 && t->end == TOP_GOES_ON; seen++) {
        if (count > 0 && seen == count) break;
        if (seen > 0) wait_for_next(t);
        if (t->end == TOP_GOES_ON) rc = look(t, seen == 0, err);
    }
    return rc;
}

int top_command(struct api_client *api, double interval_s, int64_t count, struct error *err)
{
    struct top t = {
        .api = api,
        .interval_ms = (uint64_t)(interval_s * 1e3),
        .is_terminal = isatty(STDOUT_FILENO) == 1,
    };
    buf_init(&t.page, BUF_MAX_INTERNAL);
    CHECK(uv_loop_init(&t.loop) == 0);
    CHECK(uv_timer_init(&t.loop, &t.timer) == 0);
    watch_signal(&t, &t.interrupt, on_interrupt, SIGINT);
    watch_signal(&t, &t.terminate, on_terminate, SIGTERM);
    watch_signal(&t, &t.resize, on_resize, SIGWINCH);
    take_terminal(&t);
    int rc = run(&t, count, err);
    give_terminal_back(&t);
    loop_close_all(&t.loop);
    json_destroy(t.before);
    buf_deinit(&t.page);
    if (t.end == TOP_TERMINATED) raise(SIGTERM); // whose default is in force again
    if (t.end == TOP_INTERRUPTED && !t.is_terminal) return E_CANCELLED;
    return rc;
}
