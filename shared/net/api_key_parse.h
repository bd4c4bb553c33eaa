/* api_key_parse.h - keys out of the text of a file, or of rows of JSON; internal to api_keys.c. */
#ifndef LM_NET_API_KEY_PARSE_H
#define LM_NET_API_KEY_PARSE_H

#include "shared/base/hash_map.h"
#include "shared/net/api_keys.h"

struct api_key_list {
    struct arena *arena; // of the strings
    struct api_key *items;
    int count, cap;
    struct hash_map ids; // of the file's records
    bool has_plain_keys; // not only digests
};

void api_key_list_init(struct api_key_list *list, struct arena *arena);
void api_key_list_deinit(struct api_key_list *list);

/* E_LIMIT beyond API_KEYS_MAX. */
FALLIBLE int api_key_list_add(struct api_key_list *list, const struct api_key *key,
                              struct error *err);
/* A key of --api-keys: no limits, an id made of its digest. */
void api_key_plain(struct str token, struct api_key *out);
/* The text of a key file. *err says at which line or entry. */
FALLIBLE int api_key_parse_file(struct api_key_list *list, struct str text, struct error *err);
/* A row of lm:keys. Members that aren't known are skipped: other versions write there, too. */
FALLIBLE int api_key_parse_row(struct api_key_list *list, const struct api_key_row *row,
                               struct error *err);

#endif
