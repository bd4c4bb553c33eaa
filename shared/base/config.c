/* config.c - where values come from.
 *
 * Rules:
 *  1. Every option remembers the source of its value. A source never overrides a higher one, so the
 *     sources can be read in any order: the command line first, since it names the file.
 *  2. A list collects the items of one source; a higher source starts it afresh.
 *  3. Environment and file give a list as "a,b,c", and the file may also repeat the line. An empty
 *     environment variable counts as unset, since compose files can't leave one out.
 *  4. Kubernetes puts LM_AGENT_PORT=tcp://10.0.0.1:23333 into the environment of every pod beside a
 *     service named lm-agent. Such a value for a number is not ours and is passed over. */
#include "shared/base/config.h"

#include "shared/base/check.h"
#include "shared/base/config_value.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_LEN  64
#define LABEL_SIZE    256
#define FILE_MAX_SIZE ((size_t)1 << 20)

enum source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_ARGUMENTS };

struct parser {
    const struct config_program *program;
    void *config;
    enum source *sources; // per option
    const char *file;     // --config; borrowed
    const char **positional;
    size_t positional_count;
    struct error *err;
};

/* ---- names ---- */

static char fold(char c)
{
    return c == '_' ? '-' : c;
}

static bool name_equal(struct str a, struct str b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        if (fold(a.data[i]) != fold(b.data[i])) return false;
    }
    return true;
}

static bool option_has_name(const struct option *option, struct str name)
{
    if (name_equal(str_of(option->name), name)) return true;
    struct str left = str_of(option->aliases), alias;
    while (str_split(&left, '|', &alias)) {
        if (name_equal(alias, name)) return true;
    }
    return false;
}

static const struct option *find_option(const struct config_program *program, struct str name)
{
    for (size_t i = 0; i < program->count; i++) {
        if (option_has_name(&program->options[i], name)) return &program->options[i];
    }
    return NULL;
}

/* Levenshtein distance; both at most NAME_MAX_LEN. */
static size_t name_distance(struct str a, struct str b)
{
    size_t row[NAME_MAX_LEN + 1];
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t best = diagonal + (fold(a.data[i - 1]) != fold(b.data[j - 1]));
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b.len];
}

static const char *nearest_name(const struct config_program *program, struct str name)
{
    static const char *const common[] = {"config", "help", "version"};
    if (name.len > NAME_MAX_LEN) return NULL;
    const char *nearest = NULL;
    size_t limit = name.len < 4 ? 1 : name.len < 9 ? 2 : name.len / 3; // else it is a guess
    for (size_t i = 0; i < program->count + ARRAY_LEN(common); i++) {
        const char *known =
            i < program->count ? program->options[i].name : common[i - program->count];
        if (strlen(known) > NAME_MAX_LEN) continue;
        size_t distance = name_distance(name, str_of(known));
        if (distance > limit || (nearest && distance == limit)) continue;
        nearest = known;
        limit = distance;
    }
    return nearest;
}

/* where: "" or "a.conf:3: "; dashes: "--" on the command line. */
static int refuse_name(struct parser *p, const char *where, const char *dashes, struct str name)
{
    const char *nearest = nearest_name(p->program, name);
    int shown = name.len > NAME_MAX_LEN ? NAME_MAX_LEN : (int)name.len;
    if (nearest) {
        return error_set(p->err, E_INVALID, "%sunknown option '%s%.*s'; did you mean '%s%s'?",
                         where, dashes, shown, name.data, dashes, nearest);
    }
    return error_set(p->err, E_INVALID, "%sunknown option '%s%.*s'; %s --help lists them all",
                     where, dashes, shown, name.data, p->program->name);
}

/* ---- values ---- */

static int set_value(struct parser *p, const struct option *option, enum source source,
                     struct str text, const char *label)
{
    enum source *current = &p->sources[option - p->program->options];
    if (source < *current) return 0;
    if (source > *current && option->type == OPTION_LIST) config_value_clear(option, p->config);
    *current = source;
    return config_value_set(option, p->config, text, label, p->err);
}

static int set_values(struct parser *p, const struct option *option, enum source source,
                      struct str text, const char *label)
{
    if (option->type != OPTION_LIST) return set_value(p, option, source, text, label);
    struct str item;
    int rc = 0;
    while (rc == 0 && str_split(&text, ',', &item)) {
        item = str_trim(item);
        if (item.len > 0) rc = set_value(p, option, source, item, label);
    }
    return rc;
}

