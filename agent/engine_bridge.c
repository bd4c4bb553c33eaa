/* engine_bridge.c - two crossings between the loop and the engine's threads.
 *
 *     loop ── engine_submit, engine_cancel ──► engine
 *     loop ◄── uv_async ◄── on_events ──────── engine     then engine_next_event until dry
 *
 * Rules:
 *  1. A request holds one slot from submit to its last event. Its id is (serial << SLOT_BITS) |
 *     slot, so an id finds its slot without a search and old ids never match a reused slot.
 *  2. A cancelled request keeps its slot, with nobody listening, until the engine's last event.
 *  3. One turn of the loop delivers at most EVENTS_PER_TURN events, so sockets get their turn too.
 */
#include "agent/engine_bridge.h"

#include "shared/base/check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SLOT_BITS       20
#define SLOTS_MAX       ((size_t)1 << SLOT_BITS)
#define EVENTS_PER_TURN 512

struct slot {
    uint64_t id;                      // 0: free
    engine_bridge_on_event *on_event; // NULL: cancelled
    void *arg;
    size_t next_free;
};

struct engine_bridge {
    uv_async_t async;
    pthread_t opener;
    struct engine_options options;
    struct hub_options hub;
    char *model_path; // what the hub gave
    engine_bridge_on_open *on_open;
    void *arg;
    void (*on_work)(void *arg); // NULL: nobody watches
    void *on_work_arg;
    atomic_bool opened; // the opener is done with the three fields below
    int open_status;
    struct error open_error;
    struct engine *engine;
    bool is_opening; // on_open was not called yet

    struct slot *slots;
    size_t slot_count; // ever used
    size_t slot_cap;
    size_t free_head; // index + 1; 0: none
    uint64_t serial;
};

/* ---- slots ---- */

static struct slot *take_slot(struct engine_bridge *b)
{
    size_t index = b->free_head;
    if (index) {
        b->free_head = b->slots[index - 1].next_free;
    } else {
        if (b->slot_count == SLOTS_MAX) return NULL;
        if (b->slot_count == b->slot_cap) {
            b->slot_cap = b->slot_cap ? b->slot_cap * 2 : 64;
            b->slots = xrealloc_array(b->slots, b->slot_cap, sizeof *b->slots);
        }
        index = ++b->slot_count;
    }
    struct slot *slot = &b->slots[index - 1];
    *slot = (struct slot){.id = ++b->serial << SLOT_BITS | (index - 1)};
    return slot;
}

static void give_slot(struct engine_bridge *b, struct slot *slot)
{
    slot->id = 0;
    slot->next_free = b->free_head;
    b->free_head = (size_t)(slot - b->slots) + 1;
}

static struct slot *find_slot(struct engine_bridge *b, uint64_t id)
{
    size_t index = id & (SLOTS_MAX - 1);
    return id && index < b->slot_count && b->slots[index].id == id ? &b->slots[index] : NULL;
}

/* ---- the loop's side ---- */

static void deliver(struct engine_bridge *b, const struct engine_event *event)
{
    struct slot *slot = find_slot(b, event->id);
    CHECK(slot); // rule 1: the engine has no other requests
    engine_bridge_on_event *on_event = slot->on_event;
    void *arg = slot->arg;
    if (event->kind != ENGINE_EVENT_TOKENS) give_slot(b, slot);
    if (on_event) on_event(arg, event); // may submit and cancel: `slot` is stale from here on
}

static void report_open(struct engine_bridge *b)
{
    pthread_join(b->opener, NULL);
    b->is_opening = false;
    b->on_open(b->arg, b->open_status, &b->open_error);
}

static void on_async(uv_async_t *async)
{
    struct engine_bridge *b = async->data;
    if (b->is_opening) {
        if (atomic_load(&b->opened)) report_open(b);
        return;
    }
    if (!b->engine) return;
    for (int i = 0; i < EVENTS_PER_TURN; i++) {
        struct engine_event event;
        if (!engine_next_event(b->engine, &event)) return;
        deliver(b, &event);
        engine_event_deinit(&event);
    }
    uv_async_send(&b->async); // rule 3
}

/* ---- other threads ---- */

static void on_events(void *arg)
{
    struct engine_bridge *b = arg;
    uv_async_send(&b->async);
}

static void *open_engine(void *arg)
{
    struct engine_bridge *b = arg;
    b->open_status = hub_locate(b->options.model_path, &b->hub, &b->model_path, &b->open_error);
    if (b->open_status == 0) {
        b->options.model_path = b->model_path;
        b->open_status = engine_open(&b->options, &b->engine, &b->open_error);
    }
    atomic_store(&b->opened, true);
    uv_async_send(&b->async);
    return NULL;
}

/* ---- life ---- */

struct engine_bridge *engine_bridge_create(uv_loop_t *loop, const struct engine_options *options,
                                           const struct hub_options *hub,
                                           engine_bridge_on_open *on_open, void *arg)
{
    struct engine_bridge *b = xcalloc(1, sizeof *b);
    b->options = *options;
    b->hub = *hub;
    b->options.on_events = on_events;
    b->options.on_events_arg = b;
    b->on_open = on_open;
    b->arg = arg;
    CHECK(uv_async_init(loop, &b->async, on_async) == 0);
    b->async.data = b;
    b->is_opening = true;
    CHECK(pthread_create(&b->opener, NULL, open_engine, b) == 0);
    return b;
}

static void on_closed(uv_handle_t *handle)
{
    struct engine_bridge *b = handle->data;
    free(b->slots);
    free(b->model_path);
    free(b);
}

void engine_bridge_destroy(struct engine_bridge *b)
{
    if (!b) return;
    CHECK(!b->is_opening);
    engine_close(b->engine); // joins the thread that calls on_events
    b->engine = NULL;
    uv_close((uv_handle_t *)&b->async, on_closed);
}

bool engine_bridge_is_opening(const struct engine_bridge *b)
{
    return b->is_opening;
}

void engine_bridge_watch_work(struct engine_bridge *b, void (*on_work)(void *arg), void *arg)
{
    b->on_work = on_work;
    b->on_work_arg = arg;
}

struct engine *engine_bridge_engine(const struct engine_bridge *b)
{
    return b->is_opening ? NULL : b->engine;
}

int engine_bridge_submit(struct engine_bridge *b, struct engine_request *request,
                         engine_bridge_on_event *on_event, void *arg, struct error *err)
{
    struct engine *engine = engine_bridge_engine(b);
    if (!engine) return error_set(err, E_CLOSED, "the engine is not open");
    struct slot *slot = take_slot(b);
    if (!slot) return error_set(err, E_BUSY, "too many requests at once");
    slot->on_event = on_event;
    slot->arg = arg;
    request->id = slot->id;
    int rc = engine_submit(engine, request, err);
    if (rc != 0) {
        give_slot(b, slot);
    } else if (b->on_work) {
        b->on_work(b->on_work_arg);
    }
    return rc;
}

void engine_bridge_stop(struct engine_bridge *b, uint64_t id)
{
    if (find_slot(b, id)) engine_cancel(b->engine, id);
}

void engine_bridge_cancel(struct engine_bridge *b, uint64_t id)
{
    struct slot *slot = find_slot(b, id);
    if (!slot) return;
    slot->on_event = NULL;
    engine_cancel(b->engine, id);
}
