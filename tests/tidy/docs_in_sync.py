#!/usr/bin/env python3
"""What docs/*.md and README.md have of the programs is what the programs print.

    docs_in_sync.py BIN            compare with the output of the programs in BIN
    docs_in_sync.py BIN --fix      rewrite the docs

Each on its own line, there stand
    <!-- options:PROGRAM --> and <!-- /options -->   around what PROGRAM --help-markdown prints
    <!-- api --> and <!-- /api -->                   around what lm-api markdown prints
Exit status: 0 in sync, 1 differences, 2 usage, 77 no table could be compared (the reason is printed)."""

import argparse
import glob
import os
import re
import subprocess
import sys

EXIT_SKIPPED = 77
BEGIN = re.compile(r"<!-- (?:(options):([\w-]+)|(api)) -->\s*$")


class Docs:
    def __init__(self, bin_folder, fix):
        self.bin_folder = bin_folder
        self.fix = fix
        self.tables = {}  # command -> its output, None when there is no such program
        self.compared = 0
        self.errors = []
        self.skipped = []

    def table_of(self, command):
        if command not in self.tables:
            path = os.path.join(self.bin_folder, command[0])
            self.tables[command] = None
            if os.path.exists(path):
                done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=60, check=True)
                self.tables[command] = done.stdout.strip("\n").split("\n")
        return self.tables[command]

    def check_file(self, path):
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
        result, at = [], 0
        while at < len(lines):
            result.append(lines[at])
            begin = BEGIN.match(lines[at])
            at += 1
            if begin:
                command = (begin.group(2), "--help-markdown") if begin.group(1) else ("lm-api", "markdown")
                at = self.check_table(path, command, f"<!-- /{begin.group(1) or begin.group(3)} -->", lines, at, result)
        if self.fix and result != lines:
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(result))
            print(f"rewrote {path}")

    def check_table(self, path, command, end_mark, lines, at, result):
        """Look at the table that begins at lines[at]; returns where its end marker stands."""
        try:
            end = next(i for i in range(at, len(lines)) if lines[i].strip() == end_mark)
        except StopIteration:
            self.errors.append(f"{path}:{at}: no {end_mark} behind this marker")
            return at
        want = self.table_of(command)
        if want is None:
            self.skipped.append(f"{path}:{at}: there is no {command[0]} in {self.bin_folder}")
            result += lines[at:end]
            return end
        self.compared += 1
        if [line for line in lines[at:end] if line] != [line for line in want if line] and not self.fix:
            self.errors.append(f"{path}:{at}: what {' '.join(command)} prints has changed; run "
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
