/* hop_stream.c - one pass over the bytes of an agent's stream.
 *
 *            ┌────────────────── the mark's line ends: read, dropped ──────────────────┐
 *            ▼                                                                         │
 *     BETWEEN two events ─── ": lm " ──► MARK ──── longer than HOP_HELD_MAX ──► LONG_MARK
 *        ▲   └ else ─► EVENT ── longer than HOP_HELD_MAX ──► TORN      (never resumable)
 *        └───────────────┴──────────── it is complete ────────┘
 *
 * Rules:
 *  1. What is certain goes out with the call that brings it: all that lies between two marks is one
 *     span of the caller's bytes. Only what an incomplete event has is copied.
 *  2. announced = what marks have said since the last event; committed = what the client has. The
 *     first becomes the second when an event is complete; an event without a mark before it can't be
 *     accounted for, so the stream isn't resumable any more.
 *  3. A comment of the agent's (": ping") passes like any event and changes nothing. */
#include "proxy/hop_stream.h"

#include "proxy/hop_mark.h"
#include "shared/base/check.h"
#include "shared/base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK_HEAD     ": lm "
#define MARK_HEAD_LEN 5
#define HELD_CAP_MIN  512u

enum hop_state { STATE_BETWEEN, STATE_EVENT, STATE_TORN, STATE_MARK, STATE_LONG_MARK };

/* One call of hop_stream_feed. */
struct hop_feed {
    struct hop_stream *h;
    hop_stream_on_bytes *on_bytes;
    void *arg;
    const char *at, *end;
    const char *out; // from here to `at`: for the client, not handed over yet
};

void hop_stream_init(struct hop_stream *h, enum hop_framing framing, struct hop_budget *budget)
{
    *h = (struct hop_stream){.budget = budget, .framing = framing};
}

static void drop_held(struct hop_stream *h)
{
    free(h->held);
    h->held = NULL;
    h->held_len = h->held_cap = 0;
}

void hop_stream_deinit(struct hop_stream *h)
{
    drop_held(h);
    hop_ids_free(&h->ids, h->budget);
    *h = (struct hop_stream){0};
}

/* ---- marks ---- */

/* What was kept is of no use any more. */
static void give_up(struct hop_stream *h)
{
    h->is_broken = true;
    hop_ids_free(&h->ids, h->budget);
}

static void take_ids(struct hop_stream *h, struct str ids)
{
    uint32_t id;
    bool is_bad;
    while (hop_mark_next_id(&ids, &id, &is_bad)) {
        if (hop_ids_push(&h->ids, h->budget, id)) continue;
        h->is_over_budget = true;
        give_up(h);
        return;
    }
    if (is_bad) give_up(h);
}

/* The first mark of a stream. One that resumes says the same again. */
static bool take_seed(struct hop_stream *h, const struct hop_mark *m)
{
    if (h->has_seed) return h->seed == m->seed;
    if (m->now_s < 0 || m->id.len > HOP_ID_MAX) return false;
    h->has_seed = true;
    h->seed = m->seed;
    h->now_s = m->now_s;
    h->created_s = m->created_s;
    h->rope = (uint32_t)m->rope;
    if (m->id.len > 0) memcpy(h->id, m->id.data, m->id.len);
    return true;
}

static bool take_point(struct hop_stream *h, const struct hop_mark *m)
{
    struct hop_point *a = &h->announced;
    if (!m->has_bytes || !m->has_phase || m->bytes < a->bytes || m->phase < a->phase ||
        m->phase > HOP_COMPLETE) {
        return false;
    }
    a->bytes = m->bytes;
    a->phase = (enum hop_phase)m->phase;
    h->is_marked = true;
    return true;
}

static void take_mark(struct hop_stream *h, struct str line)
{
    struct hop_mark m;
    bool is_mark = hop_mark_parse(line, &m);
    if (is_mark && m.has_usage) {
        h->has_usage = true;
        h->usage = (struct hop_usage){(int64_t)m.prompt, (int64_t)m.completion, (int64_t)m.cached};
    }
    bool is_sound =
        is_mark && (!m.has_seed || take_seed(h, &m)) && (!m.has_ids || take_point(h, &m));
    if (!is_sound) {
        give_up(h);
    } else if (m.has_ids && !h->is_broken) {
        take_ids(h, m.ids);
    }
}

/* ---- events ---- */

