#!/usr/bin/env python3
"""Writes the seeds of corpus/gguf: tiny models that load, and files that are wrong in one way each.

Python's standard library only. The files are in the tree; run this after changing it:
    python3 tests/fuzz/make_gguf_corpus.py tests/fuzz/corpus/gguf
"""
import os
import struct
import sys

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
TYPE_F32, TYPE_F16, TYPE_Q4_1, TYPE_Q8_0, TYPE_Q5_K = 0, 1, 3, 8, 13
BLOCKS = {TYPE_F32: (1, 4), TYPE_F16: (1, 2), 30: (1, 2), 2: (32, 18), TYPE_Q4_1: (32, 20),
          6: (32, 22), 7: (32, 24), TYPE_Q8_0: (32, 34), 10: (256, 84), 11: (256, 110),
          12: (256, 144), TYPE_Q5_K: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74),
          18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
          23: (256, 136), 29: (256, 56), 34: (256, 54), 35: (256, 66), 39: (32, 17)}
HIDDEN, FFN, HEADS, KV_HEADS, LAYERS = 32, 32, 2, 1, 1


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    if kind == STRING:
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], value)


def entry(name, kind, value):
    if kind != ARRAY:
        return text(name) + struct.pack("<I", kind) + scalar(kind, value)
    element, items = value
    head = text(name) + struct.pack("<IIQ", ARRAY, element, len(items))
    return head + b"".join(scalar(element, item) for item in items)


