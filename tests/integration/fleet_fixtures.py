"""Fixtures for tests of lm-proxy with a fleet of mock agents (tests/fakes/mock_fleet.py).

LM_LONG=1 in the environment: the same tests, at the length that their names promise."""

import os
import re
import sys

import pytest

from conftest import ROOT, program
from lm_process import Server
from proxy_fixtures import wait_until, wait_up

sys.path.insert(0, os.path.join(ROOT, "tests", "fakes"))
from mock_client import CHAT, INTERACTIVE, Line, Reply, ask, ask_all, chat_body, percentile  # noqa: E402, F401
from mock_fleet import MockFleet, Script, undisturbed  # noqa: E402, F401

LONG = os.environ.get("LM_LONG") == "1"


def scaled(short, long):
    return long if LONG else short


@pytest.fixture
def fleet():
    """A MockFleet; what its agents found wrong fails the test."""
    with MockFleet() as fleet:
        yield fleet
    assert not fleet.errors, fleet.errors[:10]


def fast_program(name):
    """For figures: sanitizers cost time and memory. The release build where there is one."""
    folder = os.environ.get("LM_RELEASE_BIN_DIR", os.path.join(ROOT, "build", "release", "bin"))
    path = os.path.join(folder, name)
    return path if os.path.exists(path) and not is_tsan() else program(name)


def is_tsan():
    return "tsan" in os.environ.get("LM_BIN_DIR", "")


@pytest.fixture
def serve_fast(starter):
    """serve_fast(*flags, fast=True) -> a proxy that listens; fast: of the release build"""
    def start(*arguments, fast=True, **kwargs):
        path = fast_program("lm-proxy") if fast else program("lm-proxy")
        proxy = Server(path, "--server-name", "127.0.0.1", "--port", 0, *arguments, **kwargs)
        starter.started.append(proxy)
        proxy.port = int(proxy.wait_log(r"\bserving .*\bport=(\d+)").group(1))
        return proxy
    return start


@pytest.fixture
def serve_checked(serve_fast):
    """The same from the build under test, with its sanitizers."""
    return lambda *arguments, **kwargs: serve_fast(*arguments, fast=False, **kwargs)


def start_agents(fleet, proxies, count, prefix="n", **options):
    """`count` agents, known to all proxies."""
    agents = [fleet.agent(f"{prefix}{i}", proxies, **options) for i in range(count)]
    for proxy in proxies:
        wait_up(proxy, *(agent.name for agent in agents), timeout=20)
    return agents


def wait_nodes_up(proxy, count):
    """Foreign nodes, which have no id to wait for."""
    wait_until(lambda: proxy.metrics()["agents_up"] == count, 15, f"{count} nodes up")


def metric_lines(proxy, name):
    return [line for line in proxy.get("/metrics").text.splitlines() if line.startswith(f"lm_proxy_{name}{{")]


GAUGES = ("ledger_entries", "queue_waiting", "resume_bytes")


def assert_books_balance(proxy):
    """No request runs, no agent owes an answer, nobody waits."""
    wait_until(lambda: proxy.metrics()["requests_running"] == 0, 10, "no request running")

    def owed():
        lines = [line for line in metric_lines(proxy, "agent_in_flight") if not line.endswith(" 0")]
        metrics = proxy.metrics()
        return lines + [name for name in GAUGES if metrics[name] != 0]
    wait_until(lambda: not owed(), 10, "empty ledgers")


def resident_kib(proxy):
    with open(f"/proc/{proxy.popen.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))


def transcript_of(body, reply, owner=""):
    """What the client should have got, given the id of the answer that it got."""
    found = re.search(rb'"id": "([^"]*)"', reply.body)
    answer_id = found.group(1).decode() if found else ""
    created = re.search(rb'"created": (\d+)', reply.body)
    return undisturbed(body, answer_id, int(created.group(1)) if created else 0, owner)
