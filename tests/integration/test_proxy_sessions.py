"""Conversations through lm-proxy: real agents, several proxies, a real Redis that comes and goes."""
# ctest: PROCESSORS 1

import concurrent.futures
import contextlib
import json
import shutil
import signal
import socket
import threading
import time

import httpx
import pytest

import lmdeploy_client
from conftest import Redis, Starter, free_port, wait_until
from proxy_fixtures import status_of, wait_up

PATH = "/v1/chat/interactive"
CHAT = "/v1/chat/completions"
NOTHING = {"text": "", "tokens": 0, "input_tokens": 0, "history_tokens": 0, "finish_reason": "stop"}
PROMPTS = ["My name is Ann.", "Tell me a story about a cat.", "Go on.", "What happens then?", "And the end?"]


class Cluster:
    """Proxies and agents that know each other: by Redis, or because the agents register at all proxies."""

    def __init__(self, model, folder):
        self.model, self.folder = model, folder
        self.starter = Starter()
        self.redis, self.proxies, self.agents = None, [], {}

    def start_redis(self):
        if not shutil.which("redis-server"):
            pytest.skip("there is no redis-server")
        self.redis = Redis(self.redis.port if self.redis else free_port(), self.folder)
        self.starter.started.append(self.redis)
        self.redis.wait_ready()

    def of_redis(self):
        return ["--redis-url", self.redis.url] if self.redis else []

    def start_proxy(self, *flags, redis_url=None):
        home = ["--redis-url", redis_url] if redis_url else self.of_redis()
        proxy = self.starter.proxy("--session-ttl", 600, *home, *flags, ready=False)
        self.proxies.append(proxy)
        proxy.port = int(proxy.wait_log(r"\bserving .*\bport=(\d+)").group(1))
        return proxy

    def start_agents(self, *names, flags=(), redis_url=None):
        homes = ["--redis-url", redis_url] if redis_url else self.of_redis()
        homes = homes or [flag for proxy in self.proxies for flag in ("--proxy-url", proxy.url)]
        for name in names:
            self.agents[name] = self.starter.agent(
                self.model, "--model-name", "smollm2", "--agent-id", name, "--session-len", 1024, "--threads", 1,
                "--session-ttl", 600, *homes, *flags, ready=False)
        for name in names:
            self.agents[name].wait_ready()
        for proxy in self.proxies:
            wait_up(proxy, *names, timeout=20)

    def owner_of(self, answer):
        return self.agents[answer.headers["x-lm-agent"]]

    def close(self):
        for proxy in self.proxies:
            if proxy.is_running():
                wait_until(lambda proxy=proxy: proxy.metrics()["requests_running"] == 0, 10, "no request running")
                wait_until(lambda proxy=proxy: proxy.metrics()["ledger_entries"] == 0, 15, "an empty ledger")
        self.starter.stop()


@pytest.fixture
def make_cluster(model_path, tmp_path):
    """make_cluster(proxies=1, agents="ab", redis=True, proxy_flags=[], agent_flags=[]) -> Cluster"""
    clusters = []

    def make(proxies=1, agents="ab", redis=True, proxy_flags=(), agent_flags=()):
        cluster = Cluster(model_path, tmp_path)
        clusters.append(cluster)
        if redis:
            cluster.start_redis()
        for _ in range(proxies):
            cluster.start_proxy(*proxy_flags)
        cluster.start_agents(*agents, flags=agent_flags)
        return cluster
    yield make
    for cluster in clusters:
        cluster.close()


@pytest.fixture(scope="module")
def shared(model_path, tmp_path_factory):
    """Two proxies, two agents, Redis: for tests that break nothing."""
    cluster = Cluster(model_path, tmp_path_factory.mktemp("redis"))
    cluster.start_redis()
    cluster.start_proxy()
    cluster.start_proxy("--threads", 2)
    cluster.start_agents("a", "b")
    yield cluster
    cluster.close()


@pytest.fixture
def pair(shared):
    yield shared.proxies
    assert all(program.is_running() for program in shared.starter.started)


def as_tenant(name):
    return {"authorization": f"Bearer {name}"} if name else {}


