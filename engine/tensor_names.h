/* tensor_names.h - how a kind of file calls its tensors. Mapping a model is one piece of code
 * (weights_map.c) over one of these tables. */
#ifndef LM_ENGINE_TENSOR_NAMES_H
#define LM_ENGINE_TENSOR_NAMES_H

enum qkv_packing {
    QKV_APART,  // q, k and v
    QKV_ROWS,   // qkv: all rows of q, then of k, then of v
    QKV_GROUPS, // qkv: for each key-value head the rows of its queries, of k, of v (InternLM2)
};

enum expert_storage {
    EXPERTS_APART,      // <experts>.<number>.<expert_gate>, a matrix each
    EXPERTS_STACKED,    // <expert_gate>: [experts][ffn][hidden]
    EXPERTS_TRANSPOSED, // <expert_gate>: [experts][hidden][2 ffn], gate and up by turns; or MXFP4
};

/* Modules: ".weight" or ".bias" is added. NULL: this kind of file has none. */
struct tensor_names {
    const char *embedding, *head, *final_norm;
    const char *rope_factors;           // llama3 scaling as a tensor
    const char *rope_short, *rope_long; // longrope's factors as tensors; whole modules as above
    const char *layers;                 // what follows stands behind "<layers>.<number>."
    const char *attn_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm;
    enum qkv_packing qkv_packing;
    const char *q, *k, *v, *qkv, *o, *q_norm, *k_norm;
    const char *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b; // latent attention
    const char *k_b, *v_b; // in the place of kv_b: [heads][kv_rank][key], [heads][value][kv_rank]
    const char *sinks;     // whole name, nothing is added
    const char *gate, *up, *down;
    const char *gate_up; // in the place of gate and up: their rows one behind the other
    enum expert_storage expert_storage;
    const char *correction; // of router scores; whole name, nothing is added
    const char *router, *experts, *expert_gate, *expert_up, *expert_down;
    const char *shared_gate, *shared_up, *shared_down, *shared_scale;
};

extern const struct tensor_names tensor_names_gguf, tensor_names_gguf_phi3,
    tensor_names_gguf_gpt_oss;

/* Hugging Face, by the model whose names came first. */
extern const struct tensor_names tensor_names_llama, tensor_names_internlm2, tensor_names_phi3,
    tensor_names_olmo2, tensor_names_gemma, tensor_names_mixtral, tensor_names_qwen_moe,
    tensor_names_gpt_oss, tensor_names_deepseek;

#endif