static void commit(struct hop_stream *h)
{
    bool counts = h->has_field;
    h->state = STATE_BETWEEN;
    h->has_field = false;
    h->has_passed = true;
    if (!counts) return; // rule 3
    if (!h->is_marked) {
        give_up(h); // rule 2
        return;
    }
    h->is_marked = false;
    h->committed = h->announced;
    hop_ids_commit(&h->ids);
}

static const char *find_line_end(const struct hop_stream *h, const char *at, const char *end)
{
    const char *lf = memchr(at, '\n', (size_t)(end - at));
    if (h->framing == HOP_NDJSON) return lf;
    const char *cr = memchr(at, '\r', (size_t)((lf ? lf : end) - at));
    return cr ? cr : lf;
}

/* Behind the event's last byte, or NULL: it goes on. A CR that ends an event may have an LF behind
 * it that comes later: the event is complete without it. */
static const char *find_event_end(struct hop_stream *h, const char *at, const char *end)
{
    while (at < end) {
        bool skips_lf = h->after_cr && *at == '\n';
        h->after_cr = false;
        if (skips_lf) {
            at++;
            continue;
        }
        bool is_empty = h->at_line_start && (*at == '\n' || *at == '\r');
        if (h->at_line_start && !is_empty && *at != ':') h->has_field = true;
        const char *line_end = find_line_end(h, at, end);
        h->at_line_start = line_end != NULL;
        if (!line_end) return NULL;
        h->after_cr = *line_end == '\r' && h->framing == HOP_SSE;
        at = line_end + 1;
        if (is_empty || h->framing == HOP_NDJSON) return at;
    }
    return NULL;
}

/* ---- feeding ---- */

static void hand_over(struct hop_feed *f)
{
    if (f->at > f->out) f->on_bytes(f->arg, f->out, (size_t)(f->at - f->out));
    f->out = f->at;
}

static void hand_over_held(struct hop_feed *f)
{
    struct hop_stream *h = f->h;
    if (h->held_len > 0) f->on_bytes(f->arg, h->held, h->held_len);
    drop_held(h);
}

/* Keep [from, end). False: it would be more than may be kept. */
static bool hold(struct hop_stream *h, const char *from, const char *end)
{
    size_t len = (size_t)(end - from);
    if (len > HOP_HELD_MAX - h->held_len) return false;
    uint32_t need = h->held_len + (uint32_t)len;
    if (need > h->held_cap) {
        uint32_t cap = h->held_cap ? h->held_cap : HELD_CAP_MIN;
        while (cap < need)
            cap *= 2;
        h->held = xrealloc(h->held, cap);
        h->held_cap = cap;
    }
    if (len > 0) memcpy(h->held + h->held_len, from, len);
    h->held_len = need;
    return true;
}

static void begin_event(struct hop_stream *h, bool at_line_start)
{
    h->state = STATE_EVENT;
    h->at_line_start = at_line_start;
    h->has_field = false;
}

/* A mark or an event? May need more bytes to tell. */
static void step_between(struct hop_feed *f)
{
    struct hop_stream *h = f->h;
    if (h->after_cr) { // of the event before
        h->after_cr = false;
        if (*f->at == '\n') {
            f->at++;
            return;
        }
    }
    size_t left = (size_t)(f->end - f->at), want = (size_t)(MARK_HEAD_LEN - h->prefix_len);
    size_t n = left < want ? left : want;
    if (memcmp(f->at, MARK_HEAD + h->prefix_len, n) == 0) {
        hand_over(f);
        f->at += n;
        f->out = f->at;
        h->prefix_len = (uint8_t)(h->prefix_len + n);
        if (n < want) return;
        h->state = STATE_MARK;
        h->prefix_len = 0;
    } else if (h->prefix_len > 0) { // a comment that began like a mark
        begin_event(h, false);
        CHECK(hold(h, MARK_HEAD, MARK_HEAD + h->prefix_len));
        h->prefix_len = 0;
    } else {
        begin_event(h, true);
    }
}

static void step_mark(struct hop_feed *f)
{
    struct hop_stream *h = f->h;
    const char *lf = memchr(f->at, '\n', (size_t)(f->end - f->at));
    const char *stop = lf ? lf : f->end;
    size_t len = (size_t)(stop - f->at);
    bool is_held = h->held_len > 0;
    if (h->state == STATE_MARK) {
        bool fits = lf && !is_held ? len <= HOP_HELD_MAX : hold(h, f->at, stop);
        if (!fits) {
            h->state = STATE_LONG_MARK;
            drop_held(h);
            give_up(h);
        } else if (lf) {
            take_mark(h, is_held ? (struct str){h->held, h->held_len} : (struct str){f->at, len});
        }
    }
    if (lf) {
        drop_held(h);
        h->state = STATE_BETWEEN;
    }
    f->out = f->at = lf ? lf + 1 : f->end;
}

