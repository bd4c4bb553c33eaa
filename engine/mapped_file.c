#include "engine/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int mapped_file_open(const char *path, struct mapped_file *out, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        rc = error_set(err, -errno, "can't open: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = error_set(err, E_INVALID, "not a regular file");
    else if (st.st_size == 0)
        rc = error_set(err, E_FORMAT, "file is empty");
    if (rc == 0) {
        size_t size = (size_t)st.st_size;
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            rc = error_set(err, -errno, "can't map: %s", strerror(errno));
        else
            *out = (struct mapped_file){data, size};
    }
    if (fd >= 0) close(fd);
    return rc;
}

void mapped_file_close(struct mapped_file *f)
{
    if (f->data) munmap((void *)f->data, f->size);
    *f = (struct mapped_file){0};
}

bool mapped_file_drop_pages(const struct mapped_file *f, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    if (!f->data || at < f->data || at >= f->data + f->size) return false;
    /* Whole pages around it: a neighbour's bytes on the same page are read back when needed. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)at / page * page;
    size_t left = (size_t)(f->data + f->size - at);
    if (bytes > left) bytes = left;
    madvise((void *)first, (uintptr_t)at + bytes - first, MADV_DONTNEED);
    return true;
}
