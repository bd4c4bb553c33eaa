"""Agents that die, refuse, stall or talk nonsense: what the client sees of it, which is mostly nothing."""
# ctest: PROCESSORS 1

import json
import signal
import time

import httpx
import pytest
from proxy_fixtures import (CHAT, Traffic, chat, fakes, models_of, proxy, raw,  # noqa: F401
                            raw_request, serve, status_of, wait_refused, wait_until,
                            wait_up)


def ask_until_both_were_asked(proxy, first, second, **more):
    """Answers of a few requests, of which some at least went to `first` before they came to `second`."""
    answers = []
    while not first.requests or len(answers) < 4:
        answers.append(proxy.post(CHAT, chat(**more)))
        assert len(answers) < 100
    assert second.requests
    return answers


# ---- before the first byte: the client sees nothing of it ----


@pytest.mark.parametrize("behave", ["busy429", "busy503", "not_started502", "reset_before_head",
                                    "close_before_head", "garbage", "head_bomb", "short_body",
                                    "status_below_100"])
def test_another_agent_takes_over(proxy, fakes, behave):
    bad = fakes("bad", [proxy], behave=behave)
    good = fakes("good", [proxy])
    wait_up(proxy, "bad", "good")
    for answer in ask_until_both_were_asked(proxy, bad, good):
        assert answer.status_code == 200
        assert answer.json() == {"agent": "good", "body": chat()}


@pytest.mark.parametrize("behave", ["reset_before_head", "reset_after_head", "busy429"])
def test_another_agent_takes_over_a_stream(proxy, fakes, behave):
    bad = fakes("bad", [proxy], behave=behave)
    good = fakes("good", [proxy])
    wait_up(proxy, "bad", "good")
    for answer in ask_until_both_were_asked(proxy, bad, good, stream=True):
        assert answer.status_code == 200
        assert answer.content.count(b"good") == 20 and answer.content.endswith(b"data: [DONE]\n\n")


def test_refused_connects_cost_nothing(proxy, fakes):
    dead = fakes("dead", [proxy], beat_s=60)  # beats once, so that no beat revives it
    fakes("good", [proxy])
    wait_up(proxy, "dead", "good")
    dead.die()
    for _ in range(20):
        assert proxy.post(CHAT, chat()).json()["agent"] == "good"
    assert "dead" not in status_of(proxy)  # two refused connects were enough
    metrics = proxy.metrics()
    assert 1 <= metrics["retries_connect_total"] <= 2
    assert metrics["upstream_failures_total"] == 0


def test_no_request_fails_when_agents_die_under_load(proxy, fakes):
    agents = [fakes(f"n{i}", [proxy], behave="answer") for i in range(6)]
    wait_up(proxy, *(a.name for a in agents))
    with Traffic(proxy.url + CHAT, chat(), clients=8) as traffic:
        for agent in agents[:5]:
            count = len(agent.requests) + 3
            wait_until(lambda: len(agent.requests) >= count, 30, "traffic at it")  # noqa: B023
            agent.die()
        count = len(traffic.statuses) + 20
        wait_until(lambda: len(traffic.statuses) >= count, 30, "traffic at the last one")
    assert not traffic.failures


def test_the_last_answer_is_passed_when_all_are_busy(proxy, fakes):
    fakes("a", [proxy], behave="busy429")
    fakes("b", [proxy], behave="busy429")
    wait_up(proxy, "a", "b")
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert proxy.metrics()["dispatches_total"] == 2


def test_busy_and_then_dead(proxy, fakes):
    """One says 429, the other one dies: that the fleet is busy is the better news."""
    fakes("a", [proxy], behave="busy429")
    dead = fakes("b", [proxy], beat_s=60)
    wait_up(proxy, "a", "b")
    dead.die()
    for _ in range(4):
        answer = proxy.post(CHAT, chat())
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1


def test_everybody_dead(proxy, fakes):
    dead = fakes("a", [proxy], beat_s=60)
    wait_up(proxy, "a")
    dead.die()
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "service_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


def test_a_model_whose_only_agent_died_is_unavailable_not_unknown(proxy, fakes):
    """404 would tell clients to give up, though the agent is perhaps only being restarted."""
    only = fakes("a", [proxy], models=["m"])
    fakes("b", [proxy], models=["n"])
    wait_up(proxy, "a", "b")
    only.die()
    for _ in range(3):
        answer = proxy.post(CHAT, chat("m"))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: "a" not in status_of(proxy), 10, "a gone")
    assert proxy.post(CHAT, chat("m")).status_code == 503
    assert proxy.post(CHAT, chat("other")).status_code == 404


