"""A fleet of agents in one event loop, good for thousands of streams: deterministic engines that number
their tokens, speak lm-agent's side of the hop (marks, resume, dispatch counters, load reports, prefixes,
sessions), and fail on command at any byte.

Token k of a request depends on the request and k only, as of a real engine with a seed. An agent that
is asked to resume checks what it is told against what the fleet has sent for that request; whatever
doesn't fit stands in `fleet.errors` at the end.

What a request wants is in its body, beside what the proxy reads:

    "mock": {"tag": "t17",          names it; the answer depends on it
             "tokens": 8,           of the answer
             "gap_s": 0,            between two events
             "wait_s": 0,           before the head
             "group": false,        events of several tokens, text held back
             "resumable": true,
             "own": false,          tokens carry the agent's name, too
             "chunks": 0,           bytes of an HTTP chunk; 0: one event is one chunk
             "faults": [...]}       what happens to attempt 1, 2, ... (see Wire and MockAgent.refuse)
"""

import asyncio
import collections
import contextlib
import errno
import json
import random
import re
import socket
import struct
import threading
import time
import zlib

PROMPT = 10  # tokens of every prompt, to agents without an engine
TAG = re.compile(rb'"tag": ?"([^"]*)"')


class Fault(Exception):
    """The connection is done for."""


def token_text(tag, k, owner=""):
    """Some have characters of several bytes, so that bytes and characters differ."""
    return f"{owner}{tag}.{k} " + ("é" * (k % 3))


def token_id(tag, k):
    return zlib.crc32(f"{tag}:{k}".encode()) & 0x7FFFFFFF


class Script:
    """What the answer to one request is, whoever gives it."""

    def __init__(self, body):
        mock = body.get("mock", {})
        self.body = body
        self.tag = mock.get("tag", "t")
        self.count = mock.get("tokens", 8)
        self.gap_s = mock.get("gap_s", 0)
        self.wait_s = mock.get("wait_s", 0)
        self.group = mock.get("group", False)
        self.resumable = mock.get("resumable", True)
        self.own = mock.get("own", False)
        self.chunks = mock.get("chunks", 0)
        self.faults = mock.get("faults", [])
        self.stream = body.get("stream", False)
        self.usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self.prompt_tokens = PROMPT  # an agent with an engine knows better

    def texts(self, owner=""):
        return [token_text(self.tag, k, owner if self.own else "") for k in range(self.count)]


class Framing:
    """The events of a chat completion's stream."""

    def __init__(self, answer_id, created):
        self.answer_id, self.created = answer_id, created

    def event(self, choices, usage=None):
        value = {"id": self.answer_id, "object": "chat.completion.chunk", "created": self.created,
                 "model": "mock", "choices": choices}
        if usage:
            value["usage"] = usage
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"

    def role(self):
        return self.event([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])

    def text(self, text):
        return self.event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])

    def finish(self, script):
        return self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])

    def usage(self, script):
        return self.event([], {"prompt_tokens": script.prompt_tokens, "completion_tokens": script.count,
                               "total_tokens": script.prompt_tokens + script.count})

    def done(self):
        return b"data: [DONE]\n\n"


class Lines(Framing):
    """The same for /v1/chat/interactive: lines of JSON, the finish reason in the last one."""

    history = 0

    def line(self, text, tokens, prompt, reason):
        return json.dumps({"text": text, "tokens": tokens, "input_tokens": prompt,
                           "history_tokens": self.history, "finish_reason": reason},
                          ensure_ascii=False).encode() + b"\n"

    def role(self):
        return None

    def text(self, text):
        return self.line(text, 0, 0, None)

    def finish(self, script):
        return self.line("", script.count, script.prompt_tokens, "stop")

    def usage(self, script):
        return None

    def done(self):
        return None


def undisturbed(body, answer_id, created, owner=""):
    """The bytes that a client of this chat stream gets when nothing goes wrong (not with `group`)."""
    script, framing = Script(body), Framing(answer_id, created)
    parts = [framing.role(), *(framing.text(text) for text in script.texts(owner)),
             framing.finish(script)]
    if script.usage:
        parts.append(framing.usage(script))
    return b"".join(parts) + framing.done()


