/* field_range.h - bounds of the numbers and lists that requests hold: those that validation checks
 * are those that the description of the API shows, since both read them here. */
#ifndef LM_API_FIELD_RANGE_H
#define LM_API_FIELD_RANGE_H

/* Bounds, inclusive. `rule` replaces OpenAI's sentence by LMDeploy's where it has one:
 * "The temperature `3.0` <rule>". */
struct field_range {
    double min, max;                     // a min of FLT_MIN means "above 0"
    const char *rule_below, *rule_above; // NULL: OpenAI's text
};

/* ---- how tokens are drawn ---- */
extern const struct field_range field_range_temperature;
extern const struct field_range field_range_top_p;
extern const struct field_range field_range_top_p_positive; // of /v1/chat/interactive
extern const struct field_range field_range_share;          // 0..1
extern const struct field_range field_range_top_k;
extern const struct field_range field_range_penalty; // presence, frequency
extern const struct field_range field_range_repetition_penalty;
extern const struct field_range field_range_logit_bias;

/* ---- how long, how many ---- */
extern const struct field_range field_range_count;    // 0 or more
extern const struct field_range field_range_positive; // 1 or more
extern const struct field_range field_range_priority;
extern const struct field_range field_range_n;
extern const struct field_range field_range_best_of;
extern const struct field_range field_range_top_logprobs;  // of chats
extern const struct field_range field_range_text_logprobs; // of /v1/completions

/* ---- sessions: -1 means none, or a new one ---- */
extern const struct field_range field_range_session_id;
extern const struct field_range field_range_named_session; // 0 or more

#define FIELD_CHOICES_MAX    128                // answers to one prompt
#define FIELD_PROMPTS_MAX    128                // of /v1/completions
#define FIELD_STOPS_MAX      32                 // OpenAI: 4; LMDeploy: no limit
#define FIELD_STOP_IDS_MAX   128                // vLLM's extra
#define FIELD_STOP_BYTES_MAX 1024               // of one stop string
#define FIELD_LOGIT_BIAS_MAX 4096               // tokens
#define FIELD_TOOLS_MAX      128                // OpenAI's
#define FIELD_SESSION_ID_MAX 9007199254740991LL // 2^53 - 1: what every client's numbers hold
#define FIELD_MESSAGES_MIN   1

#endif