def test_retries_are_bounded(serve, fakes):
    proxy = serve("--retries", "1")
    agents = [fakes(f"n{i}", [proxy], behave="reset_before_head") for i in range(5)]
    wait_up(proxy, *(a.name for a in agents))
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    assert sum(len(a.requests) for a in agents) == 2
    assert all(len(a.requests) <= 1 for a in agents)


def test_who_failed_earlier_is_asked_again_when_nobody_else_is_left(serve, fakes):
    """Both have been restarted between a request's attempts, say."""
    proxy = serve("--retries", "3")
    agents = [fakes(f"n{i}", [proxy], behave="reset_before_head") for i in range(2)]
    wait_up(proxy, "n0", "n1")
    assert proxy.post(CHAT, chat()).status_code == 502
    assert sorted(len(a.requests) for a in agents) == [2, 2]


def warm_up(proxy, agents):
    """Each agent has served a request, so that the proxy has an idle connection to it."""
    for _ in range(200):
        if all(agent.requests for agent in agents):
            break
        assert proxy.post(CHAT, chat()).status_code == 200
    for agent in agents:
        agent.requests.clear()


def test_a_request_that_kills_agents_does_not_kill_the_fleet(serve, fakes):
    proxy = serve("--retries", "1")
    agents = [fakes(f"n{i}", [proxy]) for i in range(6)]
    wait_up(proxy, *(a.name for a in agents))
    warm_up(proxy, agents)
    for agent in agents:
        agent.behave = "die_of_it"
    assert proxy.post(CHAT, chat()).status_code == 502
    # One on an idle connection, which may have been stale, then --retries counts.
    assert sum(len(a.requests) for a in agents) <= 3


def test_a_late_loss_is_no_stale_connection(serve, fakes):
    proxy = serve("--retries", "0")
    agents = [fakes(f"n{i}", [proxy]) for i in range(2)]
    wait_up(proxy, *(a.name for a in agents))
    warm_up(proxy, agents)
    for agent in agents:
        agent.behave = "close_late"
    answer = proxy.post(CHAT, chat())
    assert answer.status_code == 502
    assert sum(len(a.requests) for a in agents) == 1


def test_stale_connections_are_no_failures(proxy, fakes):
    fakes("a", [proxy], behave="answer_and_close")
    wait_up(proxy, "a")
    for gap in (0, 0.01, 0.015, 0.02, 0.021, 0.022, 0.03, 0.05) * 5:
        assert proxy.post(CHAT, chat()).status_code == 200
        time.sleep(gap)


# ---- after the first byte: the client is told ----


def test_a_stream_that_is_cut_ends_with_an_error_event(proxy, fakes):
    agent = fakes("a", [proxy], behave="reset_mid_stream")
    other = fakes("b", [proxy], behave="reset_mid_stream")
    wait_up(proxy, "a", "b")
    answer = proxy.post(CHAT, chat(stream=True))
    assert answer.status_code == 200
    events = answer.text.strip().split("\n\n")
    assert len(events) == 6
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] == "upstream_lost" and error["type"] == "upstream_error"
    assert b"[DONE]" not in answer.content
    assert len(agent.requests) + len(other.requests) == 1  # nothing is said twice
    assert proxy.metrics()["upstream_lost_total"] == 1


def test_a_stream_of_ours_that_is_cut_inside_an_event_says_so(proxy, fakes):
    """Of our agents only whole events pass: an error event can always follow."""
    fakes("a", [proxy], behave="close_mid_event")
    wait_up(proxy, "a")
    answer = raw(proxy, raw_request(json.dumps(chat(stream=True)).encode(), close=False))
    events = answer.split(b"data: ")[1:]
    assert len(events) == 6 and b"upstream_lost" in events[-1] and b"[DONE]" not in answer
    assert answer.endswith(b"0\r\n\r\n")


def test_a_foreign_stream_that_is_cut_inside_an_event_is_aborted(proxy, fakes):
    node = fakes("node", behave="close_mid_event", models=["theirs"])
    assert proxy.post("/nodes/add", {"url": node.url, "status": {"models": ["theirs"]}}).status_code == 200
    answer = raw(proxy, raw_request(json.dumps(chat("theirs", stream=True)).encode(), close=False))
    assert answer.count(b"data: {") == 6 and b"upstream_lost" not in answer
    assert not answer.endswith(b"0\r\n\r\n")  # the chunked body has no end: it is incomplete


def test_a_plain_answer_that_is_cut_is_aborted(proxy, fakes):
    fakes("a", [proxy], behave="short_chunked_json")
    wait_up(proxy, "a")
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.post(CHAT, chat())


