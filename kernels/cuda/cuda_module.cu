/* cuda_module.cu - entry point of liblm-cuda.so: is there a driver and a device it can use? */
#include "kernels/backend_module.h"
#include "kernels/cuda/cuda_api.cuh"
#include "kernels/cuda/cuda_backend.h"

#include <dlfcn.h>
#include <string.h>

/* The driver is no part of the toolkit, and the runtime's own word for "none" is that it's too old. */
static int check_driver(struct error *err)
{
#ifndef LM_CUDA_EMULATED
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) return error_set(err, E_NOT_FOUND, "no driver (libcuda.so.1 not found)");
    dlclose(driver);
#endif
    int devices = 0;
    cudaError_t error = cudaGetDeviceCount(&devices);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && devices == 0))
        return error_set(err, E_NOT_FOUND, "no device (the driver is there)");
    if (error != cudaSuccess)
        return error_set(err, E_DEVICE, "the driver fails: %s", cudaGetErrorString(error));
    return 0;
}

extern "C" __attribute__((visibility("default"))) int
lm_backend_module_v1(struct backend_module_layout loaders, const struct backend_ops **ops,
                     struct error *err)
{
    struct backend_module_layout own = backend_module_own_layout();
    if (memcmp(&own, &loaders, sizeof own) != 0)
        return error_set(err, E_UNSUPPORTED,
                         "liblm-cuda.so was built from another version of this program");
    int rc = check_driver(err);
    if (rc < 0) return rc;
    *ops = &cuda_backend_ops;
    return 0;
}
