#include "shared/net/model_card.h"

void model_card_print(struct json_writer *w, struct str name, int64_t created_s, int max_model_len)
{
    json_object_begin(w);
    json_field_str(w, "id", name);
    json_field_text(w, "object", "model");
    json_field_int(w, "created", created_s);
    json_field_text(w, "owned_by", "lm-cluster");
    json_field_str(w, "root", name);
    json_field_null(w, "parent");
    if (max_model_len) json_field_int(w, "max_model_len", max_model_len);
    json_key(w, "permission");
    json_array_begin(w);
    json_object_begin(w);
    json_field_text(w, "id", "modelperm-0");
    json_field_text(w, "object", "model_permission");
    json_field_int(w, "created", created_s);
    json_field_bool(w, "allow_create_engine", false);
    json_field_bool(w, "allow_sampling", true);
    json_field_bool(w, "allow_logprobs", true);
    json_field_bool(w, "allow_search_indices", true);
    json_field_bool(w, "allow_view", true);
    json_field_bool(w, "allow_fine_tuning", false);
    json_field_text(w, "organization", "*");
    json_field_null(w, "group");
    json_field_bool(w, "is_blocking", false);
    json_object_end(w);
    json_array_end(w);
    json_object_end(w);
}
