/* launcher.c - start, watch, end.
 *
 *     WAITING ──due, turn──► LOADING ──its word──► READY
 *        ▲                      │ ends                │ ends
 *        └──────── pause ───────┴─────────────────────┘
 *     any ──SIGTERM, or given up──► SIGTERM to it ──ends──► ENDED; all ENDED: the launcher ends
 *
 * Rules:
 *  1. Until a replica has been ready, one at a time loads. It fetches the model, reads it from the
 *     disk and shows that the settings are good; then the others load together, from the page cache.
 *  2. Until then, an end with a status of its own is a mistake to be told, and ends the launcher; so
 *     does status 2 at any time. All other ends are weather: the replica is started anew after a
 *     pause (launcher_restart.h), also when it ended well, since who sent it a SIGTERM wanted it fresh.
 *  3. Replicas have sessions of their own, so that a terminal's Ctrl-C comes once, from here.
 *  4. A replica dies with the launcher (replica.h); while the launcher lives, it reaps each one.
 *  5. A replica that is ready is asked for its health, and killed when it has none (launcher_probe.h).
 *  6. An end is acted upon when the last line has been printed, so that its reason stands before. */
#define LOG_MODULE "launcher"
#include "agent/launcher.h"

#include "agent/launcher_cores.h"
#include "agent/launcher_output.h"
#include "agent/launcher_plan.h"
#include "agent/launcher_probe.h"
#include "agent/launcher_restart.h"
#include "agent/replica.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define LAST_LINES_MS 500   // after its end, for a pipe that some child of it still holds
#define KILL_AFTER_MS 30000 // beyond --drain-timeout

extern char **environ;

enum replica_state { REPLICA_WAITING, REPLICA_LOADING, REPLICA_READY, REPLICA_ENDED };

struct replica;

/* One process of a replica. Its handles are closed together, then it is freed. */
struct run {
    struct replica *replica;
    uv_process_t process;
    uv_pipe_t log;   // its stdout and stderr
    uv_pipe_t word;  // replica.h
    uv_timer_t last; // LAST_LINES_MS
    struct launcher_output output;
    char chunk[8192];
    uint64_t started_ms;
    bool has_process; // the handle is open
    bool has_exited, log_has_ended;
    int status, signo;
    int handles_open;
};

struct replica {
    struct launcher *launcher;
    const struct launcher_replica *plan;
    enum replica_state state;
    uv_timer_t due; // WAITING: active until it may start
    struct launcher_restart restart;
    struct launcher_probe probe; // READY
    uint64_t ready_ms;           // when it was; 0: its run never was
    struct run *run;             // LOADING, READY and while it ends; else NULL
};

struct launcher {
    uv_loop_t loop;
    const struct agent_config *config;
    char **argv;
    struct launcher_plan plan;
    struct replica *replicas; // plan.count
    uv_signal_t term, interrupt, hangup;
    uv_timer_t kill_timer;
    struct http_client *client; // of the probes
    struct tls *tls;            // of the probes, and to see early whether the files are good
    uint64_t started_ms;
    bool has_been_ready; // some replica, ever
    bool is_stopping;
    int asked; // signals to end
    int exit_code;
};

static void pump(struct launcher *l);

/* ---- the end ---- */

static void signal_all(struct launcher *l, int signo)
{
    for (size_t i = 0; i < l->plan.count; i++) {
        struct run *run = l->replicas[i].run;
        if (run && !run->has_exited) uv_process_kill(&run->process, signo);
    }
}

static void on_kill_timer(uv_timer_t *timer)
{
    struct launcher *l = timer->data;
    log_error("replicas don't end, killing them", "drain_timeout_s=%" PRId64,
              l->config->drain_timeout_s);
    l->exit_code = 1;
    signal_all(l, SIGKILL);
}

/* All has ended: what keeps the loop is closed. */
static void finish_when_ended(struct launcher *l)
{
    for (size_t i = 0; i < l->plan.count; i++)
        if (l->replicas[i].state != REPLICA_ENDED) return;
    log_info("all replicas have ended", "status=%d", l->exit_code);
    uv_timer_stop(&l->kill_timer);
    uv_stop(&l->loop);
}

