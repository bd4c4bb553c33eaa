/* A model.safetensors.index.json from anywhere, in a folder with two sound shards: what it names is
 * there, in the file that it says, and no file outside of the folder is read. */
#include "engine/safetensors.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHARD(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"

static char folder[] = "/tmp/lm-fuzz-index-XXXXXX";
static const char *const files[] = {"a.safetensors", "b.safetensors",
                                    "model.safetensors.index.json"};

static void write_file(const char *name, const void *data, size_t size)
{
    char *path = xasprintf("%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    CHECK(file);
    CHECK(fwrite(data, 1, size, file) == size && fclose(file) == 0);
    free(path);
}

static void write_shard(const char *name, const char *header)
{
    char bytes[128];
    uint64_t len = strlen(header);
    memcpy(bytes, &len, sizeof len);
    int size = snprintf(bytes + sizeof len, sizeof bytes - sizeof len, "%sx", header);
    write_file(name, bytes, sizeof len + (size_t)size);
}

static void remove_folder(void)
{
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = xasprintf("%s/%s", folder, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(folder);
}

static void make_folder(void)
{
    CHECK(mkdtemp(folder));
    write_shard(files[0], SHARD("one"));
    write_shard(files[1], SHARD("two"));
    CHECK(atexit(remove_folder) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool is_made;
    struct safetensors *s;
    struct error err = {0};
    if (!is_made) make_folder();
    is_made = true;
    write_file(files[2], data, size);
    if (safetensors_open(folder, &s, &err) < 0) {
        CHECK(err.code < 0 && err.text[0]);
        return 0;
    }
    CHECK(safetensors_count(s) <= 2);
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensors_tensor *t = safetensors_at(s, i);
        CHECK(t->bytes == 1 && *(const char *)t->data == 'x');
        CHECK(str_equal(t->name, STR("one")) || str_equal(t->name, STR("two")));
    }
    safetensors_close(s);
    return 0;
}
