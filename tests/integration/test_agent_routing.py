"""What an agent tells proxies, for them to route by: which of their requests its load counts, what that
load is, which prompts it has cached; and what it refuses, so that nothing runs twice."""

import concurrent.futures
import contextlib
import itertools

import httpx
import pytest

from conftest import wait_until

CHAT = "/v1/chat/completions"
PROXY = "00000000000000aa"
OTHER = "00000000000000bb"
requests = itertools.count(1)


def dispatch(number, request=None, attempt=1, proxy=PROXY, **headers):
    request = next(requests) if request is None else request
    return {"x-lm-dispatch": f"{proxy};{number};{request:016x};{attempt}",
            **{name.replace("_", "-"): value for name, value in headers.items()}}


def chat(text="Say hello.", max_tokens=4, **fields):
    return {"model": "smollm2", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens,
            "temperature": 0, "ignore_eos": True, **fields}


@pytest.fixture
def start(start_agent, start_registry):
    """start(*flags) -> the agent and what a proxy hears of it"""
    def run(*flags):
        registry = start_registry()
        agent = start_agent("--model-name", "smollm2", "--proxy-url", registry.url, *flags)
        wait_until(lambda: registry.beats, 30, "a beat")
        return agent, registry
    return run


def load_of(registry):
    return registry.beats[-1][3]["lm"]["load"]


def wait_load(registry, test, timeout=20):
    """The first report that is made from now on and that the test likes."""
    seen = len(registry.beats)

    def find():
        loads = [beat[3]["lm"]["load"] for beat in registry.beats[seen:]]
        return next((load for load in loads if test(load)), None)
    return wait_until(find, timeout, f"such a load, last {load_of(registry)}")


@contextlib.contextmanager
def running(agent, headers, max_tokens=900, text="Count."):
    """A stream that goes on until the block ends."""
    body = chat(text, max_tokens=max_tokens, stream=True)
    with httpx.stream("POST", agent.url + CHAT, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        chunks = answer.iter_lines()
        for line in chunks:
            if '"content"' in line:
                break
        yield chunks


# ---- numbers ----

def test_watermark(start):
    agent, registry = start()
    assert load_of(registry)["proxies"] == {}
    for number, (path, body, status) in enumerate([
            (CHAT, chat(), 200),
            ("/v1/completions", {"model": "smollm2", "prompt": "x", "max_tokens": 2}, 200),
            (CHAT, {"model": "smollm2"}, 400),
            ("/v1/embeddings", {"model": "smollm2", "input": "x"}, 400),
            (CHAT, chat(n=3), 200),
            ("/v1/chat/interactive", {"prompt": "x", "request_output_len": 2}, 200),
            ("/v1/chat/interactive", {"prompt": 7}, 400)], start=1):
        answer = agent.post(path, body, headers=dispatch(number))
        assert answer.status_code == status, (path, answer.text)
        assert ("x-lm-not-started" in answer.headers) == (status == 400), path
    wait_load(registry, lambda load: load["proxies"] == {PROXY: {"high": 7, "gaps": [], "active": 0}})
    # out of order, with some that never came, and from another proxy
    agent.post(CHAT, chat(), headers=dispatch(11))
    agent.post(CHAT, chat(), headers=dispatch(9))
    agent.post(CHAT, chat(), headers=dispatch(1, proxy=OTHER))
    wait_load(registry, lambda load: load["proxies"] == {
        PROXY: {"high": 11, "gaps": [8, 10], "active": 0}, OTHER: {"high": 1, "gaps": [], "active": 0}})
    agent.post(CHAT, chat(), headers={"x-lm-dispatch": "nonsense"})
    assert "x-lm-dispatch is malformed" in agent.log


def test_running_requests_are_told_apart(start):
    agent, registry = start()
    with running(agent, dispatch(1)), running(agent, dispatch(1, proxy=OTHER)), running(agent, {}):
        load = wait_load(registry, lambda load: load["running"] == 3)
        assert load["proxies"][PROXY] == load["proxies"][OTHER] == {"high": 1, "gaps": [], "active": 1}
        assert load["waiting"] == 0 and load["kv_used_share"] > 0 and load["inter_token_s"] > 0
    load = wait_load(registry, lambda load: load["running"] == 0)
    assert load["proxies"][PROXY]["active"] == 0


def test_many_at_once(start):
    """Whatever a report says, its parts fit together."""
    agent, registry = start("--max-batch-size", 1)
    count = 30
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(
            lambda n: agent.post(CHAT, chat(f"{n}", max_tokens=1 + 9 * (n % 3)), headers=dispatch(n)).status_code,
            range(1, count + 1)))
    assert set(answers) == {200}
    wait_load(registry, lambda load: load["proxies"][PROXY] == {"high": count, "gaps": [], "active": 0})
    loads = [beat[3]["lm"]["load"] for beat in registry.beats]
    assert any(load["waiting"] > 0 for load in loads)
    for load in loads:
        mine = load["proxies"].get(PROXY, {"active": 0, "gaps": [], "high": 0})
        assert mine["active"] <= 16 and mine["high"] <= count
        assert mine["gaps"] == sorted(set(mine["gaps"])) and all(0 < g < mine["high"] for g in mine["gaps"])


