"""A server that speaks just enough of the OpenAI API to misbehave on purpose, for lm-client's tests.

What it does is chosen by the last user message: "repeat ..." streams the words back one by one, other
first words name a script below. Every request body is kept in `requests`.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeOpenai:
    def __init__(self, models=("fake-model", "other-model"), nodes=None, api_key=None):
        self.models = list(models)
        self.nodes = nodes  # what GET /nodes/status answers; None: 404, as an agent
        self.api_key = api_key
        self.requests = []
        self.deltas = []
        self.client_left = threading.Event()  # a stream's client closed its connection
        fake = self

        class Handler(FakeHandler):
            server_state = fake

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state = None

    def log_message(self, *args):
        pass

    def answer(self, status, body, content_type="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message):
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error",
                                       "param": None, "code": None}})

    def is_allowed(self):
        key = self.server_state.api_key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.refuse(401, "wrong API key")
        return False

    def do_GET(self):
        state = self.server_state
        if not self.is_allowed():
            return
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": m} for m in state.models]})
        elif self.path == "/nodes/status" and state.nodes is not None:
            self.answer(200, state.nodes)
        elif self.path in ("/health", "/ready"):
            self.answer(200 if self.path == "/health" else 503, "")
        else:
            self.refuse(404, f"no route {self.path}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_allowed():
            return
        self.server_state.requests.append(body)
        if self.path == "/v1/chat/interactive":
            self.interactive(body)
            return
        text = body["messages"][-1]["content"]
        script = getattr(self, "script_" + text.split()[0].lower(), None)
        if script:
            script(body)
        elif body.get("stream"):
            self.stream_words(text)
        else:
            self.answer(200, whole(body["model"], text))

    # ---- streams ----

    def begin_stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data):
        raw = data.encode()
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
            self.wfile.flush()
        except OSError:
            self.server_state.client_left.set()
            raise ConnectionAbortedError from None

    def send_text(self, text, reason=None):
        delta = {"content": text} if text else {}
        self.send("data: " + json.dumps({"object": "chat.completion.chunk", "choices": [
            {"index": 0, "delta": delta, "finish_reason": reason}]}) + "\n\n")

    def end_stream(self):
        self.send("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def stream_words(self, text, reason="stop"):
        self.begin_stream()
        words = text.split(" ")
        for i, word in enumerate(words):
            self.send_text(word if i == 0 else " " + word)
        self.send_text("", reason)
        self.end_stream()

    # ---- LMDeploy's conversations: lines of JSON under the name of an event stream ----

    def send_object(self, text, tokens, reason=None, **more):
        self.send(json.dumps({"text": text, "tokens": tokens, "input_tokens": 9, "history_tokens": 0,
                              "finish_reason": reason, **more}) + "\n")

    def interactive(self, body):
        if not body["interactive_mode"]:
            self.answer(200, {"text": "", "tokens": 0, "input_tokens": 0, "history_tokens": 0, "finish_reason": "stop"})
            return
        script = getattr(self, "turn_" + body["prompt"].split()[0].lower(), None)
        if not body["stream"]:
            self.answer(200, {"text": body["prompt"], "tokens": 1, "input_tokens": 9, "history_tokens": 0,
                              "finish_reason": "stop"})
            return
        self.begin_stream()
        if script:
            script()
            return
        for n, word in enumerate(body["prompt"].split(" ")):
            self.send_object(word if n == 0 else " " + word, n + 1)
        self.send_object("", n + 1, "stop")
        self.wfile.write(b"0\r\n\r\n")

    def turn_forever(self):
        try:
            for n in range(2000):
                self.send_object("and on ", n)
                time.sleep(0.02)
        except ConnectionAbortedError:
            self.close_connection = True

    def turn_full(self):
        self.send_object("", 0, "length")
        self.wfile.write(b"0\r\n\r\n")

    def turn_length(self):
        self.send_object("too lo", 2)
        self.send_object("", 2, "length")
        self.wfile.write(b"0\r\n\r\n")

    def turn_failing(self):
        self.send_object("so far", 1)
        self.send_object("", 1, "error", error={"message": "the engine lost a device"})
        self.wfile.write(b"0\r\n\r\n")

    def turn_unfinished(self):
        self.send_object("half an ans", 1)
        self.wfile.write(b"0\r\n\r\n")

    def turn_garbage(self):
        self.send("{not json\n")
        self.wfile.write(b"0\r\n\r\n")

    def turn_torn(self):
        """One object in two pieces, and the last without its line end."""
        self.send('{"text": "in two pie')
        self.send('ces", "tokens": 1, "finish_reason": null}\n{"text": "", "tokens": 1, ')
        self.send('"finish_reason": "stop"}')
        self.wfile.write(b"0\r\n\r\n")

    def turn_escape(self):
        self.send_object("red \x1b[31m end", 1)
        self.send_object("", 1, "stop")
        self.wfile.write(b"0\r\n\r\n")

    # ---- scripts: what a message beginning with that word asks for ----

    def script_forever(self, body):
        """Words without end, until the client goes."""
        self.begin_stream()
        try:
            for _ in range(2000):
                self.send_text("and on ")
                time.sleep(0.02)
        except ConnectionAbortedError:
            self.close_connection = True

    def script_length(self, body):
        self.stream_words("too long", reason="length")

    def script_refuse(self, body):
        self.refuse(400, "I will not\nsay that")

    def script_html(self, body):
        self.answer(502, "<html>bad gateway</html>", "text/html")

    def script_cut(self, body):
        """The connection ends inside the answer."""
        self.begin_stream()
        self.send_text("half an ans")
        self.close_connection = True

    def script_unfinished(self, body):
        """The stream ends as HTTP wants it, but the answer does not."""
        self.begin_stream()
        self.send_text("half an ans")
        self.wfile.write(b"0\r\n\r\n")

    def script_failing(self, body):
        self.begin_stream()
        self.send_text("so far")
        self.send('data: {"error": {"message": "the engine lost a device"}}\n\n')
        self.end_stream()

    def script_garbage(self, body):
        self.begin_stream()
        self.send("data: {not json\n\n")
        self.end_stream()

    def script_deltas(self, body):
        """What the test has put into `deltas`."""
        self.begin_stream()
        for delta in self.server_state.deltas:
            self.send("data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) + "\n\n")
        self.send_text("", "stop")
        self.end_stream()

    def script_escape(self, body):
        self.begin_stream()
        self.send_text("red \x1b[31m title \x1b]0;gotcha\x07 \u009b2J end")
        self.send_text("", "stop")
        self.end_stream()

    def script_whole(self, body):
        """One JSON answer although a stream was asked for."""
        self.answer(200, whole(body["model"], "in one piece"))


def whole(model, text):
    return {"object": "chat.completion", "model": model, "choices": [
        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
