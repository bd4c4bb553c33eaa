/* client_main.c - lm-client: which command, and what its end means for the shell.
 * Exit codes: 0, 1 for anything that failed, 2 for usage, 130 after Ctrl-C. */
#include "client/api_client.h"
#include "client/chat.h"
#include "client/chat_repl.h"
#include "client/client_config.h"
#include "client/fleet_status.h"
#include "client/interactive_chat.h"
#include "client/line_editor.h"
#include "client/models.h"
#include "client/top.h"
#include "shared/base/check.h"
#include "shared/base/log.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_INTERRUPTED 130

/* The model that --model means, or the first; asking also tells early whether a server is there. */
static int choose_model(struct chat *chat, struct error *err)
{
    struct model_list list;
    const char *wanted = chat->config->model;
    int rc = models_fetch(chat->api, &list, err);
    if (rc == 0) {
        const char *name = wanted           ? models_find(&list, wanted)
                           : list.count > 0 ? list.names[0]
                                            : NULL;
        if (name) {
            chat_set_model(chat, name);
        } else if (wanted && list.count > 0) {
            rc =
                error_set(err, E_NOT_FOUND, "%s has no model '%.128s'; lm-client models lists them",
                          api_client_url(chat->api), wanted);
        } else {
            rc = error_set(err, E_NOT_FOUND, "%s offers no model yet", api_client_url(chat->api));
        }
    }
    models_deinit(&list);
    return rc;
}

/* The file that typed lines are kept in, owned; NULL: none. */
static char *history_file_of(const struct client_config *config)
{
    if (!config->history_file) return line_editor_history_path();
    return config->history_file[0] ? xstrdup(config->history_file) : NULL;
}

static int run_chat(struct api_client *api, const struct client_config *config, struct error *err)
{
    struct chat chat;
    chat_init(&chat, api, config);
    int rc = choose_model(&chat, err);
    if (rc == 0 && isatty(STDIN_FILENO)) {
        char *history = history_file_of(config);
        rc = chat_repl_run(&chat, history, err);
        free(history);
    } else if (rc == 0) {
        rc = chat_repl_pipe(&chat, err);
    }
    chat_deinit(&chat);
    return rc;
}

static int run_interactive(struct api_client *api, const struct client_config *config,
                           struct error *err)
{
    char *history = history_file_of(config);
    int rc = interactive_chat_run(api, config, history, err);
    free(history);
    return rc;
}

static int run(const struct client_config *config, struct error *err)
{
    struct api_client *api;
    if (api_client_open(config->url, config->api_key, config->ssl_ca, &api, err) < 0)
        return E_INVALID;
    int rc = 0;
    switch (config->verb) {
    case CLIENT_CHAT:
        rc = run_chat(api, config, err);
        break;
    case CLIENT_INTERACTIVE:
        rc = run_interactive(api, config, err);
        break;
    case CLIENT_MODELS:
        rc = models_command(api, err);
        break;
    case CLIENT_STATUS:
        rc = fleet_status_command(api, err);
        break;
    case CLIENT_TOP:
        rc = top_command(api, config->interval_s, config->count, err);
        break;
    }
    api_client_close(api);
    if (rc == 0 && fflush(stdout) != 0) rc = error_set(err, E_CLOSED, "cannot write the output");
    return rc;
}

int main(int argc, char **argv)
{
    struct client_config config;
    struct error err;
    log_init("lm-client", LOG_ERROR);
    signal(SIGPIPE, SIG_IGN); // a lost server or reader is an error code, not the end
    int parsed = client_config_parse(argc, argv, &config, &err);
    if (parsed != CONFIG_RUN) {
        if (parsed < 0) fprintf(stderr, "lm-client: %s\n", err.text);
        return parsed < 0 ? EXIT_USAGE : 0;
    }
    int rc = run(&config, &err);
    if (rc < 0 && rc != E_CANCELLED) fprintf(stderr, "lm-client: %s\n", err.text);
    client_config_deinit(&config);
    if (rc == E_CANCELLED) return EXIT_INTERRUPTED;
    if (rc == E_INVALID) return EXIT_USAGE;
    return rc < 0 ? 1 : 0;
}
