/* client_config.h - the command line of lm-client. */
#ifndef LM_CLIENT_CLIENT_CONFIG_H
#define LM_CLIENT_CLIENT_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/config.h"
#include "shared/base/error.h"

enum client_verb { CLIENT_CHAT, CLIENT_INTERACTIVE, CLIENT_MODELS, CLIENT_STATUS, CLIENT_TOP };

struct client_config {
    enum client_verb verb;
    const char *url;    // borrowed from argv; not parsed yet
    char *model;        // NULL: the server's first
    char *system;       // NULL: none
    double temperature; // < 0: the server's default
    int64_t max_tokens; // 0: the server's default
    bool stream;
    int64_t session_id; // of interactive
    double interval_s;  // of top
    int64_t count;      // of top: looks, 0: without end
    char *api_key;      // NULL: none
    char *ssl_ca;       // NULL: the system's store
    char *history_file; // NULL: the default place; "": none
};

/* Like config_parse: an enum config_result, or negative with *err for a usage error. */
FALLIBLE int client_config_parse(int argc, char **argv, struct client_config *config,
                                 struct error *err);
void client_config_deinit(struct client_config *config);

#endif
