/* session_repair.h - what Redis lacks of the conversations that are held here, written down without
 * waiting for their next turns: after Redis was away, and after it was flushed. Loop thread only. */
#ifndef LM_AGENT_SESSION_REPAIR_H
#define LM_AGENT_SESSION_REPAIR_H

#include <stdbool.h>

struct session_service;

/* Redis is back, or has forgotten everything (it was flushed, or restarted without its file). */
void session_repair_begin(struct session_service *s, bool is_flushed);
/* Regularly: a few more of them. */
void session_repair_tick(struct session_service *s);

#endif
