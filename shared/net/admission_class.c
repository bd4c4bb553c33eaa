#include "shared/net/admission_class.h"

const char *const admission_class_names[ADMISSION_CLASSES] = {
    [ADMISSION_SYSTEM] = "system",
    [ADMISSION_INTERACTIVE] = "interactive",
    [ADMISSION_DEFAULT] = "default",
    [ADMISSION_BULK] = "bulk",
};

int admission_class_parse(struct str name, enum admission_class *out)
{
    for (int i = 0; i < ADMISSION_CLASSES; i++) {
        if (!str_equal_nocase(name, str_of(admission_class_names[i]))) continue;
        *out = (enum admission_class)i;
        return 0;
    }
    return E_INVALID;
}
