"""Where requests go that have been somewhere before: conversations over several proxies, and prompts that
share their beginning."""

import asyncio
import random
import time

import pytest
from fleet_fixtures import (INTERACTIVE, Line, assert_books_balance, chat_body, fleet,  # noqa: F401
                            scaled, serve_checked, serve_fast, start_agents)


@pytest.fixture
def four(redis, serve_fast):
    return [serve_fast("--redis-url", redis.url) for _ in range(4)]


def share_that_stayed(fleet):
    """Of turns beyond a conversation's first one: those that went where the one before them went."""
    moves = stays = 0
    for who in fleet.turns.values():
        for before, after in zip(who, who[1:], strict=False):
            stays += before == after
            moves += before != after
    return stays / (stays + moves), stays + moves


async def run_conversations(count, lines, converse):
    numbers = iter(range(count))

    async def work():
        for number in numbers:
            await converse(number)
    await asyncio.gather(*(work() for _ in range(lines)))


def test_hard_sessions_stay_at_their_owner(four, fleet):
    """Ten turns of each through any proxy; the history is at one agent and must be found."""
    start_agents(fleet, four, 6, capacity=32)
    chooser = random.Random(5)
    count, turns = scaled(150, 10000), scaled(6, 10)

    async def converse(number):
        history = 0
        for turn in range(turns):
            line = Line(chooser.choice(four).port)
            body = {**chat_body(f"hard{number}", stream=False, tokens=4, gap_s=0.0005),
                    "prompt": f"turn {turn}", "session_id": number, "interactive_mode": True}
            reply = await line.ask(INTERACTIVE, body)
            line.close()
            assert reply.status == 200, (number, turn, bytes(reply.body), reply.failure)
            assert reply.json()["history_tokens"] == history, (number, turn)
            history += reply.json()["input_tokens"] + reply.json()["tokens"]
    fleet.run(run_conversations(count, 48, converse), timeout=3600)
    share, seen = share_that_stayed(fleet)
    print(f"{share:.2%} of {seen} hard turns on their owner")
    assert seen == count * (turns - 1) and share >= 0.999
    used = {who[0] for who in fleet.turns.values()}
    assert len(used) == 6
    for proxy in four:
        assert_books_balance(proxy)


def test_two_proxies_open_one_session_at_once(four, fleet):
    """They agree on one agent, whoever was first."""
    start_agents(fleet, four, 6, capacity=32)

    async def open_at_once(number):
        lines = [Line(proxy.port) for proxy in four]
        body = {**chat_body(f"race{number}", stream=False, tokens=4), "prompt": "hi",
                "session_id": 100000 + number, "interactive_mode": True}
        replies = await asyncio.gather(*(line.ask(INTERACTIVE, body) for line in lines))
        for line in lines:
            line.close()
        assert [reply.status for reply in replies] == [200] * 4, [bytes(r.body) for r in replies]
        assert sorted(reply.json()["history_tokens"] for reply in replies) == [0, 14, 28, 42]
    fleet.run(run_conversations(scaled(60, 2000), 8, open_at_once), timeout=3600)
    share, _ = share_that_stayed(fleet)
    assert share == 1


def test_soft_sessions_stay_below_full_load(four, fleet):
    """Chats that send all of their history: they may move, and nearly never do. Answers take seconds, as they
    do: proxies hear within 0.75 s what an agent has cached, and a turn before that is routed without."""
    agents = start_agents(fleet, four, 8, capacity=32, engine={"prefill_per_s": 30000, "kv_tokens": 200000})
    chooser = random.Random(6)
    count, turns = scaled(120, 10000), scaled(4, 10)

    async def converse(number):
        await asyncio.sleep(chooser.random() * 5)
        messages = [{"role": "system", "content": f"For {number} only. " + "s" * 8000}]
        for turn in range(turns):
            messages.append({"role": "user", "content": f"chat {number} turn {turn} " + "x" * 800})
            line = Line(chooser.choice(four).port)
            body = chat_body(f"soft{number}", messages=messages, tokens=10, gap_s=0.15)
            reply = await line.ask("/v1/chat/completions", body, headers={"x-session-id": f"s{number}"})
            line.close()
            assert reply.is_done(), (reply.status, reply.failure)
            fleet.turns[f"soft{number}"].append(reply.headers["x-lm-agent"])
            messages.append({"role": "assistant", "content": reply.text()})
            await asyncio.sleep(chooser.uniform(0.5, 1))
    begin = time.monotonic()
    fleet.run(run_conversations(count, 120, converse), timeout=3600)
    load = sum(agent.engine.busy_s for agent in agents) / len(agents) / (time.monotonic() - begin)
    share, seen = share_that_stayed(fleet)
    computed = sum(agent.engine.prompt_tokens - agent.engine.cached_tokens for agent in agents)
    total = sum(agent.engine.prompt_tokens for agent in agents)
    print(f"{share:.2%} of {seen} soft turns on their pin at {load:.0%} load, {1 - computed / total:.1%} of {total} "
          "tokens cached")
    assert load < 0.7
    assert share >= 0.95
    assert 1 - computed / total > 0.6
    for proxy in four:
        assert_books_balance(proxy)


def test_a_hot_system_prompt(four, fleet):
    """Half of the traffic begins alike: cached, and yet spread."""
    agents = start_agents(fleet, four, 8, capacity=16, engine={"prefill_per_s": 20000, "kv_tokens": 60000})
    chooser = random.Random(8)
    system = "You are the assistant of everybody. " * 220  # 2,000 tokens
    count = scaled(800, 50000)
    hot_tokens = 0

    async def ask_one(number):
        nonlocal hot_tokens
        is_hot = chooser.random() < 0.5
        first = system if is_hot else f"Only for {number}. " + "y" * chooser.randrange(2000, 12000)
        messages = [{"role": "system", "content": first},
                    {"role": "user", "content": f"{number} " + "z" * chooser.randrange(100, 2000)}]
        line = Line(chooser.choice(four).port)
        body = chat_body(f"hot{number}", messages=messages, tokens=6, gap_s=0.003)
        reply = await line.ask("/v1/chat/completions", body)
        line.close()
        assert reply.is_done(), (reply.status, reply.failure)
        if is_hot:
            hot_tokens += len(system) // 4
    fleet.run(run_conversations(count, 32, ask_one), timeout=3600)
    prompt = sum(agent.engine.prompt_tokens for agent in agents)
    cached = sum(agent.engine.cached_tokens for agent in agents)
    ideal = (hot_tokens - len(system) // 4) / prompt  # all at one agent, which computes it once
    busy = [agent.engine.busy_s for agent in agents]
    served = [agent.served for agent in agents]
    balance = max(busy) / (sum(busy) / len(busy))
    print(f"hit rate {cached / prompt:.1%} of {ideal:.1%} by hash alone; max/mean of computing {balance:.2f}, "
          f"of requests {max(served) * len(served) / sum(served):.2f}")
    assert cached / prompt >= ideal - 0.05
    assert balance <= 1.3
