/* config.h - one option table per program drives argv, environment, file, --help and the docs.
 *
 *     static const struct option agent_options[] = {
 *         {"server-port", OPTION_INT, offsetof(struct agent_config, server_port),
 *          .def = "23333", .min = 0, .max = 65535, .arg = "PORT", .group = "Server",
 *          .help = "port to listen on; 0 picks a free one"},
 *         ...
 *
 * Later wins: default < file (--config, lines "name = value", # begins a comment line) <
 * environment (LM_<PROGRAM>_<NAME>, e.g. LM_AGENT_SERVER_PORT; empty counts as unset) < command
 * line. Flags take "--name value" and "--name=value", '-' and '_' alike; a flag option
 * (OPTION_FLAG) also "--no-name"; "--" ends them. An option whose name is unknown gets the nearest
 * known name in the error text. Lists repeat the flag, or take several values after it
 * ("--api-keys k1 k2") when `many` is set; file and environment give them as "a,b,c". */
#ifndef LM_BASE_CONFIG_H
#define LM_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"

enum option_type {
    OPTION_FLAG,   // bool
    OPTION_INT,    // int64_t, within min..max
    OPTION_DOUBLE, // double, within min..max
    OPTION_STRING, // char *, owned; NULL when unset and no default
    OPTION_BYTES,  // uint64_t; "64k", "8M", "2G"
    OPTION_CHOICE, // int: index into `choices` ("a|b|c")
    OPTION_LIST,   // struct option_list of owned strings
};

struct option_list {
    char **items; // owned
    size_t count;
};

struct option {
    const char *name; // with '-', without leading "--"
    enum option_type type;
    size_t offset;       // of the field in the program's config struct
    const char *def;     // NULL: zero, NULL or empty
    double min, max;     // numbers; both 0: no bound; max < min: no upper bound
    const char *choices; // OPTION_CHOICE: "a|b|c"
    const char *arg;     // placeholder in --help, e.g. "PORT"
    const char *group;   // heading in --help
    const char *help;    // one sentence, lower case, no full stop
    const char *aliases; // "other-name|third", accepted but not shown as own rows
    bool many;           // OPTION_LIST: takes all values up to the next flag
    bool secret;         // value never printed by config_dump
};

struct config_program {
    const char *name;    // "lm-agent"; environment prefix LM_AGENT_
    const char *usage;   // "lm-agent [options] MODEL"
    const char *summary; // a sentence or two
    const char *footer;  // examples, or NULL
    const struct option *options;
    size_t count;
    size_t positional_max;
};

enum config_result {
    CONFIG_RUN = 0,
    CONFIG_EXIT = 1, // --help or --version was asked for and printed to stdout: exit 0
};

/* Fill *config (zeroed by the caller). Positional arguments go to *positional (borrowed from argv).
 * Returns an enum config_result, or negative with *err: usage error, exit code 2.
 * --help, --version and --config FILE are understood in every program, --help-markdown prints the
 * options as the table that docs hold. */
FALLIBLE int config_parse(const struct config_program *program, int argc, char **argv, void *config,
                          const char **positional, size_t *positional_count, struct error *err);
void config_deinit(const struct config_program *program,
                   void *config); // frees what parse allocated

void config_help(const struct config_program *program, struct buf *out);
void config_markdown(const struct config_program *program, struct buf *out);
/* "name=value" per line, secrets masked: for the log and for admin pages. */
void config_dump(const struct config_program *program, const void *config, struct buf *out);

#define EXIT_USAGE 2

#endif