def test_only_the_fleet_is_believed(start):
    agent, registry = start("--join-key", "secret")
    answer = agent.post(CHAT, chat(), headers=dispatch(1))
    assert answer.status_code == 200 and "x-lm-usage" not in answer.headers
    assert wait_load(registry, lambda load: True)["proxies"] == {}
    assert agent.get("/lm/prefixes").status_code == 403
    key = {"x-lm-join-key": "secret"}
    answer = agent.post(CHAT, chat(), headers=dispatch(1) | key)
    assert "x-lm-usage" in answer.headers
    wait_load(registry, lambda load: PROXY in load["proxies"])
    assert agent.get("/lm/prefixes", headers=key).status_code == 200


# ---- what must not run twice ----

def test_duplicates(agent):
    with running(agent, dispatch(1, request=77)):
        answer = agent.post(CHAT, chat(), headers=dispatch(2, request=77, attempt=2))
        assert answer.status_code == 409 and answer.json()["error"]["code"] == "duplicate_request"
        assert answer.headers["x-lm-not-started"] == "1"
        answer = agent.post("/v1/chat/interactive", {"prompt": "x"}, headers=dispatch(3, request=77, attempt=2))
        assert answer.status_code == 409
        assert agent.post(CHAT, chat(), headers=dispatch(4)).status_code == 200
    # the first one is over: it may be tried again, but not by one that was sent before that
    wait_until(lambda: agent.post(CHAT, chat(), headers=dispatch(5, request=77, attempt=2)).status_code == 200,
               5, "the end of the first one")
    assert agent.post(CHAT, chat(), headers=dispatch(6, request=77, attempt=1)).status_code == 409
    assert agent.metrics()["requests_duplicate_total"] >= 3