static void set_defaults(struct parser *p)
{
    for (size_t i = 0; i < p->program->count; i++) {
        const struct option *option = &p->program->options[i];
        if (!option->def) continue;
        int rc = set_values(p, option, SOURCE_DEFAULT, str_of(option->def), option->name);
        CHECK(rc == 0); // the table contradicts itself
    }
}

/* ---- environment ---- */

static const char *environment_value(const struct config_program *program, const char *name,
                                     char variable[LABEL_SIZE])
{
    config_variable(program, name, variable, LABEL_SIZE);
    const char *value = getenv(variable);
    return value && value[0] ? value : NULL;
}

static bool is_service_link(const struct option *option, struct str value)
{
    return option->type == OPTION_INT &&
           (str_starts_with(value, STR("tcp://")) || str_starts_with(value, STR("udp://")));
}

static int read_environment(struct parser *p)
{
    char variable[LABEL_SIZE];
    for (size_t i = 0; i < p->program->count; i++) {
        const struct option *option = &p->program->options[i];
        const char *value = environment_value(p->program, option->name, variable);
        if (!value || is_service_link(option, str_of(value))) continue;
        int rc = set_values(p, option, SOURCE_ENVIRONMENT, str_of(value), variable);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- file ---- */

static int read_line(struct parser *p, const char *path, int number, struct str line)
{
    char where[LABEL_SIZE], label[LABEL_SIZE + NAME_MAX_LEN];
    snprintf(where, sizeof where, "%.200s:%d: ", path, number);
    line = str_trim(line);
    if (line.len == 0 || line.data[0] == '#') return 0;
    struct str value = line, name;
    str_split(&value, '=', &name);
    if (name.len == line.len) {
        return error_set(p->err, E_INVALID, "%sexpected 'name = value'", where);
    }
    name = str_trim(name);
    const struct option *option = find_option(p->program, name);
    if (!option) return refuse_name(p, where, "", name);
    snprintf(label, sizeof label, "%s%s", where, option->name);
    return set_values(p, option, SOURCE_FILE, str_trim(value), label);
}

static int read_file(struct parser *p, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return error_set(p->err, -errno, "cannot read config file '%s': %s", path, strerror(errno));
    }
    char *text = xmalloc(FILE_MAX_SIZE + 1);
    size_t len = fread(text, 1, FILE_MAX_SIZE + 1, file);
    int rc = 0;
    if (ferror(file)) {
        rc = error_set(p->err, -EIO, "cannot read config file '%s'", path);
    } else if (len > FILE_MAX_SIZE) {
        rc = error_set(p->err, E_LIMIT, "config file '%s' is larger than 1 MiB", path);
    }
    fclose(file);
    struct str left = {text, len}, line;
    for (int number = 1; rc == 0 && str_split(&left, '\n', &line); number++) {
        rc = read_line(p, path, number, line);
    }
    free(text);
    return rc;
}

/* ---- command line ---- */

static bool is_flag_like(const char *argument)
{
    return argument[0] == '-' && argument[1];
}

static int refuse_missing(struct parser *p, const struct option *option, const char *label)
{
    struct buf expected;
    buf_init(&expected, BUF_MAX_INTERNAL);
    config_value_expected(option, &expected);
    int rc = error_set(p->err, E_INVALID, "%s wants %s after it", label, expected.data);
    buf_deinit(&expected);
    return rc;
}

/* The values of `option` from argv[*at] on. */
static int read_values(struct parser *p, const struct option *option, const char *label, int argc,
                       char **argv, int *at)
{
    // A value may begin with one '-' ("-1"); one with two is much likelier a forgotten value.
    if (*at >= argc || strncmp(argv[*at], "--", 2) == 0) return refuse_missing(p, option, label);
    int rc = set_value(p, option, SOURCE_ARGUMENTS, str_of(argv[(*at)++]), label);
    if (option->type != OPTION_LIST || !option->many) return rc;
    while (rc == 0 && *at < argc && !is_flag_like(argv[*at])) {
        rc = set_value(p, option, SOURCE_ARGUMENTS, str_of(argv[(*at)++]), label);
    }
    return rc;
}

static int print_and_exit(struct buf *text)
{
    fwrite(text->data, 1, text->len, stdout);
    buf_deinit(text);
    return fflush(stdout) == 0 ? CONFIG_EXIT : -EIO;
}

/* --help and the like. CONFIG_RUN: it was none of them. */
static int read_common_flag(struct parser *p, struct str name)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    if (name_equal(name, STR("help"))) {
        config_help(p->program, &text);
    } else if (name_equal(name, STR("help-markdown"))) {
        config_markdown(p->program, &text);
    } else if (name_equal(name, STR("version"))) {
        buf_printf(&text, "%s %s\n", p->program->name, LM_VERSION);
    } else {
        return CONFIG_RUN;
    }
    int rc = print_and_exit(&text);
    return rc < 0 ? error_set(p->err, rc, "cannot write to standard output") : rc;
}

