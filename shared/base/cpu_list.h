/* cpu_list.h - lists of cores as Linux and our options write them: "0-3,8". */
#ifndef LM_SHARED_BASE_CPU_LIST_H
#define LM_SHARED_BASE_CPU_LIST_H

#include "shared/base/error.h"

/* The numbers in order, at most `max`: how many, or E_INVALID (not such a list, empty, too long). White space
 * around numbers is fine. */
FALLIBLE int cpu_list_parse(const char *list, int *cores, int max);

#endif
