/* admission_class.h - how soon somebody's requests should be served when not all can be, best first.
 * The proxy's queue (proxy/admission.h) knows what they mean. */
#ifndef LM_NET_ADMISSION_CLASS_H
#define LM_NET_ADMISSION_CLASS_H

#include "shared/base/error.h"
#include "shared/base/str.h"

enum admission_class {
    ADMISSION_SYSTEM,
    ADMISSION_INTERACTIVE,
    ADMISSION_DEFAULT,
    ADMISSION_BULK,
};
#define ADMISSION_CLASSES 4

extern const char *const admission_class_names[ADMISSION_CLASSES];
/* In any case. E_INVALID: none of the names. */
FALLIBLE int admission_class_parse(struct str name, enum admission_class *out);

#endif
