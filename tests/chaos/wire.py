"""A small HTTP/1.1 client on asyncio: whole answers as bytes, chunked or counted, trailers included.

It says exactly how a request was lost, which general clients hide: refused, closed before a byte came on
a connection that was used before (the request may then be sent again), or cut inside the answer."""

import asyncio
import json

STALL_S = 150  # longer than any silence that the cluster itself would bear


class Lost(Exception):
    """No whole answer. `stage`: connect, stale (an idle connection that was closed), head, body, stall."""

    def __init__(self, stage, text, got=b""):
        super().__init__(f"{stage}: {text}")
        self.stage = stage
        self.got = got


class Answer:
    def __init__(self, status, headers):
        self.status = status
        self.headers = headers
        self.body = b""

    def json(self):
        return json.loads(self.body)


class Connection:
    """One client's connection to one server; opened when it is needed, kept as long as it lasts."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None
        self.used = 0
        self.used_at = 0.0  # loop time

    def close(self):
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None
        self.used = 0

    async def open(self):
        try:
            self.reader, self.writer = await asyncio.wait_for(
                asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20), STALL_S)
        except (OSError, asyncio.TimeoutError) as failure:
            raise Lost("connect", repr(failure)) from None
        self.used = 0

    async def ask(self, method, path, body=None, headers=()):
        """The whole answer; raises Lost."""
        if self.writer and self.reader.at_eof():  # closed while it was idle
            self.close()
        if not self.writer:
            await self.open()
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: chaos", f"Content-Length: {len(data)}",
                 "Content-Type: application/json", *headers]
        was_used, self.used = self.used > 0, self.used + 1
        self.used_at = asyncio.get_running_loop().time()
        answer = None
        try:
            self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            answer = await self.read_head()
            await self.read_body(answer)
        except asyncio.TimeoutError:
            self.close()
            raise Lost("stall", f"silent for {STALL_S} s", answer.body if answer else b"") from None
        except (OSError, asyncio.IncompleteReadError, ValueError) as failure:
            self.close()
            partial = getattr(failure, "partial", b"")
            stage = "body" if answer else "stale" if was_used and not partial else "head"
            raise Lost(stage, repr(failure)[:200], answer.body if answer else partial) from None
        except asyncio.CancelledError:
            self.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def read_head(self):
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), STALL_S)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        version, status, *_ = first.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not an answer: {first!r}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return Answer(int(status), headers)

    async def read_body(self, answer):
        if "chunked" not in answer.headers.get("transfer-encoding", ""):
            length = int(answer.headers["content-length"])
            answer.body = await asyncio.wait_for(self.reader.readexactly(length), STALL_S)
            return
        while True:
            line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), STALL_S)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            part = await asyncio.wait_for(self.reader.readexactly(size + 2), STALL_S)
            answer.body += part[:-2]
        while True:  # trailers
            line = (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), STALL_S)).strip()
            if not line:
                return
            name, _, value = line.decode("latin-1").partition(":")
            answer.headers[name.strip().lower()] = value.strip()


async def get_json(port, path):
    connection = Connection(port)
    try:
        return (await connection.ask("GET", path)).json()
    finally:
        connection.close()


async def get_metrics(port):
    """{name with labels: value}"""
    connection = Connection(port)
    try:
        text = (await connection.ask("GET", "/metrics")).body.decode()
    finally:
        connection.close()
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}
