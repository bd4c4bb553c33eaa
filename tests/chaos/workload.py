"""What the clients ask: requests whose answers are known beforehand, and what became of each.

Every case is asked once of one undisturbed agent; the model is deterministic, so from then on there is
one right answer, to the byte, whatever dies meanwhile."""

import asyncio
import itertools
import random
import sys
from dataclasses import dataclass, field

from answers import Refused, Said, Wrong, compare, raise_error, read_stream, read_turn, read_whole
from wire import Connection, Lost

MODEL = "chaos"
INTERACTIVE = "/v1/chat/interactive"
SUBJECTS = ["a cat", "the sea", "an old clock", "bread", "the moon", "a lighthouse", "rain", "a violin",
            "winter", "a small town", "trains", "honey", "a map", "the desert", "a letter", "apples"]
TURNS = ["My name is {}. I like {}.", "Tell me a short story about {1}.", "Go on.", "And how does it end?"]
NAMES = ["Ann", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana"]
REPAIR_S = 5  # that agents have to notice a flush and write again what they hold
KINDS = ["chat greedy", "chat seeded", "completion", "interactive"]


@dataclass
class Case:
    kind: str
    path: str
    body: dict
    reference: Said = None


@dataclass
class Conversation:
    """Prompts of a hard session; the sampling of the first turn is the session's."""
    prompts: list
    fields: dict
    references: list = field(default_factory=list)

    def turn(self, number, session_id, rewind_to=None, plain=False):
        last = number == len(self.prompts) - 1
        body = {"prompt": self.prompts[number], "session_id": session_id, "interactive_mode": not last,
                "stream": not plain, "request_output_len": 24, **self.fields}
        if number > 0:
            body.pop("seed", None)
        if rewind_to is not None:
            body["rewind_to"] = rewind_to
        return body


class Cases:
    def __init__(self, distinct, seed):
        dice = random.Random(seed)
        self.by_kind = {kind: [] for kind in KINDS[:3]}
        for i in range(distinct):
            subject = SUBJECTS[i % len(SUBJECTS)]
            words = f"Write {dice.choice(['two lines', 'a note', 'a poem', 'a list'])} about {subject}, number {i}."
            messages = [{"role": "user", "content": words}]
            chat = {"model": MODEL, "messages": messages, "max_tokens": dice.randint(20, 60)}
            self.add("chat greedy", "/v1/chat/completions", {**chat, "temperature": 0})
            self.add("chat seeded", "/v1/chat/completions",
                     {**chat, "temperature": 1.0, "top_p": 0.95, "seed": dice.getrandbits(40)})
            sampling = {"temperature": 0} if i % 2 else {"temperature": 0.8, "seed": dice.getrandbits(40)}
            self.add("completion", "/v1/completions",
                     {"model": MODEL, "prompt": f"{i}. Once upon a time, {subject}",
                      "max_tokens": dice.randint(20, 60), **sampling})
        self.conversations = []
        for i in range(max(2, distinct // 2)):
            words = (NAMES[i % len(NAMES)], SUBJECTS[(i * 5) % len(SUBJECTS)])
            sampling = {"temperature": 0} if i % 2 else {"temperature": 0.9, "seed": dice.getrandbits(40)}
            self.conversations.append(Conversation([turn.format(*words) for turn in TURNS], sampling))

    def add(self, kind, path, body):
        self.by_kind[kind].append(Case(kind, path, {**body, "stream": True,
                                                    "stream_options": {"include_usage": True}}))

    async def ask_references(self, port, width=24):
        """Each case once, of one agent that nobody disturbs; streamed."""
        room = asyncio.Semaphore(width)

        async def one(case):
            async with room:
                case.reference = await ask(Connection(port), case.path, case.body, False)

        async def talk(conversation, session_id):
            async with room:
                connection = Connection(port)
                for number in range(len(conversation.prompts)):
                    body = conversation.turn(number, session_id)
                    said, _ = await ask_turn(connection, body, ())
                    conversation.references.append(said)
                connection.close()
        cases = [one(case) for cases in self.by_kind.values() for case in cases]
        talks = [talk(c, 1000 + i) for i, c in enumerate(self.conversations)]
        await asyncio.gather(*cases, *talks)


async def ask(connection, path, body, plain):
    if plain:
        body = {name: value for name, value in body.items() if name != "stream_options"} | {"stream": False}
    answer = await connection.ask("POST", path, body)
    raise_error(answer)
    return read_whole(answer.body) if plain else read_stream(answer.body)


async def ask_turn(connection, body, headers):
    answer = await connection.ask("POST", INTERACTIVE, body, headers)
    raise_error(answer)
    return read_turn(answer.body, body["stream"]), answer.headers


@dataclass
class Outcome:
    """Why a request has no right answer; reason None: it counts as failed."""
    kind: str
    at: float
    what: str
    reason: str = None


class Tally:
    """What became of all requests."""

    def __init__(self):
        self.asked = dict.fromkeys(KINDS, 0)
        self.right = dict.fromkeys(KINDS, 0)
        self.failed, self.wrong, self.impossible = [], [], []
        self.again = 0  # sent again: an idle connection turned out closed
        self.moved = 0  # turns that another agent went on with
        self.longest = dict.fromkeys(KINDS, 0.0)


class Client:
    """One of the concurrent streams: asks, checks, asks again, until told to stop."""

    session_ids = itertools.count(1_000_000)

    def __init__(self, number, cluster, cases, tally, seed):
        self.number = number
        self.kind = KINDS[number % len(KINDS)]
        self.cluster = cluster
        self.cases = cases
        self.tally = tally
        self.dice = random.Random(f"{seed}-{number}")
        self.turn = number  # which proxy is next
        self.connections = {}
        self.stopping = False

    async def run(self):
        while not self.stopping:
            if self.kind == "interactive":
                await self.talk()
            else:
                case = self.dice.choice(self.cases.by_kind[self.kind])
                await self.try_once(lambda c, case=case: self.one(c, case))
        for connection in self.connections.values():
            connection.close()

    async def one(self, connection, case):
        compare(await ask(connection, case.path, case.body, self.dice.random() < 0.1), case.reference)

    # ---- one request, and whose fault it was ----

    async def next_proxy(self):
        """The proxies in turn; one that is down is passed over, as a load balancer would."""
        while True:
            self.turn += 1
            proxy = self.cluster.proxies[self.turn % len(self.cluster.proxies)]
            if proxy.is_up:
                return proxy
            await asyncio.sleep(0.02)

    def connection_to(self, proxy):
        known = self.connections.get(proxy.name)
        if not known or known.port != proxy.port:
            known = self.connections[proxy.name] = Connection(proxy.port)
        return known

    async def try_once(self, ask_it, excuse=None):
        """True: the right answer came. excuse.reason(failure, begun) -> why it couldn't, or None."""
        loop = asyncio.get_running_loop()
        proxy = await self.next_proxy()
        begun = loop.time()
        tally = self.tally
        while True:
            connection = self.connection_to(proxy)
            used = connection.used_at
            try:
                await ask_it(connection)
                break
            except Lost as lost:
                failure = lost
                if lost.stage == "connect" and proxy.was_killed_since(begun - 1):
                    proxy = await self.next_proxy()  # it never was a request
                    continue
                if lost.stage == "stale" and not proxy.was_killed_since(begun) and proxy.was_killed_since(used):
                    tally.again += 1  # the connection was of its last life
                    continue
            except (Refused, Wrong) as wrong:
                failure = wrong
            tally.asked[self.kind] += 1
            self.blame(failure, proxy, begun, excuse)
            return False
        tally.asked[self.kind] += 1
        tally.right[self.kind] += 1
        tally.longest[self.kind] = max(tally.longest[self.kind], loop.time() - begun)
        return True

    def blame(self, failure, proxy, begun, excuse):
        reason = None
        if isinstance(failure, Lost) and failure.stage != "stall" and proxy.was_killed_since(begun):
            reason = "its proxy was killed"
        elif excuse:
            reason = excuse.reason(failure, begun)
        now = self.cluster.now()
        what = (f"{self.kind} via {proxy.name} after {now - self.cluster.when(begun):.1f} s{excuse.words() if excuse else ''}: "
                f"{failure}")
        outcome = Outcome(self.kind, now, what, reason)
        if not reason:
            print(f"chaos: {now:.1f} s: FAILED: {what}", file=sys.stderr, flush=True)
        if reason:
            self.tally.impossible.append(outcome)
        elif isinstance(failure, Wrong):
            self.tally.wrong.append(outcome)
        else:
            self.tally.failed.append(outcome)

    # ---- a conversation ----

    async def talk(self):
        conversation = self.dice.choice(self.cases.conversations)
        session = Session(self, conversation)
        while session.number < len(conversation.prompts) and not session.is_over:
            if self.stopping and session.number == 0:
                return
            await session.next_turn()


class Session:
    """A hard session: what the client knows of it, and so what may be held against the cluster."""

    def __init__(self, client, conversation):
        self.client = client
        self.cluster = client.cluster
        self.conversation = conversation
        self.id = -1 if client.dice.random() < 0.3 else next(Client.session_ids)
        self.shows_token = client.dice.random() < 0.5
        self.token = None
        self.number = 0
        self.owner = None  # who answered the last turn
        self.told_at = None  # when its last turn ended, loop time
        self.begun_at = None  # and began
        self.was_durable = True
        self.is_over = False
        self.wants_rewind = False
        self.trace = []

    async def next_turn(self):
        ended = await self.client.try_once(self.ask, self)
        if ended:
            self.number += 1
            self.wants_rewind = False
            return
        outcome = (self.client.tally.impossible or [None])[-1]
        # Not of the last turn: if it was served, the session is over.
        may_go_on = self.id >= 0 and 0 < self.number < len(self.conversation.prompts) - 1
        lost_proxy = outcome and outcome.reason == "its proxy was killed" and may_go_on
        if lost_proxy and outcome.at >= self.cluster.now() - 0.001:
            self.wants_rewind = True  # how far that turn came nobody told us: back to where we know it was
        else:
            self.is_over = True

    async def ask(self, connection):
        dice, number = self.client.dice, self.number
        reference = self.conversation.references[number]
        rewind_to = reference.counts["history_tokens"] if self.wants_rewind else None
        body = self.conversation.turn(number, self.id, rewind_to, dice.random() < 0.1)
        headers = [f"x-lm-session-token: {self.token}"] if self.token and self.shows_token else []
        begun = asyncio.get_running_loop().time()
        said, answered = await ask_turn(connection, body, headers)
        if self.id < 0 and body["interactive_mode"]:
            self.id = int(answered["x-lm-session-id"])
        self.token = answered.get("x-lm-session-token", self.token)
        self.owner = answered.get("x-lm-agent")
        self.client.tally.moved += answered.get("x-lm-session-moved") == "1"
        self.was_durable = answered.get("x-lm-durable") != "0"
        self.begun_at, self.told_at = begun, asyncio.get_running_loop().time()
        self.trace.append(f"turn {number} {self.cluster.when(begun):.1f}-{self.cluster.when(self.told_at):.1f} s at "
                          f"{self.owner}" + ("" if self.was_durable else ", not durable"))
        if number > 0 and answered.get("x-lm-session-new") == "1":
            raise Refused(200, {"code": "session_lost", "message": "the session began anew, and the answer says so"})
        compare(said, reference)

    def words(self):
        return f", session {self.id}{' with token' if self.shows_token else ''} {self.trace}{' rewind' if self.wants_rewind else ''}"

    def reason(self, failure, begun):
        """A turn may be lost with its agent if Redis can't have what came before, or couldn't be asked: nothing
        else is an excuse."""
        now, cluster = asyncio.get_running_loop().time(), self.cluster
        redis = cluster.redis
        codes = ("session_lost", "session_unreachable", "upstream_lost")
        if not isinstance(failure, Refused) or failure.code not in codes or self.number == 0:
            return None

        def owner_was_away(begin, end):
            """Another agent may have ended a stream that this one began, so then any will do."""
            away = cluster.agents_away(begin, end)
            return self.owner in away or (away and cluster.agents_away(self.begun_at, self.told_at))
        if any(owner_was_away(at, at + REPAIR_S) for at in redis.flushed if at >= self.begun_at):
            return "its agent was lost right after Redis was flushed, before it had written all again"
        for _, until in redis.outages(self.begun_at, self.told_at):
            if owner_was_away(self.told_at, until + REPAIR_S):
                return "its agent was lost before Redis, which was away, had the turn before"
        if redis.was_away(begun, now) and owner_was_away(self.told_at, now):
            return "its agent was lost, and Redis, which has its history, was away"
        return None
