/* mapped_file.h - a whole file, mapped read-only. Someone who truncates it while we read makes the
 * kernel raise SIGBUS, as for any program that maps its model. */
#ifndef LM_ENGINE_MAPPED_FILE_H
#define LM_ENGINE_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/error.h"

struct mapped_file {
    const uint8_t *data;
    size_t size;
};

/* -errno, E_INVALID (not a regular file), E_FORMAT (empty). The text doesn't name the path. */
FALLIBLE int mapped_file_open(const char *path, struct mapped_file *out, struct error *err);
void mapped_file_close(struct mapped_file *f);

/* Tell the kernel that [data, data + bytes), if it lies in the file, won't be read soon
 * (MADV_DONTNEED). False: it begins elsewhere. */
bool mapped_file_drop_pages(const struct mapped_file *f, const void *data, size_t bytes);

#endif
