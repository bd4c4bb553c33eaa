"""lm-bench proxy: streams are checked to their end, and what is wrong with an answer is noticed."""

import os
import re
import subprocess
import sys

from conftest import program


def bench(*arguments, timeout=180):
    """Without PATH there are no peers, which only take time here."""
    return subprocess.run([program("lm-bench"), "proxy", *map(str, arguments)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          env={**os.environ, "PATH": "/nonexistent"})


def test_every_part_gives_figures_of_lm_proxy():
    run = bench("--rounds", 1, "--streams", 50, "--proxy", program("lm-proxy"))
    assert run.returncode == 0, run.stdout
    assert " 0 requests failed" in run.stdout
    assert "haproxy: skipped: 'haproxy' is not installed" in run.stdout
    costs = re.findall(r"^us of CPU per .*?  +(\d+\.\d+)", run.stdout, re.MULTILINE)
    assert len(costs) == 4 and all(float(cost) > 0 for cost in costs), run.stdout
    assert re.search(r"streams open at once +50\.", run.stdout), run.stdout


def test_tls_beside_plain():
    run = bench("--rounds", 1, "--streams", 20, "--tls", "--only", "requests,queued,held", "--proxy", program("lm-proxy"))
    assert run.returncode == 0, run.stdout
    assert " 0 requests failed" in run.stdout
    ratios = re.findall(r"^us of CPU per .*?(\d+\.\d+)  <= \d+$", run.stdout, re.MULTILINE)
    assert len(ratios) == 2 and all(float(ratio) > 0 for ratio in ratios), run.stdout
    assert re.search(r"streams open at once +20\.0+ +- +- +20\.0", run.stdout), run.stdout


# Takes registrations, and answers every chat with the words of the first one.
FAKE = """#!{python}
import http.server, sys
class Fake(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply(b"{{}}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(b'{{"content": "00000001 It scatters"}}')
    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Fake).serve_forever()
"""


def test_an_answer_of_another_request_is_noticed(tmp_path):
    fake = tmp_path / "proxy"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    run = bench("--rounds", 1, "--only", "requests", "--proxy", fake)
    assert run.returncode == 1, run.stdout
    assert "an answer was wrong" in run.stdout, run.stdout


def test_what_is_no_part_is_said():
    run = bench("--only", "speed")
    assert run.returncode == 2, run.stdout
    assert "requests, paced, queued, latency and held" in run.stdout
