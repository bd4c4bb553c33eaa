"""SIGUSR2: another process takes the port over, and no client notices."""
# ctest: PROCESSORS 1

import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import threading

import pytest
from conftest import program
from lm_process import COMPLAINTS, Server
from proxy_fixtures import (CHAT, chat, fakes, serve, status_of, wait_until, wait_up)  # noqa: F401

REQUESTS = 2000  # at least, across the change


def is_alive(pid):
    """A zombie that nobody has waited for yet is not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Successors:
    """The processes that SIGUSR2 starts, which are not children of the test."""

    def __init__(self):
        self.pids = []
        self.servers = []

    def upgrade(self, server):
        """Ask for one; returns its process id once it has begun."""
        count = len(re.findall(r"upgrade begins", server.log))
        alive = [pid for pid in (server.popen.pid, *self.pids) if is_alive(pid)]
        os.kill(alive[-1], signal.SIGUSR2)
        found = server.wait_log(r"upgrade begins .*\bchild=(\d+)", 30, count + 1)
        self.servers.append(server)
        self.pids.append(int(found.group(1)))
        return self.pids[-1]

    def end(self):
        for pid in self.pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGTERM)
        for pid in self.pids:
            wait_until(lambda: not is_alive(pid), 30, f"end of {pid}")
        for server in self.servers:
            assert not COMPLAINTS.search(server.log), server.log


@pytest.fixture
def successors():
    successors = Successors()
    yield successors
    successors.end()


class Load:
    """Clients that never try anything twice; `fresh` ones connect for each request."""

    def __init__(self, port, clients=6, streams=4):
        self.port = port
        self.done = 0
        self.streamed = 0
        self.failures = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(i % 2 == 0,)) for i in range(clients)]
        self.threads += [threading.Thread(target=self.stream) for _ in range(streams)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def one(self, connection, body):
        connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def note(self, failure):
        with self.lock:
            self.failures.append(failure)

    def ask(self, fresh):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopping.is_set():
            try:
                status, text = self.one(connection, chat())
                if status != 200:
                    self.note((status, text))
                with self.lock:
                    self.done += 1
            except (OSError, http.client.HTTPException) as failure:
                self.note((fresh, repr(failure)))
                connection.close()
            if fresh:
                connection.close()
        connection.close()

    def stream(self):
        while not self.stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                status, text = self.one(connection, chat(stream=True))
                if status != 200 or text.count(b"data: {") != 100 or not text.endswith(b"data: [DONE]\n\n"):
                    self.note(("stream", status, text[-200:]))
                with self.lock:
                    self.streamed += 1
            except (OSError, http.client.HTTPException) as failure:
                self.note(("stream", repr(failure)))
            connection.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_upgrade_under_load_fails_nothing(serve, fakes, successors, threads):
    proxy = serve("--threads", threads, "--admin-port", 0)
    admin_port = int(proxy.wait_log(r"\badmin .*\bport=(\d+)").group(1))
    for name in ("a", "b"):
        agent = fakes(name, [proxy], capacity=64)
        agent.events, agent.event_gap_s = 100, 0.03  # a stream of three seconds
    wait_up(proxy, "a", "b")
    proxy.wait_log(r"\bready url=")
    old = proxy.get("/lm/status").json()["id"]
    with Load(proxy.port) as load:
        wait_until(lambda: load.done > REQUESTS // 4, 60, "requests before")
        child = successors.upgrade(proxy)
        proxy.wait_log(r"\bupgraded parent=\d+ there=yes", 60)
        before = load.done
        wait_until(lambda: load.done > max(before + REQUESTS // 4, REQUESTS), 120, "requests after")
        wait_until(lambda: load.streamed >= 8, 60, "streams across it")
        assert proxy.popen.wait(30) == 0
        proxy.stopped = True
    assert not load.failures, load.failures[:5]
    assert is_alive(child)
    now = proxy.get("/lm/status").json()
    assert now["id"] != old and now["threads"] == threads and now["phase"] == "ready"
    assert {a["id"]: a["state"] for a in now["agents"]} == {"a": "up", "b": "up"}
    proxy.port = admin_port  # went along
    assert proxy.get("/lm/status").json()["id"] == now["id"]


def test_upgrades_follow_each_other(serve, fakes, successors):
    proxy = serve()
    fakes("a", [proxy])
    wait_up(proxy, "a")
    proxy.wait_log(r"\bready url=")
    ids = {proxy.get("/lm/status").json()["id"]}
    for n in (1, 2):
        successors.upgrade(proxy)
        proxy.wait_log(r"\bupgraded parent=\d+ there=yes", 60, n)
        old = successors.pids[0] if n == 2 else proxy.popen.pid
        if n == 1:
            assert proxy.popen.wait(30) == 0
            proxy.stopped = True
        else:
            wait_until(lambda: not is_alive(old), 30, "end of the second")
        ids.add(proxy.get("/lm/status").json()["id"])
        assert proxy.post(CHAT, chat()).status_code == 200
    assert len(ids) == 3


def test_foreign_nodes_and_removed_agents_go_along(serve, fakes, successors):
    """What the old process knew, without a file: an operator's words don't get lost."""
    proxy = serve()
    node = fakes("node", models=["theirs"])
    assert proxy.post("/nodes/add", {"url": node.url, "status": {"models": ["theirs"]}}).status_code == 200
    proxy.wait_log(r"\bready url=")
    successors.upgrade(proxy)
    proxy.wait_log(r"\bupgraded parent=\d+ there=yes", 60)
    assert proxy.popen.wait(30) == 0
    proxy.stopped = True
    assert proxy.post(CHAT, chat("theirs")).status_code == 200
    assert list(proxy.get("/nodes/status").json()) == [node.url]


# ---- what can go wrong ----


def start_copy(starter, folder, *arguments):
    """A proxy whose program file is the test's own."""
    path = folder / "lm-proxy"
    shutil.copy(program("lm-proxy"), path)
    server = Server(str(path), "--server-name", "127.0.0.1", "--port", 0, *arguments)
    starter.started.append(server)
    return server.wait_ready(), path