def turn(server, prompt, session_id, headers=None, **fields):
    return server.post(PATH, {"prompt": prompt, "session_id": session_id, "interactive_mode": True,
                              "request_output_len": 12, "temperature": 0, **fields}, headers=headers)


def ok(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code, answer.text


def end(server, session_id, headers=None):
    answer = server.post(PATH, {"prompt": "", "session_id": session_id}, headers=headers)
    assert ok(answer) == NOTHING


def held_after(reply):
    return reply["history_tokens"] + reply["input_tokens"] + reply["tokens"]


def talk(server, first, last, session_id=5, **fields):
    """Turns first to last, from 1."""
    return [turn(server, PROMPTS[n - 1], session_id, **fields) for n in range(first, last + 1)]


def undisturbed(server, turns=5, **fields):
    answers = [ok(answer) for answer in talk(server, 1, turns, 77, **fields)]
    end(server, 77)
    return answers


def long_turn(server, session_id, prompt="Count.", **fields):
    """A turn that runs until it is stopped, as an open stream."""
    body = {"prompt": prompt, "session_id": session_id, "interactive_mode": True, "stream": True,
            "ignore_eos": True, "temperature": 0, **fields}
    return httpx.stream("POST", server.url + PATH, json=body, timeout=60)


def sessions(server, headers=None):
    listed = server.get("/v1/sessions", headers=headers).json()
    assert listed["complete"], listed
    return {s["session_id"]: s for s in listed["data"]}


# ---- nothing breaks ----

@pytest.mark.parametrize("stream", [False, True])
def test_lmdeploy_client(pair, stream):
    api_client = lmdeploy_client.load()
    clients = [api_client.APIClient(proxy.url) for proxy in pair]
    assert clients[0].available_models == ["smollm2"]
    history = 0
    for n in range(10):
        last, text = None, ""
        for piece in clients[n % 2].chat_interactive_v1(
                f"Question {n}: what is {n} plus {n}?", session_id=4711, interactive_mode=True, stream=stream,
                request_output_len=6, top_k=1):
            last, text = piece, text + piece["text"]
        assert text and last["history_tokens"] == history and 0 < last["tokens"] <= 6
        history += last["input_tokens"] + last["tokens"]
    clients[1].end_session(4711)
    assert 4711 not in sessions(pair[0])


def test_one_id_is_opened_at_two_proxies_at_once(pair):
    """Whoever comes first, it is one conversation: each turn follows the one before."""
    for session_id in range(100, 106):
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(turn, pair[n % 2], f"Number {n}.", session_id, request_output_len=2)
                     for n in range(6)]
            answers = [answer.result() for answer in asked]
        assert len({answer.headers["x-lm-agent"] for answer in answers}) == 1
        assert sum("x-lm-session-new" in answer.headers for answer in answers) == 1
        history = 0
        for reply in sorted(map(ok, answers), key=lambda reply: reply["history_tokens"]):
            assert reply["history_tokens"] == history
            history = held_after(reply)
        end(pair[0], session_id)


def test_allotted_ids(pair):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = list(pool.map(lambda n: turn(pair[n % 2], "Hi.", -1, request_output_len=2), range(8)))
    ids = {int(answer.headers["x-lm-session-id"]) for answer in first}
    assert len(ids) == 8 and all(0 < session_id < 2**53 for session_id in ids)
    for n, answer in enumerate(first):
        assert ok(answer)["history_tokens"] == 0 and answer.headers["x-lm-session-new"] == "1"
        session_id = int(answer.headers["x-lm-session-id"])
        again = turn(pair[(n + 1) % 2], "And?", session_id, request_output_len=2)
        assert ok(again)["history_tokens"] == held_after(answer.json())
        assert again.headers["x-lm-agent"] == answer.headers["x-lm-agent"]
        end(pair[n % 2], session_id)
    alone = pair[0].post(PATH, {"prompt": "Hi.", "request_output_len": 2})  # not interactive: no id, no session
    assert ok(alone)["tokens"] > 0 and "x-lm-session-id" not in alone.headers


