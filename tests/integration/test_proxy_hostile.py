"""Peers that mean harm, or are only broken: framing that two readers take for two things, senders that never
finish, bombs, agents that answer nonsense. The proxy says no and goes on, and nobody reads what was
meant for somebody else."""
# ctest: PROCESSORS 1

import asyncio
import contextlib
import json
import random
import re
import socket
import time

import httpx
import pytest
from fleet_fixtures import (CHAT, Line, ask, ask_all, assert_books_balance, chat_body,  # noqa: F401
                            fleet, resident_kib, scaled, serve_checked, serve_fast, start_agents)
from proxy_fixtures import raw, raw_request, wait_until

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
BODY = json.dumps(chat_body("smuggled", stream=False)).encode()
HIDDEN = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY  # what must not become a request
LEN = len(BODY)


def chunked(chunks, more=b""):
    return HEAD + b"Transfer-Encoding: chunked\r\n" + more + b"\r\n" + chunks


CHUNKED_BODY = b"%x\r\n%s\r\n0\r\n\r\n" % (LEN, BODY)

# What every reader must read alike, or not at all: 400 and a closed connection.
SMUGGLING = {
    "CL.TE": HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + HIDDEN,
    "TE.CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + CHUNKED_BODY + HIDDEN,
    "TE twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED_BODY,
    "TE not chunked": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + CHUNKED_BODY,
    "TE chunked, gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKED_BODY,
    "TE obscured": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED_BODY,
    "TE with a tab": HEAD + b"Transfer-Encoding\t: chunked\r\n\r\n" + CHUNKED_BODY,
    "TE with a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED_BODY,
    "TE with a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED_BODY,
    "two CL": HEAD + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (LEN, LEN + 5) + BODY + b"GET /",
    "two equal CL": HEAD + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (LEN, LEN) + BODY,
    "CL list": HEAD + b"Content-Length: %d, %d\r\n\r\n" % (LEN, LEN) + BODY,
    "CL signed": HEAD + b"Content-Length: +%d\r\n\r\n" % LEN + BODY,
    "CL negative": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "CL hex": HEAD + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "CL with words": HEAD + b"Content-Length: %d bytes\r\n\r\n" % LEN + BODY,
    "CL empty": HEAD + b"Content-Length: \r\n\r\n" + BODY,
    "CL beyond 64 bits": HEAD + b"Content-Length: 18446744073709551617\r\n\r\n" + BODY,
    "obs-fold": HEAD + b"X-A: b\r\n Content-Length: 3\r\n\r\nabc",
    "obs-fold with a tab": HEAD + b"X-A: b\r\n\tTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_BODY,
    "bare LF in the head": HEAD + b"X-A: b\nContent-Length: %d\r\n\r\n" % LEN + BODY,
    "bare LF before the body": HEAD + b"Content-Length: %d\r\n\n" % LEN + BODY,
    "bare LF after the request line": b"POST " + CHAT.encode() + b" HTTP/1.1\nHost: x\r\n\r\n",
    "bare CR in the head": HEAD + b"X-A: b\rContent-Length: 3\r\n\r\nabc",
    "bare CR in the request line": b"POST /a\rb HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in a header": HEAD + b"X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header's name": HEAD + b"X-\0A: b\r\nContent-Length: 0\r\n\r\n",
    "NUL in the target": b"POST /v1\0/chat HTTP/1.1\r\nHost: x\r\n\r\n",
    "no colon": HEAD + b"Content-Length\r\n\r\n",
    "empty name": HEAD + b": value\r\n\r\n",
    "space in a name": HEAD + b"Content Length: 3\r\n\r\nabc",
    "no host": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: y\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/1.1 in lower case": b"GET /v1/models http/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab for a space": b"GET\t/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "chunk size signed": chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x": chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk size with a space": chunked(b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": chunked(b"\r\nhello\r\n0\r\n\r\n"),
    "chunk with bare LF": chunked(b"5\nhello\n0\n\n"),
    "chunk with LF behind its data": chunked(b"5\r\nhello\n0\r\n\r\n"),
    "chunk longer than it says": chunked(b"5\r\nhelloworld\r\n0\r\n\r\n"),
    "chunk extension without an end": chunked(b"5;" + b"x" * 100000 + b"\r\nhello\r\n0\r\n\r\n"),
    "chunk extension with bare LF": chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "trailer with bare LF": chunked(b"0\r\nX-A: b\nX-C: d\r\n\r\n"),
}


@pytest.fixture
def cluster(serve_checked, fleet):
    proxy = serve_checked()
    start_agents(fleet, [proxy], 2)
    return proxy


def assert_alive(proxy, fleet):
    reply = fleet.run(ask(proxy.port, chat_body(f"alive{random.random()}")))
    assert reply.is_done(), (reply.status, reply.failure)
    assert_books_balance(proxy)


def split_answers(data):
    return re.findall(rb"(?:^|\r\n|\})HTTP/1\.1 (\d+) ", data)


def test_framing_attacks(cluster, fleet):
    for name, attack in SMUGGLING.items():
        answer = raw(cluster, attack, timeout=5)
        statuses = split_answers(answer)
        assert len(statuses) == 1 and statuses[0] in (b"400", b"413", b"431", b"501", b"505"), (name, answer)
        assert b"connection: close" in answer.lower(), name
        assert fleet.attempts["smuggled"] == 0, name  # nobody got anything of it
    assert_alive(cluster, fleet)


def test_framing_attacks_byte_by_byte(cluster, fleet):
    """The same in the smallest pieces: a parser that sees a line in two parts must not be fooled either."""
    for name, attack in SMUGGLING.items():
        with socket.create_connection(("127.0.0.1", cluster.port), timeout=5) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = b""
            with contextlib.suppress(OSError):
                for at in range(len(attack)):
                    connection.sendall(attack[at:at + 1])
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    answer += part
        statuses = split_answers(answer)
        assert statuses in ([], [b"400"], [b"413"], [b"431"], [b"501"], [b"505"]), (name, answer)
    assert fleet.attempts["smuggled"] == 0
    assert_alive(cluster, fleet)


def test_what_is_odd_but_sound(cluster, fleet):
    """A chunk extension, trailers, absolute form, empty lines before a request: read as they are meant."""
    chunk = b"%x;name=value\r\n%s\r\n0\r\nX-Trailer: dropped\r\n\r\n" % (LEN, BODY)
    close = b"Connection: close\r\n"
    absolute = f"POST http://elsewhere.example{CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
    for request in (chunked(chunk, close), b"\r\n" + chunked(chunk, close),
                    absolute + close + b"Content-Length: %d\r\n\r\n" % LEN + BODY):
        answer = raw(cluster, request)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1, answer
    assert fleet.attempts["smuggled"] == 3


def test_absolute_form_leads_nowhere_else(cluster, fleet):
    """It is a path here, whatever host it names; and no way to the proxy's own pages past their guard."""
    for target in ("http://169.254.169.254/latest/meta-data", "ftp://x/v1/models", "//x/v1/models", "*",
                   "http://", "x:80", "/../v1/models", "/v1/%2e%2e/nodes/status/..", "/v1/models\\..\\x"):
        answer = raw(cluster, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer[9:12] in (b"400", b"404", b"405"), (target, answer)
    assert_alive(cluster, fleet)


def test_connect_and_upgrade_are_refused(cluster, fleet):
    answer = raw(cluster, b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n" + HIDDEN)
    assert answer[9:12] in (b"400", b"405", b"501") and answer.count(b"HTTP/1.1") == 1
    answer = raw(cluster, HEAD + b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
                 b"Content-Length: %d\r\n\r\n" % LEN + BODY)
    assert b" 101 " not in answer and answer.startswith(b"HTTP/1.1 200")
    answer = raw(cluster, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer[9:12] in (b"400", b"505")
    assert fleet.attempts["smuggled"] == 1
    assert_alive(cluster, fleet)


def test_hop_headers_of_clients_go_no_further(serve_checked, fleet):
    """What agents believe comes from the proxy, never from who talks to it."""
    proxy = serve_checked("--join-key", "secret")
    headers = {"x-lm-dispatch": "00000000000000aa;9;00000000000000bb;1", "x-lm-tenant": "somebody",
               "x-lm-resume": "10", "x-lm-join-key": "guess", "x-lm-prefix": "00@1;2",
               "x-lm-session": "0123456789abcdef; expect=new; turn=1", "x-lm-hop": "1",
               "Connection": "close, x-custom", "x-custom": "1"}
    seen = []

    async def listen():
        def answer(self, connection, method, target, headers, body):
            seen.append(headers)
            connection.send_json(200, {"data": [{"id": "mock"}]})
            return asyncio.sleep(0)
        agent = await fleet.start_agent("node", foreign=True)
        agent.answer = answer.__get__(agent)
        return agent
    node = fleet.run(listen())
    answer = httpx.post(proxy.url + "/nodes/add", json={"url": node.url, "status": {"models": ["mock"]}},
                        headers={"x-lm-join-key": "secret"})
    assert answer.status_code == 200
    wait_until(lambda: proxy.metrics()["agents_up"] == 1, 10, "the node")
    reply = fleet.run(ask(proxy.port, chat_body("hop", stream=False), headers=headers))
    assert reply.status == 200
    (got,) = [h for h in seen if "content-type" in h]
    assert not [name for name in got if name.startswith("x-lm-") or name == "x-custom"], got


# ---- slow and silent ----


def test_slow_heads_and_bodies(serve_checked, fleet):
    """Slowloris: each byte in time, the whole never. Head 10 s and body 60 s are the server's limits (its
    unit tests have shorter ones); here: hundreds of such connections keep nobody else out."""
    proxy = serve_checked()
    start_agents(fleet, [proxy], 2)

    async def slow(data, gap_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        async def write():
            for at in range(len(data)):
                writer.write(data[at:at + 1])
                await asyncio.sleep(gap_s)
        writing = asyncio.create_task(write())
        try:
            return await reader.read(65536)
        except OSError:
            return b""
        finally:
            writing.cancel()
            writer.close()

    async def all_at_once():
        began = time.monotonic()
        head = b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X-Slow: " + b"a" * 60
        body = HEAD + b"Content-Length: 1000\r\n\r\n" + b"{"
        attacks = [asyncio.create_task(slow(head, 0.2)) for _ in range(150)]
        attacks += [asyncio.create_task(slow(body, 0.01)) for _ in range(150)]
        replies = []
        while time.monotonic() < began + (3 if len(replies) > 30 else 9):  # the attacks last ten seconds
            replies.append(await ask(proxy.port, chat_body(f"sl{len(replies)}", tokens=2)))
        done = await asyncio.wait(attacks[:150], timeout=15)
        answers = [task.result() for task in done[0]]
        for task in attacks:
            task.cancel()
        return replies, answers, time.monotonic() - began
    replies, answers, took = fleet.run(all_at_once())
    assert all(reply.is_done() for reply in replies) and len(replies) > 30
    assert len(answers) == 150 and took < 14  # cut, however busy they look
    assert all(answer == b"" or answer.startswith(b"HTTP/1.1 408") for answer in answers), answers[:3]
    assert_alive(proxy, fleet)


def test_half_closed_clients(cluster, fleet):
    """A client that shuts its sending side has left, as far as HTTP/1.1 servers can know."""
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=10) as connection:
        body = json.dumps(chat_body("half", tokens=5, gap_s=0.05)).encode()
        connection.sendall(raw_request(body))
        connection.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                data += part
    assert data == b"" or data.startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=10) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        data = connection.recv(65536)
        assert data == b"" or data.startswith(b"HTTP/1.1 400")
    assert_alive(cluster, fleet)


# ---- bombs ----


def test_header_bombs(cluster, fleet):
    for bomb in (b"X-Bomb: " + b"a" * 40000 + b"\r\n", b"".join(b"X-%d: b\r\n" % i for i in range(200)),
                 b"a" * 40000 + b": b\r\n"):
        answer = raw(cluster, HEAD + bomb + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ") and b'"error"' in answer, answer[:200]
    answer = raw(cluster, b"GET /" + b"a" * 10000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert_alive(cluster, fleet)


def test_bodies_of_64_mib(serve_fast, fleet):
    """Accepted; one byte more isn't, said before it has come; and memory is given back."""
    proxy = serve_fast()
    start_agents(fleet, [proxy], 1)
    fleet.keeps_bodies = True
    before = resident_kib(proxy)
    frame = json.dumps(chat_body("big", text="TEXT", stream=False)).encode()
    body = frame.replace(b"TEXT", b"x" * ((64 << 20) - len(frame) + 4))
    assert len(body) == 64 << 20
    reply = fleet.run(ask(proxy.port, body))
    assert reply.status == 200 and fleet.bodies["big"] == body
    answer = raw(proxy, HEAD + b"Content-Length: %d\r\n\r\n" % ((64 << 20) + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")
    answer = raw(proxy, HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % ((64 << 20) + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")
    endless = b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(chunked(b""))
        answer = b""
        with contextlib.suppress(OSError):
            for _ in range(70):
                connection.sendall(endless)
        with contextlib.suppress(OSError):
            answer = connection.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    assert_alive(proxy, fleet)
    wait_until(lambda: resident_kib(proxy) < before + 16384, 15, "memory given back")


def test_json_bombs(cluster, fleet):
    deep = b'{"model":"mock","messages":' + b"[" * 500000 + b"]" * 500000 + b"}"
    wide = b'{"model":"mock","messages":[' + b",".join([b'{"role":"user","content":"x"}'] * 100000) + b"]}"
    for body in (deep, b'{"a":' * 100000, b'{"model":"mock","messages":[],"x":"' + b"\\u0000" * 100000 + b'"}'):
        assert httpx.post(cluster.url + CHAT, content=body, timeout=30).status_code in (200, 400)
    assert httpx.post(cluster.url + CHAT, content=wide, timeout=30).status_code == 200
    assert_alive(cluster, fleet)


# ---- agents ----

OK = "HTTP/1.1 200 OK\r\ncontent-type: "
NONSENSE = {
    "garbage": "\x00\x01\x02 this is no HTTP\r\n\r\n",
    "nothing": "",
    "half a head": OK + "application/json\r\nconte",
    "two lengths": OK + "application/json\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
    "length and chunks": OK + "application/json\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "bare LF": OK.replace("\r\n", "\n") + "application/json\ncontent-length: 2\n\n{}",
    "too short": OK + "application/json\r\ncontent-length: 100\r\n\r\n{}",
    "bad chunk": OK + "application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "status 1000": "HTTP/1.1 1000 Odd\r\ncontent-length: 2\r\n\r\n{}",
    "head bomb": OK + "application/json\r\nx-bomb: " + "a" * 100000 + "\r\n\r\n{}",
    "endless 100s": "HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "switching": "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("stream", [False, True])
def test_agents_that_answer_nonsense(serve_checked, fleet, stream):
    """Another one is asked, where nothing has gone to the client; where none is left: 502."""
    proxy = serve_checked("--retries", "5")
    start_agents(fleet, [proxy], 2)
    names = list(NONSENSE)
    fleet.raws = {name: data.encode("latin-1") for name, data in NONSENSE.items()}
    bodies = [chat_body(f"{name}{i}", stream=stream, faults=[{"raw": name}])
              for name in names for i in range(3)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=4))
    for body, reply in zip(bodies, replies, strict=True):
        cut = not reply.whole and body["mock"]["tag"].startswith("bad chunk")  # its head has gone out
        assert cut or (reply.whole and reply.status == 200), (body["mock"]["tag"], reply.status, reply.failure)
    hopeless = [chat_body(f"no {name}", stream=stream, faults=[{"raw": name}] * 8) for name in names]
    replies = fleet.run(ask_all(proxy.port, hopeless, lines=1))
    for body, reply in zip(hopeless, replies, strict=True):
        assert reply.status in (502, 503) or not reply.whole, (body["mock"]["tag"], reply.status, reply.body)
    assert_alive(proxy, fleet)


def test_answers_longer_than_they_say(serve_checked, fleet):
    """What stands behind an answer belongs to nobody: not to the next request on that connection."""
    proxy = serve_checked()
    start_agents(fleet, [proxy], 1)
    extra = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n\"poison\" "

    async def converse():
        replies = []
        for i in range(60):
            fleet.raws[f"p{i}"] = (OK + "application/json\r\ncontent-length: 2\r\n\r\n{}" + extra * (i % 3)).encode()
            body = chat_body(f"p{i}", stream=False, faults=[{"raw": f"p{i}"}] if i % 2 else [])
            replies.append(await ask(proxy.port, body))
        return replies
    for i, reply in enumerate(fleet.run(converse())):
        assert reply.status == 200 and b"poison" not in reply.body
        assert bytes(reply.body) == b"{}" if i % 2 else reply.json()["tag"] == f"p{i}"
    assert_alive(proxy, fleet)


# ---- nobody gets what is another's ----


def test_nothing_leaks_between_clients(serve_checked, fleet):
    """Each client's text has a mark of its own. Hundreds at once, on connections that are kept, reset and
    reused on both sides; half of them share one request id."""
    proxy = serve_checked("--threads", "2", "--retries", "5", "--routing-strategy", "round_robin")
    start_agents(fleet, [proxy], 4)
    chooser = random.Random(9)
    lines = [Line(proxy.port) for _ in range(96)]
    count = 0

    async def client(number, line):
        nonlocal count
        for turn in range(scaled(8, 500)):
            tag = f"secret{number}x{turn}x"
            faults = [{"cut": chooser.randrange(3000)}] if chooser.random() < 0.3 else []
            body = chat_body(tag, text=tag, tokens=6, stream=chooser.random() < 0.7, faults=faults,
                             resumable=chooser.random() < 0.8, chunks=chooser.choice([0, 1, 50]))
            headers = {"x-request-id": "the-same-for-all"} if number % 2 else {"x-request-id": tag}
            leave = chooser.randrange(1, 4000) if chooser.random() < 0.3 else 1 << 30
            reply = await line.ask(CHAT, body, headers=headers, stop=lambda r, n=leave: len(r.body) >= n)
            marks = {part.split(b"x")[0] + b"x" + part.split(b"x")[1] + b"x"
                     for part in bytes(reply.body).split(b"secret")[1:] if part.count(b"x") >= 2}
            assert marks <= {f"{number}x{turn}x".encode()}, (tag, marks)
            if reply.headers:
                assert reply.headers["x-request-id"] == headers["x-request-id"]
            count += reply.whole
        line.close()

    async def all_of_them():
        await asyncio.gather(*(client(n, line) for n, line in enumerate(lines)))
    fleet.run(all_of_them(), timeout=3600)
    assert count > 200
    assert_alive(proxy, fleet)


def test_colliding_request_ids(cluster, fleet):
    """Two clients that use one x-request-id are two requests to agents: neither is taken for a repetition."""
    async def both():
        return await asyncio.gather(*(ask(cluster.port, chat_body(f"same{i}", text="same", gap_s=0.02),
                                          headers={"x-request-id": "collision"}) for i in range(20)))
    replies = fleet.run(both())
    assert all(reply.is_done() for reply in replies) and fleet.duplicates == 0
    ids = [frozenset(fleet.dispatches[f"same{i}"]) for i in range(20)]
    assert len(set(ids)) == 20
