"""An agent that misbehaves on purpose, byte by byte: what lm-proxy has to survive.

It listens on a port of its own, beats at proxies and Redis as lm-agent does, and answers as `behave` says: the
name of a method below, settable at any time. Raw sockets, a thread per connection: nothing between the
script and the wire. Every request is kept in `requests`.
"""

import contextlib
import json
import socket
import struct
import threading
import time
import urllib.request

EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,' \
        b'"delta":{"content":"%s %d "},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Request:
    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.header_lines = lines[1:]
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        self.body = body

    def json(self):
        return json.loads(self.body)


class FakeAgent:
    def __init__(self, name="fake", proxies=(), models=("fake-model",), behave="answer", port=0,
                 capacity=4, beat_s=0.5, join_key=None, redis_port=None, tls=None, trust=None):
        self.name = name
        self.proxies = list(proxies)
        self.models = list(models)
        self.behave = behave
        self.capacity = capacity
        self.beat_s = beat_s
        self.join_key = join_key
        self.redis_port = redis_port  # beats there too, without lm-agent's fence
        self.tls = tls      # an ssl.SSLContext: it serves https
        self.trust = trust  # another: for proxies with https
        self.load = {"running": 0, "waiting": 0}
        self.draining = False
        self.healthy = True
        self.start_ms = time.time_ns() // 1_000_000
        self.sequence = 0
        self.usage = (0, 0)         # of `counted`
        self.events = 20            # of a stream
        self.event_gap_s = 0.005
        self.requests = []
        self.beat_statuses = []
        self.running = 0            # inference requests being answered
        self.most_running = 0
        self.client_left = threading.Event()
        self.left_at = None
        self.release = threading.Event()  # ends `hang` and `slow`
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.connections = set()
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.threads = [threading.Thread(target=self.accept_all, daemon=True)]
        if self.proxies or redis_port:
            self.threads.append(threading.Thread(target=self.beat_all, daemon=True))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.die()

    # ---- life ----

    def die(self):
        """As kill -9: the port closes, connections are reset, beats end."""
        self.closing.set()
        self.release.set()
        self.refuse_connections()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            reset(connection)

    def refuse_connections(self):
        """Close the port only; what is connected stays."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def record(self):
        self.sequence += 1
        return {"url": self.url, "status": {"models": self.models}, "lm": {
            "version": 1, "id": self.name, "incarnation": f"fake{self.start_ms}",
            "start_ms": self.start_ms, "url": self.url, "models": self.models,
            "context_len": 2048, "capacity": self.capacity, "queue_max": 16,
            "draining": self.draining, "load": {**self.load, "sequence": self.sequence}}}

    def beat(self, proxy_url):
        headers = {"Content-Type": "application/json"}
        if self.join_key:
            headers["x-lm-join-key"] = self.join_key
        request = urllib.request.Request(proxy_url + "/nodes/add", json.dumps(self.record()).encode(),
                                         headers)
        try:
            with urllib.request.urlopen(request, timeout=2, context=self.trust) as answer:
                return answer.status
        except urllib.error.HTTPError as refusal:
            return refusal.code
        except OSError:
            return None

    def beat_redis(self):
        record = self.record()["lm"]
        load = record.pop("load")
        commands = [("SET", f"lm:agent:{self.name}", json.dumps(record), "PX", 3500),
                    ("SET", f"lm:load:{self.name}", json.dumps(load), "PX", 3500),
                    ("ZADD", "lm:agents", int(time.time() * 1000) + 3500, self.name)]
        with contextlib.suppress(OSError):
            redis_commands(self.redis_port, commands)

    def beat_all(self):
        while not self.closing.is_set():
            if self.redis_port:
                self.beat_redis()
            for proxy_url in self.proxies:
                self.beat_statuses.append(self.beat(proxy_url))
            self.closing.wait(self.beat_s)

    # ---- the wire ----

    def accept_all(self):
        while not self.closing.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:  # the handshake is the thread's, with its first read
                connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            self.accepted += 1
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            pending = b""
            while not self.closing.is_set():
                request, pending = read_request(connection, pending)
                if request is None or not self.handle(connection, request):
                    break
        except OSError:
            self.note_left()
        finally:
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    def note_left(self):
        if not self.client_left.is_set():
            self.left_at = time.monotonic()
            self.client_left.set()

    def handle(self, connection, request):
        """True: the connection may carry another request."""
        if request.method == "GET":
            if request.target == "/v1/models":
                send_json(connection, 200, {"object": "list", "data": [{"id": m} for m in self.models]})
            else:
                send_json(connection, 200 if self.healthy else 503, {"status": "x"})
            return True
        with self.lock:
            self.requests.append(request)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            return getattr(self, self.behave)(connection, request) is not False
        finally:
            with self.lock:
                self.running -= 1

    # ---- behaviours: False closes the connection ----

    def answer(self, connection, request):
        if request.json().get("stream"):
            self.stream(connection, request)
        else:
            send_json(connection, 200, {"agent": self.name, "body": request.json()}, {
                "x-request-id": request.headers["x-request-id"], "X-Custom": "kept"})

    def stream(self, connection, request, count=None):
        begin_stream(connection)
        for i in range(self.events if count is None else count):
            send_chunk(connection, EVENT % (self.name.encode(), i))
            time.sleep(self.event_gap_s)
        if count is None:
            send_chunk(connection, DONE)
            connection.sendall(b"0\r\n\r\n")

    def counted(self, connection, request):
        """`usage`: prompt and completion tokens that it says it used."""
        prompt, completion = self.usage
        send_json(connection, 200, {"agent": self.name, "usage": {"prompt_tokens": prompt,
                                                                  "completion_tokens": completion}},
                  {"x-lm-usage": f"{prompt},{completion},0"})

    def slow(self, connection, request):
        self.wait(connection)
        return self.answer(connection, request)

    def hang(self, connection, request):
        self.wait(connection)
        return False

    def wait(self, connection):
        """Until released, or the client leaves."""
        connection.settimeout(0.01)
        while not self.release.is_set():
            try:
                if connection.recv(1) == b"":
                    raise ConnectionResetError
            except TimeoutError:
                pass
        connection.settimeout(None)

    def hang_in_stream(self, connection, request):
        self.stream(connection, request, count=3)
        self.wait(connection)
        return False

    def head_then_hang(self, connection, request):
        begin_stream(connection)
        self.wait(connection)
        return False

    def endless(self, connection, request):
        """Chunks as fast as the reader takes them; every byte counted."""
        begin_stream(connection)
        self.endless_bytes = 0
        block = b"data: " + b"x" * 16000 + b"\n\n"
        while not self.closing.is_set():
            send_chunk(connection, block)
            self.endless_bytes += len(block)

    def busy429(self, connection, request):
        send_json(connection, 429, {"error": {"message": "full", "type": "rate_limit_error",
                                              "param": None, "code": "rate_limit_exceeded"}},
                  {"Retry-After": "7"})

    def busy503(self, connection, request):
        send_json(connection, 503, {"error": {"message": "draining", "type": "server_error",
                                              "param": None, "code": None}}, {"Retry-After": "3"})

    def not_started502(self, connection, request):
        send_json(connection, 502, {"error": {"message": "lost"}}, {"x-lm-not-started": "1"})

    def broken500(self, connection, request):
        send_json(connection, 500, {"error": {"message": "broken", "type": "server_error",
                                              "param": None, "code": None}})

    def bad400(self, connection, request):
        send_json(connection, 400, {"error": {"message": "no such thing", "param": "x"}})

    def reset_before_head(self, connection, request):
        reset(connection)
        return False

    def close_before_head(self, connection, request):
        return False

    def close_late(self, connection, request):
        """As if it had crashed over a long prompt."""
        time.sleep(1.2)
        return False

    def die_of_it(self, connection, request):
        self.die()
        return False

    def reset_after_head(self, connection, request):
        begin_stream(connection)
        time.sleep(0.05)
        reset(connection)
        return False

    def reset_mid_stream(self, connection, request):
        self.stream(connection, request, count=5)
        time.sleep(0.05)
        reset(connection)
        return False

    def close_mid_event(self, connection, request):
        self.stream(connection, request, count=5)
        send_chunk(connection, EVENT[:40])
        time.sleep(0.05)
        return False

    def short_body(self, connection, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                           b"Content-Length: 100\r\n\r\n{\"only\":")
        return False

    def short_chunked_json(self, connection, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n8\r\n{\"only\":\r\n")
        time.sleep(0.05)
        return False

    def garbage(self, connection, request):
        connection.sendall(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
        return False

    def status_below_100(self, connection, request):
        connection.sendall(b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\n{}")
        return False

    def head_bomb(self, connection, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x-bomb: " + b"a" * 200000 + b"\r\n\r\n")
        return False

    def answer_and_close(self, connection, request):
        """Keep-alive by its words, closed in fact: the next request on it finds nobody."""
        self.answer(connection, request)
        time.sleep(0.02)
        return False

    def echo(self, connection, request):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(request.body) + request.body)

    def no_content(self, connection, request):
        connection.sendall(b"HTTP/1.1 204 No Content\r\nX-Empty: yes\r\n\r\n")

    def scripted(self, connection, request):
        """`pieces`: bytes to send one by one as chunks of a stream."""
        begin_stream(connection)
        for piece in self.pieces:
            send_chunk(connection, piece)
            time.sleep(0.002)
        connection.sendall(b"0\r\n\r\n")


def redis_commands(port, commands):
    """Send them in one go and wait for one answer each; what they are doesn't matter."""
    data = b""
    for words in commands:
        data += b"*%d\r\n" % len(words)
        for word in words:
            raw = word if isinstance(word, bytes) else str(word).encode()
            data += b"$%d\r\n%s\r\n" % (len(raw), raw)
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(data)
        answers = b""
        while answers.count(b"\r\n") < len(commands):
            more = connection.recv(65536)
            if not more:
                return
            answers += more


def read_request(connection, pending):
    while b"\r\n\r\n" not in pending:
        more = connection.recv(65536)
        if not more:
            return None, b""
        pending += more
    head, pending = pending.split(b"\r\n\r\n", 1)
    request = Request(head, b"")
    length = int(request.headers.get("content-length", 0))
    parts, have = [pending], len(pending)
    while have < length:
        more = connection.recv(1 << 20)
        if not more:
            return None, b""
        parts.append(more)
        have += len(more)
    pending = b"".join(parts)
    request.body = pending[:length]
    return request, pending[length:]


def send_json(connection, status, body, headers=()):
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json",
             f"Content-Length: {len(data)}"]
    lines += [f"{k}: {v}" for k, v in dict(headers).items()]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


def begin_stream(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")


def send_chunk(connection, data):
    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))


def reset(connection):
    """Close with RST, as a process that died."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()