def test_cancel_follows_the_session(pair):
    for session_id in range(200, 204):  # of which some are at each agent
        with long_turn(pair[0], session_id) as running:
            lines = running.iter_lines()
            next(lines)
            answer = pair[1].post(PATH, {"prompt": "", "session_id": session_id, "cancel": True})
            assert ok(answer) == NOTHING
            last = json.loads(list(lines)[-1])
        assert last["finish_reason"] == "length" and last["tokens"] < 500
        again = ok(turn(pair[1], "Go on.", session_id, request_output_len=2))
        assert again["history_tokens"] == held_after(last)
        end(pair[0], session_id)


def test_an_end_is_an_end_everywhere(pair):
    for session_id in range(300, 304):
        ok(turn(pair[0], "Hi.", session_id, request_output_len=2))
        assert ok(turn(pair[1], "And?", session_id, request_output_len=2))["history_tokens"] > 0
        last = pair[0].post(PATH, {"prompt": "Bye.", "session_id": session_id, "request_output_len": 2})
        assert ok(last)["history_tokens"] > 0  # interactive_mode is false: answered, then over
        fresh = turn(pair[1], "Hi.", session_id, request_output_len=2)
        assert ok(fresh)["history_tokens"] == 0 and fresh.headers["x-lm-session-new"] == "1"
        end(pair[0], session_id)
        assert ok(turn(pair[0], "Hi.", session_id, request_output_len=2))["history_tokens"] == 0
        end(pair[1], session_id)


def test_tenants_do_not_meet(pair):
    ann, bob = as_tenant("ann"), as_tenant("bob")
    mine = ok(turn(pair[0], "The word is plum.", 400, ann, request_output_len=2))
    theirs = turn(pair[1], "Hi.", 400, bob, request_output_len=2)
    assert ok(theirs)["history_tokens"] == 0 and theirs.headers["x-lm-session-new"] == "1"
    forged = {**bob, "x-lm-tenant": "ann", "x-lm-session": "0123456789abcdef; expect=new"}
    assert sessions(pair[0], ann)[400]["history_tokens"] == held_after(mine)
    assert sessions(pair[0], forged)[400]["history_tokens"] == held_after(theirs.json())
    assert 400 not in sessions(pair[1])
    error_of(pair[0].get("/v1/sessions/400"), 404, "session_not_found")
    assert pair[1].get("/v1/sessions/400", headers=ann).json()["turns"] == 1
    assert httpx.delete(pair[1].url + "/v1/sessions/400", headers=forged).json()["deleted"] is True
    error_of(httpx.delete(pair[0].url + "/v1/sessions/400", headers=bob), 404, "session_not_found")
    assert ok(turn(pair[1], "Which?", 400, ann, request_output_len=2))["history_tokens"] == held_after(mine)
    assert ok(turn(pair[1], "Hi.", 400, bob, request_output_len=2))["history_tokens"] == 0
    for who in (ann, bob):
        assert httpx.delete(pair[1].url + "/v1/sessions/400", headers=who).status_code == 200
        assert ok(turn(pair[0], "Hi.", 400, who, request_output_len=2))["history_tokens"] == 0
        end(pair[1], 400, who)


def test_another_tenants_token_is_noise(pair):
    mine = turn(pair[0], "Hi.", 410, as_tenant("ann"), request_output_len=2)
    token = mine.headers["x-lm-session-token"]
    for changed in (token, token[:-2] + "AA", "rubbish", token * 3):
        answer = turn(pair[1], "Hi.", 410, {**as_tenant("bob"), "x-lm-session-token": changed}, request_output_len=2)
        assert ok(answer)["history_tokens"] == 0
        end(pair[0], 410, as_tenant("bob"))
    end(pair[0], 410, as_tenant("ann"))


@pytest.mark.parametrize("session_id", ['"\\u002d1"', '"-1"', '"7"', "-2", "1.5", "9007199254740992", "[]", "{}", "true"])
def test_what_is_no_id_is_refused(pair, session_id):
    for more in ("", ',"stream":true', ',"cancel":true'):
        body = '{"prompt":"Hi.","interactive_mode":true,"request_output_len":1,"session_id":%s%s}' % (session_id, more)
        answer = pair[0].post_raw(PATH, body, {})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "session_id", answer.text


