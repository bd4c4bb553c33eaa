/* redis_link.c - connecting, greeting, writing, matching replies to commands, healing.
 *
 *   WAITING ─► RESOLVING ─► CONNECTING ─► GREETING ─► READY
 *      ▲           │             │            │         │
 *      └───────────┴── lose() ───┴────────────┴─────────┘      destroy ──► CLOSING
 *
 * Rules:
 *  1. Replies come in the order of commands. A command whose deadline passes is told so and stays
 *     in the line without a callback, so that its late reply is matched and dropped.
 *  2. A server that leaves the oldest command unanswered for SILENCE_MS is taken for dead (stopped,
 *     or the network swallows packets) and the connection is dropped, late replies with it.
 *  3. Callbacks of commands run from the loop only: what fails inside a call waits in `failed` for
 *     the turn handle, which also writes what was submitted since, in one piece.
 *  4. Reconnecting backs off from 0.1 to 2 s; only a greeting that succeeds resets it. One log
 *     line a change of state or of reason. */
#define LOG_MODULE "redis"
#include "shared/net/redis_link.h"

#include "shared/base/check.h"
#include "shared/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_MS      1000 // resolving, connecting and greeting, each
#define SILENCE_MS      1000
#define PING_MS         5000 // pubsub: asks whether the server lives
#define BACKOFF_MIN_MS  100
#define BACKOFF_MAX_MS  2000
#define PENDING_MAX     10000
#define PENDING_BYTES   ((size_t)64 << 20)
#define READ_BYTES      ((size_t)16 << 10)
#define KEEPALIVE_S     10
#define KEPT_BUFFER_CAP ((size_t)64 << 10)

struct command {
    struct list line;   // link->line or link->failed
    struct list timing; // link->timing, by deadline
    redis_callback *callback;
    void *arg;
    uint64_t deadline_ms;
    uint64_t since_ms;
    int status; // in failed
};

/* Outlive the link's interest in them: a closing socket, a lookup that can't be cancelled. */
struct socket {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct buf flight;
    struct redis_link *link;
};

struct lookup {
    uv_getaddrinfo_t request;
    struct redis_link *link;
};

