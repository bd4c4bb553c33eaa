/* sampling_fields.h - the members of a JSON request that say how tokens are drawn and where an answer
 * stops: the same on all routes that generate. Pure; any thread. */
#ifndef LM_AGENT_SAMPLING_FIELDS_H
#define LM_AGENT_SAMPLING_FIELDS_H

#include "engine/engine.h"
#include "shared/api/field_range.h"
#include "shared/base/json.h"
#include "shared/net/api_error.h"

#define REQUEST_STOPS_MAX    FIELD_STOPS_MAX
#define REQUEST_STOP_IDS_MAX FIELD_STOP_IDS_MAX
#define STOP_BYTES_MAX       FIELD_STOP_BYTES_MAX // what the engine may have to hold back

struct sampling_fields {
    struct sampling_params sampling; // its bias is `bias`
    struct logit_bias *bias;         // owned
    bool has_seed;                   // else the caller draws one
    int min_tokens;
    bool ignore_eos, skip_special;
    int priority;
    const char *stop[REQUEST_STOPS_MAX]; // borrowed from the document
    size_t stop_len[REQUEST_STOPS_MAX];
    int stop_count;
    int32_t stop_ids[REQUEST_STOP_IDS_MAX];
    int stop_id_count;
};

/* OpenAI's defaults: temperature 1, top_p 1, nothing else. A route with others sets them before it
 * parses. */
void sampling_fields_init(struct sampling_fields *f);
/* What the object doesn't have stays as it is. -1 and *e: a member is wrong; deinit all the same. */
FALLIBLE int sampling_fields_parse(struct sampling_fields *f, const struct json *body,
                                   int vocab_size, struct api_error *e);
/* Fill what these fields say in *out; it borrows from f. */
void sampling_fields_apply(const struct sampling_fields *f, struct engine_request *out);
void sampling_fields_deinit(struct sampling_fields *f); // zeroed is fine

#endif
