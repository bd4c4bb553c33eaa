#!/usr/bin/env python3
"""Make tiny checkpoints, what transformers answers on them, and their GGUF files by llama.cpp's converter.

    make_gguf_fixtures.py LLAMA_CPP TOKENIZER FOLDER

LLAMA_CPP: where convert_hf_to_gguf.py is, as in vendor/llama.cpp of PyPI's llama-cpp-python. TOKENIZER: a folder
with tokenizer.json and tokenizer_config.json of at most 512 tokens. Under FOLDER: hf/NAME (kept for a look),
gguf/NAME.gguf and models/NAME/reference.json. Needs torch, transformers, safetensors, numpy and gguf.
"""

import copy
import importlib
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

PROMPTS, GREEDY, VOCAB = (1, 5, 33, 130), 24, 512
COMMON = {"vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
          "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
          "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
FAMILIES = {
    "gguf_gemma2": ("Gemma2", {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
                               "query_pre_attn_scalar": 16, "sliding_window": 16, "attn_logit_softcapping": 5.0,
                               "final_logit_softcapping": 8.0, "tie_word_embeddings": True}),
    "gguf_phi3": ("Phi3", {"original_max_position_embeddings": 64, "sliding_window": None, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64,
        "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5], "long_factor": [1.0, 2.0, 3.5, 5.0, 7.0, 8.0]}}),
    "gguf_internlm2": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "gguf_gpt_oss": ("GptOss", {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
                                "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0,
                                                    "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                                                    "original_max_position_embeddings": 64}}),
    "gguf_deepseek": ("DeepseekV3", {
        "num_key_value_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2,
        "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
        "routed_scaling_factor": 1.5, "num_hidden_layers": 3, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 0.8, "mscale_all_dim": 0.8, "original_max_position_embeddings": 64}}),
}
# What the hub's files say and transformers doesn't ask for.
SAID = {"gguf_deepseek": {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}}


def fill(model, seed):
    """Weights that make logits differ, rounded to bfloat16 as they are stored."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        corrections = [(name, b) for name, b in model.named_buffers() if "correction" in name]
        for name, p in [*model.named_parameters(), *corrections]:
            noise = torch.randn(p.shape, generator=random)
            if "norm" in name:
                base = 0.0 if "Gemma" in type(model).__name__ else 1.0
                value = base + 0.3 * noise
            elif p.dim() < 2 or "bias" in name:
                value = 0.3 * noise
            elif "embed_tokens" in name:
                value = noise
            else:
                inputs = p.shape[-2] if p.dim() == 3 and "GptOss" in type(model).__name__ else p.shape[-1]
                value = 1.5 * noise / inputs ** 0.5
            p.copy_(value.to(torch.bfloat16).to(p.dtype))


def as_bfloat16(model):
    """A copy; tables of rotation stay as they are, as in a model that was loaded so."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def refer(model, family):
    random = torch.Generator().manual_seed(7)
    prompts = [torch.randint(3, VOCAB, (n,), generator=random).tolist() for n in PROMPTS]
    out = {"family": family, "source": f"transformers {transformers.__version__}, float32, eager, weights as stored",
           "prompts": prompts, "top": [], "logits": [], "greedy": [], "margin": []}
    every = []
    for prompt in prompts:
        logits = logits_of(model, prompt)
        every.append(logits)
        out["top"].append(logits.argmax(-1).tolist())
        out["logits"].append([[round(v, 5) for v in row.tolist()] for row in logits[-2:]])
        ids, greedy, margin = list(prompt), [], []
        for _ in range(GREEDY):
            best = logits_of(model, ids)[-1].topk(2)
            greedy.append(best.indices[0].item())
            margin.append(round((best.values[0] - best.values[1]).item(), 4))
            ids.append(greedy[-1])
        out["greedy"].append(greedy)
        out["margin"].append(margin)
    out["scale"] = round(torch.cat(every).std().item(), 4)
    out["f32_tolerance"] = 0.002
    rounded = as_bfloat16(model)
    out["bf16_deviation"] = round(max((logits_of(rounded, p) - l).abs().max().item()
                                      for p, l in zip(prompts, every)), 4)
    return out


def save_internlm2(model, folder):
    """Llama's weights under InternLM 2's names: for each key-value head its queries, its key, its value."""
    c, state, out = model.config, model.state_dict(), {}
    size = c.hidden_size // c.num_attention_heads
    names = {"model.embed_tokens": "model.tok_embeddings", "lm_head": "output", "self_attn.o_proj": "attention.wo",
             "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "self_attn" not in name:
            out[name] = tensor.to(torch.bfloat16).contiguous()
    for i in range(c.num_hidden_layers):
        q, k, v = (state[f"model.layers.{i}.self_attn.{n}_proj.weight"] for n in "qkv")
        rows = [torch.cat([a, b, d]) for a, b, d in zip(q.chunk(c.num_key_value_heads), k.split(size), v.split(size))]
        out[f"model.layers.{i}.attention.wqkv.weight"] = torch.cat(rows).to(torch.bfloat16).contiguous()
    save_file(out, folder / "model.safetensors", {"format": "pt"})
    keys = [key for key in COMMON if key in c.to_dict()]
    config = {**{key: c.to_dict()[key] for key in keys}, "architectures": ["InternLM2ForCausalLM"], "bias": False,
              "model_type": "internlm2", "hidden_act": "silu", "rope_theta": 10000.0, "rope_scaling": None,
              "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))


def save(name, model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    if name == "gguf_internlm2":
        save_internlm2(model, folder)
        return
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **SAID.get(name, {})}))


def convert(llama_cpp, folder, out):
    """The converter, but for the vocabulary: a tokenizer of no family goes in as one of Qwen 2."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    base = importlib.import_module("conversion.base")
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    for module, model in (("gemma", "Gemma2Model"), ("phi", "Phi3MiniModel"), ("internlm", "InternLM2Model")):
        getattr(importlib.import_module("conversion." + module), model).set_vocab = \
            lambda self: self._set_vocab_gpt2()
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outtype", "bf16", "--outfile", str(out)]
    importlib.import_module("convert_hf_to_gguf").main()


def main():
    llama_cpp, tokenizer, root = map(pathlib.Path, sys.argv[1:])
    (root / "gguf").mkdir(parents=True, exist_ok=True)
    for seed, (name, (family, more)) in enumerate(FAMILIES.items()):
        config = getattr(transformers, family + "Config")(**{**COMMON, **more})
        config._attn_implementation = "eager"
        model = getattr(transformers, family + "ForCausalLM")(config).eval()
        fill(model, seed)
        folder = root / "hf" / name
        save(name, as_bfloat16(model), folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / file, folder)
        reference = root / "models" / name / "reference.json"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(json.dumps(refer(model, name)))
        convert(llama_cpp, folder, root / "gguf" / f"{name}.gguf")


main()