struct redis_link {
    uv_loop_t *loop;
    struct redis_link_options options;
    enum redis_link_state state;
    uv_timer_t timer;     // of the state: next try, connecting, pings
    uv_timer_t deadlines; // of commands, and rule 2
    uv_idle_t turn;
    int things_open; // handles, sockets, lookups
    struct socket *socket;
    struct lookup *lookup;
    struct redis_reader reader;
    struct buf out;
    bool writing;
    struct list line; // commands that await their reply, oldest first
    struct list timing;
    struct list failed;
    size_t line_len;
    int greetings_due; // replies until ready
    uint64_t heard_ms; // pubsub: last byte
    uint64_t backoff_ms;
    struct rng rng;
    char reason[160]; // why it is away, as logged last
    char local_address[64];
    char read_buffer[READ_BYTES];
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

static void try_connect(struct redis_link *l);

/* ---- RESP ---- */

void redis_put_count(struct buf *out, size_t count)
{
    buf_printf(out, "*%zu\r\n", count);
}

void redis_put_bulk(struct buf *out, struct str part)
{
    buf_printf(out, "$%zu\r\n", part.len);
    buf_append(out, part.data, part.len);
    buf_append(out, "\r\n", 2);
}

/* ---- the end of things ---- */

static void free_when_closed(struct redis_link *l)
{
    if (l->state != REDIS_LINK_CLOSING || l->things_open > 0) return;
    void (*on_closed)(void *arg) = l->on_closed;
    void *arg = l->on_closed_arg;
    redis_reader_deinit(&l->reader);
    buf_deinit(&l->out);
    free(l);
    if (on_closed) on_closed(arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct redis_link *l = handle->data;
    l->things_open--;
    free_when_closed(l);
}

static void on_socket_closed(uv_handle_t *handle)
{
    struct socket *s = handle->data;
    struct redis_link *l = s->link;
    buf_deinit(&s->flight);
    free(s);
    l->things_open--;
    free_when_closed(l);
}

static void close_socket(struct redis_link *l)
{
    if (!l->socket) return;
    uv_close((uv_handle_t *)&l->socket->tcp, on_socket_closed);
    l->socket = NULL;
    l->writing = false;
}

/* ---- commands ---- */

static void on_turn(uv_idle_t *turn);
static void on_deadline(uv_timer_t *timer);

static void need_turn(struct redis_link *l)
{
    if (!uv_is_closing((uv_handle_t *)&l->turn)) uv_idle_start(&l->turn, on_turn);
}

static void fail_command(struct redis_link *l, struct command *command, int status)
{
    command->status = status;
    list_remove(&command->timing);
    list_remove(&command->line);
    list_push_back(&l->failed, &command->line);
    need_turn(l);
}

static void fail_all(struct redis_link *l)
{
    while (!list_is_empty(&l->line)) {
        fail_command(l, list_first(&l->line, struct command, line), E_CLOSED);
    }
    l->line_len = 0;
}

/* Wake at the next command's deadline, or when the oldest has waited too long. */
static void arm_deadlines(struct redis_link *l)
{
    if (uv_is_closing((uv_handle_t *)&l->deadlines)) return;
    if (list_is_empty(&l->line)) {
        uv_timer_stop(&l->deadlines);
        return;
    }
    uint64_t now = uv_now(l->loop);
    uint64_t due = list_first(&l->line, struct command, line)->since_ms + SILENCE_MS;
    if (!list_is_empty(&l->timing)) {
        uint64_t first = list_first(&l->timing, struct command, timing)->deadline_ms;
        if (first < due) due = first;
    }
    uv_timer_start(&l->deadlines, on_deadline, due > now ? due - now : 0, 0);
}

static void insert_by_deadline(struct redis_link *l, struct command *command)
{
    struct list *after = l->timing.prev; // deadlines mostly grow: search from the end
    while (after != &l->timing &&
           list_entry(after, struct command, timing)->deadline_ms > command->deadline_ms) {
        after = after->prev;
    }
    list_push_front(after, &command->timing);
}

static void enqueue(struct redis_link *l, struct str text, int deadline_ms,
                    redis_callback *callback, void *arg)
{
    struct command *command = xcalloc(1, sizeof *command);
    command->callback = callback;
    command->arg = arg;
    command->since_ms = uv_now(l->loop);
    command->deadline_ms = command->since_ms + (uint64_t)deadline_ms;
    list_init(&command->timing);
    list_push_back(&l->line, &command->line);
    insert_by_deadline(l, command);
    l->line_len++;
    buf_append(&l->out, text.data, text.len);
    arm_deadlines(l);
    need_turn(l);
}

void redis_link_submit(struct redis_link *l, struct str text, int deadline_ms,
                       redis_callback *callback, void *arg)
{
    int status = l->state == REDIS_LINK_READY ? 0 : E_CLOSED;
    if (status == 0 && (l->line_len >= PENDING_MAX || l->out.len + text.len > PENDING_BYTES)) {
        status = E_BUSY;
    }
    if (status == 0) {
        enqueue(l, text, deadline_ms, callback, arg);
        return;
    }
    struct command *command = xcalloc(1, sizeof *command);
    command->callback = callback;
    command->arg = arg;
    list_init(&command->line);
    list_init(&command->timing);
    fail_command(l, command, status);
}

void redis_link_tell(struct redis_link *l, struct str text)
{
    if (l->state != REDIS_LINK_READY || l->out.len + text.len > PENDING_BYTES) return;
    buf_append(&l->out, text.data, text.len);
    need_turn(l);
}

static void finish(struct command *command, int status, const struct redis_reply *reply)
{
    redis_callback *callback = command->callback;
    void *arg = command->arg;
    free(command);
    if (callback) callback(arg, status, reply);
}

/* ---- losing and healing ---- */

static void on_wait_over(uv_timer_t *timer)
{
    try_connect(timer->data);
}

static void wait_and_retry(struct redis_link *l)
{
    l->state = REDIS_LINK_WAITING;
    uint64_t spread = rng_below(&l->rng, (uint32_t)(l->backoff_ms / 2 + 1));
    uv_timer_start(&l->timer, on_wait_over, l->backoff_ms * 3 / 4 + spread, 0);
    l->backoff_ms = l->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : l->backoff_ms * 2;
}

static void lose(struct redis_link *l, const char *reason)
{
    if (l->state == REDIS_LINK_CLOSING) return;
    bool was_ready = l->state == REDIS_LINK_READY;
    if (strcmp(reason, l->reason) != 0) {
        enum log_level level = l->options.pubsub ? LOG_DEBUG : LOG_WARN;
        log_at(level, was_ready ? "redis lost" : "redis away", "address=%s reason=\"%s\"",
               l->options.url->address, reason);
        snprintf(l->reason, sizeof l->reason, "%s", reason);
    }
    close_socket(l);
    if (l->lookup) uv_cancel((uv_req_t *)&l->lookup->request);
    l->lookup = NULL;
    buf_deinit(&l->out);
    fail_all(l);
    arm_deadlines(l);
    l->local_address[0] = 0;
    wait_and_retry(l);
    if (was_ready && l->options.on_lost) l->options.on_lost(l->options.arg);
}

static void on_state_timeout(uv_timer_t *timer)
{
    lose(timer->data, "no answer within 1 s");
}

static void on_deadline(uv_timer_t *timer)
{
    struct redis_link *l = timer->data;
    uint64_t now = uv_now(l->loop);
    while (!list_is_empty(&l->timing)) {
        struct command *command = list_first(&l->timing, struct command, timing);
        if (command->deadline_ms > now) break;
        list_remove(&command->timing);
        redis_callback *callback = command->callback;
        void *arg = command->arg;
        command->callback = NULL; // rule 1: it keeps its place
        if (callback) callback(arg, E_TIMEOUT, NULL);
    }
    if (!list_is_empty(&l->line) &&
        list_first(&l->line, struct command, line)->since_ms + SILENCE_MS <= now) {
        lose(l, "it stopped answering");
        return;
    }
    arm_deadlines(l);
}

/* ---- writing ---- */

static void start_write(struct redis_link *l);

static void on_written(uv_write_t *request, int status)
{
    struct socket *s = request->data;
    struct redis_link *l = s->link;
    if (l->socket != s) return;
    l->writing = false;
    if (s->flight.cap > KEPT_BUFFER_CAP) {
        buf_deinit(&s->flight);
    } else {
        buf_clear(&s->flight);
    }
    if (status < 0) {
        lose(l, uv_strerror(status));
    } else {
        start_write(l);
    }
}

static void start_write(struct redis_link *l)
{
    struct socket *s = l->socket;
    if (!s || l->writing || l->out.len == 0) return;
    if (l->state != REDIS_LINK_GREETING && l->state != REDIS_LINK_READY) return;
    struct buf empty = s->flight;
    s->flight = l->out;
    l->out = empty;
    s->write.data = s;
    uv_buf_t piece = uv_buf_init(s->flight.data, (unsigned)s->flight.len);
    int rc = uv_write(&s->write, (uv_stream_t *)&s->tcp, &piece, 1, on_written);
    l->writing = rc == 0;
    if (rc != 0) lose(l, uv_strerror(rc));
}

void redis_link_flush(struct redis_link *l)
{
    start_write(l);
}

static void on_turn(uv_idle_t *turn)
{
    struct redis_link *l = turn->data;
    uv_idle_stop(turn); // callbacks may need another
    struct list due;
    list_init(&due);
    while (!list_is_empty(&l->failed)) {
        struct list *item = l->failed.next;
        list_remove(item);
        list_push_back(&due, item);
    }
    while (!list_is_empty(&due)) {
        struct command *command = list_first(&due, struct command, line);
        list_remove(&command->line);
        finish(command, command->status, NULL);
    }
    start_write(l);
    if (l->state != REDIS_LINK_CLOSING || !list_is_empty(&l->failed)) return;
    if (!uv_is_closing((uv_handle_t *)turn)) uv_close((uv_handle_t *)turn, on_handle_closed);
}

/* ---- reading ---- */

static void on_ping_due(uv_timer_t *timer)
{
    struct redis_link *l = timer->data;
    if (uv_now(l->loop) - l->heard_ms > PING_MS + SILENCE_MS) {
        lose(l, "it stopped answering");
    } else {
        redis_link_tell(l, STR("*1\r\n$4\r\nPING\r\n"));
    }
}

static void become_ready(struct redis_link *l)
{
    l->state = REDIS_LINK_READY;
    l->backoff_ms = BACKOFF_MIN_MS;
    l->reason[0] = 0;
    uv_timer_stop(&l->timer);
    if (l->options.pubsub) uv_timer_start(&l->timer, on_ping_due, PING_MS, PING_MS);
    enum log_level level = l->options.pubsub ? LOG_DEBUG : LOG_INFO;
    log_at(level, "redis connected", "address=%s", l->options.url->address);
    if (l->options.on_ready) l->options.on_ready(l->options.arg);
}

static void on_greeted(void *arg, int status, const struct redis_reply *reply)
{
    struct redis_link *l = arg;
    if (status != 0 || l->state != REDIS_LINK_GREETING) return; // lose() has been there
    if (reply->type == REDIS_FAIL) { // a wrong password; "LOADING ..." after a restart
        char reason[160];
        snprintf(reason, sizeof reason, "%.*s", (int)reply->text.len, reply->text.data);
        lose(l, reason);
        return;
    }
    if (--l->greetings_due == 0) become_ready(l);
}

static void take_reply(struct redis_link *l, const struct redis_reply *reply)
{
    if (list_is_empty(&l->line)) {
        if (!l->options.pubsub) {
            lose(l, "a reply that nobody asked for");
            return;
        }
        if (l->options.on_event) l->options.on_event(l->options.arg, reply);
        return;
    }
    struct command *command = list_first(&l->line, struct command, line);
    list_remove(&command->line);
    list_remove(&command->timing);
    l->line_len--;
    // What is behind it gets its own second of silence: the server is alive.
    if (l->line_len > 0) list_first(&l->line, struct command, line)->since_ms = uv_now(l->loop);
    finish(command, 0, reply);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct socket *s = stream->data;
    struct redis_link *l = s->link;
    if (l->socket != s || nread == 0) return;
    if (nread < 0) {
        lose(l, nread == UV_EOF ? "connection closed" : uv_strerror((int)nread));
        return;
    }
    l->heard_ms = uv_now(l->loop);
    int rc = redis_reader_feed(&l->reader, buf->base, (size_t)nread);
    while (rc == 0 && l->socket == s) { // a callback may have ended it
        struct redis_reply *reply;
        rc = redis_reader_next(&l->reader, &reply);
        if (rc != 1) break;
        take_reply(l, reply);
        redis_reply_destroy(reply);
        rc = 0;
    }
    if (l->socket != s) return;
    if (rc < 0) {
        lose(l, "malformed reply");
        return;
    }
    arm_deadlines(l);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct socket *s = handle->data;
    *buf = uv_buf_init(s->link->read_buffer, READ_BYTES);
}

/* ---- connecting ---- */

static void greet_with(struct redis_link *l, size_t count, const struct str *parts)
{
    struct buf command;
    buf_init(&command, BUF_MAX_INTERNAL);
    redis_put_count(&command, count);
    for (size_t i = 0; i < count; i++)
        redis_put_bulk(&command, parts[i]);
    enqueue(l, buf_str(&command), CONNECT_MS, on_greeted, l);
    buf_deinit(&command);
    l->greetings_due++;
}

static void greet(struct redis_link *l)
{
    const struct redis_url *url = l->options.url;
    l->state = REDIS_LINK_GREETING;
    l->greetings_due = 0;
    redis_reader_deinit(&l->reader);
    redis_reader_init(&l->reader);
    buf_init(&l->out, BUF_MAX_INTERNAL);
    if (url->password[0] && url->user[0]) {
        greet_with(l, 3, (struct str[]){STR("AUTH"), str_of(url->user), str_of(url->password)});
    } else if (url->password[0]) {
        greet_with(l, 2, (struct str[]){STR("AUTH"), str_of(url->password)});
    }
    if (url->db > 0) {
        char db[16];
        snprintf(db, sizeof db, "%d", url->db);
        greet_with(l, 2, (struct str[]){STR("SELECT"), str_of(db)});
    }
    greet_with(l, 1, (struct str[]){STR("PING")}); // a stopped server accepts, but doesn't answer
    uv_timer_start(&l->timer, on_state_timeout, CONNECT_MS, 0);
}

static void on_connect(uv_connect_t *request, int status)
{
    struct socket *s = request->data;
    struct redis_link *l = s->link;
    if (l->socket != s) return;
    if (status == 0) status = uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
    if (status < 0) {
        lose(l, uv_strerror(status));
        return;
    }
    struct sockaddr_storage address;
    int len = sizeof address;
    if (uv_tcp_getsockname(&s->tcp, (struct sockaddr *)&address, &len) == 0) {
        uv_ip_name((struct sockaddr *)&address, l->local_address, sizeof l->local_address);
    }
    l->heard_ms = uv_now(l->loop);
    greet(l);
}

static void connect_to(struct redis_link *l, const struct sockaddr *address)
{
    struct socket *s = xcalloc(1, sizeof *s);
    s->link = l;
    buf_init(&s->flight, BUF_MAX_INTERNAL);
    CHECK(uv_tcp_init(l->loop, &s->tcp) == 0);
    s->tcp.data = s->connect.data = s;
    l->things_open++;
    l->socket = s;
    l->state = REDIS_LINK_CONNECTING;
    uv_timer_start(&l->timer, on_state_timeout, CONNECT_MS, 0);
    uv_tcp_nodelay(&s->tcp, 1);
    uv_tcp_keepalive(&s->tcp, 1, KEEPALIVE_S);
    int rc = uv_tcp_connect(&s->connect, &s->tcp, address, on_connect);
    if (rc != 0) lose(l, uv_strerror(rc));
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *info)
{
    struct lookup *lookup = request->data;
    struct redis_link *l = lookup->link;
    bool wanted = l->lookup == lookup;
    free(lookup);
    l->things_open--;
    if (wanted) {
        l->lookup = NULL;
        if (status == 0) {
            connect_to(l, info->ai_addr);
        } else {
            lose(l, uv_strerror(status));
        }
    }
    uv_freeaddrinfo(info);
    free_when_closed(l);
}

/* Looked up at every try: behind a service name the address may change. */
static void try_connect(struct redis_link *l)
{
    const struct redis_url *url = l->options.url;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    if (uv_ip4_addr(url->host, url->port, &address.v4) == 0 ||
        uv_ip6_addr(url->host, url->port, &address.v6) == 0) {
        connect_to(l, &address.any);
        return;
    }
    char service[16];
    snprintf(service, sizeof service, "%d", url->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct lookup *lookup = xcalloc(1, sizeof *lookup);
    lookup->link = l;
    lookup->request.data = lookup;
    int rc = uv_getaddrinfo(l->loop, &lookup->request, on_resolved, url->host, service, &hints);
    if (rc != 0) {
        free(lookup);
        lose(l, uv_strerror(rc));
        return;
    }
    l->state = REDIS_LINK_RESOLVING;
    l->lookup = lookup;
    l->things_open++;
    uv_timer_start(&l->timer, on_state_timeout, CONNECT_MS, 0);
}

/* ---- life ---- */

struct redis_link *redis_link_create(uv_loop_t *loop, const struct redis_link_options *options)
{
    struct redis_link *l = xcalloc(1, sizeof *l);
    l->loop = loop;
    l->options = *options;
    l->backoff_ms = BACKOFF_MIN_MS;
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    rng_init(&l->rng, seed);
    list_init(&l->line);
    list_init(&l->timing);
    list_init(&l->failed);
    buf_init(&l->out, BUF_MAX_INTERNAL);
    CHECK(uv_timer_init(loop, &l->timer) == 0);
    CHECK(uv_timer_init(loop, &l->deadlines) == 0);
    CHECK(uv_idle_init(loop, &l->turn) == 0);
    l->timer.data = l->deadlines.data = l->turn.data = l;
    l->things_open = 3;
    uv_timer_start(&l->timer, on_wait_over, 0, 0);
    return l;
}

void redis_link_destroy(struct redis_link *l, void (*on_closed)(void *arg), void *arg)
{
    CHECK(l->state != REDIS_LINK_CLOSING);
    l->state = REDIS_LINK_CLOSING;
    l->on_closed = on_closed;
    l->on_closed_arg = arg;
    close_socket(l);
    if (l->lookup) uv_cancel((uv_req_t *)&l->lookup->request);
    l->lookup = NULL;
    fail_all(l);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
    uv_close((uv_handle_t *)&l->deadlines, on_handle_closed);
    need_turn(l); // it tells the commands and closes itself
}

bool redis_link_is_ready(const struct redis_link *l)
{
    return l->state == REDIS_LINK_READY;
}

const char *redis_link_local_address(const struct redis_link *l)
{
    return l->local_address;
}