class Generation:
    """Bytes of one answer from where `record` stands, marks included; one item for each event."""

    def __init__(self, script, framing, seed, now, hop, record=None, owner=""):
        self.script, self.framing, self.seed, self.now, self.hop = script, framing, seed, now, hop
        self.record = record or {"ids": [], "bytes": 0, "phase": 0}
        self.owner = owner
        self.random = random.Random(zlib.crc32(f"{owner}{script.tag}{len(self.record['ids'])}".encode()))

    def marked(self, ids, sent, phase, event):
        if not self.hop or not self.script.resumable:
            return event or b""
        mark = f": lm t={','.join(map(str, ids))} b={sent} p={phase}\n".encode()
        return mark + (event or b"")

    def token_events(self):
        """(ids, bytes of text sent with it, text or None)"""
        texts = self.script.texts(self.owner)
        data = "".join(texts).encode()
        known, sent, lead = len(self.record["ids"]), self.record["bytes"], 1 if not self.script.group else 3
        ends = [0]
        for text in texts:
            ends.append(ends[-1] + len(text.encode()))
        while known < len(texts) or sent < len(data):
            more = min(len(texts) - known, self.random.randint(1, lead) if known < len(texts) else 0)
            ids = [token_id(self.script.tag, k) for k in range(known, known + more)]
            known += more
            until = ends[known]
            if self.script.group and known < len(texts):
                until = self.random.randint(sent, until)
                while until < ends[known] and data[until] & 0xC0 == 0x80:  # inside a character
                    until += 1
            text = data[sent:until].decode() if until > sent else None
            sent = max(sent, until)
            yield ids, sent, text

    def items(self):
        phase, framing = self.record["phase"], self.framing
        resumable = self.hop and self.script.resumable
        total = sum(len(text.encode()) for text in self.script.texts(self.owner))
        lead = b""
        if resumable:
            lead = (f": lm seed={self.seed} now={self.now} id={framing.answer_id} "
                    f"created={framing.created}\n").encode()
        if phase < 1 and framing.role():
            yield lead + self.marked([], 0, 1, framing.role())
            lead = b""
        if phase < 2:
            for ids, sent, text in self.token_events():
                event = framing.text(text) if text else None
                at = max(phase, 1) if event or framing.role() else phase
                lead += self.marked(ids, sent, at, event)
                phase = max(phase, at)
                if event:
                    yield lead
                    lead = b""
            usage = f": lm u={self.script.prompt_tokens},{self.script.count},0\n".encode() if self.hop else b""
            last = 4 if isinstance(framing, Lines) else 2
            yield lead + usage + self.marked([], total, last, framing.finish(self.script))
            lead = b""
        if phase < 3 and self.script.usage and framing.done():
            yield lead + self.marked([], total, 3, framing.usage(self.script))
            lead = b""
        if framing.done():
            yield lead + self.marked([], total, 4, framing.done())


class Wire:
    """What goes out on a connection, until the fault of this attempt: {"cut": N} resets it behind
    byte N, {"close": N} ends it there, {"freeze": N} says nothing more. `pause_s`: after each write."""

    def __init__(self, transport, fault):
        self.transport, self.fault, self.sent = transport, fault, 0
        self.kind = next((kind for kind in ("cut", "close", "freeze") if kind in fault), None)
        self.limit = fault[self.kind] if self.kind else None

    async def write(self, data):
        if self.limit is not None and self.sent + len(data) >= self.limit:
            data = data[:self.limit - self.sent]
            self.send(data)
            if self.kind == "freeze":
                await asyncio.Event().wait()  # until the client leaves
            await asyncio.sleep(0.003)  # a reset overtakes what isn't read yet
            if self.kind == "cut":
                reset(self.transport)
            else:
                self.transport.close()
            raise Fault
        self.send(data)
        if "pause_s" in self.fault:
            await asyncio.sleep(self.fault["pause_s"])

    def send(self, data):
        self.sent += len(data)
        if data:
            self.transport.write(data)


