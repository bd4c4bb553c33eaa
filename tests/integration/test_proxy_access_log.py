"""The access log, field by field as docs/operations.md has it, and the trace that it shares with agents."""
# ctest: PROCESSORS 1

import json
import os
import pathlib
import re
import signal
import socket
import threading

import pytest
from conftest import ROOT
from proxy_fixtures import (CHAT, Traffic, chat, fakes, raw_request, serve, wait_until, wait_up)  # noqa: F401

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def documented():
    """Field -> whether it is in every line."""
    text = pathlib.Path(ROOT, "docs", "operations.md").read_text()
    table = text.split("<!-- access-log -->")[1].split("<!-- /access-log -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", table, re.M)
    assert len(rows) > 20
    assert {when for _, when in rows} == {"always", "sometimes"}
    return {name: when == "always" for name, when in rows}


class Log:
    def __init__(self, path):
        self.path = path

    def lines(self, count=0, timeout=10):
        def read():
            return [json.loads(line) for line in self.path.read_text().split("\n") if line] if self.path.exists() else []
        wait_until(lambda: len(read()) >= count, timeout, f"{count} lines")
        return read()

    def last(self, count):
        return self.lines(count)[-1]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "access.log")


def test_every_documented_field_appears_and_no_other(serve, fakes, start_agent, log, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text('[{"id":"team","key":"sk-team","streams":8}]')
    proxy = serve("--access-log", log.path, "--api-key-file", keys, "--queue-timeout", 3)
    shown = {"Authorization": "Bearer sk-team"}
    bad = fakes("bad", [proxy], behave="reset_before_head")
    good = fakes("good", [proxy], capacity=1)
    wait_up(proxy, "bad", "good")
    for _ in range(200):  # an attempt that failed
        assert proxy.post(CHAT, chat(), headers=shown).status_code == 200
        if bad.requests:
            break
    assert bad.requests
    bad.die()
    wait_until(lambda: "bad" not in {a["id"] for a in proxy.get("/lm/status").json()["agents"]}, 10, "gone")
    assert proxy.post(CHAT, chat()).status_code == 401
    assert proxy.post(CHAT, chat("nothing"), headers=shown).status_code == 404
    good.behave = "slow"
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(raw_request(json.dumps(chat()).encode(), headers=["Authorization: Bearer sk-team"]))
        wait_until(lambda: good.running == 1, 10, "its request")
    # and the client leaves
    wait_until(lambda: good.running == 0, 10, "noticed")
    holder = threading.Thread(target=lambda: proxy.post(CHAT, chat(), headers=shown))
    holder.start()
    wait_until(lambda: good.running == 1, 10, "full")
    assert proxy.post(CHAT, chat(), headers=shown).status_code == 503  # waits in the queue, in vain
    waiter = threading.Thread(target=lambda: proxy.post(CHAT, chat(), headers=shown))
    waiter.start()
    wait_until(lambda: proxy.metrics()["queue_waiting"] == 1, 10, "one waits")
    good.behave = "answer"
    good.release.set()
    for thread in (holder, waiter):
        thread.join(30)
    resume_once(proxy, start_agent, shown)
    wait_until(lambda: any("resumes" in line for line in log.lines()), 10, "its line")
    lines = log.lines()
    want = documented()
    seen = {name for line in lines for name in line}
    assert seen == set(want), (seen - set(want), set(want) - seen)
    for line in lines:
        missing = {name for name, always in want.items() if always} - set(line)
        assert not missing, (missing, line)


def resume_once(proxy, start_agent, shown):
    """A stream that another agent ends: `resumes`, and token counts."""
    flags = ("--model-name", "m", "--session-len", 512, "--max-batch-size", 2, "--proxy-url", proxy.url)
    agents = {name: start_agent(*flags, "--agent-id", name) for name in ("real-1", "real-2")}
    wait_up(proxy, *agents, timeout=60)
    body = chat("m", stream=True, max_tokens=40, temperature=0, ignore_eos=True)
    with proxy.stream(CHAT, body, shown) as stream:
        chunks = stream.iter_text()
        next(chunks)
        agents[stream.headers["x-lm-agent"]].kill()
        assert "".join(chunks).endswith("data: [DONE]\n\n")


def test_one_line_in_detail(serve, fakes, log):
    proxy = serve("--access-log", log.path)
    fakes("a", [proxy], behave="counted").usage = (12, 7)
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat(), headers={"x-request-id": "mine-1", "traceparent": PARENT,
                                               "x-lm-priority": "bulk"})
    line = log.last(1)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert answer.headers["x-request-id"] == "mine-1"
    times = [line.pop(name) for name in ("first_byte_ms", "total_ms")]
    assert 0 < times[0] <= times[1] < 5000
    assert line.pop("prompt_tokens_estimate") > 0
    assert line == {"request_id": "mine-1", "trace_id": TRACE, "client": "127.0.0.1", "path": CHAT,
                    "model": "fake-model", "class": "bulk", "stream": False, "status": 200, "complete": True,
                    "agent": "a", "attempts": 1, "affinity": "none", "bytes": len(answer.content),
                    "cached_tokens_estimate": 0, "prompt_tokens": 12, "completion_tokens": 7, "cached_tokens": 0}


