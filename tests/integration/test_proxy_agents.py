"""lm-proxy before real lm-agents: the official client through it, agents that come, go and are killed."""
# ctest: PROCESSORS 1

import asyncio
import contextlib
import json
import signal
import socket
import time

import openai
import pytest
from proxy_fixtures import (CHAT, Traffic, models_of, raw_request, serve, status_of,  # noqa: F401
                            wait_until, wait_up)

SKY = {"model": "smollm2", "temperature": 0, "messages": [
    {"role": "user", "content": "Why is the sky blue?"}]}


def options(server):
    return {"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0, "timeout": 120}


@pytest.fixture
def start(start_agent):
    """start("a", proxy, ...) -> a ready agent with that id that beats at these proxies."""
    def start(name, *proxies, arguments=(), **kwargs):
        flags = [flag for proxy in proxies for flag in ("--proxy-url", proxy.url)]
        return start_agent("--model-name", "smollm2", "--agent-id", name, "--max-batch-size", 16,
                           "--threads", 1, *flags, *arguments, **kwargs)
    return start


@pytest.fixture
def cluster(serve, start):
    """A proxy and two agents."""
    proxy = serve()
    agents = {name: start(name, proxy, ready=False) for name in ("a", "b")}
    for agent in agents.values():
        agent.wait_ready()
    wait_up(proxy, "a", "b")
    return proxy, agents


def test_the_official_client(cluster):
    proxy, agents = cluster
    with openai.OpenAI(**options(proxy)) as client, openai.OpenAI(**options(agents["a"])) as direct:
        assert [m.id for m in client.models.list()] == ["smollm2"]
        assert client.models.retrieve("smollm2").id == "smollm2"
        whole = client.chat.completions.create(**SKY, max_tokens=12)
        same = direct.chat.completions.create(**SKY, max_tokens=12)
        assert whole.choices == same.choices
        assert whole.usage.total_tokens == same.usage.total_tokens  # how many of them were cached differs
        assert whole.usage.completion_tokens == 12
        stream = client.chat.completions.create(**SKY, max_tokens=12, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content
        with client.chat.completions.stream(**SKY, max_tokens=4) as events:
            roles = [event.chunk.choices[0].delta.role for event in events if event.type == "chunk"]
        assert roles[0] == "assistant" and not any(roles[1:])
        done = client.completions.create(model="smollm2", prompt="Once upon a time", max_tokens=5)
        assert done.usage.completion_tokens == 5
        raw = client.chat.completions.with_raw_response.create(**SKY, max_tokens=1)
        assert raw.headers["x-request-id"].startswith("req_")
        assert raw.headers["x-lm-agent"] in agents
        with pytest.raises(openai.NotFoundError) as failure:
            client.chat.completions.create(model="other", messages=SKY["messages"])
        assert failure.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as failure:
            client.chat.completions.create(**{**SKY, "temperature": 9})
        assert failure.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as failure:
            client.chat.completions.create(**{**SKY, "messages": [
                {"role": "user", "content": "word " * 20000}]})
        assert failure.value.code == "context_length_exceeded"


def test_sixteen_streams_come_back_whole_and_unmixed(cluster):
    proxy, agents = cluster

    async def one(client, number):
        prompt = f"{number} {number} {number} {number}"
        parts = []
        stream = await client.completions.create(
            model="smollm2", prompt=prompt, max_tokens=8, temperature=0, stream=True)
        async for chunk in stream:
            parts.append(chunk.choices[0].text)
        return "".join(parts)

    async def everybody(server, parallel):
        async with openai.AsyncOpenAI(**options(server)) as client:
            if parallel:
                return await asyncio.gather(*(one(client, n) for n in range(16)))
            return [await one(client, n) for n in range(16)]
    expected = asyncio.run(everybody(agents["a"], parallel=False))
    assert len(set(expected)) > 8  # telling enough to see a mix-up
    assert asyncio.run(everybody(proxy, parallel=True)) == expected
    served = {name: agent.metrics()["requests_done_total"] for name, agent in agents.items()}
    assert served["a"] >= 16 + 4 and served["b"] >= 4  # least load has used both


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(cluster, stream):
    proxy, agents = cluster
    body = json.dumps({**SKY, "max_tokens": 4000, "stream": stream, "ignore_eos": True}).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            connection.sendall(raw_request(body))
        wait_until(lambda: sum(a.metrics()["running"] for a in agents.values()) == 4, 30, "running")
    wait_until(lambda: all(a.metrics()["completions_live"] == 0 for a in agents.values()), 15, "freed")
    wait_until(lambda: all(a.metrics()["running"] == 0 for a in agents.values()), 15, "freed")
    assert proxy.metrics()["clients_gone_total"] == 4
    assert proxy.metrics()["requests_running"] == 0


def test_no_request_fails_when_an_agent_is_killed(cluster, start):
    proxy, agents = cluster
    start("c", proxy)
    wait_up(proxy, "c")
    with Traffic(proxy.url + CHAT, {**SKY, "max_tokens": 2}, clients=4) as traffic:
        wait_until(lambda: len(traffic.statuses) >= 8, 60, "answers")
        agents["a"].kill()
        wait_until(lambda: "a" not in status_of(proxy), 6, "gone")
        seen = len(traffic.statuses)
        wait_until(lambda: len(traffic.statuses) >= seen + 8, 60, "more answers")
    assert not traffic.failures
    assert models_of(proxy) == ["smollm2"]


def test_the_last_agent_is_killed_and_another_one_started(serve, start):
    proxy = serve()
    first = start("a", proxy)
    wait_up(proxy, "a")
    first.kill()
    wait_until(lambda: models_of(proxy) == [] and status_of(proxy) == {}, 6, "gone")
    answer = proxy.post(CHAT, {**SKY, "max_tokens": 2})
    assert answer.status_code == 503 and answer.headers["retry-after"]
    second = start("b", proxy, ready=False)
    second.wait_ready()
    wait_until(lambda: proxy.post(CHAT, {**SKY, "max_tokens": 2}).status_code == 200, 2, "traffic")


def test_an_agent_that_drains_loses_no_request(cluster):
    proxy, agents = cluster
    with Traffic(proxy.url + CHAT, {**SKY, "max_tokens": 3}, clients=4) as traffic:
        wait_until(lambda: len(traffic.statuses) >= 8, 60, "answers")
        agents["a"].signal(signal.SIGTERM)
        assert agents["a"].wait(30) == 0
        seen = len(traffic.statuses)
        wait_until(lambda: len(traffic.statuses) >= seen + 8, 60, "more answers")
    assert not traffic.failures
    wait_until(lambda: set(status_of(proxy)) == {"b"}, 6, "gone")


def test_no_request_fails_when_an_agent_freezes(cluster):
    proxy, agents = cluster
    with Traffic(proxy.url + CHAT, {**SKY, "max_tokens": 2}, clients=4) as traffic:
        wait_until(lambda: len(traffic.statuses) >= 8, 60, "answers")
        agents["a"].signal(signal.SIGSTOP)
        wait_until(lambda: "a" not in status_of(proxy), 6, "gone")
        # What waited at it is taken elsewhere, though no connection has failed.
        wait_until(lambda: proxy.metrics()["retries_lost_total"] >= 1, 15, "retries")
    assert not traffic.failures
    for _ in range(4):
        assert proxy.post(CHAT, {**SKY, "max_tokens": 1}).headers["x-lm-agent"] == "b"
    agents["a"].signal(signal.SIGCONT)
    wait_up(proxy, "a", "b", timeout=15)


def test_a_full_queue_is_429(serve, start):
    proxy = serve("--queue-max", 2)  # where requests wait: the agent gets no more than it can run
    start("a", proxy, arguments=("--max-batch-size", 1))
    wait_up(proxy, "a")
    body = json.dumps({**SKY, "max_tokens": 2000, "ignore_eos": True}).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            connection.sendall(raw_request(body))

        def refusal():
            answer = proxy.post(CHAT, {**SKY, "max_tokens": 1})
            return answer if answer.status_code == 429 else None
        # Asked earlier, this one could take the place in the queue itself, and wait.
        wait_until(lambda: proxy.metrics()["queue_waiting"] == 2, 20, "a full queue")
        wait_until(lambda: refusal() is not None, 60, "a refusal")
        answer = refusal()
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_redis_and_two_proxies(redis, serve, start):
    proxies = [serve("--redis-url", redis.url, "--join-key", "k") for _ in range(2)]
    by_redis = start("by-redis", arguments=("--redis-url", redis.url, "--join-key", "k"))
    start("by-http", proxies[0], arguments=("--join-key", "k"))
    for proxy in proxies:
        wait_up(proxy, "by-redis", "by-http", timeout=15)
    with Traffic(proxies[0].url + CHAT, {**SKY, "max_tokens": 2}, clients=2) as one, \
            Traffic(proxies[1].url + CHAT, {**SKY, "max_tokens": 2}, clients=2) as two:
        wait_until(lambda: len(one.statuses) >= 4 and len(two.statuses) >= 4, 60, "answers")
        redis.kill()
        time.sleep(1)
        by_redis.kill()
        for proxy in proxies:
            wait_until(lambda p=proxy: set(status_of(p)) == {"by-http"}, 8, "gone")
        seen = len(one.statuses), len(two.statuses)
        wait_until(lambda: len(one.statuses) >= seen[0] + 4 and len(two.statuses) >= seen[1] + 4, 60,
                   "more answers")
    assert not one.failures and not two.failures


def test_a_killed_agent_is_back_within_two_seconds(redis, serve, start):
    """With its id and its port, while Redis still has the record of the process that is gone."""
    proxy = serve("--redis-url", redis.url)
    arguments = ("--redis-url", redis.url)
    agent = start("a", arguments=arguments)
    wait_up(proxy, "a")
    agent.kill()
    agent = start("a", arguments=(*arguments, "--server-port", agent.port))
    refused = {**SKY, "temperature": 9}  # by the agent, and in no time: how long it computes isn't the question
    assert wait_until(lambda: proxy.post(CHAT, refused).status_code == 400, 2, "traffic") < 2
    assert proxy.post(CHAT, {**SKY, "max_tokens": 1}).status_code == 200
    assert agent.is_running()
