/* replay.c - runs a fuzz target over the files of the folders or files given, whole and cut short
 * at up to CUTS places: a truncated input is what most parsers get wrong first. */
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/test.h"

#include <dirent.h>
#include <errno.h>

#define CUTS 64

static size_t files;

static void replay_bytes(const uint8_t *data, size_t size)
{
    uint8_t *exact = xmalloc(size); // a sanitizer sees a read behind its end
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    NEED(file != NULL);
    NEED(fseek(file, 0, SEEK_END) == 0);
    long size = ftell(file);
    NEED(size >= 0 && fseek(file, 0, SEEK_SET) == 0);
    uint8_t *data = xmalloc((size_t)size);
    NEED(fread(data, 1, (size_t)size, file) == (size_t)size);
    fclose(file);
    printf("%s\n", path); // the last one printed is the one that failed
    fflush(stdout);
    replay_bytes(data, (size_t)size);
    size_t step = (size_t)size / CUTS + 1;
    for (size_t cut = 0; cut < (size_t)size; cut += step)
        replay_bytes(data, cut);
    free(data);
    files++;
}

static void replay_path(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) {
        if (errno == ENOTDIR) replay_file(path);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        char *child = xasprintf("%s/%s", path, entry->d_name);
        replay_path(child);
        free(child);
    }
    closedir(folder);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        replay_path(argv[i]);
    if (files == 0) test_skip("no corpus");
    printf("%zu files, whole and cut short\n", files);
    return TEST_END();
}