def byte_letters():
    """The letters that byte-level BPE writes bytes with (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = [], 0
    for byte in range(256):
        letters.append(chr(byte if byte in plain else 256 + extra))
        extra += byte not in plain
    return letters


def keys(**changes):
    tokens = ["<s>", "</s>", *byte_letters(), "Hi", "\u0120t"]
    values = {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "tiny"),
        "llama.block_count": (U32, LAYERS),
        "llama.context_length": (U32, 128),
        "llama.embedding_length": (U32, HIDDEN),
        "llama.feed_forward_length": (U32, FFN),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.head_count_kv": (U32, KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 10000.0),
        "llama.vocab_size": (U32, len(tokens)),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "smollm"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [3, 3] + [1] * (len(tokens) - 2))),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["H i", "\u0120 t"])),
        "tokenizer.ggml.bos_token_id": (U32, 0),
        "tokenizer.ggml.eos_token_id": (U32, 1),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
        "tokenizer.chat_template": (STRING, "{{ messages[0]['content'] }}"),
    }
    values.update(changes)
    return {name: value for name, value in values.items() if value is not None}


def tensors(kind, vocab=260):
    head_dim = HIDDEN // HEADS
    shapes = {"token_embd.weight": (HIDDEN, vocab), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        shapes.update({
            prefix + "attn_norm.weight": (HIDDEN,), prefix + "ffn_norm.weight": (HIDDEN,),
            prefix + "attn_q.weight": (HIDDEN, HIDDEN),
            prefix + "attn_k.weight": (HIDDEN, KV_HEADS * head_dim),
            prefix + "attn_v.weight": (HIDDEN, KV_HEADS * head_dim),
            prefix + "attn_output.weight": (HIDDEN, HIDDEN),
            prefix + "ffn_gate.weight": (HIDDEN, FFN), prefix + "ffn_up.weight": (HIDDEN, FFN),
            prefix + "ffn_down.weight": (FFN, HIDDEN)})
    return {name: (TYPE_F32 if len(shape) == 1 else kind, shape) for name, shape in shapes.items()}


def renamed(values, architecture):
    """The same keys under another architecture."""
    out = {name.replace("llama.", architecture + ".", 1) if name.startswith("llama.") else name: value
           for name, value in values.items()}
    out["general.architecture"] = (STRING, architecture)
    return out


def gemma3():
    """Norms on both sides, norms of q and k, two rotations, a SentencePiece vocabulary."""
    tokens = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    tokens += [(f"<0x{byte:02X}>", 6, 0.0) for byte in range(256)]
    tokens += [("\u2581", 1, -2.0), ("H", 1, -3.0), ("i", 1, -3.0), ("Hi", 1, -1.0), ("<x>", 4, 0.0)]
    values = keys(**{
        "llama.attention.sliding_window": (U32, 16), "llama.attention.key_length": (U32, 16),
        "llama.attention.value_length": (U32, 16), "llama.rope.freq_base_swa": (F32, 1e4),
        "llama.vocab_size": None, "tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None, "tokenizer.ggml.tokens": (ARRAY, (STRING, [t[0] for t in tokens])),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [t[1] for t in tokens])),
        "tokenizer.ggml.scores": (ARRAY, (F32, [t[2] for t in tokens])),
        "tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.add_eos_token": (BOOL, True)})
    shapes = tensors(TYPE_Q4_1, len(tokens))
    shapes.update({f"blk.0.{name}.weight": (TYPE_F32, (HIDDEN,))
                   for name in ("post_attention_norm", "post_ffw_norm")})
    shapes.update({f"blk.0.attn_{name}_norm.weight": (TYPE_F32, (HIDDEN // HEADS,)) for name in "qk"})
    return build(renamed(values, "gemma3"), shapes)


def qwen2moe():
    """Experts in one tensor each, and one that is shared."""
    values = keys(**{"llama.expert_count": (U32, 2), "llama.expert_used_count": (U32, 1),
                     "llama.expert_feed_forward_length": (U32, FFN),
                     "llama.expert_shared_feed_forward_length": (U32, FFN)})
    shapes = {name: entry for name, entry in tensors(TYPE_Q8_0).items()
              if not name.startswith(("blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down"))}
    for name in ("gate", "up", "down"):
        shapes[f"blk.0.ffn_{name}_exps.weight"] = (TYPE_Q8_0, (HIDDEN, FFN, 2))
        shapes[f"blk.0.ffn_{name}_shexp.weight"] = (TYPE_Q8_0, (HIDDEN, FFN))
    for name, size in (("q", HIDDEN), ("k", HIDDEN // HEADS), ("v", HIDDEN // HEADS)):
        shapes[f"blk.0.attn_{name}.bias"] = (TYPE_F32, (size,))
    shapes["blk.0.ffn_gate_inp.weight"] = (TYPE_F32, (HIDDEN, 2))
    shapes["blk.0.ffn_gate_inp_shexp.weight"] = (TYPE_F32, (HIDDEN,))
    return build(renamed(values, "qwen2moe"), shapes)


def yarn():
    return build(keys(**{"llama.rope.scaling.type": (STRING, "yarn"), "llama.rope.scaling.factor": (F32, 4.0),
                         "llama.rope.scaling.original_context_length": (U32, 32)}), tensors(TYPE_F16))


def data_of(kind, shape):
    elements, size = BLOCKS.get(kind, (32, 20))
    count = shape[0] // elements
    for dim in shape[1:]:
        count *= dim
    if kind == TYPE_F32:
        return struct.pack("<f", 0.5) * count
    if kind in (TYPE_F16, 30):
        return struct.pack("<e", 0.25) * count
    return (struct.pack("<e", 0.01) + bytes((i * 7) % 256 for i in range(size - 2))) * count


def build(values, shapes, alignment=32, version=3, magic=b"GGUF", counts=None):
    meta = b"".join(entry(name, kind, value) for name, (kind, value) in values.items())
    infos, blob = b"", b""
    for name, (kind, shape) in shapes.items():
        blob += b"\0" * (-len(blob) % alignment)
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", kind, len(blob))
        blob += data_of(kind, shape)
    tensor_count, key_count = counts or (len(shapes), len(values))
    out = magic + struct.pack("<IQQ", version, tensor_count, key_count) + meta + infos
    return out + b"\0" * (-len(out) % alignment) + blob


def models():
    llama3 = tensors(TYPE_Q8_0)
    llama3["rope_freqs.weight"] = (TYPE_F32, (HIDDEN // HEADS // 2,))
    untied = tensors(TYPE_F16)
    untied["output.weight"] = (TYPE_F16, (HIDDEN, 260))
    every_type = {f"type_{kind}": (kind, (256, 1, 2)) for kind in BLOCKS}
    biased = tensors(TYPE_F32)
    biased["blk.0.attn_q.bias"] = (TYPE_F32, (HIDDEN,))
    return {
        "model_q4_1": build(keys(), tensors(TYPE_Q4_1)),
        "model_llama3": build(keys(), llama3),
        "model_untied_v2": build(keys(), untied, version=2),
        "model_biased": build(keys(), biased),
        "model_linear": build(keys(**{"llama.rope.scaling.type": (STRING, "linear"),
                                      "llama.rope.scaling.factor": (F32, 2.0)}), tensors(TYPE_F16)),
        "model_yarn": yarn(),
        "model_gemma3": gemma3(),
        "model_qwen2moe": qwen2moe(),
        "tensors_of_every_type": build({}, every_type),
        "model_aligned_64": build(keys(**{"general.alignment": (U32, 64)}), tensors(TYPE_Q8_0), 64),
    }


def damaged():
    good = build(keys(), tensors(TYPE_Q4_1))
    wrong_shape = tensors(TYPE_Q4_1)
    wrong_shape["blk.0.attn_k.weight"] = (TYPE_Q4_1, (HIDDEN, HIDDEN))
    unknown_type = tensors(TYPE_Q4_1)
    unknown_type["blk.0.ffn_up.weight"] = (9, (256, 2))
    type_77 = tensors(TYPE_Q4_1)
    type_77["blk.0.ffn_up.weight"] = (77, (256, 2))
    superblock = tensors(TYPE_Q4_1)
    superblock["blk.0.ffn_up.weight"] = (TYPE_Q5_K, (HIDDEN, FFN))
    ragged = tensors(TYPE_Q4_1)
    ragged["odd"] = (TYPE_Q4_1, (33, 1))
    llama3 = tensors(TYPE_Q8_0)
    llama3["rope_freqs.weight"] = (TYPE_F32, (HIDDEN // HEADS // 2,))
    missing = tensors(TYPE_Q4_1)
    del missing["blk.0.ffn_norm.weight"]
    huge = struct.pack("<Q", 1 << 62)
    return {
        "bad_magic": build({}, {}, magic=b"GGML"),
        "bad_version": build({}, {}, version=1),
        "bad_big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "bad_counts": build({}, {}, counts=(1 << 60, 1 << 60)),
        "bad_alignment": build({"general.alignment": (U32, 24)}, {}),
        "bad_string_len": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + huge + b"x" * 20,
        "bad_array_len": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") +
                         struct.pack("<II", ARRAY, STRING) + huge,
        "bad_nested_array": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") +
                            struct.pack("<IIQ", ARRAY, ARRAY, 1),
        "bad_dims": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 4) +
                    huge * 4 + struct.pack("<IQ", 0, 0),
        "bad_key_twice": b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + entry("k", U32, 1) * 2,
        "bad_truncated": good[:len(good) * 2 // 3],
        "bad_architecture": build(keys(**{"general.architecture": (STRING, "mamba")}), {}),
        "bad_experts": build(keys(**{"llama.expert_count": (U32, 8)}), tensors(TYPE_Q4_1)),
        "bad_rope": build(keys(**{"llama.rope.scaling.type": (STRING, "longrope")}), tensors(TYPE_Q4_1)),
        "bad_rope_base": build(keys(**{"llama.rope.scaling.type": (STRING, "yarn"),
                                       "llama.rope.scaling.factor": (F32, 4.0),
                                       "llama.rope.freq_base": (F32, 1.0)}), tensors(TYPE_Q4_1)),
        "bad_rope_factor": build(keys(), llama3)[:-32] + struct.pack("<f", 1e-40) * 8,
        "bad_heads": build(keys(**{"llama.attention.head_count": (U32, 0)}), tensors(TYPE_Q4_1)),
        "bad_layers": build(keys(**{"llama.block_count": (U32, 4000000000)}), tensors(TYPE_Q4_1)),
        "bad_shape": build(keys(), wrong_shape),
        "bad_type": build(keys(), unknown_type),
        "bad_type_unknown": build(keys(), type_77),
        "bad_ragged_rows": build(keys(), ragged),
        "bad_ragged_superblock": build(keys(), superblock),
        "bad_missing_tensor": build(keys(), missing),
        "bad_split": build(keys(**{"split.count": (U32, 3)}), tensors(TYPE_Q4_1)),
        "empty": b"",
    }


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name, content in {**models(), **damaged()}.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)


if __name__ == "__main__":
    main()