static int read_config_flag(struct parser *p, const char *value, int argc, char **argv, int *at)
{
    if (!value && *at < argc) value = argv[(*at)++];
    if (!value) return error_set(p->err, E_INVALID, "--config wants a file after it");
    p->file = value;
    return 0;
}

/* The flag that "no-x" turns off, or NULL. */
static const struct option *find_negated(const struct config_program *program, struct str name)
{
    if (name.len < 4 || !name_equal((struct str){name.data, 3}, STR("no-"))) return NULL;
    const struct option *option = find_option(program, (struct str){name.data + 3, name.len - 3});
    return option && option->type == OPTION_FLAG ? option : NULL;
}

/* argv[*at] is a flag; *at moves behind it and its values. */
static int read_flag(struct parser *p, int argc, char **argv, int *at)
{
    const char *argument = argv[(*at)++];
    if (strcmp(argument, "-h") == 0) return read_common_flag(p, STR("help"));
    if (argument[1] != '-') {
        return error_set(p->err, E_INVALID, "unknown option '%.64s'; options begin with '--'",
                         argument);
    }
    const char *equals = strchr(argument, '=');
    const char *value = equals ? equals + 1 : NULL;
    size_t name_len = equals ? (size_t)(equals - argument) - 2 : strlen(argument) - 2;
    struct str name = {argument + 2, name_len};

    const struct option *option = find_option(p->program, name);
    if (!option) {
        if (name_equal(name, STR("config"))) return read_config_flag(p, value, argc, argv, at);
        int rc = value ? CONFIG_RUN : read_common_flag(p, name);
        if (rc != CONFIG_RUN) return rc;
    }
    bool negated = false;
    if (!option) {
        option = find_negated(p->program, name);
        negated = option != NULL;
    }
    if (!option) return refuse_name(p, "", "--", name);

    char label[LABEL_SIZE];
    snprintf(label, sizeof label, "--%.*s", (int)name.len, name.data);
    if (negated && value) return error_set(p->err, E_INVALID, "%s takes no value", label);
    if (value) return set_value(p, option, SOURCE_ARGUMENTS, str_of(value), label);
    if (option->type == OPTION_FLAG) {
        struct str word = negated ? STR("false") : STR("true");
        return set_value(p, option, SOURCE_ARGUMENTS, word, label);
    }
    return read_values(p, option, label, argc, argv, at);
}

static int read_arguments(struct parser *p, int argc, char **argv)
{
    bool flags_ended = false;
    for (int at = 1; at < argc;) {
        const char *argument = argv[at];
        if (!flags_ended && strcmp(argument, "--") == 0) {
            flags_ended = true;
            at++;
        } else if (!flags_ended && is_flag_like(argument)) {
            int rc = read_flag(p, argc, argv, &at);
            if (rc != 0) return rc;
        } else if (p->positional_count == p->program->positional_max) {
            return error_set(p->err, E_INVALID, "unexpected argument '%.64s'; usage: %s", argument,
                             p->program->usage);
        } else {
            p->positional[p->positional_count++] = argument;
            at++;
        }
    }
    return CONFIG_RUN;
}

int config_parse(const struct config_program *program, int argc, char **argv, void *config,
                 const char **positional, size_t *positional_count, struct error *err)
{
    char variable[LABEL_SIZE];
    struct parser p = {.program = program, .config = config, .positional = positional, .err = err};
    p.sources = xcalloc(program->count, sizeof *p.sources);
    set_defaults(&p);
    int rc = read_arguments(&p, argc, argv);
    if (rc == CONFIG_RUN) rc = read_environment(&p);
    if (rc == CONFIG_RUN && !p.file) p.file = environment_value(program, "config", variable);
    if (rc == CONFIG_RUN && p.file) rc = read_file(&p, p.file);
    if (positional_count) *positional_count = p.positional_count;
    if (rc != CONFIG_RUN) config_deinit(program, config);
    free(p.sources);
    return rc;
}

void config_deinit(const struct config_program *program, void *config)
{
    for (size_t i = 0; i < program->count; i++)
        config_value_clear(&program->options[i], config);
}
