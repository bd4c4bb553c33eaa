#!/usr/bin/env python3
"""Writes a libFuzzer dictionary for each target that reads a language of words: the words are those that its
readers compare with, taken out of their sources.

    python3 tests/fuzz/make_dictionaries.py build/fuzz/dict
    build/fuzz/tests/fuzz_jinja -dict=build/fuzz/dict/jinja.dict tests/fuzz/corpus/jinja
"""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = ["engine/model_config_hf.c", "engine/model_config_rope.c", "engine/weights_*.c"]
SOURCES = {  # target: sources, and whether its words stand in quotes
    "gguf": (["engine/model_config_gguf.c", "engine/tensor_names.c", "engine/tokenizer_gguf.c",
              "engine/pretokenizer.c", "engine/gguf*.c"], False),
    "safetensors": ([*CONFIG, "engine/tensor_names.c", "engine/safetensors.c"], True),
    "model_config": ([*CONFIG, "engine/generation_config.c"], True),
    "tokenizer_json": (["engine/tokenizer_json*.c", "engine/tokenizer_load.c"], True),
    "chat_template_json": (["engine/lmdeploy_template.c"], True),
    "jinja": (["engine/jinja_*.c"], False),
}
JINJA = ["{%", "%}", "{{", "}}", "{#", "#}", "{%-", "-%}", "{{-", "-}}", "**", "//", "==", "!=", ">=", "<=",
         "[::-1]", "1e308", "9223372036854775807", "{0!r}", *"""endif endfor elif else set endset macro endmacro
         call endcall filter endfilter with endwith raw endraw generation endgeneration recursive in is not and or
         ignore namespace caller""".split()]


def words_of(patterns):
    words = set()
    for pattern in patterns:
        for path in glob.glob(os.path.join(ROOT, pattern)):
            with open(path, encoding="utf-8") as file:
                words |= set(re.findall(r'"([A-Za-z_<|][A-Za-z_0-9.<>|-]{1,39})"', file.read()))
    return {word for word in words if not word.endswith(".h")}


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for target, (patterns, is_quoted) in SOURCES.items():
        words = words_of(patterns) | set(JINJA if target == "jinja" else [])
        quote = '\\"' if is_quoted else ""
        with open(os.path.join(folder, target + ".dict"), "w", encoding="utf-8") as file:
            file.writelines(f'"{quote}{word}{quote}"\n' for word in sorted(words))


if __name__ == "__main__":
    main()
