/* top.h - `lm-client top`: a server's status again and again, with what changed in between. */
#ifndef LM_CLIENT_TOP_H
#define LM_CLIENT_TOP_H

#include <stdint.h>

#include "client/api_client.h"

/* Looks every interval_s, `count` times (0: without end). At a terminal in place, until q or Ctrl-C;
 * what was seen last stays on the screen. Elsewhere one table after another. A server that can't be
 * reached is an error with the first look; later ones are tried again at a terminal. E_CANCELLED:
 * Ctrl-C where there is no terminal. */
FALLIBLE int top_command(struct api_client *api, double interval_s, int64_t count,
                         struct error *err);

#endif
