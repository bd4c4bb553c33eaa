"""lm-bench sample: every way to draw has its figure, beside that of reading the row."""

import re
import subprocess

from conftest import program

WAYS = ["read once", "greedy", "temperature 0.8", "top_k 50", "top_p 0.9", "min_p 0.05", "three penalties", "all of them"]


def test_each_way_of_drawing_in_both_vocabularies():
    run = subprocess.run([program("lm-bench"), "sample", "--rounds", "1"], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, timeout=300)
    assert run.returncode == 0, run.stdout
    rows = re.findall(r"^(\d+) +(\S.*?) +(\d+\.\d) us ", run.stdout, re.MULTILINE)
    assert [(vocab, way) for vocab, way, _ in rows] == [(v, w) for v in ("49152", "151936") for w in WAYS], run.stdout
    assert all(float(us) > 0 for *_, us in rows), run.stdout
    assert run.stdout.count("times the read") == 2 * (len(WAYS) - 1), run.stdout
    assert "sample" in subprocess.run([program("lm-bench"), "--help"], text=True, stdout=subprocess.PIPE).stdout