static void stop_all(struct launcher *l)
{
    if (l->is_stopping) return;
    l->is_stopping = true;
    for (size_t i = 0; i < l->plan.count; i++) {
        struct replica *r = &l->replicas[i];
        uv_timer_stop(&r->due);
        launcher_probe_stop(&r->probe);
        if (r->state == REPLICA_WAITING) r->state = REPLICA_ENDED;
    }
    signal_all(l, SIGTERM);
    uint64_t drain_ms = (uint64_t)l->config->drain_timeout_s * 1000;
    if (drain_ms > 0) uv_timer_start(&l->kill_timer, on_kill_timer, drain_ms + KILL_AFTER_MS, 0);
    finish_when_ended(l);
}

static void give_up(struct launcher *l, const struct replica *r, int exit_code, const char *reason)
{
    log_error("giving up", "replica=%s reason=\"%s\"", r->plan->name, reason);
    l->exit_code = exit_code;
    stop_all(l);
}

/* ---- a run has ended ---- */

static void on_due(uv_timer_t *timer)
{
    struct replica *r = timer->data;
    pump(r->launcher);
}

static void wait_and_restart(struct replica *r, const struct run *run)
{
    uint64_t now = clock_ms(), delay_ms;
    uint64_t served_ms = r->ready_ms ? now - r->ready_ms : 0;
    if (!launcher_restart_next(&r->restart, served_ms, &delay_ms)) {
        r->state = REPLICA_ENDED;
        give_up(r->launcher, r, 1, "it ends again and again; --restarts bounds that");
        return;
    }
    log_warn("replica ended, starting it anew",
             "replica=%s status=%d signal=%d ran_s=%.1f pause_s=%.2f in_a_row=%d", r->plan->name,
             run->status, run->signo, (double)(now - run->started_ms) / 1000,
             (double)delay_ms / 1000, r->restart.in_a_row);
    r->state = REPLICA_WAITING;
    uv_timer_start(&r->due, on_due, delay_ms, 0);
    pump(r->launcher); // rule 1: the next one's turn
}

static void replica_ended(struct replica *r, const struct run *run)
{
    struct launcher *l = r->launcher;
    if (l->is_stopping) {
        // A process that has no handlers yet ends by the signal itself.
        bool is_well = run->signo ? run->signo == SIGTERM : run->status == 0;
        r->state = REPLICA_ENDED;
        if (!is_well && l->exit_code == 0) {
            log_error("replica did not end well", "replica=%s status=%d signal=%d", r->plan->name,
                      run->status, run->signo);
            l->exit_code = 1;
        }
        finish_when_ended(l);
    } else if (run->signo == 0 && run->status == EXIT_USAGE) {
        r->state = REPLICA_ENDED;
        give_up(l, r, EXIT_USAGE, "it does not take its options");
    } else if (run->signo == 0 && run->status != 0 && !l->has_been_ready && r->restart.limit > 0) {
        r->state = REPLICA_ENDED;
        give_up(l, r, 1, "it cannot start");
    } else {
        wait_and_restart(r, run);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct run *run = handle->data;
    if (--run->handles_open > 0) return;
    launcher_output_deinit(&run->output);
    free(run);
}

static void print_lines(struct buf *lines)
{
    const char *at = lines->data;
    for (size_t left = lines->len; left > 0;) {
        ssize_t done = write(STDERR_FILENO, at, left);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) break; // as in log.c: no reason to stop serving
        at += done;
        left -= (size_t)done;
    }
    buf_deinit(lines);
}