def test_eight_turns_wait_in_order(pair):
    with long_turn(pair[0], 500) as running, concurrent.futures.ThreadPoolExecutor(9) as pool:
        lines = running.iter_lines()
        next(lines)
        waiting = []
        for n in range(8):
            waiting.append(pool.submit(turn, pair[0], f"Number {n}.", 500, request_output_len=1))
            wait_until(lambda n=n: pair[0].metrics()["requests_running"] == n + 2, 15, "it waits")
        refused = turn(pair[0], "Hi.", 500)
        error_of(refused, 429, "session_busy")
        assert refused.headers["retry-after"]
        ok(pair[0].post(PATH, {"prompt": "", "session_id": 500, "cancel": True}))
        history = held_after(json.loads(list(lines)[-1]))
        for answer in waiting:
            reply = ok(answer.result())
            assert reply["history_tokens"] == history
            history = held_after(reply)
    end(pair[0], 500)


def test_a_flush_between_turns(shared, pair):
    """Redis loses all it knows: the owner is found all the same, by either proxy, and written down again."""
    want = undisturbed(pair[0])
    got = talk(pair[0], 1, 2)
    shared.redis.ask("FLUSHALL")
    got += talk(pair[1], 3, 3)
    shared.redis.ask("FLUSHALL")
    got += talk(pair[0], 4, 4) + talk(pair[1], 5, 5)
    assert [ok(answer) for answer in got] == want
    assert len({answer.headers["x-lm-agent"] for answer in got}) == 1
    end(pair[1], 5)


# ---- agents end ----

@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 77}])
def test_the_owner_is_killed_between_turns(make_cluster, fields):
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    want = undisturbed(one, **fields)
    got = talk(one, 1, 2, **fields)
    cluster.owner_of(got[0]).kill()
    got += talk(two, 3, 4, **fields) + talk(one, 5, 5, **fields)
    assert [ok(answer) for answer in got] == want
    moved = [answer.headers.get("x-lm-session-moved") for answer in got]
    assert moved == [None, None, "1", None, None]
    owners = [answer.headers["x-lm-agent"] for answer in got]
    assert len(set(owners[:2])) == 1 and len(set(owners[2:])) == 1 and owners[0] != owners[2]
    assert two.metrics()["session_moves_total"] == 1


def test_killed_without_a_transcript(make_cluster):
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    first = turn(one, "Hi.", 5)
    ok(turn(two, "And?", 5))
    for name in cluster.redis.ask("KEYS", "lm:h:*").split():
        cluster.redis.ask("DEL", name)
    cluster.owner_of(first).kill()
    for server in (one, two, one):
        lost = turn(server, "And?", 5)
        error_of(lost, 410, "session_lost")
    assert one.metrics()["session_lost_total"] == 2
    end(two, 5)
    for server in (one, two):
        fresh = turn(server, "Hi.", 5)
        assert ok(fresh)["history_tokens"] == (0 if server is one else held_after(last)), fresh.text
        last = fresh.json()


def test_killed_and_redis_flushed(make_cluster):
    """Nobody has the session, and the proxies know that somebody had it: no silent new beginning."""
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    first = turn(one, "Hi.", 5)
    ok(turn(two, "And?", 5))
    cluster.redis.ask("FLUSHALL")
    cluster.owner_of(first).kill()
    error_of(turn(one, "And?", 5), 410, "session_lost")
    error_of(turn(two, "And?", 5), 410, "session_lost")
    end(one, 5)
    assert ok(turn(two, "Hi.", 5))["history_tokens"] == 0


@pytest.mark.parametrize("redis", [True, False])
def test_restarted_with_its_folder(make_cluster, tmp_path, redis):
    flags = ["--session-dir", tmp_path / "sessions"]
    cluster = make_cluster(agents="", redis=redis)
    [proxy] = cluster.proxies
    cluster.start_agents("a", flags=flags)
    want = undisturbed(proxy)
    got = talk(proxy, 1, 2)
    cluster.agents["a"].kill()
    cluster.start_agents("b")
    cluster.start_agents("a", flags=flags)
    got += talk(proxy, 3, 5)
    assert [ok(answer) for answer in got] == want
    if not redis:
        assert {answer.headers["x-lm-agent"] for answer in got} == {"a"}


