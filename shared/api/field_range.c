#include "shared/api/field_range.h"

#include <float.h>
#include <limits.h>
#include <stddef.h>

const struct field_range field_range_temperature = {0, 2, "must be in [0, 2]", "must be in [0, 2]"};
const struct field_range field_range_top_p = {0, 1, "must be in (0, 1].", "must be in (0, 1]."};
const struct field_range field_range_top_p_positive = {FLT_MIN, 1, "must be in (0, 1].",
                                                       "must be in (0, 1]."};
const struct field_range field_range_share = {0, 1, NULL, NULL};
const struct field_range field_range_top_k = {0, INT_MAX, "cannot be a negative integer.", NULL};
const struct field_range field_range_penalty = {-2, 2, NULL, NULL};
const struct field_range field_range_repetition_penalty = {0.01, 100, NULL, NULL};
const struct field_range field_range_logit_bias = {-100, 100, NULL, NULL};

const struct field_range field_range_count = {0, INT_MAX, NULL, NULL};
const struct field_range field_range_positive = {1, INT_MAX, NULL, NULL};
const struct field_range field_range_priority = {INT_MIN, INT_MAX, NULL, NULL};
const struct field_range field_range_n = {1, FIELD_CHOICES_MAX, "must be a positive int.",
                                          "exceeds the maximum supported choices (128)."};
const struct field_range field_range_best_of = {0, 20, NULL, NULL};
const struct field_range field_range_top_logprobs = {0, 20, NULL, NULL};
const struct field_range field_range_text_logprobs = {0, 5, NULL, NULL};

const struct field_range field_range_session_id = {-1, (double)FIELD_SESSION_ID_MAX, NULL, NULL};
const struct field_range field_range_named_session = {0, (double)FIELD_SESSION_ID_MAX, NULL, NULL};