/* Rule 6. */
static void run_advance(struct run *run, bool is_late)
{
    struct replica *r = run->replica;
    if (!run->has_exited || (!run->log_has_ended && !is_late) || r->run != run) return;
    struct buf lines;
    buf_init(&lines, BUF_MAX_INTERNAL);
    launcher_output_end(&run->output, &lines);
    print_lines(&lines);
    r->run = NULL;
    launcher_probe_stop(&r->probe);
    replica_ended(r, run);
    uv_handle_t *handles[] = {(uv_handle_t *)&run->log, (uv_handle_t *)&run->word,
                              (uv_handle_t *)&run->last, (uv_handle_t *)&run->process};
    run->handles_open = (int)ARRAY_LEN(handles) - !run->has_process;
    for (int i = 0; i < run->handles_open; i++)
        uv_close(handles[i], on_handle_closed);
}

static void on_last_lines_late(uv_timer_t *timer)
{
    run_advance(timer->data, true);
}

static void on_exit_of_process(uv_process_t *process, int64_t status, int signo)
{
    struct run *run = process->data;
    run->has_exited = true;
    run->status = (int)status;
    run->signo = signo;
    uv_timer_start(&run->last, on_last_lines_late, LAST_LINES_MS, 0);
    run_advance(run, false);
}

/* It lives, and serves nobody: an end like any other follows. */
static void on_sick(void *arg, const char *why)
{
    struct replica *r = arg;
    if (!r->run || r->run->has_exited) return;
    log_error("replica is unhealthy, killing it", "replica=%s reason=\"%s\"", r->plan->name, why);
    uv_process_kill(&r->run->process, SIGKILL);
}

/* ---- what a run says ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    (void)suggested;
    struct run *run = handle->data;
    *out = uv_buf_init(run->chunk, sizeof run->chunk);
}

static void on_log(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
    struct run *run = stream->data;
    struct buf lines;
    if (n > 0) {
        buf_init(&lines, BUF_MAX_INTERNAL);
        launcher_output_feed(&run->output, data->base, (size_t)n, &lines);
        print_lines(&lines);
    } else if (n < 0) {
        uv_read_stop(stream);
        run->log_has_ended = true;
        run_advance(run, false);
    }
}

static void print_whether_whole(struct launcher *l)
{
    struct buf ports;
    for (size_t i = 0; i < l->plan.count; i++)
        if (l->replicas[i].state != REPLICA_READY) return;
    buf_init(&ports, BUF_MAX_INTERNAL);
    for (size_t i = 0; i < l->plan.count; i++)
        buf_printf(&ports, i > 0 ? ",%d" : "%d", l->plan.replicas[i].port);
    log_info("all replicas are ready", "replicas=%zu ports=%s uptime_s=%.1f", l->plan.count,
             ports.data, (double)(clock_ms() - l->started_ms) / 1000);
    buf_deinit(&ports);
}

static void on_word(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
    struct run *run = stream->data;
    struct replica *r = run->replica;
    struct launcher *l = r->launcher;
    (void)data;
    if (n == 0) return;
    uv_read_stop(stream);
    if (n < 0 || l->is_stopping || r->state != REPLICA_LOADING) return;
    r->state = REPLICA_READY;
    r->ready_ms = clock_ms();
    l->has_been_ready = true;
    log_info("replica is ready", "replica=%s port=%d after_s=%.1f", r->plan->name, r->plan->port,
             (double)(r->ready_ms - run->started_ms) / 1000);
    launcher_probe_start(&r->probe);
    print_whether_whole(l);
    pump(l);
}

/* ---- a run begins ---- */

/* A pipe whose end for writing is *fd, the caller's to close. */
static int open_pipe(struct run *run, uv_pipe_t *pipe, uv_read_cb on_read, int *fd)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
    int rc = uv_pipe_open(pipe, ends[0]);
    if (rc < 0) {
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    CHECK(uv_read_start((uv_stream_t *)pipe, on_alloc, on_read) == 0);
    pipe->data = run;
    *fd = ends[1];
    return 0;
}

