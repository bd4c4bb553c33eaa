"""What the proxy owes both sides when one fails: clients that leave free their agent at once, retries don't
multiply load, a broken agent is tried by one request at a time, and nothing runs twice."""

import asyncio
import contextlib
import json
import socket
import struct
import time

import pytest
from fleet_fixtures import (ask, ask_all, assert_books_balance, chat_body, fleet,  # noqa: F401
                            percentile, serve_checked, serve_fast, start_agents)
from mock_fleet import reset
from proxy_fixtures import raw_request, wait_until, wait_up


def begin(proxy, tag, **fields):
    """A client that has asked and not read."""
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.sendall(raw_request(json.dumps(chat_body(tag, **fields)).encode(), close=False))
    return connection


def leave(connection, hard):
    if hard:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left = time.monotonic()
    connection.close()
    return left


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("phase", ["prefill", "stream", "slow stream"])
def test_a_lost_client_is_known_to_the_agent_at_once(serve_fast, fleet, phase, hard):
    proxy = serve_fast()
    start_agents(fleet, [proxy], 2, capacity=1000)
    fields = {"prefill": {"wait_s": 60}, "stream": {"tokens": 10000, "gap_s": 0.002},
              "slow stream": {"tokens": 10, "gap_s": 60}}[phase]
    took = []
    for i in range(40):
        tag = f"gone{i}"
        connection = begin(proxy, tag, **fields)
        wait_until(lambda t=tag: fleet.attempts[t] == 1, 5, "the request at its agent")
        if phase != "prefill":
            assert connection.recv(10)
        left = leave(connection, hard)
        wait_until(lambda t=tag: t in fleet.left, 5, "its loss at the agent")
        took.append(fleet.left[tag] - left)
    median = percentile(took, 0.5)
    print(f"{phase}: client lost -> agent knows: median {median * 1e3:.2f} ms, most {max(took) * 1e3:.2f} ms")
    assert median < 0.05
    assert proxy.metrics()["clients_gone_total"] == 40
    assert_books_balance(proxy)


def test_a_client_lost_in_the_queue_never_gets_an_agent(serve_checked, fleet):
    proxy = serve_checked()
    (agent,) = start_agents(fleet, [proxy], 1, capacity=1)
    first = begin(proxy, "first", wait_s=60)
    wait_until(lambda: fleet.attempts["first"] == 1, 5, "the request at its agent")
    waiting = [begin(proxy, f"wait{i}") for i in range(20)]
    wait_until(lambda: proxy.metrics()["queue_waiting"] == 20, 5, "a queue")
    for connection in waiting[:19]:
        leave(connection, hard=True)
    wait_until(lambda: proxy.metrics()["queue_waiting"] == 1, 1, "an empty queue")
    leave(first, hard=True)
    wait_until(lambda: fleet.attempts["wait19"] == 1, 2, "the last one served")
    assert sum(fleet.attempts[f"wait{i}"] for i in range(19)) == 0
    assert agent.most == 1
    waiting[19].close()
    assert_books_balance(proxy)


# ---- retries ----


def test_refusals_are_not_amplified(serve_checked, fleet):
    """All agents but one say 503 to everything: retries stay within a tenth of traffic and the burst."""
    proxy = serve_checked("--routing-strategy", "random")
    agents = start_agents(fleet, [proxy], 6)
    for agent in agents:
        agent.refusal = (503, {"x-lm-not-started": "1", "retry-after": "1"})
    count, burst = 1000, 32
    bodies = [chat_body(f"b{i}", text=f"{i}", stream=False) for i in range(count)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=16))
    sent = sum(fleet.attempts.values())
    metrics = proxy.metrics()
    print(f"{count} requests, {sent} attempts, {metrics['retries_denied_total']:.0f} retries denied")
    assert all(reply.status == 503 for reply in replies)
    assert all("retry-after" in reply.headers for reply in replies)
    assert sent <= count * 1.1 + burst and metrics["retries_denied_total"] > 0
    for agent in agents:
        agent.refusal = None
    replies = fleet.run(ask_all(proxy.port, [chat_body(f"c{i}") for i in range(50)], lines=4))
    assert all(reply.is_done() for reply in replies)
    assert_books_balance(proxy)


def test_the_budget_is_not_spent_on_nothing(serve_checked, fleet):
    """Where there is no second agent there is no retry, and the budget is for those that can."""
    proxy = serve_checked("--routing-strategy", "round_robin")
    lone = fleet.agent("lone", [proxy], models=["lonely"])
    pair = [fleet.agent(f"p{i}", [proxy]) for i in range(2)]
    wait_up(proxy, "lone", "p0", "p1")
    lone.refusal = pair[0].refusal = (503, {"x-lm-not-started": "1"})
    for _ in range(4):
        bodies = [chat_body("l", model="lonely", stream=False) for _ in range(100)]
        assert {reply.status for reply in fleet.run(ask_all(proxy.port, bodies, lines=8))} == {503}
    assert proxy.metrics()["retries_denied_total"] == 0
    replies = fleet.run(ask_all(proxy.port, [chat_body(f"d{i}", stream=False) for i in range(20)], lines=2))
    assert all(reply.status == 200 for reply in replies)


# ---- the breaker ----


