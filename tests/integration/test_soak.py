"""lm-bench soak: what an agent answers under pressure, and that the comparison notices what it should."""

import http.server
import itertools
import json
import subprocess
import threading

import pytest

from conftest import program


def soak(*arguments, timeout=240):
    return subprocess.run([program("lm-bench"), "soak", *map(str, arguments)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)


@pytest.mark.parametrize("kv_dtype", ["f16", "int8"])
def test_answers_under_pressure_are_those_given_alone(model_path, kv_dtype):
    run = soak("--model", model_path, "--agent", program("lm-agent"), "--concurrency", 6,
               "--distinct", 3, "--seconds", 1, f"--agent-arg=--kv-dtype={kv_dtype}")
    assert run.returncode == 0, run.stdout
    assert " 0 mismatches, 0 errors" in run.stdout and "passed" in run.stdout
    assert "lm_agent_kv_blocks_used 0" in run.stdout


class Odd(http.server.BaseHTTPRequestHandler):
    """A completion server with one fault; the class attributes say which."""
    fault = None
    requests = itertools.count()
    protocol_version = "HTTP/1.1"

    def reply(self, body, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/v1/models":
            self.reply(json.dumps({"object": "list", "data": [{"id": "odd"}]}).encode(),
                       "application/json")
            return
        used = 3 if self.fault == "leak" else 0
        self.reply(f"lm_agent_running 0\nlm_agent_waiting 0\nlm_agent_kv_blocks_used {used}\n"
                   .encode(), "text/plain")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = next(self.requests)
        text = f"seed {request['seed']}"
        if self.fault == "text" and number >= 6:
            text += "!"
        events = [{"choices": [{"text": text, "finish_reason": None}]},
                  {"choices": [{"text": "", "finish_reason": "length"}]}]
        if self.fault == "usage" and number >= 6:
            events.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
        if self.fault == "error" and number >= 6:
            events = [{"error": {"message": "lost"}}]
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        if not (self.fault == "cut" and number >= 6):
            stream += "data: [DONE]\n\n"
        self.reply(stream.encode(), "text/event-stream")

    def log_message(self, *arguments):
        pass


@pytest.fixture(params=[None, "text", "usage", "error", "cut", "leak"])
def odd(request):
    handler = type("Handler", (Odd,), {"fault": request.param, "requests": itertools.count()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield request.param, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_faults_are_noticed(odd):
    fault, url = odd
    run = soak(url, "--concurrency", 4, "--distinct", 6, "--seconds", 1)
    says = {None: "passed", "text": "answered differently from byte 6", "usage": "2 tokens",
            "error": "not understood", "cut": "stream not ended", "leak": "kv_blocks_used 3"}
    assert run.returncode == (1 if fault else 0), run.stdout
    assert says[fault] in run.stdout
    assert ("passed" if fault is None else "FAILED") in run.stdout