def test_silence(serve, fakes):
    proxy = serve("--idle-timeout", "1", "--first-byte-timeout", "2")
    agent = fakes("a", [proxy], behave="hang_in_stream")
    wait_up(proxy, "a")
    begin = time.monotonic()
    answer = proxy.post(CHAT, chat(stream=True))
    assert "upstream_lost" in answer.text and answer.text.count("data: ") == 4
    assert 1 <= time.monotonic() - begin < 5
    for behave in ("hang", "head_then_hang"):
        agent.behave = behave
        begin = time.monotonic()
        answer = proxy.post(CHAT, chat(stream=True))
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "upstream_timeout"
        assert 2 <= time.monotonic() - begin < 6
    assert len(agent.requests) == 3  # who had all the time isn't asked again


# ---- the spread ----


@pytest.mark.parametrize("strategy", ["least_load", "round_robin", "random"])
def test_requests_are_spread(serve, fakes, strategy):
    proxy = serve("--routing-strategy", strategy)
    agents = [fakes(f"n{i}", [proxy]) for i in range(4)]
    wait_up(proxy, *(a.name for a in agents))
    with httpx.Client() as client:
        for _ in range(200):
            assert client.post(proxy.url + CHAT, json=chat()).status_code == 200
    counts = [len(a.requests) for a in agents]
    assert min(counts) >= (50 if strategy == "round_robin" else 25), counts


def test_least_load_leaves_the_slow_one_alone(proxy, fakes):
    slow = fakes("slow", [proxy], behave="slow")
    quick = fakes("quick", [proxy])
    wait_up(proxy, "slow", "quick")
    with Traffic(proxy.url + CHAT, chat(), clients=4) as traffic:
        wait_until(lambda: len(quick.requests) > 200, 30, "requests at the quick one")
        assert slow.running <= 4
        slow.release.set()
    assert not traffic.failures
    assert len(slow.requests) < len(quick.requests) / 4 or slow.release.is_set()


def test_reported_load_of_others_counts(proxy, fakes):
    busy = fakes("busy", [proxy])
    busy.load = {"running": 3, "waiting": 5}
    idle = fakes("idle", [proxy])
    wait_up(proxy, "busy", "idle")
    wait_until(lambda: status_of(proxy)["busy"]["waiting"] == 5, 5, "report")
    for _ in range(20):
        proxy.post(CHAT, chat())
    assert (len(busy.requests), len(idle.requests)) == (0, 20)


def test_draining_agents_get_nothing_new(proxy, fakes):
    leaving = fakes("leaving", [proxy])
    fakes("staying", [proxy])
    wait_up(proxy, "leaving", "staying")
    leaving.draining = True
    wait_until(lambda: status_of(proxy)["leaving"]["state"] == "draining", 5, "draining")
    for _ in range(20):
        assert proxy.post(CHAT, chat()).json()["agent"] == "staying"


# ---- the proxy's own end ----


def test_sigterm_finishes_what_runs(serve, fakes):
    proxy = serve()
    agent = fakes("a", [proxy])
    agent.event_gap_s = 0.3
    wait_up(proxy, "a")
    with httpx.stream("POST", proxy.url + CHAT, json=chat(stream=True), timeout=30) as answer:
        chunks = answer.iter_bytes()
        content = next(chunks)
        proxy.signal(signal.SIGTERM)
        wait_refused(proxy)
        assert proxy.is_running()
        content += b"".join(chunks)
    assert content.endswith(b"data: [DONE]\n\n")
    assert proxy.wait(10) == 0


def test_sigterm_with_a_delay_for_load_balancers(serve, fakes):
    proxy = serve("--drain-delay", "4")
    fakes("a", [proxy])
    wait_up(proxy, "a")
    wait_until(lambda: proxy.get("/ready").status_code == 200, 10, "ready")
    proxy.signal(signal.SIGTERM)
    wait_until(lambda: proxy.get("/ready").status_code == 503, 3, "leaving")
    assert proxy.get("/health").status_code == 200
    assert proxy.post(CHAT, chat()).status_code == 200
    assert proxy.wait(10) == 0


def test_the_drain_has_an_end(serve, fakes):
    proxy = serve("--drain-timeout", "1")
    fakes("a", [proxy], behave="hang_in_stream")
    wait_up(proxy, "a")
    with httpx.stream("POST", proxy.url + CHAT, json=chat(stream=True), timeout=30) as answer:
        chunks = answer.iter_bytes()
        content = next(chunks)
        proxy.signal(signal.SIGTERM)
        content += b"".join(chunks)
    assert b"upstream_lost" in content and b"[DONE]" not in content
    assert proxy.wait(10) == 0


def test_idle_proxy_ends_at_once(serve):
    for _ in range(8):  # the signal comes right behind the line that says where it serves
        proxy = serve()
        begin = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(5) == 0
        assert time.monotonic() - begin < 2
