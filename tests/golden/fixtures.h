/* fixtures.h - where golden tests find their data. Every function gives NULL when something isn't
 * on this machine, so that a test can skip with a reason.
 *
 * Fixtures: the folder of LM_FIXTURES if set, else ../shared/fixtures beside the repository; then
 * the small copies of tests/fixtures. Default model: the file of LM_MODEL if set, else the cached
 * one that scripts/fetch-model keeps. */
#ifndef LM_TESTS_GOLDEN_FIXTURES_H
#define LM_TESTS_GOLDEN_FIXTURES_H

#include "shared/base/json.h"
#include "tests/test.h"

#include <dirent.h>
#include <sys/stat.h>

#define FIXTURE_MODEL_FILE "SmolLM2-135M-Instruct-Q4_1.gguf"

static inline int fixture_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Path of a fixture such as "templates/own.json"; one of eight static buffers, used in turn. */
static inline const char *fixture_path(const char *relative)
{
    static char paths[8][1024];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    const char *folder = getenv("LM_FIXTURES");
    const char *tests = getenv("LM_TEST_DATA");
    if (!tests) tests = "tests";
    if (folder && *folder)
        snprintf(path, sizeof paths[0], "%s/%s", folder, relative);
    else
        snprintf(path, sizeof paths[0], "%s/../../shared/fixtures/%s", tests, relative);
    if (fixture_is_file(path)) return path;
    snprintf(path, sizeof paths[0], "%s/fixtures/%s", tests, relative);
    return fixture_is_file(path) ? path : NULL;
}

/* Names of what is in a folder of the fixtures, of both places, each once; at most `max`. */
static inline int fixture_names(const char *folder, char names[][64], int max)
{
    const char *given = getenv("LM_FIXTURES");
    char root[1024], path[1100];
    const char *tests = getenv("LM_TEST_DATA");
    int count = 0;
    if (!tests) tests = "tests";
    for (int i = 0; i < 2; i++) {
        if (i == 0 && given && *given)
            snprintf(root, sizeof root, "%s", given);
        else
            snprintf(root, sizeof root, i ? "%s/fixtures" : "%s/../../shared/fixtures", tests);
        snprintf(path, sizeof path, "%s/%s", root, folder);
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d)) != NULL && count < max;) {
            int known = e->d_name[0] == '.' || strlen(e->d_name) > 63;
            for (int k = 0; k < count && !known; k++)
                known = !strcmp(names[k], e->d_name);
            if (!known) snprintf(names[count++], 64, "%.63s", e->d_name);
        }
        if (d) closedir(d);
    }
    return count;
}

/* Is it one of the names of LM_ONLY, which commas separate? */
static inline bool fixture_is_listed(const char *list, const char *name)
{
    struct str rest = str_of(list), item;
    while (str_split(&rest, ',', &item))
        if (str_equal(item, str_of(name))) return true;
    return false;
}

/* Of a device, whose steps take long where it is emulated: the models that also run in float16. */
static inline bool fixture_is_float16(const char *name)
{
    const char *listed = getenv("LM_TEST_FLOAT16"); // names, separated by commas; NULL: all
    return !listed || fixture_is_listed(listed, name);
}

/* Path of the default model's GGUF file; static buffer. */
static inline const char *fixture_model(void)
{
    static char path[1024];
    const char *model = getenv("LM_MODEL");
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (model && *model)
        snprintf(path, sizeof path, "%s", model);
    else if (cache && *cache)
        snprintf(path, sizeof path, "%s/lm-cluster/models/%s", cache, FIXTURE_MODEL_FILE);
    else
        snprintf(path, sizeof path, "%s/.cache/lm-cluster/models/%s", home ? home : "",
                 FIXTURE_MODEL_FILE);
    return fixture_is_file(path) ? path : NULL;
}

/* The whole file, terminated, malloc'ed. NULL: can't be read (also for a NULL path). */
static inline char *fixture_read(const char *path, size_t *len)
{
    FILE *f = path ? fopen(path, "rb") : NULL;
    char *data = NULL;
    long size = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (size >= 0 && fseek(f, 0, SEEK_SET) == 0 && (data = malloc((size_t)size + 1)) != NULL) {
        size_t got = fread(data, 1, (size_t)size, f);
        data[got] = 0;
        *len = got;
        if (got != (size_t)size) {
            free(data);
            data = NULL;
        }
    }
    if (f) fclose(f);
    return data;
}

/* Output of a command, malloc'ed; NULL when it fails. */
static inline char *fixture_command(const char *command, size_t *len)
{
    struct buf out;
    char chunk[65536];
    size_t n;
    FILE *pipe = popen(command, "r");
    if (!pipe) return NULL;
    buf_init(&out, 64 << 20);
    while ((n = fread(chunk, 1, sizeof chunk, pipe)) > 0)
        buf_append(&out, chunk, n);
    int status = pclose(pipe);
    char *text = buf_detach(&out, len);
    if (status == 0 && *len) return text;
    free(text);
    return NULL;
}

/* Our JSON reader refuses \u0000, which a few cases hold: it arrives as U+F8FF (private use), and
 * fixture_string turns that back into the NUL. */
static inline struct json *fixture_json(const char *relative)
{
    struct error err = {0};
    size_t len = 0;
    char *text = fixture_read(fixture_path(relative), &len);
    if (!text) return NULL;
    for (char *p = text; (p = strchr(p, '\\')) != NULL; p += 2)
        if (!strncmp(p, "\\u0000", 6)) memcpy(p + 2, "F8FF", 4);
    struct json *root = json_parse(text, len, &err);
    if (!root) printf("%s: %s\n", relative, err.text);
    free(text);
    return root;
}

/* The string, malloc'ed and terminated. */
static inline char *fixture_string(const struct json *v, size_t *len)
{
    size_t from_len, to = 0;
    const char *from = json_string(v, &from_len);
    char *out = malloc(from_len + 1);
    if (!out) abort();
    for (size_t i = 0; i < from_len; i++) {
        bool nul = from_len - i >= 3 && !memcmp(from + i, "\xef\xa3\xbf", 3);
        out[to++] = nul ? 0 : from[i];
        if (nul) i += 2;
    }
    out[to] = 0;
    *len = to;
    return out;
}

#endif
