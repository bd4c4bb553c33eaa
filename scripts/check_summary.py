#!/usr/bin/env python3
"""Count what a ctest run did, down to the single test, and say what was skipped and why.

    check_summary.py CTEST_JUNIT PYTEST_JUNIT_DIR

A C test program counts as one test. One that says "skipped: REASON" on a line of its own counts one skip
more for each such line: it did the rest of its work. A pytest file counts as its test cases, if pytest
lived to write them down. The last line is `N passed, N failed, N skipped`; exit 1 if anything failed.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = []  # (test, reason)
        self.skipped = []

    def add_pytest(self, name, path):
        """The cases of one pytest file; False if there are none to be had."""
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except (OSError, ElementTree.ParseError):
            return False
        for case in cases:
            title = f"{name}::{case.get('name')}"
            broken = case.find("failure") if case.find("failure") is not None else case.find("error")
            skip = case.find("skipped")
            if broken is not None:
                self.failed.append((title, first_line(broken.get("message"))))
            elif skip is not None:
                self.skipped.append((title, first_line(skip.get("message"))))
            else:
                self.passed += 1
        return bool(cases)

    def add_program(self, case):
        name, status = case.get("name"), case.get("status")
        output = case.findtext("system-out") or ""
        reasons = [line.split(":", 1)[1].strip() for line in output.splitlines()
                   if line.startswith("skipped:")]
        if status == "run":
            self.passed += 1
            self.skipped += [(name, reason) for reason in reasons]
        elif status in ("notrun", "disabled") and case.find("skipped") is not None and reasons:
            self.skipped.append((name, reasons[-1]))
        elif status == "disabled":
            self.skipped.append((name, "disabled"))
        else:  # failed, or could not be started, or exited with 77 and no word why
            self.failed.append((name, why_failed(case)))


def first_line(text):
    return (text or "").strip().split("\n", 1)[0][:200]


def why_failed(case):
    for tag in ("failure", "skipped", "error"):
        element = case.find(tag)
        if element is not None and element.get("message"):
            return first_line(element.get("message"))
    return "failed"


def count(ctest_path, pytest_dir):
    tally = Tally()
    for case in ElementTree.parse(ctest_path).iter("testcase"):
        name = case.get("name")
        failed_before = len(tally.failed)
        label, _, short = name.partition("/")
        if label != "integration" or not tally.add_pytest(short, pytest_dir / f"{short}.xml"):
            tally.add_program(case)
        elif case.get("status") == "fail" and len(tally.failed) == failed_before:
            # All cases are fine, yet pytest is not: it hung or died afterwards.
            tally.failed.append((name, why_failed(case)))
    return tally


def main(argv):
    if len(argv) != 3:
        sys.exit(__doc__)
    try:
        tally = count(argv[1], pathlib.Path(argv[2]))
    except (OSError, ElementTree.ParseError) as e:
        tally = Tally()
        tally.failed.append(("ctest", f"ended before it wrote its results: {e}"))
    for title, entries in (("Skipped", tally.skipped), ("Failed", tally.failed)):
        if entries:
            print(f"\n{title}:")
        for name, reason in entries:
            print(f"  {name}: {reason}")
    print(f"\n{tally.passed} passed, {len(tally.failed)} failed, {len(tally.skipped)} skipped")
    return 1 if tally.failed or tally.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
