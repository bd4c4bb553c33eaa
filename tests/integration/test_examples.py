"""The examples of docs/examples.md, as they stand but for the server's address."""
# ctest: PROCESSORS 1

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

ADDRESS = "http://127.0.0.1:23333"
BLOCK = re.compile(r"^```(python|javascript|sh)\n(.*?)^```$", re.S | re.M)


def read_blocks():
    with open(os.path.join(ROOT, "docs", "examples.md"), encoding="utf-8") as file:
        return BLOCK.findall(file.read())


BLOCKS = read_blocks()


def command_for(language, code, folder):
    if language == "python":
        return [sys.executable, "-c", code]
    if language == "javascript":
        node = shutil.which("node") or pytest.skip("no node here (scripts/install-deps installs it)")
        return [node, "-e", code]
    for tool in ("curl", "java"):
        if (tool == "curl" or "openapi-generator" in code) and not shutil.which(tool):
            pytest.skip(f"no {tool} here (scripts/install-deps installs it)")
    return ["bash", "-euo", "pipefail", "-c", code]


def test_there_are_some():
    assert {language for language, _ in BLOCKS} == {"python", "javascript", "sh"} and len(BLOCKS) >= 6


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[f"{n}-{language}" for n, (language, _) in enumerate(BLOCKS)])
def test_example(agent, tmp_path, number):
    language, code = BLOCKS[number]
    assert ADDRESS in code
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # openapi-generator-cli
    done = subprocess.run(command_for(language, code.replace(ADDRESS, agent.url), tmp_path), cwd=tmp_path,
                          env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() and '"error"' not in done.stdout, done.stdout
    if "stream" in code and language == "sh":
        assert done.stdout.endswith("data: [DONE]\n\n"), done.stdout
    if "sessions" in code:  # the second turn has the first one before it
        histories = [int(line.split()[0]) for line in done.stdout.splitlines() if re.match(r"\d+ ", line)]
        assert histories[0] == 0 and histories[1] > 0, done.stdout