static int spawn(struct run *run, int log_fd, int word_fd)
{
    const struct replica *r = run->replica;
    struct launcher *l = r->launcher;
    char parent[64];
    char **argv = launcher_plan_argv(r->plan, l->argv);
    char **environment = launcher_plan_environment(r->plan, environ);
    size_t count = 0;
    while (environment[count])
        count++;
    environment = xrealloc_array(environment, count + 2, sizeof *environment);
    snprintf(parent, sizeof parent, REPLICA_PARENT_VARIABLE "=%d", (int)getpid());
    environment[count] = parent;
    environment[count + 1] = NULL;
    uv_stdio_container_t stdio[REPLICA_WORD_FD + 1] = {
        [STDIN_FILENO] = {.flags = UV_IGNORE},
        [STDOUT_FILENO] = {.flags = UV_INHERIT_FD, .data.fd = log_fd},
        [STDERR_FILENO] = {.flags = UV_INHERIT_FD, .data.fd = log_fd},
        [REPLICA_WORD_FD] = {.flags = UV_INHERIT_FD, .data.fd = word_fd},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit_of_process,
        .file = "/proc/self/exe", // also when the file has been replaced: all replicas are alike
        .args = argv,
        .env = environment,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = ARRAY_LEN(stdio),
        .stdio = stdio,
    };
    int rc = uv_spawn(&l->loop, &run->process, &options);
    free(argv);
    free(environment);
    return rc;
}

static struct run *create_run(struct replica *r)
{
    struct run *run = xcalloc(1, sizeof *run);
    uv_loop_t *loop = &r->launcher->loop;
    run->replica = r;
    run->started_ms = clock_ms();
    launcher_output_init(&run->output, r->plan->name);
    CHECK(uv_pipe_init(loop, &run->log, 0) == 0 && uv_pipe_init(loop, &run->word, 0) == 0);
    CHECK(uv_timer_init(loop, &run->last) == 0);
    run->process.data = run->log.data = run->word.data = run->last.data = run;
    return run;
}

/* The machine has no process or no descriptor left: an end like others, but not from in here. */
static void could_not_start(struct run *run, int rc)
{
    log_error("cannot start a process", "replica=%s reason=\"%s\"", run->replica->plan->name,
              error_text(rc));
    run->has_exited = true;
    run->status = 1;
    uv_timer_start(&run->last, on_last_lines_late, 0, 0);
}

static void start_run(struct replica *r)
{
    struct run *run = create_run(r);
    int log_fd = -1, word_fd = -1;
    r->run = run;
    r->ready_ms = 0;
    r->state = REPLICA_LOADING;
    int rc = open_pipe(run, &run->log, on_log, &log_fd);
    if (rc == 0) rc = open_pipe(run, &run->word, on_word, &word_fd);
    if (rc == 0) {
        run->has_process = true; // a handle to close, also when it fails
        rc = spawn(run, log_fd, word_fd);
    }
    if (log_fd >= 0) close(log_fd);
    if (word_fd >= 0) close(word_fd);
    if (rc < 0) {
        could_not_start(run, rc);
        return;
    }
    log_info("replica starts", "replica=%s port=%d process=%d", r->plan->name, r->plan->port,
             (int)run->process.pid);
}

/* Rule 1. */
static void pump(struct launcher *l)
{
    bool is_loading = false;
    for (size_t i = 0; i < l->plan.count; i++)
        is_loading = is_loading || l->replicas[i].state == REPLICA_LOADING;
    for (size_t i = 0; i < l->plan.count && !l->is_stopping; i++) {
        struct replica *r = &l->replicas[i];
        if (is_loading && !l->has_been_ready) return;
        if (r->state != REPLICA_WAITING || uv_is_active((uv_handle_t *)&r->due)) continue;
        start_run(r);
        is_loading = true;
    }
}

/* ---- the launcher ---- */

static void on_end_signal(uv_signal_t *handle, int signo)
{
    struct launcher *l = handle->data;
    if (++l->asked > 1) {
        log_warn("asked again, killing the replicas", "signal=%s", strsignal(signo));
        l->exit_code = 128 + signo;
        signal_all(l, SIGKILL);
        return;
    }
    log_info("draining all replicas", "signal=%s", strsignal(signo));
    stop_all(l);
}

