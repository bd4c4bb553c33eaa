"""lm-client status and top against a proxy: what they show, in place and in a pipe."""
# ctest: PROCESSORS 1

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import time

import httpx
import pytest
from conftest import program
from fake_openai import FakeOpenai
from proxy_fixtures import CHAT, chat, fakes, serve, wait_until, wait_up  # noqa: F401
from test_client_terminal import CTRL_C, Terminal

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def run(*arguments, timeout=30):
    return subprocess.run([program("lm-client"), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


@pytest.fixture
def fleet(serve, fakes):
    proxy = serve("--api-keys", "sk-a")
    agents = [fakes(name, [proxy], capacity=8) for name in ("agent-1", "agent-2")]
    for agent in agents:
        agent.load = {"running": 2, "waiting": 1, "kv_used_share": 0.5, "prefill_tokens_per_s": 20000, "inter_token_s": 0.012}
    wait_up(proxy, "agent-1", "agent-2")
    wait_until(lambda: all(a["running"] == 2 for a in proxy.get("/lm/status").json()["agents"]), 5, "reports")
    proxy.agents = agents
    return proxy


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_BIN_DIR", os.path.dirname(program("lm-client")))
    opened = []

    def start(*arguments, rows=30, columns=160):
        opened.append(Terminal(*map(str, arguments), home=tmp_path))
        resize(opened[-1], rows, columns)
        return opened[-1]
    yield start
    for screen in opened:
        screen.close()


def resize(screen, rows, columns):
    fcntl.ioctl(screen.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def test_status_shows_scores_queue_and_hit_rate(fleet):
    for _ in range(3):
        assert fleet.post(CHAT, chat(), headers={"Authorization": "Bearer sk-a"}).status_code == 200
    done = run("status", fleet.url)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.fullmatch(rf"lm-proxy \S+ at {fleet.url}: (ready|starting), up \d+ s, 1 thread, routing least_load, Redis none",
                        lines[0])
    assert lines[1] == "3 requests, 0 running, 0 waiting, 0 failed, 0 lost"
    assert re.fullmatch(r"\S+ prompt tokens, \S+ in answers, cache hits .*", lines[2])
    assert re.fullmatch(r"0 retries, 0 streams resumed; sessions: \d+ hit, \d+ moved, 0 lost", lines[3])
    assert cells(lines[5]) == ["AGENT", "STATE", "BREAKER", "SCORE", "OURS", "OTHERS", "RUNNING", "WAITING", "KV",
                               "PREFILL/S", "STEP", "FAILING", "MODELS", "URL"]
    row = dict(zip(cells(lines[5]), cells(lines[6])))
    assert row["AGENT"] == "agent-1" and row["STATE"] == "up" and row["BREAKER"] == "closed"
    assert re.fullmatch(r"\d+(\.\d)? ms|\d+ s", row["SCORE"])
    assert row["RUNNING"] == "2" and row["WAITING"] == "1" and row["KV"] == "50 %"
    assert row["PREFILL/S"] == "20.0k" and row["STEP"] == "12 ms" and row["MODELS"] == "fake-model"
    assert row["URL"] == fleet.agents[0].url and lines[-1] == "2 agents"


def test_a_proxy_without_the_status_is_shown_as_before():
    nodes = {"http://10.0.0.1:1": {"models": ["m"], "unfinished": 3, "latency": [0.5], "speed": None}}
    with FakeOpenai(nodes=nodes) as server:
        for command in (["status"], ["top", "--count", 1]):
            done = run(*command, server.url)
            assert done.returncode == 0, done.stderr
            assert "http://10.0.0.1:1" in done.stdout and "UNFINISHED" in done.stdout and "1 agent\n" in done.stdout
    with FakeOpenai() as server:  # an agent
        done = run("top", "--count", 2, "--interval", 0.1, server.url)
        assert done.returncode == 0 and done.stdout.count("fake-model, other-model") == 2


def test_top_in_a_pipe_prints_tables_one_after_another(fleet):
    begin = time.monotonic()
    done = run("top", "--count", 3, "--interval", 0.5, fleet.url)
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    assert 1 <= time.monotonic() - begin < 10
    assert done.stdout.count("lm-proxy ") == done.stdout.count("2 agents\n") == 3
    assert "REQ/S" in done.stdout and "URL" not in done.stdout


def test_rates_are_those_between_two_looks(fleet):
    headers = {"Authorization": "Bearer sk-a"}
    for agent in fleet.agents:
        agent.behave, agent.usage = "counted", (100, 10)
    body = chat()
    with subprocess.Popen([program("lm-client"), "top", "--count", "2", "--interval", "8", fleet.url],
                          stdout=subprocess.PIPE, text=True) as watcher:
        watcher.stdout.readline()  # the first look is over
        with httpx.Client(headers=headers, timeout=30) as client:
            for _ in range(20):
                assert client.post(fleet.url + CHAT, json=body).status_code == 200
        text = watcher.stdout.read()
        assert watcher.wait(20) == 0
    second = text.split("lm-proxy ")[-1]
    found = re.search(r"^20 requests \((\d+\.\d|\d+)/s\)", second, re.M)
    assert found and 1.5 < float(found.group(1)) <= 2.6, second
    tokens = re.search(r"^2000 prompt tokens \((\d+)/s\), 200 in answers \((\d+)/s\)", second, re.M)
    assert tokens and 150 < int(tokens.group(1)) <= 260 and 15 < int(tokens.group(2)) <= 26, second
    per_agent = [float(cells(line)[12]) for line in second.splitlines() if line.startswith("agent-")]
    assert len(per_agent) == 2 and abs(sum(per_agent) - float(found.group(1))) < 0.5


def test_top_at_a_terminal_repaints_until_q(fleet, terminal):
    screen = terminal("top", "--interval", "0.2", fleet.url)
    screen.expect(ENTER)
    for _ in range(3):
        screen.expect("\x1b[H")
        screen.expect("2 agents")
    screen.send("x")  # no key that it knows
    screen.expect("\x1b[H")
    screen.send("q")
    screen.expect(LEAVE)
    assert screen.wait() == 0
    assert "2 agents" in screen.text[screen.seen:]  # what was seen last stays


def test_top_ends_with_ctrl_c_and_gives_the_terminal_back(fleet, terminal):
    screen = terminal("top", fleet.url)
    modes = termios.ICANON | termios.ECHO
    screen.expect("2 agents")
    assert not termios.tcgetattr(screen.fd)[3] & (termios.ICANON | termios.ECHO)
    screen.send(CTRL_C)
    screen.expect(LEAVE)
    assert screen.wait() == 0
    assert termios.tcgetattr(screen.fd)[3] & modes == modes


def test_top_gives_the_terminal_back_on_sigterm(fleet, terminal):
    screen = terminal("top", fleet.url)
    screen.expect("2 agents")
    os.kill(screen.pid, signal.SIGTERM)
    screen.expect(LEAVE)
    assert screen.wait() == -signal.SIGTERM


def test_top_fits_the_terminal_and_follows_its_size(fleet, terminal):
    screen = terminal("top", "--interval", "60", fleet.url, rows=8, columns=60)
    screen.expect("\x1b[H")
    page = screen.expect("\x1b[J")
    lines = page.split("\x1b[K")
    assert len(lines) == 9  # seven of the page, the foot, and what follows it
    assert all(len(line.strip("\r\n")) <= 60 for line in lines)
    assert re.fullmatch(r"\d more lines?\. ", lines[7].strip("\r\n"))
    resize(screen, 40, 200)  # repaints at once, though the next look is far
    screen.expect("\x1b[H")
    page = screen.expect("\x1b[J")
    assert "2 agents" in page and "more line" not in page and "MODELS" in page
    screen.send("q")
    assert screen.wait() == 0


def test_top_goes_on_while_the_proxy_is_away(serve, terminal):
    proxy = serve()
    screen = terminal("top", "--interval", "0.2", proxy.url)
    screen.expect("0 agents")
    port = proxy.port
    proxy.stop()
    screen.expect("trying again")
    serve("--port", port)

    def is_back():
        screen.expect("\x1b[H")
        return "trying again" not in screen.expect("\x1b[J")
    wait_until(is_back, 30, "a page without a complaint")
    screen.send("q")
    assert screen.wait() == 0


def test_top_without_a_server_is_an_error_at_once():
    done = run("top", "http://127.0.0.1:1")
    assert done.returncode == 1 and done.stdout == "" and "lm-client: " in done.stderr
    assert run("top", "--interval", 0, "http://127.0.0.1:1").returncode == 2
    assert run("top").returncode == 2


def test_what_a_server_says_cannot_drive_the_terminal(fakes, serve):
    proxy = serve()
    node = fakes("n", models=["evil\x1b]0;title\x07"])
    proxy.post("/nodes/add", {"url": node.url, "status": {"models": node.models}})
    done = run("status", proxy.url)
    assert done.returncode == 0 and "\x1b" not in done.stdout and "evil^[" in done.stdout
