"""Corners of the proxy that were wrong once."""
# ctest: PROCESSORS 1

import itertools
import json
import time

from fake_openai import FakeOpenai
from proxy_fixtures import (CHAT, chat, fakes, proxy, raw, raw_request, serve,  # noqa: F401
                            status_of, wait_until, wait_up)

INTERACTIVE = "/v1/chat/interactive"


def lost_session(agent):
    from fake_agent import send_json

    def behave(connection, request):
        send_json(connection, 404, {"error": {"message": "x", "code": "session_unknown"}})
    agent.lost_session = behave
    agent.behave = "lost_session"


def turn(prompt="hi", session_id=5, **more):
    return {"model": "fake-model", "prompt": prompt, "session_id": session_id,
            "interactive_mode": True, **more}


def breaker_of(proxy, name):
    return {a["id"]: a["breaker"] for a in proxy.get("/lm/status").json()["agents"]}[name]


def test_an_escaped_minus_one_as_text_is_an_id_to_allot(proxy, fakes):
    fakes("a", [proxy])
    wait_up(proxy, "a")
    body = json.dumps(turn(session_id="X")).replace('"X"', '"\\u002d1"').encode()
    answer = raw(proxy, raw_request(body, INTERACTIVE))
    assert answer.startswith(b"HTTP/1.1 200")
    seen = json.loads(answer.split(b"\r\n\r\n", 1)[1])["body"]
    assert int(seen["session_id"]) > 0


def test_cancel_of_a_session_that_nobody_has_reaches_an_agent(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = proxy.post(INTERACTIVE, turn("", session_id=77, cancel=True))
    assert answer.status_code == 200, answer.text
    assert len(agent.requests) == 1


def test_lost_sessions_say_nothing_about_the_agent(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    lost_session(agent)
    for i in range(5):
        assert proxy.post(INTERACTIVE, turn(session_id=100 + i)).status_code == 410
    assert breaker_of(proxy, "a") == "closed"
    agent.behave = "answer"
    assert proxy.post(CHAT, chat()).status_code == 200


def test_a_probe_that_is_answered_with_an_error_does_not_close_the_breaker(proxy, fakes):
    agent = fakes("a", [proxy])
    other = fakes("b", [proxy])
    third = fakes("c", [proxy])
    wait_up(proxy, "a", "b", "c")
    agent.behave = "broken500"
    conversation = itertools.count()

    def ask_as_a_new_user():  # nobody holds its cache, so that the next one owed is the probe
        proxy.post(CHAT, chat(messages=[{"role": "user", "content": f"hi {next(conversation)}"}]))
        return breaker_of(proxy, "a")
    wait_until(lambda: ask_as_a_new_user() != "closed", 30, "the breaker opened")
    assert other.requests and third.requests
    before = len(agent.requests)

    def state_after_the_probe():
        state = ask_as_a_new_user()
        assert state != "closed"
        return len(agent.requests) > before
    wait_until(state_after_the_probe, 30, "a probe")
    states = {ask_as_a_new_user() for _ in range(30)}
    assert "closed" not in states
    assert len(agent.requests) - before <= 4  # probes, ever more seldom


def test_nodes_with_keys_are_probed_with_ours(serve):
    with FakeOpenai(models=["m"], api_key="node-key") as node:
        proxy = serve("--agent-key", "node-key", "--node", node.url)
        wait_until(lambda: proxy.metrics()["agents_up"] == 1, 5, "the node up")
        assert "m" in proxy.get("/v1/models").text
        stranger = serve("--node", node.url)
        time.sleep(0.5)
        assert stranger.metrics()["agents_up"] == 0


def test_agents_with_keys_are_asked_for_sessions_with_ours(serve, fakes):
    proxy = serve("--agent-key", "agents-key")
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    asked, handle = [], agent.handle
    agent.handle = lambda connection, request: asked.append(request) or handle(connection, request)
    assert proxy.get("/v1/sessions").status_code == 200
    proxy.get("/v1/sessions/7")
    proxy.post(INTERACTIVE, turn(session_id=7))  # without Redis: who has it?
    keys = [r.headers.get("authorization") for r in asked if r.target.startswith("/v1/sessions")]
    assert keys == ["Bearer agents-key"] * 3


def test_the_query_of_an_absolute_target_reaches_the_agent(proxy, fakes):
    agent = fakes("a", [proxy])
    wait_up(proxy, "a")
    answer = raw(proxy, raw_request(json.dumps(chat()).encode(), f"http://x{CHAT}?one=1&two"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert agent.requests[0].target == f"{CHAT}?one=1&two"