def reset(transport):
    """Close with RST, as a process that died."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def head_of(status, headers):
    lines = [f"HTTP/1.1 {status} Mock", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def chunk_of(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Seen:
    """Of one proxy's dispatches: what the report says of them."""

    def __init__(self):
        self.high, self.gaps, self.active = 0, set(), 0

    def accept(self, number):
        if number > self.high:
            self.gaps.update(range(self.high + 1, number))
            self.high = number
        self.gaps.discard(number)

    def json(self):
        return {"high": self.high, "gaps": sorted(self.gaps)[-32:], "active": self.active}


class Engine:
    """Time: prompts one after the other at a rate, less what is cached of them; answers side by side."""

    def __init__(self, prefill_per_s=4000, kv_tokens=20000):
        self.prefill_per_s, self.kv_tokens = prefill_per_s, kv_tokens
        self.cache = collections.OrderedDict()  # hash -> tokens that it covers; the last used last
        self.held = 0
        self.log = []                           # of (version, line)
        self.version = 1
        self.waiting_tokens = 0
        self.turn = asyncio.Lock()
        self.prompt_tokens = self.cached_tokens = 0
        self.busy_s = 0

    async def prefill(self, chain, tokens):
        """Returns the tokens that were cached."""
        expected = tokens - self.count_cached(chain)
        self.waiting_tokens += expected
        try:
            async with self.turn:
                cached = self.count_cached(chain)
                seconds = max(0, tokens - cached) / self.prefill_per_s
                self.busy_s += seconds
                await asyncio.sleep(seconds)
                self.learn(chain)
        finally:
            self.waiting_tokens -= expected
        self.prompt_tokens += tokens
        self.cached_tokens += cached
        return cached

    def count_cached(self, chain):
        return max((self.cache[name] for name, _ in chain if name in self.cache), default=0)

    def note(self, line):
        self.version += 1
        self.log.append((self.version, line))
        del self.log[:-20000]

    def learn(self, chain):
        covered = 0
        for name, tokens in chain:
            if name in self.cache:
                self.cache.move_to_end(name)
            else:
                self.cache[name] = tokens
                self.held += tokens - covered
                self.note(f"+{name} {tokens}")
            covered = tokens
        while self.held > self.kv_tokens and len(self.cache) > 1:
            name, tokens = self.cache.popitem(last=False)
            self.held -= min(256, tokens)
            self.note(f"-{name}")

    def print_prefixes(self, since):
        lines = [line for version, line in self.log if version > since]
        if since and (not self.log or self.log[0][0] <= since + 1):
            return f"lm-prefixes {since} {self.version} delta\n" + "".join(f"{line}\n" for line in lines)
        whole = "".join(f"+{name} {tokens}\n" for name, tokens in self.cache.items())
        return f"lm-prefixes 0 {self.version} full\n" + whole


