/* backend.c - which backends there are: those linked in, and those in modules.
 *
 * A module is a shared library that brings one backend, so that a program needs neither its libraries
 * nor its driver to start. It is looked for once, on first use:
 *
 *     $LM_CUDA_MODULE               a path; where it is set nothing else is tried
 *     <folder of the program>/liblm-cuda.so
 *     <folder of the program>/../lib/liblm-cuda.so
 *
 * and stays loaded, for drivers don't like to go. Its entry point is BACKEND_MODULE_ENTRY (kernels/backend_module.h). */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend_module.h"
#include "kernels/cpu/cpu_backend.h"
#include "shared/base/check.h"

struct known_backend {
    const char *name;
    const struct backend_ops *ops; // NULL: not usable here
    const char *module;            // file name; NULL: linked in
    const char *variable;          // of the environment, with its path
    struct error why;              // not usable
};

/* In the order of preference of "auto", best first. */
static struct known_backend backends[] = {
    {.name = "cuda", .module = "liblm-cuda.so", .variable = "LM_CUDA_MODULE"},
    {.name = "cpu", .ops = &cpu_backend_ops},
};

static bool program_folder(char folder[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (n <= 0) return false;
    folder[n] = '\0';
    char *end = strrchr(folder, '/');
    if (!end) return false;
    *end = '\0';
    return true;
}

static void find_module(const struct known_backend *k, char path[PATH_MAX])
{
    static const char *const places[] = {"", "../lib/"};
    char folder[PATH_MAX];
    const char *given = getenv(k->variable);
    path[0] = '\0';
    if (given && given[0]) {
        snprintf(path, PATH_MAX, "%s", given);
        return;
    }
    if (!program_folder(folder)) return;
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        int n = snprintf(path, PATH_MAX, "%s/%s%s", folder, places[i], k->module);
        if (n < PATH_MAX && access(path, R_OK) == 0) return;
    }
    path[0] = '\0';
}

static void load_module(struct known_backend *k)
{
    char path[PATH_MAX];
    find_module(k, path);
    if (!path[0]) {
        error_set(&k->why, E_NOT_FOUND,
                  "not installed (%s is neither beside the program nor in ../lib)", k->module);
        return;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error_set(&k->why, E_NOT_FOUND, "%s", dlerror());
        return;
    }
    backend_module_entry *entry = NULL;
    *(void **)&entry = dlsym(library, BACKEND_MODULE_ENTRY);
    if (!entry) {
        error_set(&k->why, E_UNSUPPORTED, "'%s' has no %s", path, BACKEND_MODULE_ENTRY);
        dlclose(library);
        return;
    }
    if (entry(backend_module_own_layout(), &k->ops, &k->why) < 0) k->ops = NULL;
}

static void load_modules(void)
{
    for (size_t i = 0; i < ARRAY_LEN(backends); i++)
        if (backends[i].module) load_module(&backends[i]);
}

static struct known_backend *known(const char *name)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct known_backend *found = NULL;
    for (size_t i = 0; i < ARRAY_LEN(backends); i++)
        if (!strcmp(backends[i].name, name)) found = &backends[i];
    if (found && found->module) CHECK(pthread_once(&once, load_modules) == 0);
    return found;
}

const struct backend_ops *backend_find(const char *name)
{
    if (!strcmp(name, "auto")) {
        for (size_t i = 0; i < ARRAY_LEN(backends); i++)
            if (known(backends[i].name)->ops) return backends[i].ops;
        return NULL;
    }
    const struct known_backend *k = known(name);
    return k ? k->ops : NULL;
}

const char *backend_why_not(const char *name)
{
    const struct known_backend *k = known(name);
    if (!k) return "no such backend";
    return k->ops ? NULL : k->why.text;
}

const char *backend_name(int index)
{
    return index >= 0 && (size_t)index < ARRAY_LEN(backends) ? backends[index].name : NULL;
}
