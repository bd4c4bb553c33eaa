/* cpu_backend.h - the CPU backend's table, for kernels/backend.c. */
#ifndef LM_KERNELS_CPU_BACKEND_H
#define LM_KERNELS_CPU_BACKEND_H

#include "kernels/backend.h"

extern const struct backend_ops cpu_backend_ops;

#endif