def test_what_is_lost_is_not_held_against_its_agent(make_cluster):
    """An agent that says it has no such session is a sound one: its breaker stays closed."""
    cluster = make_cluster(redis=False, agents="a")
    [proxy] = cluster.proxies
    for session_id in range(5):
        ok(turn(proxy, "Hi.", session_id, request_output_len=1))
    cluster.agents["a"].kill()
    wait_until(lambda: proxy.metrics()["agents_up"] == 0, 10, "the loss of the agent")
    cluster.start_agents("a")
    for session_id in range(5):
        error_of(turn(proxy, "And?", session_id), 410, "session_lost")
    metrics = proxy.get("/metrics").text
    assert 'lm_proxy_agent_failures_total{agent="a"} 0\n' in metrics, metrics
    assert 'lm_proxy_agent_dispatches_total{agent="a"} 10\n' in metrics, metrics


def open_at(cluster, proxy, agent, ids):
    """The id of a session that it has. Asked one by one, an agent that was slow once may get none of them: several at
    once don't all find room at another one."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for at in range(0, len(ids), 8):
            for session_id, answer in zip(ids[at:], list(pool.map(lambda n: turn(proxy, "Hi.", n), ids[at:at + 8]))):
                if cluster.owner_of(answer) is agent:
                    return session_id
    pytest.fail("no session came to that agent")


def test_the_owner_drains(make_cluster):
    """The turn that runs comes to its end, those after it go on elsewhere, new sessions begin there: no refusal."""
    cluster = make_cluster()
    [proxy] = cluster.proxies
    want = undisturbed(proxy)
    got = talk(proxy, 1, 2)
    owner = cluster.owner_of(got[0])
    there = open_at(cluster, proxy, owner, range(600, 664))
    with long_turn(proxy, there, request_output_len=60) as running:
        lines = running.iter_lines()
        next(lines)
        owner.signal()
        got += talk(proxy, 3, 3)
        new = [turn(proxy, "Hi.", n, request_output_len=1) for n in range(700, 706)]
        last = json.loads(list(lines)[-1])
    assert last["finish_reason"] == "length" and last["tokens"] == 60
    got += talk(proxy, 4, 5)
    assert [ok(answer) for answer in got] == want
    assert [answer.headers.get("x-lm-session-moved") for answer in got] == [None, None, "1", None, None]
    assert all(ok(answer)["history_tokens"] == 0 for answer in new)
    assert ok(turn(proxy, "Go on.", there))["history_tokens"] == held_after(last)


@pytest.mark.parametrize("redis", [True, False])
def test_killed_in_the_middle_of_a_turn(make_cluster, redis):
    """With Redis the stream goes on at another agent, and so does the conversation. Without it nobody else can
    know the history, and the stream ends with an error."""
    cluster = make_cluster(redis=redis)
    [proxy] = cluster.proxies
    way = {"request_output_len": 80, "ignore_eos": True}

    def third(session_id, kill):
        with long_turn(proxy, session_id, PROMPTS[2], **way) as running:
            lines = running.iter_lines()
            got = [next(lines) for _ in range(8)]
            if kill:
                cluster.owner_of(running).kill()
            return [json.loads(line) for line in got + list(lines)]

    want = [*map(ok, talk(proxy, 1, 2, 77)), third(77, False), *map(ok, talk(proxy, 4, 4, 77))]
    talk(proxy, 1, 2)
    lines = third(5, True)
    text = "".join(line["text"] for line in lines)
    if not redis:
        assert lines[-1]["finish_reason"] == "error" and want[2][0]["text"].startswith(text[:1])
        return
    assert text == "".join(line["text"] for line in want[2])
    assert {**lines[-1], "text": ""} == {**want[2][-1], "text": ""}
    assert ok(talk(proxy, 4, 4)[0]) == want[3]
    assert proxy.metrics()["resumes_total"] == 1


class Wire(threading.Thread):
    """Between an agent and Redis: at the first append of a transcript `strike` is called when Redis has carried it
    out, and before the agent can hear of it."""

    def __init__(self, port, strike):
        super().__init__(daemon=True)
        self.port, self.strike, self.is_armed, self.is_deaf = port, strike, False, False
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.server.getsockname()[1]}/0"
        self.start()

    def run(self):
        while True:
            client, _ = self.server.accept()
            redis = socket.create_connection(("127.0.0.1", self.port))
            for pair in ((client, redis), (redis, client)):
                threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                is_append = self.is_armed and (b"\r\nappend\r\n" in data or b"\r\nreplace\r\n" in data)
                if self.is_deaf:
                    return
                self.is_deaf = self.is_deaf or is_append
                sink.sendall(data)
                if is_append:
                    time.sleep(0.02)  # less than what the agent waits for it
                    self.strike()


def test_killed_when_the_turn_is_written_down_already(make_cluster):
    """The transcript has the turn, the client hasn't: it isn't in there twice when another agent goes on."""
    cluster = make_cluster(agents="")
    [proxy] = cluster.proxies
    wire = Wire(cluster.redis.port, lambda: cluster.agents["a"].kill())
    cluster.start_agents("a", redis_url=wire.url)
    first = ok(turn(proxy, PROMPTS[0], 600))  # a is alone yet: the session is its own
    cluster.start_agents("b")
    wire.is_armed = True
    with long_turn(proxy, 600, PROMPTS[1], request_output_len=30) as running:
        assert running.headers["x-lm-agent"] == "a"
        got = [json.loads(line) for line in running.iter_lines()]
    assert not cluster.agents["a"].is_running()
    got_next = ok(turn(proxy, PROMPTS[2], 600))
    assert proxy.get("/v1/sessions/600").json()["turns"] == 3

    assert ok(turn(proxy, PROMPTS[0], 77)) == first  # undisturbed, at b
    with long_turn(proxy, 77, PROMPTS[1], request_output_len=30) as running:
        want = [json.loads(line) for line in running.iter_lines()]
    assert "".join(line["text"] for line in got) == "".join(line["text"] for line in want)
    assert got[-1] == want[-1]
    assert ok(turn(proxy, PROMPTS[2], 77)) == got_next


# ---- Redis ends ----

def test_redis_freezes_and_wakes(make_cluster):
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    want = undisturbed(one)
    got = talk(one, 1, 2)
    cluster.redis.signal(signal.SIGSTOP)
    begun = time.monotonic()
    got += talk(two, 3, 3) + talk(one, 4, 4)
    new = [turn(server, "Hi.", 8, request_output_len=2) for server in (one, two, one)]
    slowest = time.monotonic() - begun
    cluster.redis.signal(signal.SIGCONT)
    got += talk(two, 5, 5)
    assert [ok(answer) for answer in got] == want
    new += [turn(server, "Hi.", 8, request_output_len=2) for server in (two, one)]
    history = 0
    for reply in map(ok, new):
        assert reply["history_tokens"] == history
        history = held_after(reply)
    assert slowest < 10


def test_a_session_begun_while_redis_freezes(make_cluster):
    """What was asked of a frozen Redis is carried out when it wakes: no claim of then forgets what came since."""
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    for n in range(3):
        cluster.redis.signal(signal.SIGSTOP)
        first = ok(turn(one, "Hi.", 800 + n, request_output_len=2))
        cluster.redis.signal(signal.SIGCONT)
        again = ok(turn(two, "And?", 800 + n, request_output_len=2))
        assert again["history_tokens"] == held_after(first), n


def test_redis_wakes_and_a_dead_agent_seems_to_live(make_cluster):
    """A stream went on at another agent while Redis slept. Beats of the dead one, found waiting, renew its lease, its
    pin is there, and the proxy isn't connected yet: nothing of that loses the session."""
    cluster = make_cluster(proxies=0, agents="")
    wire = Wire(cluster.redis.port, None)
    proxy = cluster.start_proxy(redis_url=wire.url)
    cluster.start_agents("a", "b")
    with long_turn(proxy, 5, request_output_len=60) as running:
        lines = running.iter_lines()
        next(lines)
        owner = running.headers["x-lm-agent"]
        facts = cluster.redis.ask("GET", f"lm:agent:{owner}")
        cluster.redis.signal(signal.SIGSTOP)
        cluster.agents.pop(owner).kill()
        last = json.loads(list(lines)[-1])
    assert last["finish_reason"] == "length" and last["tokens"] == 60
    wire.is_deaf = True
    cluster.redis.signal(signal.SIGCONT)
    cluster.redis.ask("SET", f"lm:agent:{owner}", facts, "PX", 3500)
    [other] = cluster.agents.values()
    other.wait_log("redis connected", count=4)
    cluster.redis.ask("SET", f"lm:agent:{owner}", facts, "PX", 3500)
    assert ok(turn(proxy, "And?", 5))["history_tokens"] == held_after(last)
    [name] = cluster.redis.ask("KEYS", "lm:h:*").split()
    assert cluster.redis.ask("HGET", name, "turns") == "2"


