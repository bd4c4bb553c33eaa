/* interactive.h - POST /v1/chat/interactive: one turn of a conversation, from the body to the last
 * byte of the answer, its place in the session's queue and what is kept of it. Loop thread only. */
#ifndef LM_AGENT_INTERACTIVE_H
#define LM_AGENT_INTERACTIVE_H

#include <stdint.h>

#include "agent/session_service.h"

/* Takes the exchange over: answers it now or later, or notices that the client left. */
void interactive_start(struct session_service *s, struct http_exchange *x);
/* DELETE /v1/sessions/{id}: waits its turn like any other. */
void interactive_delete(struct session_service *s, struct http_exchange *x, int64_t id);
/* Turns that wait for a session busy elsewhere ask again. */
void interactive_tick(struct session_service *s);
struct abort_target; // agent/abort_target.h
/* End the turns that are meant, as `cancel` does; the number of them. */
int interactive_stop(struct session_service *s, const struct abort_target *target);
/* End all that live with a server error; conversations stay as they were before those turns. */
void interactive_abort(struct session_service *s);

#endif
