#include "proxy/relay.h"

#include "proxy/proxy_metrics.h"

#define GATHER_MAX   ((size_t)64 << 10)  // one read's worth
#define PENDING_HIGH ((size_t)256 << 10) // as http_server's on_drain means it

void relay_gather_init(struct relay_gather *g)
{
    g->owner = NULL;
    buf_init(&g->bytes, GATHER_MAX);
}

void relay_gather_deinit(struct relay_gather *g)
{
    buf_deinit(&g->bytes);
}

static void pass_on(struct relay *r, const void *data, size_t len)
{
    size_t pending = http_respond_write(r->client, data, len);
    if (pending <= PENDING_HIGH || r->paused || !r->upstream) return;
    r->paused = true;
    http_call_pause(r->upstream);
    metric_add(&proxy_metrics.client_pauses_total, 1);
}

void relay_flush(struct relay_gather *g)
{
    struct relay *r = g->owner;
    if (!r) return;
    g->owner = NULL;
    pass_on(r, g->bytes.data, g->bytes.len);
    buf_clear(&g->bytes);
}

void relay_begin(struct relay *r, struct relay_gather *g, struct http_exchange *client,
                 struct http_call *upstream)
{
    *r = (struct relay){.gather = g, .client = client, .upstream = upstream};
}

static void keep_tail(struct relay *r, const char *data, size_t len)
{
    size_t size = sizeof r->tail;
    if (len >= size) {
        memcpy(r->tail, data + len - size, size);
    } else {
        memmove(r->tail, r->tail + len, size - len);
        memcpy(r->tail + size - len, data, len);
    }
}

void relay_write(struct relay *r, const char *data, size_t len)
{
    struct relay_gather *g = r->gather;
    keep_tail(r, data, len);
    r->bytes += len;
    if (g->owner != r || len > GATHER_MAX - g->bytes.len) relay_flush(g);
    if (buf_append(&g->bytes, data, len) == 0) {
        g->owner = r;
    } else { // more than fits by itself
        buf_clear(&g->bytes);
        pass_on(r, data, len);
    }
}

bool relay_resume(struct relay *r)
{
    if (!r->paused) return false;
    r->paused = false;
    if (r->upstream) http_call_resume(r->upstream);
    return true;
}

bool relay_is_between_events(const struct relay *r)
{
    const char *t = r->tail + RELAY_TAIL - 4;
    return r->bytes == 0 || memcmp(t + 2, "\n\n", 2) == 0 || memcmp(t + 2, "\r\r", 2) == 0 ||
           memcmp(t, "\r\n\r\n", 4) == 0;
}

bool relay_ends_with(const struct relay *r, char c)
{
    return r->tail[RELAY_TAIL - 1] == c;
}

bool relay_is_complete(const struct relay *r)
{
    if (r->bytes == 0 || !relay_is_between_events(r)) return false;
    struct str line = str_trim((struct str){r->tail, RELAY_TAIL});
    struct str loose = STR("data: [DONE]"), tight = STR("data:[DONE]");
    line.data += line.len;
    return (line.len >= loose.len && memcmp(line.data - loose.len, loose.data, loose.len) == 0) ||
           (line.len >= tight.len && memcmp(line.data - tight.len, tight.data, tight.len) == 0);
}

void relay_end(struct relay *r, const void *data, size_t len)
{
    struct relay_gather *g = r->gather;
    if (g->owner == r && len > GATHER_MAX - g->bytes.len) relay_flush(g);
    if (g->owner != r) {
        http_respond_end(r->client, data, len);
        return;
    }
    /* The last event and the end of the body in one write: some clients close the connection as
     * soon as they see [DONE], and an end that comes later would find nobody. */
    g->owner = NULL;
    buf_append(&g->bytes, data, len);
    http_respond_end(r->client, g->bytes.data, g->bytes.len);
    buf_clear(&g->bytes);
}

void relay_abort(struct relay *r)
{
    if (r->gather->owner == r) relay_flush(r->gather);
    http_respond_abort(r->client);
}

void relay_drop(struct relay *r)
{
    if (!r->gather || r->gather->owner != r) return;
    r->gather->owner = NULL;
    buf_clear(&r->gather->bytes);
}