def test_redis_wakes_with_an_old_pin(make_cluster):
    """The session begun at an agent that died while Redis slept, and went on at another one. That one and its proxy
    aren't connected to Redis yet when a second proxy is asked, and the first agent has been started again."""
    cluster = make_cluster(proxies=0, agents="")
    wires = {name: Wire(cluster.redis.port, None) for name in ("proxy", "a", "b")}
    one, two = cluster.start_proxy(redis_url=wires["proxy"].url), cluster.start_proxy()
    for name in "ab":
        cluster.start_agents(name, redis_url=wires[name].url)
    with long_turn(one, 5, request_output_len=60) as running:
        lines = running.iter_lines()
        next(lines)
        owner = running.headers["x-lm-agent"]
        cluster.redis.signal(signal.SIGSTOP)
        cluster.agents[owner].kill()
        last = json.loads(list(lines)[-1])
    assert last["finish_reason"] == "length" and last["tokens"] == 60
    two.wait_log("redis lost", count=3)
    for wire in wires.values():
        wire.is_deaf = True
    cluster.redis.signal(signal.SIGCONT)
    cluster.proxies.remove(one)  # it doesn't hear of the agent that comes
    cluster.start_agents(owner)
    answer = turn(two, "And?", 5)
    assert ok(answer)["history_tokens"] == held_after(last)
    assert answer.headers["x-lm-agent"] != owner