def test_one_probe_at_a_time(serve_checked, fleet):
    """A broken agent is left alone, and when it may be tried again exactly one request finds out, however
    many come at once on all threads; when that succeeds more follow step by step."""
    proxy = serve_checked("--threads", "2", "--retries", "5")
    good = start_agents(fleet, [proxy], 3, prefix="g")
    (bad,) = start_agents(fleet, [proxy], 1, prefix="bad")
    most_at_once = running = tried = 0
    broken = True
    answer = bad.answer

    async def fail(connection, method, target, headers, body):
        nonlocal running, most_at_once, tried
        if method == "GET" or not broken:
            await answer(connection, method, target, headers, body)
            return
        running += 1
        tried += 1
        most_at_once = max(most_at_once, running)
        await asyncio.sleep(0.3)
        running -= 1
        connection.transport.abort()
        raise ConnectionResetError
    bad.answer = fail
    stopping = False
    replies = []

    async def load(number):
        count = 0
        while not stopping:
            count += 1
            replies.append(await ask(proxy.port, chat_body(f"l{number}x{count}", text=f"{number} {count}", tokens=2,
                                                           gap_s=0.005)))
    work = [asyncio.run_coroutine_threadsafe(load(n), fleet.loop) for n in range(24)]

    wait_until(lambda: tried >= 3, 10, "three failures")
    time.sleep(0.6)
    most_at_once = 0
    before = tried
    time.sleep(4)
    probes = tried - before
    print(f"{probes} probes in 4 s among {len(replies)} requests, at most {most_at_once} at once")
    assert most_at_once == 1 and 1 <= probes <= 4  # after 1, 2 and 4 s
    broken = False
    served = bad.served
    wait_until(lambda: bad.served > served, 12, "it back")
    bad_served, good_served = bad.served, sum(agent.served for agent in good) / 3
    time.sleep(1.5)
    bad_served, good_served = bad.served - bad_served, sum(agent.served for agent in good) / 3 - good_served
    print(f"back for 1.5 s: {bad_served} requests, the others {good_served:.0f} each")
    stopping = True
    for task in work:
        task.result(30)
    fleet.errors.clear()  # of `fail`
    assert bad_served < good_served  # slow start, and its failures aren't forgotten
    assert all(reply.is_done() for reply in replies), [(r.status, r.failure) for r in replies if not r.is_done()][:5]
    assert_books_balance(proxy)


# ---- nothing twice ----


def test_ambiguous_losses_run_once(serve_checked, fleet):
    """The connection breaks while the agent works on: the same agent is not made to do it beside itself."""
    proxy = serve_checked("--retries", "5")
    start_agents(fleet, [proxy], 2)
    bodies = [chat_body(f"a{i}", stream=False, faults=[{"cut": 0}, {"close": 0}][i % 2:][:1], wait_s=0.01)
              for i in range(200)]
    replies = fleet.run(ask_all(proxy.port, bodies, lines=16))
    assert all(reply.status == 200 for reply in replies)
    for i in range(200):
        assert len(fleet.dispatches[f"a{i}"]) == 1  # one id for all its attempts, by which agents know it


class Tunnel:
    """Between a proxy and an agent; `cut()` resets the proxy's connections and keeps the agent's, which go
    on as if nothing had happened: what a broken network looks like."""

    def __init__(self, fleet):
        self.fleet, self.target, self.writers, self.kept = fleet, None, set(), []
        self.requests = 0
        self.cut_next = False
        self.server = fleet.run(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        if not self.target:
            writer.close()
            return
        there = await asyncio.open_connection("127.0.0.1", self.target)
        self.kept.append(there)
        back = asyncio.create_task(self.copy(there[0], writer))
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self.pump(reader, writer, there, back)

    async def pump(self, reader, writer, there, back):
        while data := await reader.read(65536):
            there[1].write(data)
            if data.startswith(b"POST /v1/chat"):
                self.requests += 1
                if self.cut_next:
                    self.cut_next = False
                    await asyncio.sleep(0.3)  # the agent has begun
                    back.cancel()
                    reset(writer.transport)
                    return
        there[1].close()

    async def copy(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


def test_an_ambiguous_loss_does_not_run_twice_at_a_real_agent(serve_checked, start_agent, fleet):
    """The connection to lm-agent breaks behind a request that it works on, and it doesn't know: the retry
    on a new connection must not make it do the work a second time beside the first."""
    proxy = serve_checked()
    tunnel = Tunnel(fleet)
    agent = start_agent("--model-name", "smollm2", "--proxy-url", proxy.url, "--advertise", f"127.0.0.1:{tunnel.port}")
    tunnel.target = agent.port
    wait_until(lambda: "smollm2" in proxy.get("/v1/models").text, 20, "the agent")
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Count to a thousand."}],
            "max_tokens": 300, "ignore_eos": True, "temperature": 0}
    assert fleet.run(ask(proxy.port, {**body, "max_tokens": 1})).status == 200  # now it has a connection
    before = agent.metrics()
    tunnel.cut_next = True
    asked = asyncio.run_coroutine_threadsafe(ask(proxy.port, body), fleet.loop)
    most = 0
    while not asked.done():
        most = max(most, agent.metrics()["running"])
        time.sleep(0.01)
    reply = asked.result()
    after = agent.metrics()
    print(f"answer {reply.status}, {tunnel.requests} requests reached the agent, at most {most:.0f} ran at once")
    assert tunnel.requests == 3 and most == 1  # the warm-up, the lost one, its repetition
    assert after["requests_duplicate_total"] == before["requests_duplicate_total"] + 1
    assert reply.status == 502 and reply.error_code() == "upstream_failed"
    assert_books_balance(proxy)
