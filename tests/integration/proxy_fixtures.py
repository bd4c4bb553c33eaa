"""Fixtures and helpers for tests of lm-proxy with scripted agents."""

import contextlib
import os
import socket
import sys
import threading
import time

import httpx
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fakes"))
from fake_agent import DONE, EVENT, FakeAgent, redis_commands  # noqa: E402, F401

CHAT = "/v1/chat/completions"


def chat(model="fake-model", **more):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def status_of(proxy):
    """GET /nodes/status by agent id."""
    return {node["id"]: node for node in proxy.get("/nodes/status").json().values()}


def models_of(proxy):
    return [m["id"] for m in proxy.get("/v1/models").json()["data"]]


def wait_until(test, timeout=30, what="condition"):
    """The time it took."""
    begin = time.monotonic()
    while not test():
        assert time.monotonic() - begin < timeout, f"{what} not within {timeout} s"
        time.sleep(0.02)
    return time.monotonic() - begin


def wait_up(proxy, *names, timeout=30):
    def all_up():
        status = status_of(proxy)
        return all(status.get(name, {}).get("state") == "up" for name in names)
    return wait_until(all_up, timeout, f"agents {names} up")


def wait_refused(proxy, timeout=5):
    """Until its port takes no connections, which is a tick after its log says that it drains."""
    def is_refused():
        try:
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False
    return wait_until(is_refused, timeout, "port closed")


@pytest.fixture
def fakes():
    """fakes("a", proxies=[proxy], behave="busy429", ...) -> a running FakeAgent"""
    with contextlib.ExitStack() as stack:
        def start(name="fake", proxies=(), **options):
            urls = [p if isinstance(p, str) else p.url for p in proxies]
            return stack.enter_context(FakeAgent(name, urls, **options))
        yield start


@pytest.fixture
def serve(start_proxy):
    """serve(*flags) -> a proxy that listens. It isn't /ready yet, which only means that agents may be
    missing: tests wait for theirs (wait_up). Without another word it routes by load alone: by affinity
    the equal requests of most tests would all go to one agent."""
    def start(*arguments, **kwargs):
        if "--routing-strategy" not in arguments:
            arguments = ("--routing-strategy", "least_load", *arguments)
        proxy = start_proxy(*arguments, ready=False, **kwargs)
        proxy.port = int(proxy.wait_log(r"\bserving .*\bport=(\d+)").group(1))
        return proxy
    return start


@pytest.fixture
def proxy(serve):
    """One proxy without Redis; its books must balance at the end of the test."""
    proxy = serve()
    yield proxy
    if proxy.is_running():
        wait_until(lambda: proxy.metrics()["requests_running"] == 0, 15, "no request running")
        in_flight = [line for line in proxy.get("/metrics").text.splitlines()
                     if line.startswith("lm_proxy_agent_in_flight{")]
        assert all(line.endswith(" 0") for line in in_flight), in_flight


def raw(proxy, data, timeout=10):
    """Send bytes, read to the end or until the timeout."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout) as connection:
        connection.sendall(data)
        parts = []
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)


def raw_request(body, path=CHAT, headers=(), close=True):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Traffic:
    """Clients that ask without a pause until told to stop; every answer and failure is kept."""

    def __init__(self, url, body, clients=4, check=None):
        self.url = url
        self.body = body
        self.check = check or (lambda answer: None)
        self.statuses = []
        self.failures = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def run(self):
        with httpx.Client(timeout=60) as client:
            while not self.stopping.is_set():
                try:
                    answer = client.post(self.url, json=self.body)
                    self.statuses.append(answer.status_code)
                    if answer.status_code != 200:
                        self.failures.append((answer.status_code, answer.text))
                    else:
                        self.check(answer)
                except Exception as failure:  # whatever it is, the test wants to know
                    self.failures.append((0, repr(failure)))
