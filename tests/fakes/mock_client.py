"""HTTP clients for an event loop: thousands of requests at once, each byte and its time kept, and every
way to be impolite. Nothing is believed: an answer is `whole` only if its framing says so."""

import asyncio
import contextlib
import json
import socket
import struct
import time

CHAT = "/v1/chat/completions"
INTERACTIVE = "/v1/chat/interactive"


def chat_body(tag, text="hi", model="mock", messages=None, stream=True, **more):
    """For mock_fleet.py; keywords beyond its own go into the body."""
    mine = ("tokens", "gap_s", "wait_s", "group", "resumable", "own", "chunks", "faults")
    mock = {"tag": tag, **{name: more.pop(name) for name in mine if name in more}}
    return {"model": model, "messages": messages or [{"role": "user", "content": text}],
            "stream": stream, "mock": mock, **more}


class Reply:
    def __init__(self):
        self.status = 0
        self.headers = {}
        self.body = bytearray()
        self.whole = False
        self.failure = ""
        self.first_s = self.total_s = None  # from the request's last byte

    def json(self):
        return json.loads(self.body)

    def events(self):
        return [part[6:] for part in bytes(self.body).split(b"\n\n") if part.startswith(b"data: ")]

    def text(self):
        """What a client of a chat stream would show."""
        parts = []
        for event in self.events():
            if event != b"[DONE]" and b'"error"' not in event:
                choices = json.loads(event)["choices"]
                parts += [c["delta"].get("content", "") for c in choices]
        return "".join(parts)

    def is_done(self):
        return self.whole and self.status == 200 and self.body.endswith(b"data: [DONE]\n\n")

    def error_code(self):
        """Of the error event that ends a cut stream, or of the answer."""
        last = self.events()[-1] if self.events() else self.body
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return json.loads(last)["error"]["code"]
        return None


class Line:
    """A connection that is kept alive."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4 << 20)

    def close(self, hard=False):
        if not self.writer:
            return
        if hard:
            sock = self.writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        self.reader = self.writer = None

    async def ask(self, path, value, headers=(), timeout=60, method="POST", stop=None):
        """One request. `stop(reply)`: asked after each piece; true: leave."""
        reply = Reply()
        try:
            async with asyncio.timeout(timeout):
                await self.exchange(reply, path, value, headers, method, stop)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError,
                ValueError) as failure:
            reply.failure = repr(failure)
            self.close()
        return reply

    async def exchange(self, reply, path, value, headers, method, stop):
        if not self.writer:
            await self.open()
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: x", "content-type: application/json",
                 f"content-length: {len(body)}", *(f"{k}: {v}" for k, v in dict(headers).items())]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        begin = time.monotonic()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        reply.status = int(head[0].split(" ")[1])
        reply.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        async for part in self.pieces(reply.headers):
            if reply.first_s is None:
                reply.first_s = time.monotonic() - begin
            reply.body += part
            if stop and stop(reply):
                self.close(hard=True)
                return
        reply.whole = True
        reply.total_s = time.monotonic() - begin
        if reply.headers.get("connection", "").lower() == "close":
            self.close()

    async def pieces(self, headers):
        if "content-length" in headers:
            data = await self.reader.readexactly(int(headers["content-length"]))
            if data:
                yield data
            return
        if headers.get("transfer-encoding") != "chunked":
            return
        while True:
            size = int((await self.reader.readuntil(b"\r\n")), 16)
            data = await self.reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]


async def ask(port, value, path=CHAT, **options):
    """One request on a connection of its own."""
    line = Line(port)
    try:
        return await line.ask(path, value, **options)
    finally:
        line.close()


async def ask_all(port_of, bodies, lines=64, **options):
    """All of them, `lines` at a time over as many kept connections; replies in order. port_of: a port,
    or a function of the index."""
    replies = [None] * len(bodies)
    numbers = iter(range(len(bodies)))
    pick = port_of if callable(port_of) else lambda index: port_of

    async def work():
        open_lines = {}
        for index in numbers:
            port = pick(index)
            line = open_lines.setdefault(port, Line(port))
            body = bodies[index]
            replies[index] = await line.ask(options.get("path", CHAT), body, timeout=options.get("timeout", 60),
                                            headers=options.get("headers", ()))
        for line in open_lines.values():
            line.close()
    await asyncio.gather(*(work() for _ in range(lines)))
    return replies


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