def test_what_is_refused_has_its_line(serve, fakes, log):
    proxy = serve("--access-log", log.path, "--api-keys", "sk-a")
    fakes("a", [proxy])
    wait_up(proxy, "a")
    proxy.post(CHAT, chat())
    line = log.last(1)
    assert (line["status"], line["error"], line["complete"], line["attempts"]) == (401, "invalid_api_key", False, 0)
    assert "agent" not in line and "model" not in line and "key" not in line
    proxy.post(CHAT, chat("x"), headers={"Authorization": "Bearer sk-a"})
    line = log.last(2)
    assert (line["status"], line["error"], line["model"]) == (404, "model_not_found", "x")
    assert "sk-a" not in log.path.read_text()


def test_a_cut_stream_is_not_complete(serve, fakes, log):
    proxy = serve("--access-log", log.path)
    fakes("a", [proxy], behave="reset_mid_stream")
    wait_up(proxy, "a")
    proxy.post(CHAT, chat(stream=True))
    line = log.last(1)
    assert line["status"] == 200 and not line["complete"] and line["error"] == "upstream_lost" and line["stream"]


def test_names_cannot_break_a_line(serve, fakes, log):
    proxy = serve("--access-log", log.path)
    fakes("a", [proxy])
    wait_up(proxy, "a")
    proxy.post_raw(CHAT, json.dumps(chat('m"\n{"x":1}\u2028\x00'[:-1])), {})
    proxy.post_raw(CHAT + "?a=%0a%22", json.dumps(chat()), {"user-agent": '"}\\'})
    assert [line["status"] for line in log.lines(2)] == [404, 200]


