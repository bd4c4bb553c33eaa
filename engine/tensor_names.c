#include "engine/tensor_names.h"

#include <stddef.h>

/* ---- GGUF: gguf-py's constants.py, TENSOR_NAMES ---- */

#define GGUF_MODEL \
    .embedding = "token_embd", .head = "output", .final_norm = "output_norm", .layers = "blk"
#define GGUF_QKV \
    .q = "attn_q", .k = "attn_k", .v = "attn_v", .q_norm = "attn_q_norm", .k_norm = "attn_k_norm"
#define GGUF_EXPERTS                                                                             \
    .expert_storage = EXPERTS_STACKED, .router = "ffn_gate_inp", .expert_gate = "ffn_gate_exps", \
    .expert_up = "ffn_up_exps", .expert_down = "ffn_down_exps"

const struct tensor_names tensor_names_gguf = {
    GGUF_MODEL,
    GGUF_QKV,
    GGUF_EXPERTS,
    .rope_factors = "rope_freqs",
    .attn_norm = "attn_norm",
    .attn_post_norm = "post_attention_norm",
    .ffn_norm = "ffn_norm",
    .ffn_post_norm = "post_ffw_norm",
    .q_a = "attn_q_a",
    .q_a_norm = "attn_q_a_norm",
    .q_b = "attn_q_b",
    .kv_a = "attn_kv_a_mqa",
    .kv_a_norm = "attn_kv_a_norm",
    .kv_b = "attn_kv_b",
    .k_b = "attn_k_b",
    .v_b = "attn_v_b",
    .o = "attn_output",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
    .correction = "exp_probs_b.bias",
    .shared_gate = "ffn_gate_shexp",
    .shared_up = "ffn_up_shexp",
    .shared_down = "ffn_down_shexp",
    .shared_scale = "ffn_gate_inp_shexp",
};

const struct tensor_names tensor_names_gguf_phi3 = {
    GGUF_MODEL,
    .rope_short = "rope_factors_short",
    .rope_long = "rope_factors_long",
    .attn_norm = "attn_norm",
    .ffn_norm = "ffn_norm",
    .qkv_packing = QKV_ROWS,
    .qkv = "attn_qkv",
    .o = "attn_output",
    .gate_up = "ffn_up",
    .down = "ffn_down",
};

const struct tensor_names tensor_names_gguf_gpt_oss = {
    GGUF_MODEL,
    GGUF_QKV,
    GGUF_EXPERTS,
    .attn_norm = "attn_norm",
    .ffn_norm = "post_attention_norm",
    .o = "attn_output",
    .sinks = "attn_sinks.weight",
};

/* ---- Hugging Face: pieces that families share ---- */

#define MODEL                                                                         \
    .embedding = "model.embed_tokens", .head = "lm_head", .final_norm = "model.norm", \
    .layers = "model.layers"
#define ATTENTION                                                              \
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj", \
    .o = "self_attn.o_proj", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm"
#define NORMS_IN_FRONT .attn_norm = "input_layernorm", .ffn_norm = "post_attention_layernorm"
#define MLP            .gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj"

const struct tensor_names tensor_names_llama = {MODEL, ATTENTION, NORMS_IN_FRONT, MLP};

const struct tensor_names tensor_names_olmo2 = {
    MODEL,
    ATTENTION,
    .attn_post_norm = "post_attention_layernorm",
    .ffn_post_norm = "post_feedforward_layernorm",
    MLP,
};

const struct tensor_names tensor_names_gemma = {
    MODEL,
    ATTENTION,
    .attn_norm = "input_layernorm",
    .attn_post_norm = "post_attention_layernorm",
    .ffn_norm = "pre_feedforward_layernorm",
    .ffn_post_norm = "post_feedforward_layernorm",
    MLP,
};

const struct tensor_names tensor_names_phi3 = {
    MODEL,
    NORMS_IN_FRONT,
    .qkv_packing = QKV_ROWS,
    .qkv = "self_attn.qkv_proj",
    .o = "self_attn.o_proj",
    .gate_up = "mlp.gate_up_proj",
    .down = "mlp.down_proj",
};

const struct tensor_names tensor_names_internlm2 = {
    .embedding = "model.tok_embeddings",
    .head = "output",
    .final_norm = "model.norm",
    .layers = "model.layers",
    .attn_norm = "attention_norm",
    .ffn_norm = "ffn_norm",
    .qkv_packing = QKV_GROUPS,
    .qkv = "attention.wqkv",
    .o = "attention.wo",
    .gate = "feed_forward.w1",
    .up = "feed_forward.w3",
    .down = "feed_forward.w2",
};

const struct tensor_names tensor_names_mixtral = {
    MODEL,
    ATTENTION,
    NORMS_IN_FRONT,
    .expert_storage = EXPERTS_APART,
    .router = "block_sparse_moe.gate",
    .experts = "block_sparse_moe.experts",
    .expert_gate = "w1",
    .expert_up = "w3",
    .expert_down = "w2",
};

const struct tensor_names tensor_names_qwen_moe = {
    MODEL,
    ATTENTION,
    NORMS_IN_FRONT,
    MLP,
    .expert_storage = EXPERTS_APART,
    .router = "mlp.gate",
    .experts = "mlp.experts",
    .expert_gate = "gate_proj",
    .expert_up = "up_proj",
    .expert_down = "down_proj",
    .shared_gate = "mlp.shared_expert.gate_proj",
    .shared_up = "mlp.shared_expert.up_proj",
    .shared_down = "mlp.shared_expert.down_proj",
    .shared_scale = "mlp.shared_expert_gate",
};

const struct tensor_names tensor_names_gpt_oss = {
    MODEL,
    ATTENTION,
    NORMS_IN_FRONT,
    .sinks = "self_attn.sinks",
    .expert_storage = EXPERTS_TRANSPOSED,
    .router = "mlp.router",
    .expert_gate = "mlp.experts.gate_up_proj",
    .expert_down = "mlp.experts.down_proj",
};

const struct tensor_names tensor_names_deepseek = {
    MODEL,
    NORMS_IN_FRONT,
    MLP,
    .q = "self_attn.q_proj",
    .q_a = "self_attn.q_a_proj",
    .q_a_norm = "self_attn.q_a_layernorm",
    .q_b = "self_attn.q_b_proj",
    .kv_a = "self_attn.kv_a_proj_with_mqa",
    .kv_a_norm = "self_attn.kv_a_layernorm",
    .kv_b = "self_attn.kv_b_proj",
    .o = "self_attn.o_proj",
    .expert_storage = EXPERTS_APART,
    .router = "mlp.gate",
    .correction = "mlp.gate.e_score_correction_bias",
    .experts = "mlp.experts",
    .expert_gate = "gate_proj",
    .expert_up = "up_proj",
    .expert_down = "down_proj",
    .shared_gate = "mlp.shared_experts.gate_proj",
    .shared_up = "mlp.shared_experts.up_proj",
    .shared_down = "mlp.shared_experts.down_proj",
};
