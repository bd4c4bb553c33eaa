#!/usr/bin/env python3
"""Writes the seeds of corpus/tokenizer_json and corpus/tokenizer_model: small tokenizers of every kind that load,
and files that are wrong in one way each.

Python's standard library only. The files are in the tree; run this after changing it:
    python3 tests/fuzz/make_tokenizer_corpus.py tests/fuzz/corpus
"""
import json
import os
import struct
import sys

MARK = "\u2581"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def byte_letters():
    """The letters that stand for bytes 0..255 in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def split(pattern, behavior="Isolated", kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": False}


def byte_level():
    letters = byte_letters()
    vocab = {letter: i for i, letter in enumerate(letters)}
    vocab["aa"], vocab["\u0120a"] = 256, 257
    return {
        "added_tokens": [{"id": 258, "content": "<s>", "special": True},
                         {"id": 259, "content": "</s>", "special": True, "lstrip": True, "rstrip": True}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split(LLAMA3), {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                           "special_tokens": {"<s>": {"ids": [258]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": ["a a", ["\u0120", "a"]]},
    }


def characters():
    pieces = ["<unk>", "<s>", "</s>", MARK, "a", "b", "x", MARK + "a", "ab"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    return {
        "added_tokens": [{"id": 1, "content": "<s>", "special": True},
                         {"id": 300, "content": "b c", "normalized": True, "single_word": True}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": [[MARK, "a"], "a b"]},
    }


def varied(change, base=characters):
    out = base()
    change(out)
    return out


def json_seeds():
    def pre(*stages):
        return {"type": "Sequence", "pretokenizers": list(stages)}
    yield "byte_level", byte_level()
    yield "characters", characters()
    yield "gpt2", varied(lambda t: t.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), byte_level)
    yield "digits", varied(lambda t: t.update(pre_tokenizer=pre(
        {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True})), byte_level)
    yield "metaspace", varied(lambda t: t.update(
        pre_tokenizer={"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": True},
        normalizer=None, decoder={"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first"}))
    for behavior in ["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        yield behavior.lower(), varied(lambda t, b=behavior: t.update(pre_tokenizer=split("a", b, "String")))
    yield "punctuation", varied(lambda t: t.update(pre_tokenizer=pre(
        {"type": "Punctuation"}, {"type": "WhitespaceSplit"})))
    yield "pcre2", varied(lambda t: t.update(pre_tokenizer=split(r"\ba+\b|(?<x>b)+|[[:punct:]]")))
    yield "hex", varied(lambda t: t.update(pre_tokenizer=split(r"[\x41-\x5a]+|\u0061|\x{1f600}")))
    yield "replace_regex", varied(lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "a"}))
    yield "bad_pattern", varied(lambda t: t.update(pre_tokenizer=split("(")))
    yield "bad_normalizer", varied(lambda t: t.update(normalizer={"type": "Lowercase"}))
    yield "bad_decoder", varied(lambda t: t.update(decoder=None))
    yield "bad_merge", varied(lambda t: t["model"].update(merges=[["a", "q"]]))
    yield "bad_id", varied(lambda t: t["model"]["vocab"].update(z=4000000))
    yield "bad_hole", varied(lambda t: t["model"]["vocab"].update(z=900))
    yield "bad_model", varied(lambda t: t["model"].update(type="WordPiece"))
    yield "bad_unk", varied(lambda t: t["model"].update(unk_token="\u0000"))
    yield "bad_template", varied(lambda t: t["post_processor"].update(special_tokens={}), byte_level)
    yield "bad_template_id", varied(lambda t: t["post_processor"]["special_tokens"]["<s>"].update(ids=[900]), byte_level)
    yield "bad_added", varied(lambda t: t.update(added_tokens=[{"id": -1, "content": "x"}]))


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def charsmap():
    """A double array that knows one key, "A", and turns it into "a"."""
    units = [0] * 512
    units[0] = 256 << 10 >> 8 << 8  # children of the root at 256
    units[256 ^ 65] = 65 | 0x100 | (1 << 10)  # leads by "A", has a value, at (256 ^ 65) ^ 1
    units[256 ^ 65 ^ 1] = 0x80000000  # the text at 0
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + b"a\0"


def model(kind, bytes_too=True, normalizer=b"", trainer=b""):
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)] if bytes_too else []
    pieces += [(MARK, -2.0, 1), ("a", -1.0, 1), ("b", -3.0, 1), (MARK + "a", -0.5, 1), ("ab", -1.5, 1),
               ("usr", 0.0, 4), ("aab", -9.0, 5)]
    out = b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, type_))
                   for text, score, type_ in pieces)
    return out + field(2, field(3, kind) + trainer) + field(3, normalizer)


def model_seeds():
    yield "bpe", model(2, normalizer=field(1, b"identity") + field(3, 1) + field(4, 0))
    yield "bpe_no_prefix", model(2, normalizer=field(3, 0) + field(4, 0))
    yield "bpe_no_bytes", model(2, bytes_too=False)
    yield "unigram", model(1)
    yield "unigram_no_bytes", model(1, bytes_too=False, normalizer=field(4, 0))
    yield "charsmap", model(1, normalizer=field(2, charsmap()))
    yield "bad_charsmap", model(1, normalizer=field(2, b"\xff\xff\xff\x7f" + b"x" * 20))
    yield "bad_type", model(3)
    yield "bad_suffix", model(1, trainer=field(24, 1))
    yield "bad_ids", model(2, trainer=field(41, 2 ** 64 - 1) + field(42, 70000))
    yield "bad_wire", model(2) + b"\x0b\x0c"
    yield "bad_piece", model(2) + field(1, field(1, b"\xff") + field(3, 77))
    yield "empty", b""


def main():
    folder = sys.argv[1]
    for name, seeds, encode in [("tokenizer_json", json_seeds(), lambda seed: json.dumps(seed).encode()),
                                ("tokenizer_model", model_seeds(), lambda seed: seed)]:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        for seed, value in seeds:
            with open(os.path.join(folder, name, seed), "wb") as file:
                file.write(encode(value))


if __name__ == "__main__":
    main()
