/* advertise.h - the URL under which proxies reach this agent. In order: --advertise, the address it
 * listens on if that is a particular one, the local address of a connection to Redis or to a proxy.
 * Never 0.0.0.0, and nobody on the internet is asked. Pure. */
#ifndef LM_AGENT_ADVERTISE_H
#define LM_AGENT_ADVERTISE_H

#include <stdbool.h>

#include "shared/base/error.h"
#include "shared/net/agent_record.h"

struct advertise {
    char host[200]; // as in a URL: IPv6 in brackets; "" while unknown
    int port;
    bool is_fixed; // told, not learned
    bool is_tls;   // https
};

/* "HOST", "HOST:PORT", "[v6]:PORT"; text NULL: not told. `listen_host` and `listen_port`: the
 * server's. E_INVALID: not an address, or one that nobody can connect to. */
FALLIBLE int advertise_init(struct advertise *a, const char *text, const char *listen_host,
                            int listen_port, struct error *err);

/* A connection of ours has this local address. An address beyond loopback replaces a loopback one,
 * so that a fleet over several machines works when one registry is local. True: the URL changed. */
bool advertise_learn(struct advertise *a, const char *address);

bool advertise_is_known(const struct advertise *a);
void advertise_url(const struct advertise *a, char url[AGENT_URL_BYTES]);

#endif
