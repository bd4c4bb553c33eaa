"""Everything at once: agents that fail at random, clients that leave at random, for some seconds."""
# ctest: PROCESSORS 1

import random
import re
import socket
import threading
import time

import httpx
from proxy_fixtures import (CHAT, chat, fakes, proxy, raw_request, serve,  # noqa: F401
                            wait_until, wait_up)

BEHAVIOURS = ["answer", "answer", "answer", "reset_before_head", "close_before_head", "garbage",
              "reset_after_head", "reset_mid_stream", "close_mid_event", "busy429", "busy503",
              "broken500", "short_body", "short_chunked_json", "answer_and_close", "no_content"]
TOKEN = re.compile(r'"content":"(\w+) (\d+) "')
SECONDS = 12


class Client(threading.Thread):
    """Asks, and sometimes leaves in the middle; keeps what it saw of every stream."""

    def __init__(self, proxy, seed, stopping):
        super().__init__(daemon=True)
        self.proxy = proxy
        self.random = random.Random(seed)
        self.stopping = stopping
        self.transcripts = []
        self.statuses = set()
        self.surprises = []

    def run(self):
        while not self.stopping.is_set():
            try:
                if self.random.random() < 0.2:
                    self.leave_early()
                else:
                    self.ask()
            except (httpx.RemoteProtocolError, httpx.ReadError):
                pass  # an answer that was cut: shown as such
            except Exception as surprise:
                self.surprises.append(repr(surprise))

    def ask(self):
        stream = self.random.random() < 0.7
        parts = []
        try:
            with httpx.stream("POST", self.proxy.url + CHAT, json=chat(stream=stream), timeout=30) as answer:
                self.statuses.add(answer.status_code)
                for part in answer.iter_bytes():
                    parts.append(part)
        finally:
            if stream:
                self.transcripts.append(b"".join(parts).decode())

    def leave_early(self):
        body = b'{"model":"fake-model","messages":[],"stream":true}'
        with socket.create_connection(("127.0.0.1", self.proxy.port)) as connection:
            request = raw_request(body)
            connection.sendall(request[:self.random.randrange(1, len(request) + 1)])
            time.sleep(self.random.random() * 0.05)
            if self.random.random() < 0.5:
                connection.settimeout(0.02)
                try:
                    connection.recv(self.random.randrange(1, 2000))
                except TimeoutError:
                    pass


def test_random_faults(proxy, fakes):
    agents = [fakes(f"n{i}", [proxy]) for i in range(5)]
    for agent in agents:
        agent.event_gap_s = 0.001
    wait_up(proxy, *(a.name for a in agents))
    stopping = threading.Event()
    clients = [Client(proxy, seed, stopping) for seed in range(12)]
    for client in clients:
        client.start()
    chooser = random.Random(1)

    def whole_ones():
        return sum("[DONE]" in transcript for client in clients for transcript in client.transcripts)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or (whole_ones() <= 50 and time.monotonic() < end + 90):
        chooser.choice(agents).behave = chooser.choice(BEHAVIOURS)
        time.sleep(0.03)
    stopping.set()
    for client in clients:
        client.join(60)
        assert not client.is_alive()
    assert not [s for c in clients for s in c.surprises]
    assert set().union(*(c.statuses for c in clients)) <= {200, 204, 429, 500, 502, 503}

    # Tokens are numbered: each transcript is the beginning of exactly one agent's.
    transcripts = [t for c in clients for t in c.transcripts]
    whole = 0
    for transcript in transcripts:
        tokens = TOKEN.findall(transcript)
        assert len({name for name, _ in tokens}) <= 1
        assert [int(number) for _, number in tokens] == list(range(len(tokens)))
        if "[DONE]" in transcript:
            assert len(tokens) == 20 and "upstream_lost" not in transcript
            whole += 1
    assert whole > 50

    # And nothing is left behind: the fixture `proxy` looks at its books and at its sanitizers.
    wait_until(lambda: proxy.metrics()["requests_running"] == 0, 15, "no request running")
    assert proxy.get("/health").status_code == 200
