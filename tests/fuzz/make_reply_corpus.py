#!/usr/bin/env python3
"""Seeds of fuzz_reply_parser from the cases of tests/fixtures/replies: make_reply_corpus.py FOLDER."""

import json
import pathlib
import sys

REPLIES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "replies"
SEEDS_PER_FORMAT = 7


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for path in sorted(REPLIES.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            if "tools" in case or not case["text"]:
                continue
            count = written.get(path.stem, 0)
            if count == SEEDS_PER_FORMAT:
                break
            written[path.stem] = count + 1
            head = [case.get("format", "-"), case.get("reasoning", "-"), "s" if case.get("starts") else ""]
            seed = " ".join(head).rstrip() + "\n" + case["text"]
            (folder / f"{path.stem}_{count:02}").write_bytes(seed.encode())


if __name__ == "__main__":
    main()
