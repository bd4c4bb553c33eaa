#!/usr/bin/env python3
"""Every `file.c:function` and `file.c` that a document names must exist: a tour that lies is worse than none."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`([\w./-]+\.[ch])(?::(\w+))?`")


def missing(document, root):
    """Lines about names in `document` that are not in the tree."""
    for number, line in enumerate(document.read_text().splitlines(), 1):
        for path, function in NAMED.findall(line):
            file = root / path
            if not file.is_file():
                yield f"{document}:{number}: there is no file '{path}': name it from the root"
            elif function and not re.search(rf"\b{function}\(", file.read_text()):
                yield f"{document}:{number}: '{path}' has no function '{function}'"


def main():
    documents = [pathlib.Path(p) for p in sys.argv[1:]] or sorted((ROOT / "docs").glob("*.md"))
    problems = [text for document in documents for text in missing(document, ROOT)]
    print("\n".join(problems) or f"{len(documents)} documents name what exists")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
