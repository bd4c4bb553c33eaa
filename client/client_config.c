#include "client/client_config.h"

#include "shared/base/check.h"

#include <stddef.h>
#include <string.h>

#define FIELD(name) offsetof(struct client_config, name)

static const struct option client_options[] = {
    {"model", OPTION_STRING, FIELD(model), .arg = "NAME", .group = "Chat",
     .help = "model to talk to; the server's first when not given"},
    {"system", OPTION_STRING, FIELD(system), .arg = "TEXT", .group = "Chat",
     .help = "system prompt that opens the conversation"},
    {"temperature", OPTION_DOUBLE, FIELD(temperature), .min = 0, .max = 2, .arg = "T",
     .group = "Chat", .help = "sampling temperature; 0 always takes the likeliest token"},
    {"max-tokens", OPTION_INT, FIELD(max_tokens), .min = 1, .max = 1 << 30, .arg = "N",
     .group = "Chat", .help = "longest answer, in tokens"},
    {"stream", OPTION_FLAG, FIELD(stream), .def = "true", .group = "Chat",
     .help = "show the answer while it is written (--no-stream: when it is complete)"},
    {"history-file", OPTION_STRING, FIELD(history_file), .arg = "FILE", .group = "Chat",
     .help = "where typed lines are kept for the arrow keys; '' keeps none "
             "(default: lm-client/history in $XDG_STATE_HOME or ~/.local/state)"},
    {"session-id", OPTION_INT, FIELD(session_id), .def = "1", .min = 0, .max = 9007199254740991,
     .arg = "N", .group = "Chat",
     .help = "of interactive: the conversation's id at the server; one that is there goes on"},
    {"interval", OPTION_DOUBLE, FIELD(interval_s), .def = "1", .min = 0.1, .max = 3600,
     .arg = "SECONDS", .group = "Top", .help = "time from one look to the next"},
    {"count", OPTION_INT, FIELD(count), .def = "0", .min = 0, .max = 1 << 30, .arg = "N",
     .group = "Top", .help = "looks, then it ends; 0: until q or Ctrl-C"},
    {"api-key", OPTION_STRING, FIELD(api_key), .arg = "KEY", .group = "Server", .secret = true,
     .help = "key that the server wants; safer in the environment, as LM_CLIENT_API_KEY"},
    {"ssl-ca", OPTION_STRING, FIELD(ssl_ca), .arg = "FILE", .group = "Server",
     .help = "certificates to trust, PEM, with an https URL; by default those of the system"},
};

static const struct config_program client_program = {
    .name = "lm-client",
    .usage =
        "lm-client [options] URL | lm-client [options] interactive URL | lm-client models URL | "
        "lm-client status URL | lm-client [options] top URL",
    .summary = "Chat in the terminal with an lm-agent, an lm-proxy or any other server that speaks "
               "the OpenAI API. When standard input is not a terminal, all of it is one message "
               "and the answer alone is printed.",
    .footer =
        "Commands:\n"
        "  lm-client URL              chat; /help in it lists what it understands\n"
        "  lm-client interactive URL  chat as LMDeploy's api_client does: the server keeps the\n"
        "                             conversation, an empty line ends a message, `end` forgets\n"
        "                             the conversation, `exit` leaves\n"
        "  lm-client models URL       names of the models that the server offers\n"
        "  lm-client status URL       the proxy and its fleet, or one agent's state\n"
        "  lm-client top URL          the same again and again, with rates; q ends\n"
        "\nExamples:\n"
        "  lm-client http://127.0.0.1:8000\n"
        "  echo 'Why is the sky blue?' | lm-client --temperature 0 http://127.0.0.1:8000",
    .options = client_options,
    .count = ARRAY_LEN(client_options),
    .positional_max = 2,
};

static bool take_verb(const char *word, enum client_verb *verb)
{
    static const char *const words[] = {"chat", "interactive", "models", "status",
                                        "top"}; // as enum client_verb
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcmp(word, words[i]) == 0) {
            *verb = (enum client_verb)i;
            return true;
        }
    }
    return false;
}

int client_config_parse(int argc, char **argv, struct client_config *config, struct error *err)
{
    const char *words[2];
    size_t count = 0;
    *config = (struct client_config){.temperature = -1};
    int rc = config_parse(&client_program, argc, argv, config, words, &count, err);
    if (rc != CONFIG_RUN) return rc;

    size_t at = count > 0 && take_verb(words[0], &config->verb) ? 1 : 0;
    if (count == at) {
        rc = error_set(err, E_INVALID, "no URL given; usage: %s", client_program.usage);
    } else if (count > at + 1) {
        rc = error_set(err, E_INVALID, "unknown command '%.64s'; usage: %s", words[at],
                       client_program.usage);
    }
    if (rc < 0) {
        client_config_deinit(config);
        return rc;
    }
    config->url = words[at];
    return CONFIG_RUN;
}

void client_config_deinit(struct client_config *config)
{
    config_deinit(&client_program, config);
}