def test_rename_and_hangup(serve, fakes, log, tmp_path):
    """logrotate's way: nothing is lost, nothing goes to both."""
    proxy = serve("--access-log", log.path, "--threads", 2)
    fakes("a", [proxy], capacity=32)
    wait_up(proxy, "a")
    old = tmp_path / "access.log.1"
    with Traffic(proxy.url + CHAT, chat()) as traffic:
        wait_until(lambda: len(traffic.statuses) > 50, 20, "requests")
        os.rename(log.path, old)
        proxy.signal(signal.SIGHUP)
        proxy.wait_log("reloaded", 10)
        wait_until(lambda: log.path.exists() and log.path.stat().st_size > 0, 10, "a new file")
        count = len(traffic.statuses)
        wait_until(lambda: len(traffic.statuses) > count + 50, 20, "more requests")
    assert not traffic.failures
    proxy.stop()
    ids = [json.loads(line)["request_id"] for path in (old, log.path) for line in path.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == len(traffic.statuses)


def test_a_log_that_cannot_be_opened_is_said(start_proxy, tmp_path):
    proxy = start_proxy("--access-log", tmp_path / "no" / "folder", ready=False)
    proxy.expect_status = 1
    assert proxy.wait() == 1 and "--access-log: cannot open" in proxy.log


# ---- traces ----


def headers_at(agent):
    return agent.requests[-1].headers


def test_a_clients_trace_passes_unchanged(serve, fakes, log):
    proxy = serve("--access-log", log.path)
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    for parent in (PARENT, PARENT[:-1] + "0", "cc" + PARENT[2:] + "-what-comes-later"):
        proxy.post(CHAT, chat(), headers={"traceparent": parent, "tracestate": "vendor=1,other=2"})
        assert headers_at(agent)["traceparent"] == parent and headers_at(agent)["tracestate"] == "vendor=1,other=2"
        assert log.last(len(agent.requests))["trace_id"] == TRACE


def test_without_a_trace_one_begins(serve, fakes, log):
    proxy = serve("--access-log", log.path)
    agents = [fakes(name, [proxy], behave=behave) for name, behave in (("a", "answer"), ("b", "busy503"))]
    wait_up(proxy, "a", "b")
    for _ in range(40):  # of which b is asked by half
        proxy.post(CHAT, chat())
    made = {}
    for agent in agents:
        for request in agent.requests:
            parent = request.headers["traceparent"]
            assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", parent)
            made.setdefault(request.headers["x-request-id"], set()).add(parent)
    assert len(made) == 40 and all(len(parents) == 1 for parents in made.values())  # the same for each attempt
    traces = {parent.split("-")[1] for parents in made.values() for parent in parents}
    assert traces == {line["trace_id"] for line in log.lines(40)} and len(traces) == 40
    assert any(len(agent.requests) for agent in agents if agent.name == "b")


@pytest.mark.parametrize("parent", ["", "00", PARENT.upper(), PARENT[:-1], PARENT + "0", "ff" + PARENT[2:],
                                    f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01",
                                    PARENT.replace("-", "_"), PARENT[:-1] + "g", PARENT + "-more"])
def test_a_malformed_trace_is_begun_anew(serve, fakes, parent):
    proxy = serve()
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(CHAT, chat(), headers={"traceparent": parent, "tracestate": "vendor=1"})
    assert answer.status_code == 200
    lines = [line for line in agent.requests[0].header_lines if line.lower().startswith("trace")]
    assert len(lines) == 1 and parent not in lines[0].split(": ")[1:]
    assert re.fullmatch(r"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01", lines[0]) and TRACE not in lines[0]


def test_traces_can_be_left_to_clients(serve, fakes, log):
    proxy = serve("--no-trace", "--access-log", log.path)
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    proxy.post(CHAT, chat())
    assert "traceparent" not in headers_at(agent) and "trace_id" not in log.last(1)
    proxy.post(CHAT, chat(), headers={"traceparent": PARENT})
    assert headers_at(agent)["traceparent"] == PARENT and log.last(2)["trace_id"] == TRACE


def test_agents_log_the_trace(serve, start_agent, log):
    """One id leads from the access log to the agent's log."""
    proxy = serve("--access-log", log.path)
    agent = start_agent("--model-name", "m", "--session-len", 256, "--max-batch-size", 2, "--agent-id", "a",
                        "--log-level", "debug", "--proxy-url", proxy.url)
    wait_up(proxy, "a", timeout=60)
    proxy.post(CHAT, chat("m", max_tokens=2), headers={"x-request-id": "mine-2"})
    line = log.last(1)
    begins = agent.wait_log(r"request begins .*", 10).group(0)
    assert f"trace={line['trace_id']}" in begins and "request=mine-2" in begins
