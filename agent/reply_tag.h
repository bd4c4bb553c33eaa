/* reply_tag.h - tags in text that comes in pieces. Pure; any thread. */
#ifndef LM_AGENT_REPLY_TAG_H
#define LM_AGENT_REPLY_TAG_H

#include <stddef.h>

#include "shared/base/str.h"

enum reply_tag {
    REPLY_TAG_NONE,
    REPLY_TAG_BEGUN, // the text ends inside of it
    REPLY_TAG_WHOLE,
};

/* Whether the text begins with the tag. */
enum reply_tag reply_tag_at(struct str text, const char *tag);
/* Of several; *which is the one that is whole. `tags` is NULL-terminated. */
enum reply_tag reply_tag_at_any(struct str text, const char *const *tags, int *which);
/* The first place where one of them stands or begins, and which; the text's end: none does. */
size_t reply_tag_find(struct str text, const char *const *tags, enum reply_tag *found, int *which);

static inline struct str str_from(struct str s, size_t at)
{
    return (struct str){s.data ? s.data + at : NULL, s.len - at};
}

#endif
