/* config_help.c - the option table as text for people: --help, the docs' tables, the log's dump. */
#include "shared/base/check.h"
#include "shared/base/config.h"
#include "shared/base/config_value.h"

#include <stdio.h>
#include <string.h>

#define WIDTH       80 // of --help, characters
#define HELP_COLUMN 28 // where explanations begin

static const struct option common_options[] = {
    {"config", OPTION_STRING, 0, .arg = "FILE", .help = "read options from FILE first"},
    {"help", OPTION_FLAG, 0, .help = "print this text and exit"},
    {"version", OPTION_FLAG, 0, .help = "print the version and exit"},
};

static char upper(char c)
{
    if (c == '-') return '_';
    return c >= 'a' && c <= 'z' ? (char)(c - ('a' - 'A')) : c;
}

void config_variable(const struct config_program *program, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s_%s", program->name, name);
    for (char *c = out; *c; c++)
        *c = upper(*c);
}

static const char *group_of(const struct option *option)
{
    return option->group ? option->group : "Options";
}

/* Whether option i is the first one of its group: there the group's heading goes. */
static bool begins_group(const struct config_program *program, size_t i)
{
    for (size_t j = 0; j < i; j++) {
        if (strcmp(group_of(&program->options[j]), group_of(&program->options[i])) == 0)
            return false;
    }
    return true;
}

/* "--server-port PORT", "--[no-]cors", "--api-keys KEY..." */
static void append_synopsis(const struct option *option, struct buf *out)
{
    bool on_by_default =
        option->type == OPTION_FLAG && option->def && strcmp(option->def, "true") == 0;
    buf_printf(out, "--%s%s", on_by_default ? "[no-]" : "", option->name);
    if (option->type == OPTION_FLAG) return;
    const char *arg = option->arg ? option->arg : "VALUE";
    if (option->type == OPTION_CHOICE && !option->arg) arg = option->choices;
    buf_printf(out, " %s%s", arg, option->many ? "..." : "");
}

static bool shows_default(const struct option *option)
{
    return option->def && option->def[0] && option->type != OPTION_FLAG && !option->secret;
}

/* Append `text` from column `column` on, words wrapped, further lines indented to `indent`. */
static void append_wrapped(struct buf *out, const char *text, size_t column, size_t indent)
{
    struct str left = str_of(text), word;
    bool line_has_word = false;
    while (str_split(&left, ' ', &word)) {
        if (line_has_word && column + 1 + word.len > WIDTH) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = indent;
            line_has_word = false;
        }
        if (line_has_word) {
            buf_append_char(out, ' ');
            column++;
        }
        buf_append(out, word.data, word.len);
        column += word.len;
        line_has_word = true;
    }
    buf_append_char(out, '\n');
}

static void append_row(struct buf *out, const struct option *option)
{
    struct buf text;
    buf_init(&text, BUF_MAX_INTERNAL);
    size_t start = out->len;
    buf_append_str(out, "  ");
    append_synopsis(option, out);
    size_t column = out->len - start;
    if (column + 2 > HELP_COLUMN) {
        buf_append_char(out, '\n');
        column = 0;
    }
    buf_printf(out, "%*s", (int)(HELP_COLUMN - column), "");
    buf_append_str(&text, option->help);
    if (option->type == OPTION_LIST && !option->many) buf_append_str(&text, " (may be repeated)");
    if (shows_default(option)) buf_printf(&text, " [%s]", option->def);
    append_wrapped(out, text.data, HELP_COLUMN, HELP_COLUMN);
    buf_deinit(&text);
}

void config_help(const struct config_program *program, struct buf *out)
{
    char variable[128];
    struct buf note;
    buf_init(&note, BUF_MAX_INTERNAL);
    buf_printf(out, "Usage: %s\n\n", program->usage);
    append_wrapped(out, program->summary, 0, 0);
    for (size_t i = 0; i < program->count; i++) {
        if (!begins_group(program, i)) continue;
        const char *group = group_of(&program->options[i]);
        buf_printf(out, "\n%s:\n", group);
        for (size_t j = i; j < program->count; j++) {
            if (strcmp(group_of(&program->options[j]), group) == 0) {
                append_row(out, &program->options[j]);
            }
        }
    }
    buf_append_str(out, "\nGeneral:\n");
    for (size_t i = 0; i < ARRAY_LEN(common_options); i++)
        append_row(out, &common_options[i]);
    if (program->count > 0) {
        const char *name = program->options[0].name;
        config_variable(program, name, variable, sizeof variable);
        buf_printf(&note,
                   "Options can also be given in the environment (%s for --%s) and in the file "
                   "(lines \"%s = VALUE\"); the command line wins over both.",
                   variable, name, name);
        buf_append_char(out, '\n');
        append_wrapped(out, note.data, 0, 0);
    }
    if (program->footer) buf_printf(out, "\n%s\n", program->footer);
    buf_deinit(&note);
}

/* '|' would end the table's cell, inside backticks too. */
static void append_cell(struct buf *out, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '|') buf_append_char(out, '\\');
        buf_append_char(out, *c);
    }
}

static void append_markdown_row(struct buf *out, const struct config_program *program,
                                const struct option *option)
{
    char variable[128];
    struct buf synopsis;
    buf_init(&synopsis, BUF_MAX_INTERNAL);
    append_synopsis(option, &synopsis);
    config_variable(program, option->name, variable, sizeof variable);
    buf_append_str(out, "| `");
    append_cell(out, synopsis.data);
    buf_append_str(out, "` | ");
    if (option->def && option->def[0] && !option->secret) {
        buf_append_char(out, '`');
        append_cell(out, option->def);
        buf_append_char(out, '`');
    }
    buf_printf(out, " | `%s` | ", variable);
    append_cell(out, option->help);
    if (option->type == OPTION_LIST && !option->many) buf_append_str(out, " (may be repeated)");
    struct str left = str_of(option->aliases), alias;
    while (str_split(&left, '|', &alias))
        buf_printf(out, "; also `--" STR_FMT "`", STR_ARG(alias));
    buf_append_str(out, " |\n");
    buf_deinit(&synopsis);
}

void config_markdown(const struct config_program *program, struct buf *out)
{
    for (size_t i = 0; i < program->count; i++) {
        if (!begins_group(program, i)) continue;
        const char *group = group_of(&program->options[i]);
        buf_printf(out, "%s#### %s\n\n", out->len ? "\n" : "", group);
        buf_append_str(out, "| Option | Default | Environment | Meaning |\n|---|---|---|---|\n");
        for (size_t j = i; j < program->count; j++) {
            if (strcmp(group_of(&program->options[j]), group) == 0) {
                append_markdown_row(out, program, &program->options[j]);
            }
        }
    }
}

void config_dump(const struct config_program *program, const void *config, struct buf *out)
{
    for (size_t i = 0; i < program->count; i++) {
        buf_printf(out, "%s=", program->options[i].name);
        config_value_print(&program->options[i], config, out);
        buf_append_char(out, '\n');
    }
}
