"""Fixtures for tests of whole programs; README.md lists them."""

import functools
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time

import httpx
import openai
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from fake_registry import Registry  # noqa: E402
from lm_process import Process, ProcessError, Server  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# httpx reads all certificates of the system for every client, which takes a core 30 ms: too long for what asks ten
# times a second, on a machine that has better things to do. Who speaks TLS has a context of its own.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# httpx gives up after 5 s where a test says nothing: too soon beside other tests.
for phase in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, phase, 60)

# Of the shared agents. A short context bounds what a request without max_tokens costs.
SHARED = ["--max-batch-size", 16, "--session-len", 1024]


def program(name):
    folder = os.environ.get("LM_BIN_DIR")
    path = os.path.join(folder or os.path.join(ROOT, "build", "release", "bin"), name)
    if os.path.exists(path):
        return os.path.abspath(path)
    if folder:
        pytest.fail(f"LM_BIN_DIR has no {name}")
    pytest.skip(f"{name} is not built: set LM_BIN_DIR")


@pytest.fixture(scope="session")
def model_path():
    path = os.environ.get("LM_MODEL")
    if not path:
        cache = os.environ.get("LM_CACHE_DIR") or os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lm-cluster")
        path = os.path.join(cache, "SmolLM2-135M-Instruct-Q4_1.gguf")
        if not os.path.exists(path):
            pytest.skip("no model: set LM_MODEL to what scripts/fetch-model prints")
    if not os.path.exists(path):
        pytest.fail(f"LM_MODEL: there is no {path}")
    return path


class Starter:
    """Starts programs and ends them all."""

    def __init__(self):
        self.started = []

    def agent(self, model, *arguments, ready=True, env=None, program_path=None):
        server = Server(program_path or program("lm-agent"), model, "--server-name", "127.0.0.1",
                        "--server-port", 0, *arguments, env=env)
        self.started.append(server)
        return server.wait_ready() if ready else server

    def proxy(self, *arguments, ready=True, env=None):
        server = Server(program("lm-proxy"), "--server-name", "127.0.0.1", "--port", 0, *arguments,
                        env=env)
        self.started.append(server)
        return server.wait_ready() if ready else server

    def stop(self):
        failures = []
        for process in reversed(self.started):
            try:
                process.stop()
            except ProcessError as failure:
                failures.append(str(failure))
        if failures:
            pytest.fail("\n".join(failures))


@pytest.fixture
def starter():
    starter = Starter()
    yield starter
    starter.stop()


@pytest.fixture
def start_agent(starter, model_path):
    """start_agent(*flags, ready=True, env=None, model=None) -> Server"""
    def start(*arguments, model=None, **kwargs):
        return starter.agent(model or model_path, *arguments, **kwargs)
    return start


@pytest.fixture
def start_proxy(starter):
    """start_proxy(*flags, ready=True, env=None) -> Server"""
    return starter.proxy


@pytest.fixture(scope="session")
def shared_agent(model_path):
    starter = Starter()
    server = starter.agent(model_path, "--model-name", "smollm2", *SHARED)
    yield server
    starter.stop()


@pytest.fixture
def agent(shared_agent):
    yield shared_agent
    assert shared_agent.is_running(), shared_agent.log


@pytest.fixture(scope="session")
def shared_cluster(model_path):
    """A proxy with one agent behind it."""
    starter = Starter()
    proxy = starter.proxy()
    agent = starter.agent(model_path, "--model-name", "smollm2", *SHARED,
                          "--proxy-url", proxy.url)
    wait_until(lambda: "smollm2" in proxy.get("/v1/models").text, 60, "the agent behind the proxy")
    proxy.agent = agent
    yield proxy
    starter.stop()


@pytest.fixture(params=["agent", "cluster"])
def server(request):
    """What clients talk to: an agent, or a proxy with an agent behind it."""
    server = request.getfixturevalue("shared_" + request.param)
    yield server
    assert server.is_running(), server.log


def client_options(server):
    return {"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0, "timeout": 120}


@pytest.fixture
def client(server):
    with openai.OpenAI(**client_options(server)) as client:
        yield client


@pytest.fixture
def async_client(server):
    """Made inside the test's event loop: async_client() as a context manager."""
    return lambda: openai.AsyncOpenAI(**client_options(server))


@pytest.fixture(scope="session")
def reference():
    with open(os.path.join(ROOT, "tests", "fixtures", "smollm2", "reference.json")) as file:
        return json.load(file)


class Redis(Process):
    def __init__(self, port, folder):
        super().__init__(shutil.which("redis-server"), "--port", port, "--bind", "127.0.0.1",
                         "--save", "", "--dir", folder, "--logfile", "/dev/stderr")
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"

    def wait_ready(self):
        self.wait_log(r"Ready to accept connections", 60)
        return self

    def ask(self, *words):
        done = subprocess.run(["redis-cli", "-p", str(self.port), *map(str, words)], check=True,
                              capture_output=True, text=True, timeout=10)
        return done.stdout.strip()


def free_port():
    """A port for somebody who comes later: below those that the kernel gives to others meanwhile, to servers on port 0
    and to connections (which could even be one to this very port, from itself)."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first = int(file.read().split()[0])
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(10000, first) if first > 10100 else 0))
            except OSError:
                continue
            return probe.getsockname()[1]


@pytest.fixture
def start_redis(tmp_path, starter):
    """start_redis(port=None) -> Redis: to restart one, give it the port of the one before."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server")

    def start(port=None):
        redis = Redis(port or free_port(), tmp_path)
        starter.started.append(redis)
        return redis.wait_ready()
    return start


@pytest.fixture
def redis(start_redis):
    return start_redis()


@pytest.fixture
def redis_url(redis):
    return redis.url


@pytest.fixture
def start_registry():
    """start_registry(port=0, status=200) -> Registry: what agents take for a proxy"""
    registries = []

    def start(**kwargs):
        registries.append(Registry(**kwargs))
        return registries[-1]
    yield start
    for registry in registries:
        registry.close()


def wait_until(test, timeout=30, what="condition"):
    deadline = time.monotonic() + timeout
    while True:
        value = test()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} not within {timeout} s"
        time.sleep(0.02)
