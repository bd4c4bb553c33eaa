/* host_memory.h - how much memory this process may still take. */
#ifndef LM_ENGINE_HOST_MEMORY_H
#define LM_ENGINE_HOST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes available now: MemAvailable, cut to what the process's control groups (v2 or v1) leave. */
uint64_t host_memory_available(void);

/* The same from other places, for tests: `root` stands before "/proc" and "/sys". */
uint64_t host_memory_available_under(const char *root);

#endif