def test_refused_is_not_started(start):
    agent, _ = start("--max-batch-size", 1, "--queue-max", 1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, running(agent, dispatch(1)):
        waits = pool.submit(agent.post, CHAT, chat(), headers=dispatch(2))
        agent.wait_metric("waiting", lambda value: value == 1)
        answer = agent.post(CHAT, chat(), headers=dispatch(3))
        assert answer.status_code == 429 and answer.headers["x-lm-not-started"] == "1"
        assert int(answer.headers["retry-after"]) >= 1
        agent.signal()  # drain
        agent.wait_log("draining", 5)
        answer = agent.post(CHAT, chat(), headers=dispatch(4))
        assert answer.status_code == 503 and answer.headers["x-lm-not-started"] == "1"
    assert waits.result().status_code == 200 and "x-lm-not-started" not in waits.result().headers


def test_begun_and_failed_says_nothing(start):
    agent, _ = start("--request-timeout", 1)
    answer = agent.post(CHAT, chat(max_tokens=4000), headers=dispatch(1))
    assert answer.status_code == 503, answer.text
    assert "x-lm-not-started" not in answer.headers


# ---- usage ----

def test_usage_header(agent):
    text = "A rather long question about nothing in particular. " * 20
    for _ in range(2):
        answer = agent.post(CHAT, chat(text), headers=dispatch(1))
        usage = answer.json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert answer.headers["x-lm-usage"] == f"{usage['prompt_tokens']},4,{cached}"
    assert cached > 100
    assert "x-lm-usage" not in agent.post(CHAT, chat(text)).headers
    body = {"model": "smollm2", "prompt": "Once upon", "max_tokens": 3, "ignore_eos": True, "n": 2}
    answer = agent.post("/v1/completions", body, headers=dispatch(2))
    assert answer.headers["x-lm-usage"].startswith(f"{answer.json()['usage']['prompt_tokens']},6,")
    turns = []
    for _ in range(2):
        answer = agent.post("/v1/chat/interactive",
                            {"prompt": "Hi there", "session_id": 4711, "interactive_mode": True,
                             "request_output_len": 4, "ignore_eos": True, "temperature": 0}, headers=dispatch(3))
        turns.append(answer.json())
        prompt, completion, cached = map(int, answer.headers["x-lm-usage"].split(","))
        assert prompt == turns[-1]["history_tokens"] + turns[-1]["input_tokens"] and completion == 4
    assert cached > 0


def test_one_session(agent):
    body = {"prompt": "Hi", "session_id": 4712, "interactive_mode": True, "request_output_len": 4}
    assert agent.get("/v1/sessions/4712").status_code == 404
    for turn in (1, 2):
        assert agent.post("/v1/chat/interactive", body, headers={"x-lm-tenant": "t"}).status_code == 200
        one = agent.get("/v1/sessions/4712", headers={"x-lm-tenant": "t"}).json()
        assert one["session_id"] == 4712 and one["turn"] == one["turns"] == turn
        listed = agent.get("/v1/sessions", headers={"x-lm-tenant": "t"}).json()["data"]
        assert [s for s in listed if s["session_id"] == 4712][0].keys() == one.keys()
    assert agent.get("/v1/sessions/4712").status_code == 404  # somebody else's
    for bad in ("-1", "x", "99999999999999999999"):
        assert agent.get(f"/v1/sessions/{bad}").status_code == 400


# ---- load ----

def test_load_is_plausible(start):
    agent, registry = start("--max-batch-size", 1, "--disable-prefix-caching")
    load = load_of(registry)
    assert load["prefill_tokens_per_s"] == load["inter_token_s"] == load["inter_token_slope_s"] == 0
    assert load["prefix_version"] == 0 and load["kv_used_share"] == 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        work = [pool.submit(agent.post, CHAT, chat(f"{n} " + "word " * 40, max_tokens=30)) for n in range(8)]
        load = wait_load(registry, lambda load: load["waiting"] >= 4)
        assert 4 * 40 < load["prefill_tokens_waiting"] < 8 * 120
        assert 0 < load["kv_used_share"] <= 1
        assert all(one.result().status_code == 200 for one in work)
    load = wait_load(registry, lambda load: load["running"] == 0)
    assert load["prefill_tokens_waiting"] == load["waiting"] == load["kv_used_share"] == 0
    assert 10 < load["prefill_tokens_per_s"] < 1e6
    assert 1e-4 < load["inter_token_s"] < 5
    assert 0 <= load["inter_token_slope_s"] < load["inter_token_s"]


def test_long_prompts_are_told_at_once(start):
    """Proxies that all see an idle agent would all send to it until its next report."""
    agent, registry = start()
    assert agent.post(CHAT, chat("word " * 100)).status_code == 200  # now the rate is known
    seen = len(registry.beats)
    for n in range(6):
        assert agent.post(CHAT, chat(f"{n} " + "word " * 200, max_tokens=1)).status_code == 200
        wait_load(registry, lambda load: load["running"] == load["waiting"] == 0)
    beats = [(beat[0], beat[3]["lm"]["load"]["prefill_tokens_waiting"]) for beat in registry.beats[seen:]]
    at_once = [waiting for (before, _), (time, waiting) in zip(beats, beats[1:])
               if waiting > 0 and time - before < 0.2]
    assert len(at_once) >= 3, beats  # the others came just before a report that was due


def test_cached_is_not_waiting(start):
    """Of a prompt that is in the cache, nothing waits; the cache itself counts as free."""
    agent, registry = start("--max-batch-size", 1)
    text = "word " * 300
    assert agent.post(CHAT, chat(text)).status_code == 200
    load = wait_load(registry, lambda load: load["running"] == 0)
    assert load["kv_used_share"] == 0 and load["prefix_version"] > 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool, running(agent, {}):
        work = [pool.submit(agent.post, CHAT, chat(text)) for _ in range(2)]
        load = wait_load(registry, lambda load: load["waiting"] == 2)
        assert load["prefill_tokens_waiting"] < 100
    assert all(one.result().status_code == 200 for one in work)


# ---- prefixes ----

def prefixes(agent, since=None):
    answer = agent.get("/lm/prefixes" + (f"?since={since}" if since is not None else ""))
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    head, *lines = answer.text.splitlines()
    name, begin, end, kind = head.split()
    assert name == "lm-prefixes"
    return int(begin), int(end), kind, lines


def test_prefixes(start):
    agent, registry = start("--cache-max-tokens", 512, "--session-pin-ratio", 0)
    begin, version, kind, lines = prefixes(agent)
    assert kind == "full" and lines == [] and version == load_of(registry)["prefix_version"]
    text = "A long text that says nothing at all. " * 16
    header = f"{0xa1:016x}@{len(text) // 2},{0xa2:016x}@{len(text)};{len(text)}"
    answer = agent.post(CHAT, chat(text), headers={"x-lm-prefix": header})
    tokens = answer.json()["usage"]["prompt_tokens"]
    assert 144 < tokens < 256
    begin, after, kind, lines = prefixes(agent, version)
    assert (begin, after, kind) == (version, version + 2, "delta")
    assert lines == [f"+{0xa1:016x} {tokens // 2 // 64 * 64}", f"+{0xa2:016x} {tokens // 64 * 64}"]
    assert prefixes(agent, 1)[2] == "full" and sorted(prefixes(agent, 1)[3]) == lines
    wait_load(registry, lambda load: load["prefix_version"] == after)
    # said again, nothing changes; what others say with other words comes and pushes it out
    agent.post(CHAT, chat(text), headers={"x-lm-prefix": header})
    assert prefixes(agent, after) == (after, after, "delta", [])
    for n in range(3):
        other = f"{n} other words, " * 40
        agent.post(CHAT, chat(other), headers={"x-lm-prefix": f"{0xb0 + n:016x}@{len(other)};{len(other)}"})
    begin, end, kind, lines = prefixes(agent, after)
    assert kind == "delta" and f"-{0xa1:016x}" in lines and f"-{0xa2:016x}" in lines
    live = prefixes(agent)[3]
    assert any(line.startswith(f"+{0xb2:016x} ") for line in live)
    assert not any(line.startswith(f"+{0xa1:016x} ") for line in live)
    # and what is gone is computed anew, and reported anew
    assert agent.post(CHAT, chat(text), headers={"x-lm-prefix": header}).json()["usage"][
        "prompt_tokens_details"]["cached_tokens"] < 64
    assert any(line.startswith(f"+{0xa1:016x} ") for line in prefixes(agent, end)[3])


def test_live_prefixes_are_found(start):
    """What is reported is what a request that begins alike finds."""
    agent, _ = start()
    system = "You are a careful assistant who never makes things up. " * 30
    total = len(system) + 20
    for n in range(3):
        body = chat(f"{n}: what?")
        body["messages"].insert(0, {"role": "system", "content": system})
        answer = agent.post(CHAT, body, headers={"x-lm-prefix": f"{0xc1:016x}@{len(system)};{total}"})
        cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        reported = int(prefixes(agent)[3][0].split()[1])
        assert n == 0 or cached >= reported > 128


def test_prefixes_from_strangers(start):
    agent, _ = start("--join-key", "secret")
    text = "A long text that says nothing at all. " * 12
    agent.post(CHAT, chat(text), headers={"x-lm-prefix": f"{0xa1:016x}@{len(text)};{len(text)}"})
    answer = agent.get("/lm/prefixes", headers={"x-lm-join-key": "secret"})
    assert answer.text.endswith(" full\n")
    assert agent.get("/lm/prefixes?since=x", headers={"x-lm-join-key": "secret"}).status_code == 400
    for bad in ("", "x", "a1@5;5", f"{0xa1:016x}@9;5", f"{0xa1:016x}@{'9' * 30};5"):
        answer = agent.post(CHAT, chat(), headers={"x-lm-prefix": bad, "x-lm-join-key": "secret"})
        assert answer.status_code == 200


# ---- keys ----

def test_api_keys(start):
    agent, registry = start("--api-keys", "sesame", "barley")
    for headers in ({}, {"authorization": "Bearer rye"}, {"authorization": "sesame"},
                    {"authorization": "Bearer sesamebarley"}, {"authorization": "Basic sesame"}):
        answer = agent.post(CHAT, chat(), headers=headers | dispatch(1))
        assert answer.status_code == 401, headers
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["x-lm-not-started"] == "1"
        assert agent.get("/v1/models", headers=headers).status_code == 401
        assert agent.get("/v1/sessions", headers=headers).status_code == 401
        assert agent.get("/nowhere", headers=headers).status_code == 401
    for key in ("sesame", "barley"):
        answer = agent.post(CHAT, chat(), headers={"authorization": f"Bearer {key}"} | dispatch(3))
        assert answer.status_code == 200
    for path in ("/health", "/ready", "/metrics", "/lm/prefixes"):
        assert agent.get(path).status_code == 200
    preflight = httpx.options(agent.url + CHAT, headers={"origin": "http://page", "access-control-request-method": "POST"})
    assert preflight.status_code == 200
    refused = agent.get("/v1/models", headers={"origin": "http://page"})
    assert refused.headers["access-control-allow-origin"] == "*"  # so that the page can read why
    wait_load(registry, lambda load: load["proxies"][PROXY] == {"high": 3, "gaps": [2], "active": 0})
    assert "sesame" not in agent.log


def test_api_keys_from_the_environment(start_agent):
    agent = start_agent(env={"LM_AGENT_API_KEYS": "one,two"})
    assert agent.get("/v1/models").status_code == 401
    assert agent.get("/v1/models", headers={"authorization": "Bearer two"}).status_code == 200
