#!/usr/bin/env python3
"""Style and structure of the tree as a test: file:line, and what to do.

    tidy.py                    all checks
    tidy.py --only includes    one of them, as ctest runs them
    tidy.py --self-test        each check finds its bad sample and passes the good one

Exit status: 0 clean, 1 findings, 2 usage, 77 nothing of what was asked for could be checked (the reason
is printed). Python's standard library only; compiler and clang-format where they exist."""

import argparse
import os
import sys

import tidy_checks
import tidy_self_test

EXIT_SKIPPED = 77


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("--root", default=default_root, help="the tree to check")
    parser.add_argument("--only", action="append", choices=list(tidy_checks.CHECKS),
                        help="run this check only (may be repeated)")
    parser.add_argument("--include", action="append", default=[], metavar="FOLDER",
                        help="folder of third-party headers, beside what pkg-config knows")
    parser.add_argument("--self-test", action="store_true", help="test the checks themselves")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.self_test:
        return tidy_self_test.run()
    tree = tidy_checks.Tree(arguments.root, arguments.include)
    names = arguments.only or list(tidy_checks.CHECKS)
    total, idle = 0, 0
    for name in names:
        skipped_before = len(tree.skipped)
        findings = tidy_checks.CHECKS[name](tree)
        for finding in sorted(findings):
            print(f"{finding.path}:{finding.line}: {finding.text} [{name}]")
        total += len(findings)
        idle += not findings and any("not checked" in text or "not compiled" in text
                                     for text in tree.skipped[skipped_before:])
    for text in tree.skipped:
        print(f"skipped: {text}")
    print(f"tidy: {len(tree.sources)} files, {len(names)} checks, {total} findings, {len(tree.skipped)} skipped")
    if total:
        return 1
    if idle == len(names):
        print("skipped: " + "; ".join(tree.skipped))
        return EXIT_SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