static void on_hangup(uv_signal_t *handle, int signo)
{
    const struct launcher *l = handle->data;
    agent_config_reload(l->config, NULL, NULL);
    for (size_t i = 0; i < l->plan.count; i++) {
        // One that isn't ready has read its settings just now, and may not handle the signal yet.
        if (l->replicas[i].state == REPLICA_READY)
            uv_process_kill(&l->replicas[i].run->process, signo);
    }
}

static void watch(struct launcher *l, uv_signal_t *handle, uv_signal_cb on_signal, int signo)
{
    CHECK(uv_signal_init(&l->loop, handle) == 0);
    handle->data = l;
    CHECK(uv_signal_start(handle, on_signal, signo) == 0);
}

/* Replicas have their session folders in it. */
static int make_session_dir(const struct agent_config *config, struct error *err)
{
    if (!config->session_dir || mkdir(config->session_dir, 0700) == 0 || errno == EEXIST) return 0;
    return error_set(err, -errno, "--session-dir: can't make '%s': %s", config->session_dir,
                     strerror(errno));
}

static int make_plan(struct launcher *l, struct error *err)
{
    int cores[LAUNCHER_CORES_MAX];
    struct launcher_input input = {
        .config = l->config,
        .visible_devices = getenv("CUDA_VISIBLE_DEVICES"),
        .device_order = getenv("CUDA_DEVICE_ORDER"),
        .cores = cores,
        .core_count = launcher_cores_read(cores),
    };
    return launcher_plan_init(&l->plan, &input, err);
}

static void print_plan(const struct launcher_plan *plan)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    launcher_plan_print(plan, &text);
    fwrite(text.data, 1, text.len, stdout);
    fflush(stdout);
    buf_deinit(&text);
}

static void on_client_closed(void *arg)
{
    struct launcher *l = arg;
    uv_stop(&l->loop);
}

static void supervise(struct launcher *l)
{
    signal(SIGPIPE, SIG_IGN);
    CHECK(uv_loop_init(&l->loop) == 0);
    watch(l, &l->term, on_end_signal, SIGTERM);
    watch(l, &l->interrupt, on_end_signal, SIGINT);
    watch(l, &l->hangup, on_hangup, SIGHUP);
    uv_timer_init(&l->loop, &l->kill_timer);
    l->kill_timer.data = l;
    l->client = http_client_create(&l->loop, &(struct http_client_options){.tls = l->tls});
    l->started_ms = clock_ms();
    l->replicas = xcalloc(l->plan.count, sizeof *l->replicas);
    for (size_t i = 0; i < l->plan.count; i++) {
        struct replica *r = &l->replicas[i];
        r->launcher = l;
        r->plan = &l->plan.replicas[i];
        r->restart.limit = (int)l->config->restarts;
        r->restart.delay_ms = (uint64_t)(l->config->restart_delay_s * 1000);
        uv_timer_init(&l->loop, &r->due);
        r->due.data = r;
        launcher_probe_init(&r->probe, &l->loop, l->client, tls_serves(l->tls),
                            l->config->server_name, r->plan->port,
                            (uint64_t)(l->config->health_timeout_s * 1000), on_sick, r);
    }
    pump(l);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    http_client_destroy(l->client, on_client_closed, l); // by turns of the loop
    uv_run(&l->loop, UV_RUN_DEFAULT);
    loop_close_all(&l->loop);
    free(l->replicas);
}

int launcher_run(char **argv, const struct agent_config *config)
{
    struct launcher l = {.config = config, .argv = argv};
    struct error err = {0};
    int rc = make_plan(&l, &err);
    if (rc == 0 && config->dry_run) {
        print_plan(&l.plan);
    } else if (rc == 0 && (rc = make_session_dir(config, &err)) == 0 &&
               (rc = tls_create(&config->tls, &l.tls, &err)) == 0) {
        supervise(&l);
    }
    tls_destroy(l.tls);
    launcher_plan_deinit(&l.plan);
    if (rc == 0) return l.exit_code;
    fprintf(stderr, "lm-agent: %s\n", err.text);
    return rc == E_INVALID ? EXIT_USAGE : 1;
}
