"""The programs under test: started, killed, frozen, started again under the same name, and watched."""

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

from wire import Lost, get_json

COMPLAINTS = re.compile(rb"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|CHECK\(.*failed|out of memory:")
READY_S = 90
JOIN_KEY = "chaos-join-key"


def free_ports(count):
    """Below the range of outgoing connections, which would take one while its program is away."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return list(ports)


class Part:
    """One program of the cluster, over all its lives."""

    def __init__(self, cluster, name, port, command):
        self.cluster = cluster
        self.name = name
        self.port = port
        # Should we be killed, the kernel ends it.
        self.command = ["setpriv", "--pdeathsig", "KILL", *(str(word) for word in command)]
        self.log_path = os.path.join(cluster.folder, f"{name}.log")
        open(self.log_path, "wb").close()
        self.popen = None
        self.is_up = False
        self.is_frozen = False
        self.lives = 0
        self.born_at = None
        self.killed = []  # loop times
        self.away = []  # [from, to or None]: killed or frozen
        self.died = None  # how it ended when nobody asked it to

    def start(self):
        self.lives += 1
        self.born_at = time.monotonic()
        with open(self.log_path, "ab") as log:
            log.write(f"---- life {self.lives} ----\n".encode())
            log.flush()
            self.popen = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True)

    async def wait_up(self, timeout=READY_S):
        deadline = time.monotonic() + timeout
        while not await self.answers():
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode} at its start: {self.log_path}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} not up within {timeout} s: {self.log_path}")
            await asyncio.sleep(0.05)
        self.is_up = True

    async def answers(self):
        try:
            await get_json(self.port, "/ready")
            return True
        except (Lost, ValueError):
            return False

    def begin_away(self):
        self.away.append([time.monotonic(), None])

    def end_away(self):
        if self.away and self.away[-1][1] is None:
            self.away[-1][1] = time.monotonic()

    def kill(self):
        self.is_up = False
        self.begin_away()
        self.killed.append(time.monotonic())
        self.popen.kill()
        self.popen.wait()

    async def revive(self):
        self.start()
        await self.wait_up()
        self.end_away()

    def freeze(self):
        self.begin_away()
        self.is_frozen = True
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.popen.send_signal(signal.SIGCONT)
        self.is_frozen = False
        self.end_away()

    def was_killed_since(self, moment):
        return any(at >= moment for at in self.killed)

    def check_alive(self):
        """Nobody but us ends a part."""
        if self.is_up and self.popen.poll() is not None and not self.died:
            self.died = f"{self.name} ended by itself with {self.popen.returncode}: {self.log_path}"
            self.is_up = False

    def memory(self):
        """Bytes of its own, without files; None: it doesn't run."""
        try:
            with open(f"/proc/{self.popen.pid}/status") as file:
                [line] = [line for line in file if line.startswith("RssAnon")]
        except (OSError, ValueError):
            return None
        return int(line.split()[1]) * 1024

    def complaints(self):
        with open(self.log_path, "rb") as log:
            return [line.decode(errors="replace").strip() for line in log if COMPLAINTS.search(line)]

    def stop(self, timeout=60):
        """As an operator would; None, or what was wrong with that."""
        if not self.popen or self.popen.poll() is not None:
            return None
        if self.is_frozen:
            self.thaw()
        self.is_up = False
        self.popen.terminate()
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            return f"{self.name} did not end within {timeout} s of SIGTERM"
        return f"{self.name} ended with {status} on SIGTERM" if status else None


class RedisPart(Part):
    def __init__(self, *args):
        super().__init__(*args)
        self.flushed = []
        self.settle_s = 3.0  # until all have connected again (their breakers) and look-ups are served

    async def answers(self):
        try:
            return (await self.ask("PING")) == b"+PONG\r\n"
        except OSError:
            return False

    async def ask(self, *words):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(" ".join(words).encode() + b"\r\n")
            return await asyncio.wait_for(reader.readline(), 10)
        finally:
            writer.close()

    async def flush(self):
        self.flushed.append(time.monotonic())
        await self.ask("FLUSHALL")

    def was_away(self, begin, end):
        return bool(self.outages(begin, end))

    def outages(self, begin, end):
        """[(since, until it was used again)] that meet the time between"""
        spans = [(since, (until or time.monotonic()) + self.settle_s) for since, until in self.away]
        return [(since, until) for since, until in spans if since <= end and begin <= until]


class Cluster:
    """2 proxies, 3 agents, Redis."""

    def __init__(self, folder, bin_dir, model, agents=3, proxies=2, membership="both", threads=1):
        self.folder = folder
        self.began = time.monotonic()
        redis_port, *ports = free_ports(1 + agents + proxies)
        redis_dir = os.path.join(folder, "redis")
        shutil.rmtree(redis_dir, ignore_errors=True)  # of another run: its sessions have our ids
        os.makedirs(redis_dir)
        self.redis = RedisPart(self, "redis", redis_port, [
            "redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--dir", redis_dir, "--save", "",
            "--appendonly", "yes"])
        url = f"redis://127.0.0.1:{redis_port}/0"
        in_redis = ["--redis-url", url] if membership != "http" else []
        common = ["--server-name", "127.0.0.1", "--join-key", JOIN_KEY, *in_redis]
        proxy = os.path.join(bin_dir, "lm-proxy")
        self.proxies = [Part(self, f"proxy-{i}", port, [
            proxy, "--port", port, *common, "--retries", 8])  # a request may meet several faults
                        for i, port in enumerate(ports[agents:])]
        posts = [] if membership == "redis" else [
            word for each in self.proxies for word in ("--proxy-url", f"http://127.0.0.1:{each.port}")]
        agent = os.path.join(bin_dir, "lm-agent")
        self.agents = [Part(self, f"agent-{i}", port, [
            agent, model, "--server-port", port, *common, *posts, "--agent-id", f"agent-{i}",
            "--model-name", "chaos", "--threads", threads, "--session-len", 1024, "--max-batch-size", 128,
            "--cache-max-tokens", 16384, "--queue-max", 1024]) for i, port in enumerate(ports[:agents])]
        self.parts = [self.redis, *self.proxies, *self.agents]

    def now(self):
        return time.monotonic() - self.began

    def when(self, moment):
        return moment - self.began

    def agents_away(self, begin, end):
        """Names of those that were killed or frozen then."""
        return {agent.name for agent in self.agents
                if any(since <= end and begin <= (until or end) for since, until in agent.away)}

    async def start(self):
        self.redis.start()
        await self.redis.wait_up()
        for part in self.agents + self.proxies:
            part.start()
        await asyncio.gather(*(part.wait_up() for part in self.agents + self.proxies))
        await self.wait_whole(READY_S)

    async def is_whole(self):
        try:
            for proxy in self.proxies:
                nodes = await asyncio.wait_for(get_json(proxy.port, "/nodes/status"), 5)
                if sum(node["state"] == "up" for node in nodes.values()) < len(self.agents):
                    return False
        except (Lost, asyncio.TimeoutError):
            return False
        return True

    async def wait_whole(self, timeout):
        begin = time.monotonic()
        while not await self.is_whole():
            if time.monotonic() - begin > timeout:
                return None
            await asyncio.sleep(0.1)
        return time.monotonic() - begin

    def stop(self):
        """What went wrong with it."""
        return [wrong for part in self.proxies + self.agents + [self.redis] if (wrong := part.stop())]
