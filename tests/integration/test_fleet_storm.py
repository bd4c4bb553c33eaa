"""Everything at once, on several threads: streams, turns, prefixes, agents that are killed and come back,
registration storms, a Redis that freezes and restarts, clients that leave, SIGHUP. What the thread sanitizer
is run on (build/tsan: LM_BIN_DIR=build/tsan/bin LM_LONG=1), and what is leaked shows at exit."""

import asyncio
import random
import signal
import time

from fleet_fixtures import (CHAT, INTERACTIVE, Line, assert_books_balance, chat_body, fleet,  # noqa: F401
                            scaled, serve_checked, serve_fast, start_agents, transcript_of)
from proxy_fixtures import wait_until

SECONDS = scaled(8, 60)
NAMES = 6


class Storm:
    def __init__(self, fleet, proxies, redis, seed):
        self.fleet, self.proxies, self.redis = fleet, proxies, redis
        self.random = random.Random(seed)
        self.end = time.monotonic() + SECONDS
        self.counts = {"streams": 0, "plain": 0, "turns": 0, "left": 0, "refused": 0, "kills": 0}
        self.wrong = []

    def goes_on(self):
        """For the seconds that it should, and on a slow machine until it has been a storm."""
        now = time.monotonic()
        is_small = self.counts["streams"] <= 200 or self.counts["kills"] < 5
        return now < self.end or (is_small and now < self.end + 90)

    async def clients(self, number):
        line, turn = Line(self.random.choice(self.proxies).port), 0
        while self.goes_on():
            turn += 1
            kind = self.random.random()
            tag = f"s{number}x{turn}"
            if kind < 0.6:
                await self.stream(line, tag)
            elif kind < 0.75:
                await self.plain(line, tag)
            elif kind < 0.9:
                await self.turn(line, number, tag)
            else:
                await self.leave(line, tag)
            if self.random.random() < 0.1:
                line.close(hard=True)
                line = Line(self.random.choice(self.proxies).port)
        line.close()

    def body(self, tag, **fields):
        faults = [{"cut": self.random.randrange(4000)}] if self.random.random() < 0.1 else []
        messages = [{"role": "system", "content": "s" * 3000}, {"role": "user", "content": tag}]
        return chat_body(tag, messages=messages, tokens=8, gap_s=self.random.random() * 0.01, faults=faults, **fields)

    async def stream(self, line, tag):
        body = self.body(tag, chunks=self.random.choice([0, 0, 11]))
        headers = {"x-session-id": f"c{self.random.randrange(50)}"} if self.random.random() < 0.5 else {}
        reply = await line.ask(CHAT, body, headers=headers)
        self.counts["streams"] += 1
        if reply.is_done() and reply.body == transcript_of(body, reply):
            return
        self.note(tag, reply)

    def note(self, tag, reply):
        """503 and 502 say so at once; what has begun must be whole."""
        if reply.status in (429, 502, 503, 504) and reply.whole:
            self.counts["refused"] += 1
        else:
            self.wrong.append((tag, reply.status, reply.failure, bytes(reply.body[-200:])))

    async def plain(self, line, tag):
        reply = await line.ask(CHAT, self.body(tag, stream=False))
        self.counts["plain"] += 1
        if reply.status != 200:
            self.note(tag, reply)
        elif reply.whole and reply.json()["tag"] != tag:
            self.wrong.append((tag, "another's answer", reply.body))

    async def turn(self, line, number, tag):
        body = {**self.body(tag, stream=False), "prompt": "next", "session_id": 1000 + number,
                "interactive_mode": True}
        reply = await line.ask(INTERACTIVE, body)
        self.counts["turns"] += 1
        if reply.status not in (200, 410, 404):
            self.note(tag, reply)

    async def leave(self, line, tag):
        most = self.random.randrange(1, 2500)
        await line.ask(CHAT, self.body(tag), stop=lambda reply: len(reply.body) >= most)
        self.counts["left"] += 1

    async def agents(self):
        """One after the other is killed and started anew at its port; with it come and go forty that
        only register."""
        while self.goes_on():
            await asyncio.sleep(scaled(0.7, 1.5))
            victim = self.fleet.agents[f"n{self.random.randrange(NAMES)}"]
            victim.kill()
            self.counts["kills"] += 1
            extra = [await self.fleet.start_agent(f"x{i}", self.proxies, models=["other"], redis_port=self.redis.port)
                     for i in range(40)]
            await asyncio.sleep(0.3)
            await self.fleet.start_agent(victim.name, self.proxies, port=victim.port, capacity=64,
                                         redis_port=self.redis.port, engine={})
            for agent in extra:
                agent.kill()

    async def run(self):
        await asyncio.gather(self.agents(), *(self.clients(n) for n in range(40)))


def test_storm(start_redis, serve_checked, fleet, tmp_path):
    redis = start_redis()
    keys = tmp_path / "access.log"
    proxies = [serve_checked("--threads", "4", "--retries", "5", "--redis-url", redis.url, "--admin-port", "0",
                             "--access-log", str(keys) + str(i), "--state-file", str(tmp_path / f"state{i}"))
               for i in range(2)]
    start_agents(fleet, proxies, NAMES, redis_port=redis.port, engine={}, capacity=64)
    storm = Storm(fleet, proxies, redis, 13)
    work = asyncio.run_coroutine_threadsafe(storm.run(), fleet.loop)
    at = 0
    while not work.done():
        time.sleep(1)
        at += 1
        for proxy in proxies:
            proxy.get("/metrics")
            proxy.get("/nodes/status")
            if at % 3 == 0:
                proxy.signal(signal.SIGHUP)
        if at % 8 == 2:
            redis.signal(signal.SIGSTOP)
        if at % 8 == 4:
            redis.signal(signal.SIGCONT)
        if at % 16 == 6:
            redis.kill()
            redis = start_redis(redis.port)
    work.result()
    redis.signal(signal.SIGCONT)
    print(storm.counts)
    assert not storm.wrong, storm.wrong[:10]
    assert storm.counts["streams"] > 200 and storm.counts["kills"] >= 5
    assert storm.counts["refused"] < sum(storm.counts.values()) / 50
    for proxy in proxies:
        assert_books_balance(proxy)
        wait_until(lambda p=proxy: p.metrics()["redis_connected"] == 1, 20, "Redis back")
