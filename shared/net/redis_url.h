/* redis_url.h - redis://[[user]:password@]host[:port][/db], taken apart; internal to shared/net. */
#ifndef LM_NET_REDIS_URL_H
#define LM_NET_REDIS_URL_H

#include "shared/base/error.h"

struct redis_url {
    char host[256];
    int port;
    int db;
    char user[256]; // "": the default user
    char password[512];
    char address[320]; // "127.0.0.1:6379", "[::1]:6379": for logs
};

/* E_INVALID, E_UNSUPPORTED (rediss); the text never holds the password. */
FALLIBLE int redis_url_parse(const char *text, struct redis_url *url, struct error *err);

#endif