def test_a_broken_program_leaves_the_old_one(starter, fakes, tmp_path, successors):
    proxy, path = start_copy(starter, tmp_path)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    good = tmp_path / "good"
    os.rename(path, good)

    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    successors.upgrade(proxy)
    proxy.wait_log(r"the new process has ended, this one goes on .*status=3", 30)
    assert proxy.post(CHAT, chat()).status_code == 200

    path.chmod(0o644)
    proxy.signal(signal.SIGUSR2)
    proxy.wait_log(r"upgrade refused .*cannot start", 30)
    path.unlink()
    proxy.signal(signal.SIGUSR2)
    proxy.wait_log(r"upgrade refused .*no such file", 30)
    assert proxy.post(CHAT, chat()).status_code == 200
    assert proxy.is_running()

    os.symlink(good, path)  # a link to the new version, as packages have them
    pid = successors.upgrade(proxy)
    proxy.wait_log(r"\bupgraded parent=\d+ there=yes", 60)
    assert os.readlink(f"/proc/{pid}/exe") == str(good)
    assert proxy.popen.wait(30) == 0
    proxy.stopped = True
    assert proxy.post(CHAT, chat()).status_code == 200


def test_broken_settings_leave_the_old_one(starter, fakes, tmp_path, successors):
    settings = tmp_path / "settings"
    settings.write_text("retries = 1\n")
    proxy, _ = start_copy(starter, tmp_path, "--config", settings)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    settings.write_text("retries = many\n")
    successors.upgrade(proxy)
    proxy.wait_log(r"the new process has ended, this one goes on .*status=2", 30)
    assert proxy.post(CHAT, chat()).status_code == 200 and proxy.is_running()
    settings.write_text("retries = 2\n")
    successors.upgrade(proxy)
    proxy.wait_log(r"\bupgraded parent=\d+ there=yes", 60)
    assert proxy.popen.wait(30) == 0
    proxy.stopped = True
    assert proxy.post(CHAT, chat()).status_code == 200


def test_one_upgrade_at_a_time(starter, fakes, tmp_path, successors):
    proxy, path = start_copy(starter, tmp_path)
    os.rename(path, tmp_path / "good")
    path.write_text("#!/bin/sh\nexec sleep 60\n")  # never gets ready
    path.chmod(0o755)
    hung = successors.upgrade(proxy)
    proxy.signal(signal.SIGUSR2)
    proxy.wait_log(r"upgrade refused .*an upgrade is under way", 30)
    assert proxy.get("/ready").status_code == 200
    os.kill(hung, signal.SIGKILL)
    proxy.wait_log(r"the new process has ended, this one goes on .*signal=9", 30)
