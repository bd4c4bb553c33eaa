/* engine_bridge.h - the engine seen from the loop: opened on a thread of its own so that the loop
 * answers meanwhile, events delivered to whoever submitted. Loop thread only. */
#ifndef LM_AGENT_ENGINE_BRIDGE_H
#define LM_AGENT_ENGINE_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "agent/hub.h"
#include "engine/engine.h"
#include "shared/base/error.h"

struct engine_bridge;

/* status 0: the engine serves. Else it never will, and err says why. */
typedef void engine_bridge_on_open(void *arg, int status, const struct error *err);
/* The event is borrowed. Comes never from inside engine_bridge_submit. */
typedef void engine_bridge_on_event(void *arg, const struct engine_event *event);

/* Starts opening: finds the model, or downloads it, and loads it. `options` and `hub` are copied, but
 * their strings must live as long as the bridge; its on_events is the bridge's own. */
struct engine_bridge *engine_bridge_create(uv_loop_t *loop, const struct engine_options *options,
                                           const struct hub_options *hub,
                                           engine_bridge_on_open *on_open, void *arg);
/* Closes the engine and frees; no callback comes any more. Not while still opening. NULL is fine.
 */
void engine_bridge_destroy(struct engine_bridge *b);

bool engine_bridge_is_opening(const struct engine_bridge *b);
/* on_work comes from inside each submit: there is more to do than before. */
void engine_bridge_watch_work(struct engine_bridge *b, void (*on_work)(void *arg), void *arg);
/* NULL until open. */
struct engine *engine_bridge_engine(const struct engine_bridge *b);

/* Fills request->id. On success on_event gets every event of it up to DONE or FAILED. */
FALLIBLE int engine_bridge_submit(struct engine_bridge *b, struct engine_request *request,
                                  engine_bridge_on_event *on_event, void *arg, struct error *err);
/* Stop the request; on_event gets what was done until then, and DONE with FINISH_CANCELLED unless
 * the request ended before. */
void engine_bridge_stop(struct engine_bridge *b, uint64_t id);
/* Stop the request; on_event isn't called again. Fine for one that has ended. */
void engine_bridge_cancel(struct engine_bridge *b, uint64_t id);

#endif