def test_redis_is_killed_and_comes_back_empty(make_cluster):
    cluster = make_cluster(proxies=2)
    one, two = cluster.proxies
    want = undisturbed(one)
    got = talk(one, 1, 1)
    cluster.redis.kill()
    got += talk(two, 2, 2) + talk(one, 3, 3)
    new = [turn(server, "Hi.", 8, request_output_len=2) for server in (one, two, one)]
    cluster.start_redis()
    got += talk(two, 4, 4)
    for program in (one, two):
        program.wait_log("registry in Redis is back", count=2)
    got += talk(one, 5, 5)
    assert [ok(answer) for answer in got] == want
    new += [turn(server, "Hi.", 8, request_output_len=2) for server in (two, one)]
    history = 0
    for reply in map(ok, new):
        assert reply["history_tokens"] == history
        history = held_after(reply)


# ---- no Redis ----

def test_a_token_finds_the_owner_without_redis(make_cluster):
    cluster = make_cluster(proxies=2, agents="abc", redis=False, proxy_flags=["--session-secret", "s3cret"])
    one, two = cluster.proxies
    for session_id in range(900, 906):
        first = turn(one, "Hi.", session_id, request_output_len=2)
        token = {"x-lm-session-token": first.headers["x-lm-session-token"]}
        asks = two.metrics()["session_asks_total"]
        second = turn(two, "And?", session_id, token, request_output_len=2)
        assert ok(second)["history_tokens"] == held_after(ok(first))
        assert second.headers["x-lm-agent"] == first.headers["x-lm-agent"]
        assert two.metrics()["session_asks_total"] == asks  # the token said it
        third = turn(one, "So?", session_id, request_output_len=2)
        assert ok(third)["history_tokens"] == held_after(second.json())
    other = turn(one, "Hi.", 910, request_output_len=2)
    asked = turn(two, "And?", 910, request_output_len=2)  # without a word of the client
    assert ok(asked)["history_tokens"] == held_after(ok(other))
    cluster.owner_of(other).kill()
    error_of(turn(two, "And?", 910), 410, "session_lost")
    end(two, 910)
    assert ok(turn(two, "Hi.", 910))["history_tokens"] == 0


