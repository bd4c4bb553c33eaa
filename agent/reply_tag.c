#include "agent/reply_tag.h"

enum reply_tag reply_tag_at(struct str text, const char *tag)
{
    if (text.len > 0 && text.data[0] != tag[0]) return REPLY_TAG_NONE; // nearly always
    size_t len = strlen(tag), shown = text.len < len ? text.len : len;
    if (shown > 0 && memcmp(text.data, tag, shown) != 0) return REPLY_TAG_NONE;
    return shown == len ? REPLY_TAG_WHOLE : REPLY_TAG_BEGUN;
}

enum reply_tag reply_tag_at_any(struct str text, const char *const *tags, int *which)
{
    enum reply_tag best = REPLY_TAG_NONE;
    for (int i = 0; tags[i]; i++) {
        enum reply_tag found = reply_tag_at(text, tags[i]);
        if (found <= best) continue;
        best = found;
        *which = i;
    }
    return best;
}

size_t reply_tag_find(struct str text, const char *const *tags, enum reply_tag *found, int *which)
{
    for (size_t at = 0; at < text.len; at++) {
        *found = reply_tag_at_any(str_from(text, at), tags, which);
        if (*found != REPLY_TAG_NONE) return at;
    }
    *found = REPLY_TAG_NONE;
    return text.len;
}