def chain_of(headers):
    """x-lm-prefix as [(hash, tokens)] and the tokens of the whole prompt; four bytes are a token."""
    text = headers.get("x-lm-prefix")
    if not text:
        return [], 16
    marks, total = text.rsplit(";", 1)
    chain = [(name, int(size) // 4) for name, size in (part.split("@") for part in marks.split(","))]
    return chain, int(total) // 4


class Connection(asyncio.Protocol):
    """One connection of a proxy to an agent; one request at a time."""

    def __init__(self, agent):
        self.agent, self.task, self.pending, self.timer = agent, None, bytearray(), None
        self.wanted = 0  # bytes of the request that is being read, as far as known

    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.agent.accepted += 1
        self.agent.connections.add(self)
        if self.agent.dead:
            reset(transport)

    def connection_lost(self, exc):
        self.agent.connections.discard(self)
        if self.timer:
            self.timer.cancel()
        if self.task and not self.task.done():
            self.task.cancel()

    def data_received(self, data):
        self.pending += data
        if not self.agent.frozen and len(self.pending) >= self.wanted:
            self.look()

    def look(self):
        end = self.pending.find(b"\r\n\r\n")
        if self.task or end < 0:
            return
        lines = self.pending[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        self.wanted = end + 4 + int(headers.get("content-length", 0))
        if len(self.pending) < self.wanted:
            return
        body = bytes(memoryview(self.pending)[end + 4:self.wanted])
        self.pending = self.pending[self.wanted:]
        self.wanted = 0
        if self.timer:
            self.timer.cancel()
        method, target, _ = lines[0].split(" ")
        self.task = asyncio.get_running_loop().create_task(
            self.serve(method, target, headers, body))

    async def serve(self, method, target, headers, body):
        try:
            await self.agent.answer(self, method, target, headers, body)
        except Fault:
            return
        except asyncio.CancelledError:
            self.agent.note_left(TAG.search(body))
            raise
        except Exception as surprise:  # a test must not wait for an answer that never comes
            self.agent.fleet.errors.append(f"{self.agent.name}: {surprise!r}")
            reset(self.transport)
            return
        self.task = None
        if self.agent.idle_close:
            self.timer = asyncio.get_running_loop().call_later(
                random.uniform(*self.agent.idle_close), self.transport.close)
        self.look()

    def send_json(self, status, value, headers=()):
        data = json.dumps(value).encode()
        self.transport.write(head_of(status, {"content-type": "application/json",
                                              "content-length": len(data), **dict(headers)}) + data)


class MockAgent:
    """One agent; everything may be changed at any time."""

    def __init__(self, fleet, name, proxies=(), redis_port=None, models=("mock",), capacity=64,
                 queue_max=1024, beat_s=0.25, skew_ms=0, port=0, engine=None, foreign=False):
        self.fleet, self.name, self.proxies, self.redis_port = fleet, name, list(proxies), redis_port
        self.models, self.capacity, self.queue_max, self.beat_s = list(models), capacity, queue_max, beat_s
        self.engine, self.foreign, self.port = engine, foreign, port
        self.start_ms = time.time_ns() // 1_000_000 + skew_ms
        self.incarnation = f"{random.getrandbits(64):016x}"
        self.sequence = 0
        self.idle_close = None      # (from, to): seconds after which an idle connection is closed
        self.refusal = None         # (status, headers): of every request
        self.frozen = self.dead = self.draining = False
        self.connections = set()
        self.accepted = 0
        self.running = self.waiting = self.served = self.most = 0
        self.slots = asyncio.Semaphore(capacity)
        self.seen = collections.defaultdict(Seen)
        self.live = {}              # request id -> attempts that run
        self.sessions = {}          # key -> [turns, tokens]
        self.beat_statuses = collections.Counter()
        self.tasks = []

    # ---- life ----

    async def listen(self):
        """At the port that it had, or, where somebody has taken that meanwhile, at another one."""
        loop = asyncio.get_running_loop()
        for port in (self.port, 0):
            try:
                return await loop.create_server(lambda: Connection(self), "127.0.0.1", port, backlog=512)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == 0:
                    raise

    async def start(self):
        loop = asyncio.get_running_loop()
        self.server = await self.listen()
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if not self.foreign:
            self.tasks = [loop.create_task(self.beat_at(url)) for url in self.proxies]
        if self.redis_port:
            self.tasks.append(loop.create_task(self.beat_at_redis()))
        return self

    def kill(self):
        """As kill -9: port closed, connections reset, no more beats."""
        self.dead = True
        self.server.close()
        for task in self.tasks:
            task.cancel()
        for connection in list(self.connections):
            reset(connection.transport)

    def freeze(self, frozen=True):
        """As SIGSTOP: connections are taken (by the kernel), nothing is read or said, no beat."""
        self.frozen = frozen
        for connection in list(self.connections):
            if not frozen:
                connection.look()

    def drop_idle(self):
        for connection in list(self.connections):
            if not connection.task:
                connection.transport.close()

    def note_left(self, tag):
        if tag:
            self.fleet.left[tag.group(1).decode()] = time.monotonic()

    # ---- what it says about itself ----

    def load(self):
        self.sequence += 1
        value = {"running": self.running, "waiting": self.waiting, "sequence": self.sequence,
                 "proxies": {proxy: seen.json() for proxy, seen in self.seen.items()}}
        if self.engine:
            value.update(prefill_tokens_waiting=self.engine.waiting_tokens,
                         prefill_tokens_per_s=self.engine.prefill_per_s, inter_token_s=0.005,
                         inter_token_slope_s=0.0001, prefix_version=self.engine.version,
                         kv_used_share=min(1, self.running / self.capacity / 2))
        return value

    def facts(self):
        return {"version": 1, "id": self.name, "incarnation": self.incarnation,
                "start_ms": self.start_ms, "url": self.url, "models": self.models,
                "context_len": 100000, "capacity": self.capacity, "queue_max": self.queue_max,
                "draining": self.draining}

    async def beat_at(self, proxy_url):
        port = int(proxy_url.rsplit(":", 1)[1])
        streams = None
        while not self.dead:  # a cancellation may be lost in wait_for
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                streams = streams or await asyncio.open_connection("127.0.0.1", port)
                if not self.frozen:
                    self.beat_statuses[await asyncio.wait_for(self.beat(*streams), 3)] += 1
                await asyncio.sleep(self.beat_s)
                continue
            if streams:
                streams[1].close()
            streams = None
            await asyncio.sleep(self.beat_s)

    async def beat(self, reader, writer):
        body = json.dumps({"url": self.url, "status": {"models": self.models},
                           "lm": {**self.facts(), "load": self.load()}}).encode()
        writer.write(b"POST /nodes/add HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                     b"content-length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))
        await reader.readexactly(length)
        return int(head.split(b" ")[1])

    async def beat_at_redis(self):
        while not self.dead:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                commands = [("SET", f"lm:agent:{self.name}", json.dumps(self.facts()), "PX", 3500),
                            ("SET", f"lm:load:{self.name}", json.dumps(self.load()), "PX", 3500),
                            ("ZADD", "lm:agents", int(time.time() * 1000) + 3500, self.name)]
                if self.sequence == 1:
                    commands.append(("PUBLISH", "lm:ev", f"up {self.name}"))
                if not self.frozen:
                    await asyncio.wait_for(self.fleet.redis(self.redis_port, commands), 2)
            await asyncio.sleep(self.beat_s)

    # ---- what it answers ----

    async def answer(self, connection, method, target, headers, body):
        if method == "GET":
            self.answer_get(connection, target)
            return
        value = json.loads(self.split_record(headers, body)[1])
        script = Script(value)
        attempt = self.fleet.note_attempt(self, script, headers, body)
        fault = script.faults[attempt - 1] if attempt <= len(script.faults) else {}
        proxy = self.note_dispatch(headers)
        if self.refuse(connection, headers, fault):
            return
        name = headers.get("x-lm-dispatch", ";;;").split(";")[2]
        if proxy:
            proxy.active += 1
        self.live[name] = self.live.get(name, 0) + 1
        if name and self.live[name] > 1:
            self.fleet.errors.append(f"{self.name}: request {name} runs twice")
        try:
            await self.run(connection, target, headers, body, script, fault)
        finally:
            self.live[name] -= 1
            if not self.live[name]:
                del self.live[name]
            if proxy:
                proxy.active -= 1

    def answer_get(self, connection, target):
        if target.startswith("/lm/prefixes") and self.engine:
            since = re.search(r"since=(\d+)", target)
            data = self.engine.print_prefixes(int(since.group(1)) if since else 0).encode()
            connection.transport.write(head_of(200, {"content-type": "text/plain",
                                                     "content-length": len(data)}) + data)
        elif target == "/v1/models":
            connection.send_json(200, {"object": "list", "data": [{"id": m} for m in self.models]})
        elif target.startswith("/v1/sessions/"):
            connection.send_json(404, {"error": {"message": "no such session", "code": "session_unknown"}})
        else:
            connection.send_json(200, {"status": "ok"})

    def note_dispatch(self, headers):
        text = headers.get("x-lm-dispatch")
        if not text:
            return None
        proxy, number, _, _ = text.split(";")
        self.seen[proxy].accept(int(number))
        return self.seen[proxy]

    def refuse(self, connection, headers, fault):
        """{"status": S, "headers": {}}, {"raw": NAME in fleet.raws}: instead of an answer."""
        status, more = self.refusal or (fault.get("status"), fault.get("headers", {}))
        name = headers.get("x-lm-dispatch", ";;;").split(";")[2]
        if not status and name and name in self.live:
            self.fleet.duplicates += 1
            status, more = 409, {"x-lm-not-started": "1"}
        if not status and self.running >= self.capacity and self.waiting >= self.queue_max:
            status, more = 429, {"x-lm-not-started": "1", "retry-after": "1"}
        if status:
            self.fleet.refused += 1
            connection.send_json(status, {"error": {"message": "refused", "code": "refused"}}, more)
            return True
        if "raw" in fault:
            connection.transport.write(self.fleet.raws[fault["raw"]])
            connection.transport.close()
            raise Fault
        return False

    def split_record(self, headers, body):
        length = int(headers.get("x-lm-resume", 0))
        return (json.loads(body[:length]) if length else None), body[length:]

    async def run(self, connection, target, headers, body, script, fault):
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.engine:
                chain, script.prompt_tokens = chain_of(headers)
                await self.engine.prefill(chain, script.prompt_tokens)
            if script.wait_s:
                await asyncio.sleep(script.wait_s)
            if script.stream:
                record = self.split_record(headers, body)[0]
                framing = Lines if target == "/v1/chat/interactive" else Framing
                await self.stream(connection, headers, script, fault, record, framing)
            elif target == "/v1/chat/interactive":
                await self.run_turn(connection, headers, script, fault)
            else:
                await self.whole(connection, headers, script, fault)
            self.served += 1
        finally:
            self.running -= 1
            self.slots.release()

    async def whole(self, connection, headers, script, fault):
        text = "".join(script.texts(self.name))
        data = json.dumps({"object": "chat.completion", "agent": self.name, "tag": script.tag,
                           "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
                           "usage": {"prompt_tokens": script.prompt_tokens, "completion_tokens": script.count}},
                          ensure_ascii=False).encode()
        length = len(data) + fault.get("length", 0)  # more or less than there is
        wire = Wire(connection.transport, fault)
        await wire.write(head_of(200, {"content-type": "application/json", "content-length": length,
                                       "x-lm-usage": f"{script.prompt_tokens},{script.count},0"}))
        await wire.write(data)
        if fault.get("length", 0) > 0:
            connection.transport.close()
            raise Fault

    async def stream(self, connection, headers, script, fault, record, framing):
        hop = "x-lm-hop" in headers
        answer_id, created = f"chatcmpl-{script.tag}-{self.name}", 1767225600 + len(script.tag)
        seed, now = zlib.crc32(script.tag.encode()) << 20, 1767225600
        if record:
            self.fleet.check_record(self, script, record)
            answer_id, created = record["id"], record["created"]
            seed, now = int(record["seed"]), record["now"]
        generation = Generation(script, framing(answer_id, created), seed, now, hop, record, self.name)
        await self.send_stream(connection, script, fault, generation,
                               {"content-type": "text/event-stream"}, hop)

    async def send_stream(self, connection, script, fault, generation, headers, hop):
        if hop and script.resumable:
            headers["x-lm-resumable"] = "1"
        wire = Wire(connection.transport, fault)
        await wire.write(head_of(200, {**headers, "transfer-encoding": "chunked"}))
        for item in generation.items():
            size = script.chunks or len(item)
            for at in range(0, len(item), size):
                await wire.write(chunk_of(item[at:at + size]))
            await asyncio.sleep(script.gap_s)
        await wire.write(b"0\r\n\r\n")

    async def run_turn(self, connection, headers, script, fault):
        """A turn of a conversation whose history is here and nowhere else."""
        key, _, rest = headers.get("x-lm-session", "").partition(";")
        known = self.sessions.get(key)
        if known is None and "expect=existing" in rest:
            connection.send_json(404, {"error": {"message": "unknown", "code": "session_unknown"}},
                                 {"x-lm-not-started": "1"})
            return
        if known is None or "expect=new" in rest:
            known = self.sessions[key] = [0, 0]
        self.fleet.turns[script.tag].append(self.name)
        answer = {"text": "".join(script.texts()), "tokens": script.count, "input_tokens": PROMPT,
                  "history_tokens": known[1], "finish_reason": "stop"}
        more = {"x-lm-usage": f"{script.prompt_tokens},{script.count},0"}
        if known[0] == 0:
            more["x-lm-session-new"] = "1"
        known[0] += 1
        known[1] += PROMPT + script.count
        if script.gap_s:
            await asyncio.sleep(script.gap_s * script.count)
        connection.send_json(200, answer, more)


class MockFleet:
    """with MockFleet() as fleet: agents and clients live in its loop, a thread of its own."""

    def __init__(self):
        self.agents = {}
        self.errors = []
        self.attempts = collections.Counter()           # of a tag
        self.dispatches = collections.defaultdict(set)  # of a tag: request ids that proxies gave it
        self.left = {}                                  # tag -> when its client was seen to leave
        self.turns = collections.defaultdict(list)      # tag -> who served its turns
        self.resumed = collections.Counter()            # of a tag
        self.duplicates = self.refused = 0
        self.bodies = {}                                # tag -> body as it came, if `keeps_bodies`
        self.keeps_bodies = False
        self.raws = {}                                  # whole answers, bytes
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.run(self.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    async def close(self):
        for agent in self.agents.values():
            agent.kill()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def run(self, coroutine, timeout=120):
        """Run it in the loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def call(self, function, *arguments):
        """A plain function, in the loop's thread."""
        async def run():
            return function(*arguments)
        return self.run(run())

    def agent(self, name, proxies=(), **options):
        return self.run(self.start_agent(name, proxies, **options))

    async def start_agent(self, name, proxies=(), engine=None, **options):
        urls = [p if isinstance(p, str) else p.url for p in proxies]
        made = Engine(**engine) if engine is not None else None
        self.agents[name] = agent = MockAgent(self, name, urls, engine=made, **options)
        return await agent.start()

    def note_attempt(self, agent, script, headers, body):
        self.attempts[script.tag] += 1
        self.dispatches[script.tag].add(headers.get("x-lm-dispatch", ";;;").split(";")[2])
        if self.keeps_bodies:
            self.bodies[script.tag] = body
        return self.attempts[script.tag]

    def check_record(self, agent, script, record):
        """What another agent is told must be what this request's engine has said so far."""
        self.resumed[script.tag] += 1
        count = len(record["ids"])
        expected = [token_id(script.tag, k) for k in range(count)]
        most = sum(len(token_text(script.tag, k).encode()) for k in range(count))
        problems = []
        if count > script.count or record["ids"] != expected:
            problems.append(f"ids {record['ids']}")
        if not 0 <= record["bytes"] <= most:
            problems.append(f"bytes {record['bytes']} of {most}")
        if not 0 <= record["phase"] <= 3:
            problems.append(f"phase {record['phase']}")
        if record["seed"] != str(zlib.crc32(script.tag.encode()) << 20):
            problems.append(f"seed {record['seed']}")
        if not str(record.get("id", "")).startswith(f"chatcmpl-{script.tag}-"):
            problems.append(f"id {record.get('id')}")
        if problems:
            self.errors.append(f"{agent.name}: {script.tag} resumed with {', '.join(problems)}")

    async def redis(self, port, commands):
        """Send them in one go and read as many answers; what they are doesn't matter."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for words in commands:
                writer.write(b"*%d\r\n" % len(words))
                for word in map(lambda w: str(w).encode(), words):
                    writer.write(b"$%d\r\n%s\r\n" % (len(word), word))
            for _ in commands:
                await reader.readline()
        finally:
            writer.close()