static void step_event(struct hop_feed *f)
{
    struct hop_stream *h = f->h;
    const char *event_end = find_event_end(h, f->at, f->end);
    if (event_end) {
        if (h->held_len > 0) hand_over_held(f); // then it begins with this call's first byte
        f->at = event_end;
        commit(h);
        return;
    }
    hand_over(f); // whole events before it
    if (!hold(h, f->at, f->end)) {
        h->state = STATE_TORN;
        h->has_passed = true;
        hand_over_held(f);
        f->at = f->end;
        hand_over(f);
    }
    f->out = f->at = f->end;
}

static void step_torn(struct hop_feed *f)
{
    const char *event_end = find_event_end(f->h, f->at, f->end);
    f->at = event_end ? event_end : f->end;
    if (event_end) commit(f->h);
}

void hop_stream_feed(struct hop_stream *h, const char *data, size_t len,
                     hop_stream_on_bytes *on_bytes, void *arg)
{
    struct hop_feed f = {
        .h = h, .on_bytes = on_bytes, .arg = arg, .at = data, .end = data + len, .out = data};
    while (f.at < f.end) {
        switch ((enum hop_state)h->state) {
        case STATE_BETWEEN:
            step_between(&f);
            break;
        case STATE_EVENT:
            step_event(&f);
            break;
        case STATE_TORN:
            step_torn(&f);
            break;
        case STATE_MARK:
        case STATE_LONG_MARK:
            step_mark(&f);
            break;
        }
    }
    hand_over(&f);
}

void hop_stream_end(struct hop_stream *h, hop_stream_on_bytes *on_bytes, void *arg)
{
    if (h->prefix_len > 0) on_bytes(arg, MARK_HEAD, h->prefix_len);
    if (h->state == STATE_EVENT && h->held_len > 0) on_bytes(arg, h->held, h->held_len);
    h->has_passed |= h->prefix_len > 0 || h->state == STATE_EVENT;
    h->prefix_len = 0;
    drop_held(h);
    h->state = STATE_BETWEEN;
}

void hop_stream_restart(struct hop_stream *h)
{
    if (h->state == STATE_TORN) give_up(h);
    drop_held(h);
    hop_ids_rollback(&h->ids);
    h->announced = h->committed;
    h->state = STATE_BETWEEN;
    h->prefix_len = 0;
    h->after_cr = h->is_marked = h->has_field = false;
}

/* ---- what is known ---- */

bool hop_stream_can_resume(const struct hop_stream *h)
{
    return h->has_seed && !h->is_broken && h->state != STATE_TORN &&
           h->committed.phase != HOP_COMPLETE;
}

bool hop_stream_is_untouched(const struct hop_stream *h)
{
    return !h->has_passed;
}

bool hop_stream_is_complete(const struct hop_stream *h)
{
    return h->committed.phase == HOP_COMPLETE;
}

bool hop_stream_is_over_budget(const struct hop_stream *h)
{
    return h->is_over_budget;
}

void hop_stream_print_resume(const struct hop_stream *h, struct buf *out)
{
    CHECK(hop_stream_can_resume(h));
    char seed[24];
    struct json_writer w;
    snprintf(seed, sizeof seed, "%" PRIu64, h->seed);
    json_writer_init(&w, out);
    json_object_begin(&w);
    json_field_text(&w, "seed", seed);
    json_field_int(&w, "now", h->now_s);
    if (h->id[0]) json_field_text(&w, "id", h->id);
    if (h->created_s >= 0) json_field_int(&w, "created", h->created_s);
    if (h->rope > 0) json_field_int(&w, "rope", h->rope);
    json_key(&w, "ids");
    json_array_begin(&w);
    hop_ids_print(&h->ids, out);
    json_array_end(&w);
    json_field_int(&w, "bytes", (int64_t)h->committed.bytes);
    json_field_int(&w, "phase", (int64_t)h->committed.phase);
    json_object_end(&w);
}

const struct hop_usage *hop_stream_usage(const struct hop_stream *h)
{
    return h->has_usage ? &h->usage : NULL;
}

uint32_t hop_stream_token_count(const struct hop_stream *h)
{
    return h->ids.committed_count;
}
