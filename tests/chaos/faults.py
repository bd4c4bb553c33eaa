"""What is done to the cluster: each part killed and frozen in turn, Redis flushed, and pairs of faults."""

import asyncio
import random
import re
from dataclasses import dataclass

WHOLE_S = 30  # until both proxies see all agents again: lease 3.5 s, probes, breakers of Redis, loading


@dataclass
class Fault:
    name: str
    begin: float
    end: float = 0.0
    whole_s: float = None  # from its end until all is seen again; None: not within WHOLE_S


class Faults:
    def __init__(self, cluster, seed, longest_s=20.0, only=""):
        self.cluster = cluster
        self.dice = random.Random(f"faults-{seed}")
        self.longest_s = longest_s
        self.only = re.compile(only)
        self.done = []
        self.stopping = asyncio.Event()

    async def rest(self, low, high):
        """Less, when the run is over."""
        try:
            await asyncio.wait_for(self.stopping.wait(), self.dice.uniform(low, high))
        except asyncio.TimeoutError:
            pass

    # ---- the faults ----

    async def kill(self, part, low=0.5, high=6.0):
        part.kill()
        await self.rest(low, high)
        await part.revive()

    async def freeze(self, part, low=2.0, high=None):
        part.freeze()
        await self.rest(low, high or self.longest_s)
        part.thaw()

    async def flush(self):
        await self.cluster.redis.flush()

    async def both(self, outer, inner):
        """The inner fault while the outer one lasts."""
        task = asyncio.ensure_future(outer)
        await self.rest(1.0, 2.0)
        await inner
        await task

    def round(self):
        """All of them, each once, in an order of its own: [(name, coroutine function)]"""
        c, dice = self.cluster, self.dice
        faults = []
        for agent in c.agents:
            faults.append((f"kill {agent.name}", lambda a=agent: self.kill(a)))
            faults.append((f"freeze {agent.name}", lambda a=agent: self.freeze(a)))
        for proxy in c.proxies:
            faults.append((f"kill {proxy.name}", lambda p=proxy: self.kill(p, 0.5, 4.0)))
            faults.append((f"freeze {proxy.name}", lambda p=proxy: self.freeze(p)))
        faults.append(("kill redis", lambda: self.kill(c.redis, 1.0, 8.0)))
        faults.append(("freeze redis", lambda: self.freeze(c.redis)))
        faults.append(("flush redis", self.flush))
        agent, other = dice.choice(c.agents), dice.choice(c.agents)
        faults.append((f"kill redis, and {agent.name} meanwhile", lambda: self.both(
            self.kill(c.redis, 4.0, 8.0), self.kill(agent, 0.5, 2.0))))
        faults.append((f"freeze redis, and kill {other.name} meanwhile", lambda: self.both(
            self.freeze(c.redis, 4.0, 8.0), self.kill(other, 0.5, 2.0))))
        dice.shuffle(faults)
        return [fault for fault in faults if self.only.search(fault[0])]

    # ---- the run ----

    async def run(self):
        while not self.stopping.is_set():
            if not (faults := self.round()):
                await self.stopping.wait()
            for name, inflict in faults:
                fault = Fault(name, self.cluster.now())
                self.done.append(fault)
                await inflict()
                fault.end = self.cluster.now()
                fault.whole_s = await self.cluster.wait_whole(WHOLE_S)
                await self.rest(2.0, 5.0)
                if self.stopping.is_set():
                    return