@pytest.mark.parametrize("redis", [True, False])
def test_agents_that_want_keys(make_cluster, redis):
    """--agent-key opens all that the proxy asks of agents, and isn't taken for the client's."""
    keys = ["--agent-key", "of-the-proxy"]
    cluster = make_cluster(proxies=2, redis=redis, proxy_flags=keys, agent_flags=["--api-keys", "of-the-proxy"])
    one, two = cluster.proxies
    for who in (None, "ann"):
        for session_id in (7, 8):
            first = turn(one, "Hi.", session_id, as_tenant(who), request_output_len=2)
            if cluster.redis:
                cluster.redis.ask("FLUSHALL")
            second = turn(two, "And?", session_id, as_tenant(who), request_output_len=2)
            assert ok(second)["history_tokens"] == held_after(ok(first))
        assert set(sessions(one, as_tenant(who))) == {7, 8}
        assert httpx.delete(two.url + "/v1/sessions/7", headers=as_tenant(who)).json()["deleted"] is True
        assert set(sessions(two, as_tenant(who))) == {8}
    assert sessions(one, as_tenant("of-the-proxy")) == {}
    node = cluster.start_proxy("--node", cluster.agents["a"].url, *keys)
    wait_until(lambda: "smollm2" in node.get("/v1/models").text, 15, "the models of a node that wants a key")


# ---- chat ----

def say(server, messages, headers=None, **fields):
    return server.post(CHAT, {"model": "smollm2", "messages": messages, "max_tokens": 8, "temperature": 0, **fields},
                       headers=headers)


def cached_in(answer):
    return ok(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]


LONG = "You are the guide of a museum of clocks, patient and exact. " * 16


def test_a_chat_stays_with_its_agent(pair):
    expected, actual = "cached_tokens_expected_total", "cached_tokens_total"
    before = [(proxy.metrics()[expected], proxy.metrics()[actual]) for proxy in pair]
    for chat in range(2):
        messages = [{"role": "system", "content": f"You are guide number {chat}. {LONG}"}]
        cached, agents = [], set()
        for n in range(4):
            messages.append({"role": "user", "content": f"Question {n}: " + f"how old is clock {n}? " * 14})
            answer = say(pair[n % 2], messages)
            messages.append(ok(answer)["choices"][0]["message"])
            cached.append(cached_in(answer))
            agents.add(answer.headers["x-lm-agent"])
            time.sleep(1)  # agents say what they hold
        assert len(agents) == 1 and cached[0] < 64 and cached[1] > 100
        assert cached == sorted(cached)
    for proxy, (expected_before, actual_before) in zip(pair, before):
        guess = proxy.metrics()[expected] - expected_before
        true = proxy.metrics()[actual] - actual_before
        assert true > 500 and 0.7 * true < guess < 1.1 * true, (guess, true)


def test_one_system_prompt_brings_strangers_together(pair):
    system = {"role": "system", "content": "A prompt that everybody has. " + LONG}
    first = say(pair[0], [system, {"role": "user", "content": "What is a pendulum?"}], as_tenant("ann"))
    time.sleep(1.5)
    for n, who in enumerate(("bob", "cid", "dan")):
        answer = say(pair[n % 2], [system, {"role": "user", "content": f"And an escapement, {who}?"}], as_tenant(who))
        assert answer.headers["x-lm-agent"] == first.headers["x-lm-agent"]
        assert cached_in(answer) > 100


def test_a_chat_leaves_an_overloaded_agent(make_cluster):
    cluster = make_cluster()
    [proxy] = cluster.proxies
    messages = [{"role": "user", "content": "Tell me of clocks."}]
    first = say(proxy, messages)
    owner = cluster.owner_of(first)
    messages += [ok(first)["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    with contextlib.ExitStack() as stack:
        for n in range(24):
            body = {"model": "smollm2", "messages": [{"role": "user", "content": f"{n} {LONG}"}], "stream": True,
                    "max_tokens": 400, "ignore_eos": True}
            stack.enter_context(httpx.stream("POST", owner.url + CHAT, json=body, timeout=60))
        name = first.headers["x-lm-agent"]
        wait_until(lambda: status_of(proxy)[name]["running"] > 12, 60, "a report of the load")
        moved = say(proxy, messages)
        assert moved.headers["x-lm-agent"] != first.headers["x-lm-agent"]
    assert ok(moved)["usage"]["prompt_tokens"] > 0
