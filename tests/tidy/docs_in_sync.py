#!/usr/bin/env python3
"""The option tables in docs/*.md and README.md are what the programs print.

    docs_in_sync.py BIN            compare with the output of BIN/<program> --help-markdown
    docs_in_sync.py BIN --fix      rewrite the docs

A table stands between <!-- options:lm-agent --> and <!-- /options -->, each on its own line.
Exit status: 0 in sync, 1 differences, 2 usage, 77 no table could be compared (the reason is printed)."""

import argparse
import glob
import os
import re
import subprocess
import sys

EXIT_SKIPPED = 77
BEGIN = re.compile(r"<!-- options:([\w-]+) -->\s*$")
END = "<!-- /options -->"


class Docs:
    def __init__(self, bin_folder, fix):
        self.bin_folder = bin_folder
        self.fix = fix
        self.tables = {}  # program -> its output, None when there is no such program
        self.compared = 0
        self.errors = []
        self.skipped = []

    def table_of(self, program):
        if program not in self.tables:
            path = os.path.join(self.bin_folder, program)
            self.tables[program] = None
            if os.path.exists(path):
                done = subprocess.run([path, "--help-markdown"], capture_output=True, text=True,
                                      timeout=60, check=True)
                self.tables[program] = done.stdout.strip("\n").split("\n")
        return self.tables[program]

    def check_file(self, path):
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
        result, at = [], 0
        while at < len(lines):
            result.append(lines[at])
            begin = BEGIN.match(lines[at])
            at += 1
            if begin:
                at = self.check_table(path, begin.group(1), lines, at, result)
        if self.fix and result != lines:
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(result))
            print(f"rewrote {path}")

    def check_table(self, path, program, lines, at, result):
        """Look at the table that begins at lines[at]; returns where its end marker stands."""
        try:
            end = next(i for i in range(at, len(lines)) if lines[i].strip() == END)
        except StopIteration:
            self.errors.append(f"{path}:{at}: no {END} behind this marker")
            return at
        want = self.table_of(program)
        if want is None:
            self.skipped.append(f"{path}:{at}: there is no {program} in {self.bin_folder}")
            result += lines[at:end]
            return end
        self.compared += 1
        if [line for line in lines[at:end] if line] != [line for line in want if line] and not self.fix:
            self.errors.append(f"{path}:{at}: the options of {program} have changed; run "
                               "tests/tidy/docs_in_sync.py BIN --fix with the folder of the programs")
        result += [""] + want + [""] if self.fix else lines[at:end]
        return end


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("bin", help="folder of the programs, e.g. build/release/bin")
    parser.add_argument("--root", default=default_root, help="the tree whose docs to check")
    parser.add_argument("--fix", action="store_true", help="rewrite the docs")
    arguments = parser.parse_args()
    docs = Docs(arguments.bin, arguments.fix)
    readme = os.path.join(arguments.root, "README.md")
    paths = sorted(glob.glob(os.path.join(arguments.root, "docs", "*.md")))
    for path in paths + [readme] * os.path.exists(readme):
        docs.check_file(path)
    for text in docs.errors:
        print(text)
    for text in docs.skipped:
        print("skipped: " + text)
    print(f"docs: {docs.compared} tables compared, {len(docs.errors)} differ, {len(docs.skipped)} skipped")
    if docs.errors:
        return 1
    if docs.compared == 0:
        print("skipped: " + ("; ".join(docs.skipped) or "no document has an option table"))
        return EXIT_SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
