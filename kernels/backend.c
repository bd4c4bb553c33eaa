#include "kernels/backend.h"

#include <string.h>

#include "kernels/cpu/cpu_backend.h"
#include "shared/base/check.h"

static const struct backend_ops *const backends[] = {&cpu_backend_ops};

const struct backend_ops *backend_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(backends); i++)
        if (!strcmp(backends[i]->name, name)) return backends[i];
    return NULL;
}

const char *backend_name(int index)
{
    return index >= 0 && (size_t)index < ARRAY_LEN(backends) ? backends[index]->name : NULL;
}
