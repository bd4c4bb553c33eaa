"""A short run of scripts/chaos: every kind of fault that fits into it, on a few streams."""

# Alone: in the second after a Redis that was away, the lease of an agent that died meanwhile still counts, and a turn
# that comes then is refused. The slower everything is, the more turns do.
# ctest: PROCESSORS 64

import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT, program

CHAOS = os.path.join(ROOT, "scripts", "chaos")


def chaos(*arguments, timeout=280):
    return subprocess.run([CHAOS, *map(str, arguments)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False)


@pytest.mark.timeout(290)
def test_nothing_fails_that_could_be_helped(model_path, tmp_path):
    folder = os.path.dirname(program("lm-proxy"))
    run = chaos("--minutes", 0.5, "--streams", 60, "--distinct", 6, "--longest-freeze", 6, "--seed", 11, "--bin-dir", folder,
                "--model", model_path, "--keep", tmp_path / "logs", "--report", tmp_path / "report")
    assert run.returncode == 0, run.stdout
    report = (tmp_path / "report").read_text()
    assert report in run.stdout
    last = re.search(r"chaos: (\d+) right answers in \d+ s, (\d+) faults, \d+ declared impossible: passed$", report.strip())
    assert int(last[1]) >= 60 and int(last[2]) > 2


def test_help_and_mistakes(tmp_path):
    told = chaos("--help")
    assert told.returncode == 0 and "--minutes" in told.stdout and "--longest-freeze" in told.stdout
    for arguments, says in ((["--minutes", 0], "--minutes wants"), (["--streams", 1], "--streams wants"),
                            (["--bin-dir", tmp_path], "there is no lm-agent"),
                            (["--model", tmp_path / "none"], "there is no model"), (["--frob"], "unrecognized")):
        run = chaos(*(["--model", sys.executable] if "--model" not in arguments else []), *arguments)
        assert run.returncode == 2 and says in run.stdout, run.stdout
